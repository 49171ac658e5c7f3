package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// prepare gives a listener the server's congestion control and returns what its
// connections are to have instead: what it had before. A kernel without it is
// no error here, because the flows that ask for it will say so.
func (s *server) prepare(l *net.TCPListener) (ordinary string) {
	if s.congestion == "" {
		return ""
	}
	_ = control(l, func(fd int) (err error) {
		if ordinary, err = congestion(fd); err != nil {
			return err
		}
		return setCongestion(fd, s.congestion)
	})
	return ordinary
}

// serveTCP gives each connection the ordinary congestion control, if any is
// named, until it asks for another.
func (s *server) serveTCP(l *net.TCPListener, ordinary string) {
	for {
		conn, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of files, for a while perhaps
			continue
		}
		go func() {
			defer conn.Close()
			_ = control(conn, func(fd int) error { return setCongestion(fd, ordinary) }) // known to exist
			s.serveStream(&session{stream: newStream(conn), bulk: newBulkReceiver()})
		}()
	}
}

// A session is one connection that the server serves.
type session struct {
	*stream
	bulk *bulkReceiver
	last header // run 0 until the first frame
	cut  bool   // the client will cut it off, which is no failure
}

// errServed ends a session that has done what it was for.
var errServed = errors.New("served")

// serveStream serves one connection, and charges a failure to its flow.
func (s *server) serveStream(c *session) {
	for {
		h, frame, err := c.read()
		if err == nil {
			c.last = h
			err = s.frame(c, h, frame)
		}
		if err == nil {
			continue
		}
		known := c.last != header{}
		if known && !c.cut && !errors.Is(err, io.EOF) && !errors.Is(err, errServed) {
			s.mu.Lock()
			s.flow(&c.last).failure = err
			s.mu.Unlock()
		}
		return
	}
}

// frame does what one frame of a stream asks for.
func (s *server) frame(c *session, h header, frame []byte) error {
	switch h.kind {
	case typeReflect:
		return c.write(h, h.length)
	case typeEcho:
		return s.echo(c, h)
	case typeBulk:
		if err := c.bulk.add(h, frame); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.flow(&h).tracker.add(h.number, h.length)
		return nil
	case typeSum:
		return c.writeSum(h, c.bulk.total)
	case typePull:
		return s.push(c, h)
	case typeSetup:
		return c.setup(h, frame)
	case typeMark:
		return s.mark(c, h, frame)
	case typeGet:
		return s.serveBurst(c, h, frame)
	}
	return fmt.Errorf("frame of unknown type %d", h.kind)
}

func (s *server) echo(c *session, h header) error {
	s.mu.Lock()
	f := s.flow(&h)
	f.tracker.add(h.number, h.length)
	h.kind, h.number = typeAnswer, f.sent
	f.sent++
	s.mu.Unlock()
	return c.write(h, h.length)
}

// mark starts the session's meter, if it is to receive something.
func (s *server) mark(c *session, h header, frame []byte) error {
	m, err := parseMark(frame)
	if err != nil {
		return err
	}
	c.cut = m.cut > 0
	if m.bin == 0 {
		return nil
	}
	now := time.Now()
	c.meterFrom(now.Add(-time.Duration(h.time)), m.bin, m.cut)
	c.meter.add(now, c.in.Buffered()) // what was read together with the mark
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flow(&h).meter = &c.meter
	return nil
}

// push sends bulk for as long as the client asked, in nanoseconds, and the sum.
func (s *server) push(c *session, h header) error {
	bulk := newBulkSender(h)
	until := time.Now().Add(time.Duration(h.time))
	if c.cut {
		if err := c.conn.SetWriteDeadline(until); err != nil {
			return err
		}
	}
	err := bulk.send(c.conn, until)
	info := tcpInfo(c.conn)
	s.mu.Lock()
	f := s.flow(&h)
	f.sent, f.tcp = bulk.total.frames, info
	s.mu.Unlock()
	if c.cut {
		return nil // the client ends the connection
	}
	if err != nil {
		return err
	}
	return c.writeSum(h, bulk.total)
}

// serveBurst sends as many bytes as the frame says. If that fails, the client
// knows: an answer that it did not get, or no longer wanted, is lost.
func (s *server) serveBurst(c *session, h header, frame []byte) error {
	if len(frame) != getSize {
		return fmt.Errorf("a request of %d bytes, want %d", len(frame), getSize)
	}
	size := binary.BigEndian.Uint64(frame[headerSize:])
	if size < headerSize || size > maxBurst {
		return fmt.Errorf("a request for %d bytes, want %d to %d", size, headerSize, maxBurst)
	}
	s.mu.Lock()
	s.flow(&h).tracker.add(h.number, h.length)
	s.mu.Unlock()
	if err := newBulkSender(h).sendBytes(c.conn, int(size)); err != nil {
		return errServed
	}
	s.mu.Lock()
	s.flow(&h).sent++
	s.mu.Unlock()
	return errServed
}
