package portpool

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrSendOnly is what Receive returns on a socket made with SendOnly.
var ErrSendOnly = errors.New("receive on udp socket: it was opened to send only")

// UDPSocket is a UDP socket of the kernel's, for IPv4 and IPv6 at once. It is
// made by [Open]. It implements [Socket] without allocating.
type UDPSocket struct {
	conn   *net.UDPConn
	raw    syscall.RawConn
	shared *Shared
	port   uint16
	v4only bool
	noRead bool
	closed atomic.Bool
	lone   *rawPair

	// What Receive is doing. The closure is made once, because one made for
	// each call would be allocated; its arguments therefore are here.
	receiving sync.Mutex
	readable  func(fd uintptr) (done bool)
	poll      func(fd uintptr)
	doze      func(fd uintptr)
	most      time.Duration // that it dozes
	in        []Message
	lent      *Buffers // if in is borrowed from there
	got       int
	inErr     syscall.Errno
	window    int    // slots of the next system call
	refused   uint32 // datagrams that the socket had no room for, in all
}

// Port is the local port.
func (s *UDPSocket) Port() uint16 { return s.port }

// Close frees the port and ends a Receive that waits. A second Close returns
// [net.ErrClosed].
func (s *UDPSocket) Close() error {
	s.closed.Store(true)
	if err := s.conn.Close(); err != nil {
		return closedOr("close udp socket", err)
	}
	return nil
}

// closedOr turns whatever net and os say about a closed socket into
// net.ErrClosed itself, which costs a comparison and no text.
func closedOr(what string, err error) error {
	if errors.Is(err, net.ErrClosed) {
		return net.ErrClosed
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Send implements [Socket]. Several goroutines may send at once; the kernel
// does not make them wait for each other.
//
// Where the kernel refuses a message's Local or its flow label, that message
// goes without it. A refused label turns labels off for all sockets of the
// same Shared, with one warning: some other program of this namespace then
// holds an exclusive label (IPV6_FL_S_EXCL), and Linux allows no others.
func (s *UDPSocket) Send(ms []Message) (sent int, err error) {
	b := takeSendBatch()
	defer b.release()
	b.start(s, ms)
	// Control and not Write: Write would hold the socket's lock, and its
	// other merit, to wait for room in the buffer, is unwanted.
	if err = s.raw.Control(b.run); err != nil {
		for i := range ms {
			ms[i].Err = unix.EBADF
		}
		return 0, closedOr("send on udp socket", err)
	}
	switch b.stop {
	case 0:
		err = sendError(b.first)
	case unix.EAGAIN:
		err = ErrFull
	default:
		err = sendError(b.stop)
	}
	return b.sent, err
}

// Receive implements [Socket]. If several goroutines call it, one at a time
// waits for datagrams.
func (s *UDPSocket) Receive(ms []Message) (n int, err error) {
	if s.noRead {
		return 0, ErrSendOnly
	}
	if len(ms) == 0 {
		return 0, nil
	}
	s.receiving.Lock()
	defer s.receiving.Unlock()
	s.in, s.got, s.inErr = ms, 0, 0
	err = s.raw.Read(s.readable)
	s.in = nil
	return s.received(err)
}

// Poller is a [Socket] that can be asked without waiting.
type Poller interface {
	// Poll is Receive, but gives 0 where nothing has arrived.
	Poll(ms []Message) (n int, err error)
	// Doze waits until something has arrived, or for d, or less: within a system
	// call of which the Go scheduler is not told, so it has one processor less
	// meanwhile. Let d be milliseconds. The error is [net.ErrClosed] after Close,
	// which waits for it.
	Doze(d time.Duration) error
}

// Poll implements [Poller].
func (s *UDPSocket) Poll(ms []Message) (n int, err error) {
	if s.noRead {
		return 0, ErrSendOnly
	}
	s.receiving.Lock()
	defer s.receiving.Unlock()
	s.in, s.got, s.inErr = ms, 0, 0
	err = s.raw.Control(s.poll)
	s.in = nil
	return s.received(err)
}

// Doze implements [Poller].
func (s *UDPSocket) Doze(d time.Duration) error {
	if s.noRead {
		return ErrSendOnly
	}
	s.receiving.Lock()
	defer s.receiving.Unlock()
	s.most = max(d, 0)
	if err := s.raw.Control(s.doze); err != nil {
		return closedOr("wait for udp socket", err)
	}
	return nil
}

// rawPoll waits; what it saw, the next Poll tells.
func (s *UDPSocket) rawPoll(fd uintptr) {
	fds := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	most := unix.NsecToTimespec(int64(s.most))
	_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), 1, uintptr(unsafe.Pointer(&most)), 0, 0, 0)
}

// received is the result of having read.
func (s *UDPSocket) received(err error) (int, error) {
	if err != nil {
		return 0, closedOr("receive on udp socket", err)
	}
	if s.got == 0 && s.inErr != 0 {
		return 0, fmt.Errorf("receive on udp socket: %w", s.inErr)
	}
	return s.got, nil
}

// smallWindow is the fewest slots of a system call. Each slot that stays empty
// costs 17 ns, so 64 of them would double what a lone datagram costs; and each
// further call, when more has arrived than expected, costs 200 ns.
const smallWindow = 4

// read is what the poller calls.
func (s *UDPSocket) read(fd uintptr) (done bool) {
	if s.lent != nil {
		return s.readLent(fd)
	}
	return s.readInto(fd)
}

// readInto takes what has arrived. It borrows a batch only for as long as the
// system call, so that a thousand sockets that wait own no buffers.
func (s *UDPSocket) readInto(fd uintptr) (done bool) {
	b := takeReceiveBatch()
	defer b.release()
	for s.got < len(s.in) {
		want := min(max(s.window, smallWindow), len(s.in)-s.got)
		n, e := b.receive(fd, s.shared, s.in[s.got:s.got+want])
		switch {
		case e == unix.EINTR || isPending(e):
		case e == unix.EAGAIN:
			return s.got > 0
		case e != 0:
			s.inErr = e
			return true
		default:
			s.countRefused(s.in[s.got : s.got+n])
			s.got += n
			if n < want {
				s.window = max(s.window/2, n)
				return true
			}
			s.window = min(4*want, batchSize)
		}
	}
	return true
}

// isPending tells errors that an ICMP message left on the socket: the system
// call reports it, clears it, and has done nothing else.
func isPending(e syscall.Errno) bool {
	return e == unix.ECONNREFUSED || e == unix.ECONNRESET || e == unix.EPROTO
}
