package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// dialStream opens a TCP connection as the group wants it. The server's socket
// is still an ordinary one; see setup.
func dialStream(ctx context.Context, g *Group, port uint16) (*stream, error) {
	d := net.Dialer{Control: onDial(func(fd int) error {
		if err := setTOS(fd, g.TOS); err != nil {
			return err
		}
		return setCongestion(fd, g.Congestion)
	})}
	conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(g.To, port).String())
	if err != nil {
		return nil, err
	}
	return newStream(conn.(*net.TCPConn)), nil
}

// needsSetup tells that the server's socket has to be made like the group.
func (g *Group) needsSetup() bool { return g.TOS != 0 || g.Congestion != "" }

// writeSetup asks the server to make its socket like the group.
func (s *stream) writeSetup(h header, g *Group) error {
	h.kind = typeSetup
	return s.writeFrame(h, []byte(g.Congestion))
}

// readSetup reads the server's answer to a setup.
func (s *stream) readSetup() error {
	h, frame, err := s.read()
	switch {
	case err != nil:
		return fmt.Errorf("set up the server's socket: %w", err)
	case h.kind != typeSetup:
		return fmt.Errorf("set up the server's socket: answered by a frame of type %d", h.kind)
	case len(frame) > headerSize:
		return fmt.Errorf("set up the server's socket: %s", frame[headerSize:])
	}
	return nil
}

// setup does what a setup frame asks for and answers it.
func (s *stream) setup(h header, frame []byte) error {
	err := control(s.conn, func(fd int) error {
		if err := setTOS(fd, h.tos); err != nil {
			return err
		}
		return setCongestion(fd, string(frame[headerSize:]))
	})
	answer := ""
	if err != nil {
		answer = err.Error()
	}
	return s.writeFrame(h, []byte(answer))
}

// A mark tells the server that a bulk flow's load begins; the time in its header
// is how long ago the whole load began.
type mark struct {
	bin time.Duration // of the server's meter, 0 if it is to receive nothing
	cut time.Duration // when the flow will be cut off in the load, 0 if it will not
}

const markSize = headerSize + 16

func (s *stream) writeMark(h header, m mark) error {
	h.kind = typeMark
	content := binary.BigEndian.AppendUint64(nil, uint64(m.bin))
	return s.writeFrame(h, binary.BigEndian.AppendUint64(content, uint64(m.cut)))
}

func parseMark(frame []byte) (mark, error) {
	if len(frame) != markSize {
		return mark{}, fmt.Errorf("a mark of %d bytes, want %d", len(frame), markSize)
	}
	m := mark{
		bin: time.Duration(binary.BigEndian.Uint64(frame[headerSize:])),
		cut: time.Duration(binary.BigEndian.Uint64(frame[headerSize+8:])),
	}
	if m.bin < 0 || m.cut < 0 {
		return mark{}, errors.New("a mark with a negative time")
	}
	return m, nil
}

// meterFrom starts the meter of a stream whose load began at from; a cut after
// that ends it, unless it is 0.
func (s *stream) meterFrom(from time.Time, bin, cut time.Duration) {
	var until time.Time
	if cut > 0 {
		until = from.Add(cut)
	}
	s.meter.start(from, until, bin)
}

// cut ends a connection at once and throws away what is still in its buffers.
func (s *stream) cut() error {
	return errors.Join(s.conn.SetLinger(0), s.conn.Close())
}
