package uapi

import (
	"context"
	"fmt"
	"os"
	"syscall"
)

// Watch gives a channel that is closed when the socket at path is removed or
// replaced, which is how a daemon is told to end. The watch ends with ctx; the
// channel then stays open.
func Watch(ctx context.Context, path string) (<-chan struct{}, error) {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch socket %s: %w", path, err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	// While the socket is open there is no IN_DELETE_SELF; the number of its
	// names is an attribute, which changes.
	_, err = syscall.InotifyAddWatch(fd, path, syscall.IN_ATTRIB|syscall.IN_DELETE_SELF|syscall.IN_MOVE_SELF)
	var before os.FileInfo
	if err == nil {
		before, err = os.Lstat(path)
	}
	if err != nil {
		events.Close()
		return nil, fmt.Errorf("watch socket %s: %w", path, err)
	}
	gone := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { events.Close() })
	go func() {
		defer stop()
		defer events.Close()
		if awaitGone(events, path, before) {
			close(gone)
		}
	}()
	return gone, nil
}

// awaitGone tells whether before has lost its name, as opposed to that the
// events end. The watch keeps the file's number from being used again.
func awaitGone(events *os.File, path string, before os.FileInfo) bool {
	buf := make([]byte, 4096) // what happened does not matter, only that something did
	for {
		now, err := os.Lstat(path)
		if err != nil || !os.SameFile(before, now) {
			return true
		}
		if _, err := events.Read(buf); err != nil {
			return false
		}
	}
}
