package traffic

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// A stream is a TCP connection that carries frames, each with a header. Both
// ends use it; reading and writing may happen at the same time, each from one
// goroutine.
type stream struct {
	conn  *net.TCPConn
	in    *bufio.Reader
	buf   []byte
	meter meter
}

func newStream(conn *net.TCPConn) *stream {
	s := &stream{conn: conn, buf: make([]byte, bulkFrameSize)}
	s.in = bufio.NewReaderSize(meteredReader{s}, 64<<10)
	return s
}

// meteredReader reads a stream's connection and tells its meter.
type meteredReader struct{ *stream }

func (r meteredReader) Read(b []byte) (int, error) {
	n, err := r.conn.Read(b)
	r.meter.add(time.Now(), n)
	return n, err
}

func (s *stream) addrs() (src, dst netip.AddrPort) {
	return unmapped(s.conn.LocalAddr().(*net.TCPAddr).AddrPort()), unmapped(s.conn.RemoteAddr().(*net.TCPAddr).AddrPort())
}

// read returns the next frame. The content is valid until the next call.
func (s *stream) read() (header, []byte, error) {
	var h header
	if _, err := io.ReadFull(s.in, s.buf[:headerSize]); err != nil {
		return h, nil, err
	}
	if !h.parse(s.buf[:headerSize], false) {
		return h, nil, errors.New("a frame's header is corrupt")
	}
	frame := s.buf[:h.length]
	if _, err := io.ReadFull(s.in, frame[headerSize:]); err != nil {
		return h, nil, fmt.Errorf("read the rest of a frame: %w", err)
	}
	if !intact(frame) {
		return h, nil, errors.New("a frame's checksum is wrong")
	}
	return h, frame, nil
}

// write sends one frame of the given length.
func (s *stream) write(h header, length int) error {
	b := make([]byte, length)
	h.put(b)
	_, err := s.conn.Write(b)
	return err
}

// writeFrame sends one frame with the given content.
func (s *stream) writeFrame(h header, content []byte) error {
	b := make([]byte, headerSize+len(content))
	copy(b[headerSize:], content)
	h.put(b)
	_, err := s.conn.Write(b)
	return err
}

// A bulkSum is what both ends of a bulk transfer have to agree on.
type bulkSum struct {
	frames uint64
	sum    uint64 // xxhash of all frames
}

func (s *stream) writeSum(h header, b bulkSum) error {
	h.kind = typeSum
	content := binary.BigEndian.AppendUint64(nil, b.frames)
	return s.writeFrame(h, binary.BigEndian.AppendUint64(content, b.sum))
}

func parseSum(frame []byte) (bulkSum, error) {
	if len(frame) != sumSize {
		return bulkSum{}, fmt.Errorf("a sum of %d bytes, want %d", len(frame), sumSize)
	}
	return bulkSum{binary.BigEndian.Uint64(frame[headerSize:]), binary.BigEndian.Uint64(frame[headerSize+8:])}, nil
}
