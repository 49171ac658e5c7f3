package tun

import (
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// awaiter waits for a descriptor with a time limit to which the kernel keeps
// within its timer slack, some 50 µs. The runtime's poller, which is what Read waits
// for, may be late by a millisecond.
type awaiter struct {
	raw  syscall.RawConn
	wait func(fd uintptr) // poll, made once: a closure for each call would be an allocation
	doze func(fd uintptr) // rawPoll
	most time.Duration
}

func (a *awaiter) init(raw syscall.RawConn) { a.raw, a.wait, a.doze = raw, a.poll, a.rawPoll }

// await waits by wait or doze. It may be called by one goroutine at a time.
func (a *awaiter) await(d time.Duration, by func(fd uintptr)) error {
	a.most = max(d, 0)
	// Control, so that the descriptor stays ours.
	if a.raw.Control(by) != nil {
		return os.ErrClosed
	}
	return nil
}

// poll says nothing of what it saw: the next read tells that, and why it woke up.
func (a *awaiter) poll(fd uintptr) {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	most := unix.NsecToTimespec(int64(a.most))
	_, _ = unix.Ppoll(fds[:], &most, nil)
}

// rawPoll is poll without the scheduler being told.
func (a *awaiter) rawPoll(fd uintptr) {
	fds := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	most := unix.NsecToTimespec(int64(a.most))
	_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), 1, uintptr(unsafe.Pointer(&most)), 0, 0, 0)
}
