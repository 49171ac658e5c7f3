package tun

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// waiter waits until a descriptor may be read, and is told of nothing before and after
// that. The runtime's poller, if it had the descriptor itself, would be woken by each
// packet that comes while a thread of it sleeps, whether or not anybody waits: then
// who sends packets to a worker that is busy, or naps, pays a wake-up for each, and
// that was half of what a flood could send. So the poller has an epoll descriptor,
// which has ours, and asks nothing of it but while somebody waits.
type waiter struct {
	fd, epoll int
	file      *os.File
	raw       syscall.RawConn
	event     unix.EpollEvent // that is asked for
	told      unix.EpollEvent // scratch
	armed     bool
	try       func() bool
	look      func(fd uintptr) bool // poll, made once: a closure for each call would be an allocation
	failed    error
}

// newWaiter makes one. The descriptor has to be open until it is closed.
func newWaiter(fd int) (*waiter, error) {
	w := &waiter{fd: fd}
	fail := func(err error) (*waiter, error) { return nil, fmt.Errorf("poll %s: %w", cloneDevice, err) }
	var err error
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fail(err)
	}
	// The poller takes only what is non-blocking.
	if err = unix.SetNonblock(w.epoll, true); err == nil {
		err = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &w.event)
	}
	if err != nil {
		unix.Close(w.epoll)
		return fail(err)
	}
	w.file = os.NewFile(uintptr(w.epoll), "epoll")
	if w.raw, err = w.file.SyscallConn(); err != nil {
		w.file.Close()
		return fail(err)
	}
	w.look = w.poll
	return w, nil
}

// wait calls try until it is true, whenever the descriptor may be read. One goroutine at
// a time may wait.
func (w *waiter) wait(try func() bool) error {
	w.try, w.failed = try, nil
	if err := w.raw.Read(w.look); err != nil {
		return err
	}
	return w.failed
}

// poll is what the runtime's poller calls, first and whenever it was woken.
func (w *waiter) poll(uintptr) bool {
	if w.armed {
		w.disarm()
	}
	if w.try() {
		return true
	}
	w.ask(unix.EPOLLIN | unix.EPOLLONESHOT) // from here on also for what has come meanwhile
	return w.failed != nil
}

// disarm takes what is told, after which nothing is. The event has to be taken: while
// it waits, the kernel tells of nothing that is there when it is asked anew.
func (w *waiter) disarm() {
	if w.take() {
		w.armed = false
		return
	}
	w.ask(0)
	w.take() // if it came just now
}

// take takes an event, if there is one.
func (w *waiter) take() bool {
	n, _, _ := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(w.epoll), uintptr(unsafe.Pointer(&w.told)), 1, 0, 0, 0)
	return int(n) == 1
}

// ask says what is to be told. The call does not wait, so the scheduler need not know.
func (w *waiter) ask(events uint32) {
	w.event.Events = events
	if _, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(w.epoll), unix.EPOLL_CTL_MOD, uintptr(w.fd), uintptr(unsafe.Pointer(&w.event)), 0, 0); errno != 0 {
		w.failed = errno
		return
	}
	w.armed = events != 0
}

// interrupt makes wait return, now and from now on.
func (w *waiter) interrupt() { w.file.SetReadDeadline(past) }

// close ends waiting, and returns when that is over.
func (w *waiter) close() error { return w.file.Close() }

// unpolled makes a file of a descriptor that the runtime's poller is not to have. The
// descriptor is non-blocking afterwards.
func unpolled(fd int, name string) (*os.File, error) {
	// Of a non-blocking one, os.NewFile would tell the poller.
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if err := unix.SetNonblock(fd, true); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
