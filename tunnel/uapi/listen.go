package uapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// directory is where the sockets are; tests use another.
var directory = "/var/run/wireguard"

// SocketPath is the socket of an interface.
func SocketPath(name string) string { return filepath.Join(directory, name+".sock") }

// Names gives the interfaces that have a socket, whether or not anybody listens
// on it.
func Names() ([]string, error) {
	entries, err := os.ReadDir(directory)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".sock"); ok {
			names = append(names, name)
		}
	}
	return names, err
}

// Listen opens the socket of an interface, for its owner alone. One that nobody
// listens on any more is replaced; one that somebody does is refused. It is for
// the caller to remove it at the end: see [Remove].
func Listen(name string) (*net.UnixListener, error) {
	path := SocketPath(name)
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("socket %s is in use: another daemon runs interface %s, end it first", path, name)
	} else if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("look for a daemon on socket %s: %w", path, err)
	}
	// The socket gets its name only when it is closed to others: a file of
	// mode 0600 is renamed into place, whatever the umask.
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	os.Remove(temporary)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on socket %s: %w", path, err)
	}
	listener.SetUnlinkOnClose(false)
	if err = os.Chmod(temporary, 0o600); err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		listener.Close()
		os.Remove(temporary)
		return nil, fmt.Errorf("listen on socket %s: %w", path, err)
	}
	return listener, nil
}

// ListenFile listens on a socket that another process opened, as WG_UAPI_FD
// hands it over. It does not close f.
func ListenFile(f *os.File) (*net.UnixListener, error) {
	listener, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listen on inherited descriptor %d: %w", f.Fd(), err)
	}
	unix, ok := listener.(*net.UnixListener)
	if !ok {
		listener.Close()
		return nil, fmt.Errorf("inherited descriptor %d is no listening unix socket", f.Fd())
	}
	unix.SetUnlinkOnClose(false)
	return unix, nil
}

// Remove removes the socket of an interface.
func Remove(name string) { os.Remove(SocketPath(name)) }

// Watch gives a channel that is closed when the socket of an interface is
// removed or replaced, which is how a daemon is told to end.
func Watch(ctx context.Context, name string) (<-chan struct{}, error) {
	path := SocketPath(name)
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch socket %s: %w", path, err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	// Attributes change when the last name goes; the directory says so too.
	if _, err = syscall.InotifyAddWatch(fd, path, syscall.IN_ATTRIB|syscall.IN_DELETE_SELF|syscall.IN_MOVE_SELF); err != nil {
		events.Close()
		return nil, fmt.Errorf("watch socket %s: %w", path, err)
	}
	before, err := os.Lstat(path)
	if err != nil {
		events.Close()
		return nil, fmt.Errorf("watch socket %s: %w", path, err)
	}
	gone := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { events.Close() })
	go func() {
		defer stop()
		defer events.Close()
		buf := make([]byte, 4096)
		for {
			now, err := os.Lstat(path)
			if err != nil || !os.SameFile(before, now) {
				close(gone)
				return
			}
			if _, err := events.Read(buf); err != nil {
				return
			}
		}
	}()
	return gone, nil
}
