package tun

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	// ErrLinkDown says that the kernel took no packet because the link is down.
	ErrLinkDown = errors.New("the tun link is down: set it up with ip link set up")
	// ErrMalformed says that the kernel took the bytes for no IP packet, or that
	// the packet and its Header do not go together.
	ErrMalformed = errors.New("not an IPv4 or IPv6 packet, or not as its header says")
	// ErrOffload says that a packet has a Header that the device cannot pass on.
	ErrOffload = errors.New("write to the tun device: it has no offloads, and the packet is not complete")

	errBuffer = errors.New("read from the tun device: the buffer has no room after the headroom")
)

// queue is one descriptor. It is non-blocking, so packets move by raw system
// calls: the scheduler, who is not told of them, would only have to be told
// that they are over, which costs 50 ns, and a worker its processor when the
// host's network stack takes its time. The poller is asked only when Read has
// to wait; that is faster than a thread that waits in poll(2) or read(2), and
// costs a third of the processor time.
type queue struct {
	fd   int // valid while open is held and closed is false
	file *os.File
	vnet bool // a virtio_net header comes before each packet

	// open keeps close from closing fd under a system call. Its holders never
	// wait, so it costs a worker an atomic add.
	open   sync.RWMutex
	closed bool
	gone   atomic.Bool // the link was deleted

	// One Read waits at a time; what it wants is here rather than in a closure,
	// which would be an allocation for each call.
	waiting sync.Mutex
	wanted  wanted
	reader  func() bool
	awaiter awaiter

	waits  sync.Once // makes the waiter, which a queue in rings does not need
	waiter *waiter
	failed error // to make it
}

type wanted struct {
	buf []byte
	n   int
	err error
}

// newQueue puts a non-blocking, attached descriptor to work. It owns fd, also
// when it fails.
func newQueue(fd int, vnet bool) (*queue, error) {
	file, err := unpolled(fd, cloneDevice)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("prepare a descriptor of %s: %w", cloneDevice, err)
	}
	q := &queue{fd: fd, file: file, vnet: vnet}
	raw, err := q.file.SyscallConn()
	if err != nil {
		q.file.Close()
		return nil, fmt.Errorf("prepare a descriptor of %s: %w", cloneDevice, err)
	}
	q.reader = q.readReady
	q.awaiter.init(raw)
	return q, nil
}

// waitsBy gives the waiter, and makes it.
func (q *queue) waitsBy() (*waiter, error) {
	q.open.RLock() // before the Once, as close has it
	defer q.open.RUnlock()
	q.waits.Do(func() { q.waiter, q.failed = newWaiter(q.fd) })
	return q.waiter, q.failed
}

// Read is Queue's.
func (q *queue) Read(buf []byte) (Header, int, error) {
	if h, n, err := q.TryRead(buf); n > 0 || err != nil {
		return h, n, err
	}
	w, err := q.waitsBy()
	if err != nil {
		return Header{}, 0, err
	}
	q.waiting.Lock()
	defer q.waiting.Unlock()
	for {
		q.wanted = wanted{buf: buf}
		// The poller's own errors (closed, deadline, not pollable) all come
		// from Close or from the link's end; why it woke up is told by the
		// last read.
		pollErr := w.wait(q.reader)
		n, err := q.wanted.n, q.wanted.err
		q.wanted = wanted{}
		switch {
		case pollErr != nil && n == 0 && q.gone.Load():
			return Header{}, 0, os.ErrClosed
		case pollErr != nil && n == 0:
			return q.lastRead(buf, pollErr)
		case n > 0 || err != nil:
			h, n, err := q.parse(buf, n, err)
			return h, n, err
		}
	}
}

// Await is Queue's.
func (q *queue) Await(d time.Duration) error {
	q.waiting.Lock()
	defer q.waiting.Unlock()
	return q.awaiter.await(d, q.awaiter.wait)
}

// Doze is Queue's.
func (q *queue) Doze(d time.Duration) error {
	q.waiting.Lock()
	defer q.waiting.Unlock()
	return q.awaiter.await(d, q.awaiter.doze)
}

// lastRead tells why the poller refused: as a rule because the queue is closed.
func (q *queue) lastRead(buf []byte, pollErr error) (Header, int, error) {
	h, n, err := q.TryRead(buf)
	if n == 0 && err == nil {
		err = pollErr
	}
	return h, n, err
}

