package tun

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// awaiter waits for a descriptor with a time limit to which the kernel keeps
// within its timer slack, some 50 µs. The runtime's poller, which is what Read waits
// for, may be late by a millisecond.
type awaiter struct {
	raw  syscall.RawConn
	wait func(fd uintptr) // poll, made once: a closure for each call would be an allocation
	most time.Duration
}

func (a *awaiter) init(raw syscall.RawConn) { a.raw, a.wait = raw, a.poll }

// await may be called by one goroutine at a time.
func (a *awaiter) await(d time.Duration) error {
	a.most = max(d, 0)
	// Control, so that the descriptor stays ours.
	if a.raw.Control(a.wait) != nil {
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
