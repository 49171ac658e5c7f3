package traffic

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/cespare/xxhash/v2"
)

// A stream is a TCP connection that carries frames, each with a header. Both
// ends use it; reading and writing may happen at the same time, each from one
// goroutine.
type stream struct {
	conn *net.TCPConn
	in   *bufio.Reader
	buf  []byte
}

func newStream(conn *net.TCPConn) *stream {
	return &stream{conn: conn, in: bufio.NewReaderSize(conn, 64<<10), buf: make([]byte, bulkFrameSize)}
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

// A bulkSum is what both ends of a bulk transfer have to agree on.
type bulkSum struct {
	frames uint64
	sum    uint64 // xxhash of all frames
}

func (s *stream) writeSum(h header, b bulkSum) error {
	h.kind = typeSum
	frame := make([]byte, sumSize)
	binary.BigEndian.PutUint64(frame[headerSize:], b.frames)
	binary.BigEndian.PutUint64(frame[headerSize+8:], b.sum)
	h.put(frame)
	_, err := s.conn.Write(frame)
	return err
}

func parseSum(frame []byte) (bulkSum, error) {
	if len(frame) != sumSize {
		return bulkSum{}, fmt.Errorf("a sum of %d bytes, want %d", len(frame), sumSize)
	}
	return bulkSum{binary.BigEndian.Uint64(frame[headerSize:]), binary.BigEndian.Uint64(frame[headerSize+8:])}, nil
}

// bulkSender makes the frames of one bulk transfer and sums them up.
type bulkSender struct {
	header header
	frame  []byte
	digest *xxhash.Digest
	total  bulkSum
}

func newBulkSender(h header) *bulkSender {
	h.kind, h.number = typeBulk, 0
	b := &bulkSender{header: h, frame: make([]byte, bulkFrameSize), digest: xxhash.New()}
	// Content that repeats at no power of two, so that no shift goes unnoticed.
	for i := range b.frame[headerSize:] {
		b.frame[headerSize+i] = byte(i % 251)
	}
	return b
}

// send sends frames until the time is over.
func (b *bulkSender) send(w io.Writer, until time.Time) error {
	for time.Now().Before(until) && b.header.number < maxNumber-1 {
		b.header.put(b.frame)
		_, _ = b.digest.Write(b.frame) // never fails
		if _, err := w.Write(b.frame); err != nil {
			return err
		}
		b.header.number++
		b.total.frames++
	}
	b.total.sum = b.digest.Sum64()
	return nil
}

// bulkReceiver checks the frames of one bulk transfer.
type bulkReceiver struct {
	digest xxhash.Digest
	total  bulkSum
	bytes  uint64
}

func newBulkReceiver() *bulkReceiver {
	b := &bulkReceiver{}
	b.digest.Reset()
	return b
}

func (b *bulkReceiver) add(h header, frame []byte) error {
	if h.number != b.total.frames {
		return fmt.Errorf("frame %d came where frame %d was due", h.number, b.total.frames)
	}
	b.total.frames++
	b.bytes += uint64(len(frame))
	_, _ = b.digest.Write(frame) // never fails
	b.total.sum = b.digest.Sum64()
	return nil
}
