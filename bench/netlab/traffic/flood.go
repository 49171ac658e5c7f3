package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// floodBatch is how many datagrams of a flood go into one system call: enough
// that what limits it is the path, not the sender.
const floodBatch = 32

// floods tells whether a group sends as fast as it goes.
func (g *Group) floods() bool { return g.Kind == UDPStream && g.Interval == 0 }

// floodCarrier is a connected UDP socket that sends as fast as it goes. The Go runtime
// has nothing to do with it: its poller would be woken by each datagram that has left
// the socket, and its scheduler would take the processor away from each system call that
// lasts as long as that of a batch, and give it back. With both, the sender is what
// limits a flood.
type floodCarrier struct {
	file   *os.File // blocking
	closed atomic.Bool
	udpEnds

	headers [floodBatch]struct {
		unix.Msghdr
		sent uint32
	}
	vectors  [floodBatch]unix.Iovec
	payloads [floodBatch][]byte
}

// dialFlood makes one for datagrams of a size.
func dialFlood(ctx context.Context, to netip.AddrPort, tos uint8, size int) (*floodCarrier, error) {
	u, err := dialUDP(ctx, to, tos)
	if err != nil {
		return nil, err
	}
	defer u.conn.Close()
	f := &floodCarrier{udpEnds: u.udpEnds}
	err = control(u.conn, func(fd int) error {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.SetNonblock(own, false); err != nil {
			return errors.Join(err, unix.Close(own))
		}
		f.file = os.NewFile(uintptr(own), "udp")
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("take a socket from the poller: %w", err)
	}
	for i := range f.headers {
		f.payloads[i] = make([]byte, size)
		f.vectors[i].Base = unsafe.SliceData(f.payloads[i])
		f.vectors[i].SetLen(size)
		f.headers[i].Iov = &f.vectors[i]
		f.headers[i].SetIovlen(1)
	}
	return f, nil
}

func (f *floodCarrier) send(b []byte) error {
	_, err := f.file.Write(b)
	return err
}

func (f *floodCarrier) receive() ([]byte, error) {
	n, err := f.file.Read(f.buf)
	if err != nil && f.closed.Load() { // io.EOF if it waited, else os.ErrClosed
		return nil, net.ErrClosed
	}
	return f.buf[:n], err
}

// close ends receive, and the socket when that has ended.
func (f *floodCarrier) close() error {
	f.dropped = drops(f.file)
	f.closed.Store(true)
	err := control(f.file, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RD) })
	return errors.Join(err, f.file.Close())
}

// sendAll sends all payloads, and tells how many went. It waits for room if there is
// none, but not for long.
func (f *floodCarrier) sendAll(fd int) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&f.headers[0])), floodBatch, unix.MSG_DONTWAIT, 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.EAGAIN:
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(floodPatience.Milliseconds()))
		if err == unix.EINTR {
			err = nil
		}
		return 0, err
	default:
		return 0, errno
	}
}

// floodPatience is how long a flood waits for room before it looks at the clock.
const floodPatience = 10 * time.Millisecond

// A floodRota has the floods of a client take turns, a batch each, of which one sends at
// a time: more flows make no flood heavier, nor does it get more processors.
type floodRota struct {
	mu    sync.Mutex
	turns []*floodTurn
	at    int // whose turn is next
}

// A floodTurn is one flow of a rota.
type floodTurn struct {
	flow    *datagramFlow
	carrier *floodCarrier
	raw     syscall.RawConn
	header  header
	end     time.Time
	batch   func(fd uintptr) // made once
	err     error            // of the batch
	over    chan error
}

// flood sends as fast as it goes.
func (f *datagramFlow) flood(u *floodCarrier, h header, w window) error {
	raw, err := u.file.SyscallConn()
	if err != nil {
		return err
	}
	t := &floodTurn{flow: f, carrier: u, raw: raw, header: h, end: w.end, over: make(chan error, 1)}
	t.batch = func(fd uintptr) { t.err = t.send(int(fd)) }
	time.Sleep(time.Until(w.start))
	f.floods.add(t)
	return <-t.over
}

// add gives a flow its turns until its end. The first one starts the rota.
func (r *floodRota) add(t *floodTurn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turns = append(r.turns, t)
	if len(r.turns) == 1 {
		go r.run()
	}
}

// run ends when no flow is left.
func (r *floodRota) run() {
	for t := r.next(); t != nil; t = r.next() {
		if err := t.take(); err != nil || t.ended() {
			r.remove(t)
			t.over <- err
		}
	}
}

func (r *floodRota) next() *floodTurn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.turns) == 0 {
		return nil
	}
	r.at = (r.at + 1) % len(r.turns)
	return r.turns[r.at]
}

func (r *floodRota) remove(t *floodTurn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turns = slices.DeleteFunc(r.turns, func(x *floodTurn) bool { return x == t })
}

func (t *floodTurn) ended() bool {
	return t.flow.sent >= maxNumber-floodBatch || !time.Now().Before(t.end)
}

// take sends one batch.
func (t *floodTurn) take() error {
	if t.ended() {
		return nil
	}
	return errors.Join(t.raw.Control(t.batch), t.err)
}

func (t *floodTurn) send(fd int) error {
	f, h := t.flow, &t.header
	h.time = f.clock()
	for i, b := range t.carrier.payloads {
		h.number = f.sent + uint64(i)
		h.put(b)
	}
	n, err := t.carrier.sendAll(fd)
	switch {
	case ignoreRefusal(err) != nil:
		return fmt.Errorf("send datagram %d: %w", f.sent, err)
	case err != nil:
		n = 1 // stands for an earlier one that was lost
	}
	f.sent += uint64(n)
	return nil
}
