package portpool

import (
	"errors"
	"net"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Buffers are messages that several sockets receive into in turn, so that a
// thousand sockets that wait own no memory. Whoever received holds Mu until it has
// done with the messages.
type Buffers struct {
	Mu       sync.Mutex
	Messages []Message
}

// SharedReceiver is a [Socket] that can receive into buffers that it shares with
// others.
type SharedReceiver interface {
	// ReceiveShared is Receive into b.Messages. It holds b.Mu not while it waits,
	// but when it returns without error.
	ReceiveShared(b *Buffers) (n int, err error)
}

// admitter is a socket that can be made to receive after all.
type admitter interface{ admit(buffer int) error }

// Listen makes the pool's sockets receive, those that are open and those to come:
// serve is called in a goroutine of its own for each, with the lane that it was
// opened for, and shall return when the socket is closed. It is for those who get
// answers at the ports that they sent from. Calls after the first do nothing.
//
// The error is the first one of making a socket receive; the others have been
// tried.
func (p *Pool) Listen(serve func(lane uint16, s Socket)) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.serve != nil {
		return nil
	}
	p.serve = serve
	for i := range p.slots {
		if e := p.slots[i].Load(); e != nil {
			if e := p.listenOn(uint16(i+1), e.sock); err == nil {
				err = e
			}
		}
	}
	return err
}

// listenIfAsked makes a socket that was just opened receive, if all shall. One that
// cannot still sends.
func (p *Pool) listenIfAsked(lane uint16, s Socket) {
	if p.serve == nil {
		return
	}
	if err := p.listenOn(lane, s); err != nil && !p.saidDeaf {
		p.saidDeaf = true
		p.log.Warn("a port of the pool cannot receive", "port", s.Port(), "error", err)
	}
}

// Listening tells whether Listen was called.
func (p *Pool) Listening() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.serve != nil
}

// Wait returns when what Listen has started is over, after Close.
func (p *Pool) Wait() { p.serving.Wait() }

// listenOn makes one socket receive. The caller holds mu.
func (p *Pool) listenOn(lane uint16, s Socket) error {
	if a, ok := s.(admitter); ok {
		if err := a.admit(min(max(receiveBudget/p.asked, minReceive), maxReceive)); err != nil {
			return err
		}
	}
	serve := p.serve // HandOver takes it away
	p.serving.Go(func() { serve(lane, s) })
	return nil
}

// admit makes a socket that was opened to send only receive.
func (s *UDPSocket) admit(buffer int) error {
	if !s.noRead {
		return nil
	}
	s.noRead = false
	err := onDescriptor(s.raw, func(fd int) error {
		if err := setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, buffer); err != nil {
			return err
		}
		if err := askArrivals(fd); err != nil {
			return err
		}
		if err := admitAll(fd); err != nil {
			return err
		}
		return s.readRefused(fd)
	})
	if err == nil {
		s.joinArrivals()
		err = s.reportArrivals()
	}
	if err != nil {
		return closedOr("receive on a udp socket of the pool", err)
	}
	return nil
}

// ReceiveShared implements [SharedReceiver].
func (s *UDPSocket) ReceiveShared(b *Buffers) (n int, err error) {
	s.receiving.Lock()
	defer s.receiving.Unlock()
	for {
		s.lent, s.got, s.inErr = b, 0, 0
		err = s.raw.Read(s.readable)
		s.lent = nil
		switch {
		case s.got > 0:
			return s.got, nil
		case errors.Is(err, net.ErrClosed):
			return 0, net.ErrClosed
		case err != nil:
			return 0, closedOr("receive on udp socket", err)
		case s.inErr != 0:
			return 0, closedOr("receive on udp socket", s.inErr)
		}
	}
}

// readLent reads into buffers that it locks only while it has something in them.
func (s *UDPSocket) readLent(fd uintptr) (done bool) {
	s.lent.Mu.Lock()
	s.in = s.lent.Messages
	done = s.readInto(fd)
	s.in = nil
	if s.got == 0 {
		s.lent.Mu.Unlock()
	}
	return done
}

// askArrivals asks for what x/net has no names for, of what arrives. On the socket
// for both families, IPv4 datagrams bring IPv4's own control messages, which are
// asked for apart.
func askArrivals(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVTOS, 1); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 1)
}

// admitAll takes away what dropAll has put before the socket's queue, after what
// was let in before the filter was there.
func admitAll(fd int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
}

// countRefused makes of the kernel's count of what the socket had no room for since it
// was opened how many came before each message. The count is 0 where nothing is said.
func (s *UDPSocket) countRefused(ms []Message) {
	for i := range ms {
		m := &ms[i]
		if m.Refused == 0 {
			continue
		}
		since := m.Refused - s.refused // modulo 2^32, as the kernel's is
		if int32(since) <= 0 {         // it came before refused was last read
			m.Refused = 0
			continue
		}
		s.refused, m.Refused = m.Refused, since
	}
}

// readRefused has what a socket refused so far not told of what comes: a process
// before this one knows, or it was a filter's doing, which the kernel counts too.
func (s *UDPSocket) readRefused(fd int) error {
	const memInfoDrops = 8 // SK_MEMINFO_DROPS of linux/sock_diag.h
	var info [memInfoDrops + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if e == unix.ENOPROTOOPT { // Linux has it since 4.12
		return nil
	}
	if e != 0 {
		return e
	}
	s.refused = info[memInfoDrops]
	return nil
}