// readReady is what the poller calls before waiting and each time that there
// may be packets. False means wait.
func (q *queue) readReady() bool {
	w := &q.wanted
	w.n, w.err = q.read(q.fd, w.buf)
	return w.n > 0 || w.err != nil
}

// TryRead is Queue's.
func (q *queue) TryRead(buf []byte) (Header, int, error) {
	q.open.RLock()
	if q.closed {
		q.open.RUnlock()
		return Header{}, 0, os.ErrClosed
	}
	n, err := q.read(q.fd, buf)
	q.open.RUnlock()
	return q.parse(buf, n, err)
}

// read gives what the system call does, 0 for EAGAIN.
func (q *queue) read(fd int, buf []byte) (int, error) {
	if len(buf) <= Headroom {
		return 0, errBuffer
	}
	if !q.vnet {
		buf = buf[Headroom:]
	}
	n, errno := call(unix.SYS_READ, fd, unsafe.Pointer(&buf[0]), len(buf))
	switch errno {
	case 0:
		return n, nil
	case unix.EAGAIN:
		return 0, nil
	}
	return 0, packetError(errno)
}

// call repeats a system call until no signal interrupts it.
func call(trap uintptr, fd int, p unsafe.Pointer, n int) (int, syscall.Errno) {
	for {
		r, _, errno := unix.RawSyscall(trap, uintptr(fd), uintptr(p), uintptr(n))
		if errno != unix.EINTR {
			return int(r), errno
		}
	}
}

// parse makes of what read gave what TryRead gives.
func (q *queue) parse(buf []byte, n int, err error) (Header, int, error) {
	switch {
	case err != nil:
		return Header{}, 0, err
	case !q.vnet || n == 0:
		return Header{}, n, nil
	case n <= headerSize:
		return Header{}, 0, ErrMalformed
	}
	return parseHeader(buf), n - headerSize, nil
}

// Write is Queue's.
func (q *queue) Write(h Header, buf []byte, more [][]byte) error {
	if len(buf) <= Headroom {
		return ErrMalformed
	}
	if q.vnet {
		h.put(buf)
	} else {
		if h.Flags&NeedsChecksum != 0 || h.GSO != GSONone {
			return ErrOffload
		}
		buf = buf[Headroom:]
	}
	q.open.RLock()
	defer q.open.RUnlock()
	if q.closed {
		return os.ErrClosed
	}
	if len(more) > 0 {
		return q.gather(buf, more)
	}
	_, errno := call(unix.SYS_WRITE, q.fd, unsafe.Pointer(&buf[0]), len(buf))
	return packetError(errno)
}

// gather writes a packet that lies in several places.
func (q *queue) gather(buf []byte, more [][]byte) error {
	if len(more) > MaxPieces {
		return ErrMalformed
	}
	var iovecs [1 + MaxPieces]unix.Iovec
	iovecs[0].Base = &buf[0]
	iovecs[0].SetLen(len(buf))
	n := 1
	for _, piece := range more {
		if len(piece) > 0 {
			iovecs[n].Base = &piece[0]
			iovecs[n].SetLen(len(piece))
			n++
		}
	}
	_, errno := call(unix.SYS_WRITEV, q.fd, unsafe.Pointer(&iovecs[0]), n)
	return packetError(errno)
}

// packetError says what an errno of the tun driver means. It allocates
// nothing: a flood must not turn into garbage.
func packetError(errno syscall.Errno) error {
	switch errno {
	case 0:
		return nil
	case unix.EBADFD, unix.EBADF, unix.EFAULT:
		// EFAULT: the driver's word for a queue that was shut down.
		return os.ErrClosed
	case unix.EIO:
		return ErrLinkDown
	case unix.EINVAL:
		return ErrMalformed
	}
	return errno
}

// end makes a waiting Read see that the link was deleted. The driver wakes it
// itself; this is for the case that the poller does not pass that on.
func (q *queue) end() {
	q.gone.Store(true)
	if w, err := q.waitsBy(); err == nil {
		w.interrupt()
	}
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

func (q *queue) close() error {
	q.open.Lock()
	defer q.open.Unlock()
	q.closed = true
	q.waits.Do(func() { q.failed = os.ErrClosed })
	var err error
	if q.waiter != nil { // whose reader needs the descriptor
		err = q.waiter.close()
	}
	return errors.Join(err, q.file.Close())
}
