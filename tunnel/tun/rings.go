package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ringTurn is how many packets one ring gives before the others have their turn.
const ringTurn = 32

// rings is a Queue over several of the kernel's queues, each of which is a FIFO
// whose tail is dropped when a worker cannot keep up. The kernel spreads its flows
// over them, so that a flood fills its own ring while what shares no ring with it
// goes past: fair queueing before there is anybody to do it.
//
// A worker that sleeps is woken by whichever has a packet: an epoll descriptor
// has them all, and is itself what the worker waits for.
type rings struct {
	all    []*queue
	poll   *os.File
	raw    syscall.RawConn
	waiter *waiter

	// One reads at a time.
	reading sync.Mutex
	cursor  ringCursor
	look    func() bool // the cursor's refill, made once
	awaiter awaiter
}

// ringCursor is where reading stands: the rings that had packets when they were
// last asked, and how many the first may still give.
type ringCursor struct {
	ready  []*queue
	turn   int
	failed error
	epoll  int
	events []unix.EpollEvent
	all    []*queue
}

// newRings makes one Queue of several. It owns none of them.
func newRings(all []*queue) (*rings, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("poll %s: %w", cloneDevice, err)
	}
	for i, q := range all {
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
		if err := unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, q.fd, &event); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("poll %s: %w", cloneDevice, err)
		}
	}
	file, err := unpolled(fd, "epoll")
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("poll %s: %w", cloneDevice, err)
	}
	r := &rings{all: all, poll: file}
	if r.raw, err = r.poll.SyscallConn(); err == nil {
		r.waiter, err = newWaiter(fd)
	}
	if err != nil {
		r.poll.Close()
		return nil, fmt.Errorf("poll %s: %w", cloneDevice, err)
	}
	r.cursor = ringCursor{
		epoll: fd, all: all, events: make([]unix.EpollEvent, len(all)), ready: make([]*queue, 0, len(all)),
	}
	r.awaiter.init(r.raw)
	r.look = r.cursor.refill
	return r, nil
}

// refill asks which rings have packets. It is true if there is something to do.
func (c *ringCursor) refill() bool {
	// It does not wait, so the scheduler need not know, as with the packets.
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(c.epoll), uintptr(unsafe.Pointer(&c.events[0])), uintptr(len(c.events)), 0, 0, 0)
	c.ready, c.turn, c.failed = c.ready[:0], ringTurn, nil
	switch errno {
	case 0:
	case unix.EINTR:
		return false
	default:
		c.failed = errno
		return true
	}
	for i := range n {
		c.ready = append(c.ready, c.all[c.events[i].Fd])
	}
	return n > 0
}

// take reads a packet from the first ring that has one, n = 0 if none has.
func (c *ringCursor) take(buf []byte) (Header, int, error) {
	for len(c.ready) > 0 {
		h, n, err := c.ready[0].TryRead(buf)
		c.turn--
		if n == 0 || c.turn == 0 {
			c.ready = c.ready[:copy(c.ready, c.ready[1:])]
			c.turn = ringTurn
		}
		if n > 0 || err != nil {
			return h, n, err
		}
	}
	return Header{}, 0, c.failed
}

// TryRead is Queue's.
func (r *rings) TryRead(buf []byte) (Header, int, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	return r.tryRead(buf)
}

func (r *rings) tryRead(buf []byte) (Header, int, error) {
	if len(buf) <= Headroom {
		return Header{}, 0, errBuffer
	}
	if h, n, err := r.cursor.take(buf); n > 0 || err != nil {
		return h, n, err
	}
	// Control and not a bare call, so that the descriptor stays ours.
	if err := r.raw.Control(r.control); err != nil {
		return Header{}, 0, os.ErrClosed
	}
	return r.cursor.take(buf)
}

func (r *rings) control(uintptr) { r.cursor.refill() }

// Read is Queue's.
func (r *rings) Read(buf []byte) (Header, int, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	for {
		if h, n, err := r.tryRead(buf); n > 0 || err != nil {
			return h, n, err
		}
		if err := r.waiter.wait(r.look); err != nil {
			return r.lastRead(buf)
		}
	}
}

// Await is Queue's.
func (r *rings) Await(d time.Duration) error {
	r.reading.Lock()
	defer r.reading.Unlock()
	return r.awaiter.await(d, r.awaiter.wait)
}

// Doze is Queue's.
func (r *rings) Doze(d time.Duration) error {
	r.reading.Lock()
	defer r.reading.Unlock()
	return r.awaiter.await(d, r.awaiter.doze)
}

// lastRead gives what is left when waiting is over: the link was deleted, or the
// device closed.
func (r *rings) lastRead(buf []byte) (Header, int, error) {
	if h, n, err := r.cursor.take(buf); n > 0 || err != nil {
		return h, n, err
	}
	return Header{}, 0, os.ErrClosed
}

// Write is Queue's. The kernel sends a flow to the ring on which its other
// direction was written last, so each flow is written to one that goes by its
// addresses and ports: on a single one, all would be in that one ring again.
func (r *rings) Write(h Header, buf []byte, more [][]byte) error {
	if len(buf) <= Headroom {
		return ErrMalformed
	}
	return r.all[ringOf(buf[Headroom:], len(r.all))].Write(h, buf, more)
}

// ringOf chooses a ring by a packet's addresses and ports.
func ringOf(p []byte, n int) int {
	var x uint64
	switch {
	case len(p) >= ipv4Size+4 && p[0]>>4 == 4:
		x = binary.LittleEndian.Uint64(p[12:])
		if p[9] == protocolTCP || p[9] == protocolUDP {
			x ^= uint64(binary.LittleEndian.Uint32(p[20:])) * 0x9e3779b97f4a7c15
		}
	case len(p) >= ipv6Size+4 && p[0]>>4 == 6:
		x = binary.LittleEndian.Uint64(p[16:]) ^ binary.LittleEndian.Uint64(p[32:])<<1
		if p[6] == protocolTCP || p[6] == protocolUDP {
			x ^= uint64(binary.LittleEndian.Uint32(p[40:])) * 0x9e3779b97f4a7c15
		}
	}
	x *= 0xff51afd7ed558ccd // as MurmurHash3 mixes
	x ^= x >> 33
	return int(x * 0xc4ceb9fe1a85ec53 >> 32 * uint64(n) >> 32)
}

// end makes a waiting Read see that the link was deleted.
func (r *rings) end() { r.waiter.interrupt() }

// close ends waiting; the rings are closed by who owns them, before.
func (r *rings) close() error { return errors.Join(r.waiter.close(), r.poll.Close()) }
