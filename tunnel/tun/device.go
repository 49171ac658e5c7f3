package tun

import (
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

var (
	// ErrLinkDown says that the kernel took no packet because the link is down.
	ErrLinkDown = errors.New("the tun link is down: set it up with ip link set up")
	// ErrMalformed says that the kernel took the bytes for no IP packet.
	ErrMalformed = errors.New("not an IPv4 or IPv6 packet")

	errBuffer = errors.New("read from the tun device: a buffer has no room after the offset, or there are fewer sizes than buffers")
)

// device is the one Device. The descriptor is non-blocking, so packets move by
// plain system calls; the poller is asked only when Read has to wait.
type device struct {
	fd   int // valid while open is held and closed is false
	file *os.File
	raw  syscall.RawConn
	log  *slog.Logger

	// open keeps Close from closing fd under a system call. Its holders never
	// wait, so it costs readers and writers an atomic add.
	open   sync.RWMutex
	closed bool
	gone   atomic.Bool // the link was deleted

	// One Read waits at a time; what it wants is here rather than in a closure,
	// which would be an allocation for each call.
	waiting sync.Mutex
	wanted  wanted
	reader  func(fd uintptr) bool

	name atomic.Pointer[string]
	mtu  atomic.Int32

	link       *linkSocket // follow's; others only close it, holding open
	news       news
	events     chan Event
	done       chan struct{}
	goroutines sync.WaitGroup
}

type wanted struct {
	bufs   [][]byte
	sizes  []int
	offset int
	n      int
	err    error
}

func (d *device) Name() string         { return *d.name.Load() }
func (d *device) MTU() int             { return int(d.mtu.Load()) }
func (d *device) Events() <-chan Event { return d.events }
func (d *device) File() *os.File       { return d.file }

func (d *device) TryRead(bufs [][]byte, sizes []int, offset int) (int, error) {
	d.open.RLock()
	defer d.open.RUnlock()
	if d.closed {
		return 0, os.ErrClosed
	}
	n, err := readAll(d.fd, bufs, sizes, offset)
	if err == unix.EAGAIN {
		err = nil
	}
	return n, err
}

func (d *device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if len(bufs) == 0 {
		return 0, nil
	}
	if n, err := d.TryRead(bufs, sizes, offset); n > 0 || err != nil {
		return n, err
	}
	d.waiting.Lock()
	defer d.waiting.Unlock()
	d.wanted = wanted{bufs: bufs, sizes: sizes, offset: offset}
	// The poller's own errors (closed, deadline, not pollable) all come from
	// Close or from the link's end; why it woke up is told by the last read.
	pollErr := d.raw.Read(d.reader)
	n, err := d.wanted.n, d.wanted.err
	d.wanted = wanted{}
	if pollErr == nil || n > 0 {
		return n, err
	}
	if d.gone.Load() {
		return 0, os.ErrClosed
	}
	n, err = d.TryRead(bufs, sizes, offset)
	if n == 0 && err == nil {
		err = pollErr
	}
	return n, err
}

// readReady is what the poller calls before waiting and each time that there
// may be packets. False means wait.
func (d *device) readReady(fd uintptr) bool {
	w := &d.wanted
	w.n, w.err = readAll(int(fd), w.bufs, w.sizes, w.offset)
	if w.err == unix.EAGAIN {
		w.err = nil
		return w.n > 0
	}
	return true
}

// readAll reads packets until the buffers or the packets run out; EAGAIN says
// that it was the packets.
func readAll(fd int, bufs [][]byte, sizes []int, offset int) (int, error) {
	if len(sizes) < len(bufs) {
		return 0, errBuffer
	}
	for i, buf := range bufs {
		if offset < 0 || offset >= len(buf) {
			return i, errBuffer
		}
		n, err := unix.Read(fd, buf[offset:])
		for err == unix.EINTR {
			n, err = unix.Read(fd, buf[offset:])
		}
		if err != nil {
			return i, packetError(err)
		}
		sizes[i] = n
	}
	return len(bufs), nil
}

func (d *device) Write(bufs [][]byte, offset int) (n int, err error) {
	d.open.RLock()
	defer d.open.RUnlock()
	if d.closed {
		return 0, os.ErrClosed
	}
	for _, buf := range bufs {
		if e := writeOne(d.fd, buf, offset); e == nil {
			n++
		} else if err == nil {
			err = e
		}
	}
	return n, err
}

func writeOne(fd int, buf []byte, offset int) error {
	if offset < 0 || offset >= len(buf) {
		return ErrMalformed
	}
	_, err := unix.Write(fd, buf[offset:])
	for err == unix.EINTR {
		_, err = unix.Write(fd, buf[offset:])
	}
	if err != nil {
		return packetError(err)
	}
	return nil
}

// packetError says what an errno of the tun driver means. It allocates
// nothing: a flood must not turn into garbage.
func packetError(err error) error {
	switch err {
	case unix.EBADFD, unix.EBADF, unix.EFAULT:
		// EFAULT: the driver's word for a queue that was shut down.
		return os.ErrClosed
	case unix.EIO:
		return ErrLinkDown
	case unix.EINVAL:
		return ErrMalformed
	}
	return err
}

func (d *device) isClosed() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

func (d *device) Close() error {
	d.open.Lock()
	if d.closed {
		d.open.Unlock()
		return os.ErrClosed
	}
	d.closed = true
	close(d.done)
	d.link.close()
	err := d.file.Close()
	d.open.Unlock()
	d.goroutines.Wait()
	return err
}
