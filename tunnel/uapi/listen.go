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

// directory is where `wg` looks for sockets.
const directory = "/var/run/wireguard"

// maxName is the length of an interface's name, IFNAMSIZ less the final zero.
const maxName = 15

// SocketPath is the socket of an interface.
func SocketPath(name string) string { return filepath.Join(directory, name+".sock") }

// Names gives the interfaces that have a socket, in order, whether or not
// anybody listens on it.
func Names() ([]string, error) {
	entries, err := os.ReadDir(directory)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".sock"); ok && e.Type()&os.ModeSocket != 0 {
			names = append(names, name)
		}
	}
	return names, nil
}

// checkName refuses what would leave the directory or could not be an interface.
func checkName(name string) error {
	if name == "" || len(name) > maxName || strings.ContainsAny(name, "/ \t\n\x00") || name == "." || name == ".." {
		return fmt.Errorf("%q cannot be an interface: a name has 1 to %d bytes, no slash and no space", name, maxName)
	}
	return nil
}

// Listener is the socket of an interface. Its File is what another process
// inherits. Close leaves the socket's name, for that process's sake: the one that
// ends the interface calls Remove.
type Listener struct {
	*net.UnixListener
	path string
	made os.FileInfo // the socket that this listener has, nil if it has no name
}

// Path is where the socket is, or was when this process got it.
func (l *Listener) Path() string { return l.path }

// Remove removes the socket's name, unless it is already gone or another daemon
// has taken it since.
func (l *Listener) Remove() error {
	now, err := os.Lstat(l.path)
	if l.made == nil || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// After Close the number of the file may have been given to another's; the
	// time when it was made was not.
	if err == nil && !(os.SameFile(l.made, now) && l.made.ModTime().Equal(now.ModTime())) {
		return nil
	}
	if err == nil {
		err = os.Remove(l.path)
	}
	if err != nil {
		return fmt.Errorf("remove socket: %w", err)
	}
	return nil
}

// Listen opens the socket of an interface, for its owner alone. One that nobody
// listens on any more is replaced; one that somebody does is refused.
func Listen(name string) (*Listener, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the sockets: %w", err)
	}
	path := SocketPath(name)
	if err := clearDead(path); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: ownerOnly}
	listener, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on socket %s: %w", path, err)
	}
	l := &Listener{UnixListener: listener.(*net.UnixListener), path: path}
	l.SetUnlinkOnClose(false)
	if l.made, err = os.Lstat(path); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on socket %s: %w", path, err)
	}
	return l, nil
}

// clearDead removes a socket that nobody listens on.
func clearDead(path string) error {
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("socket %s is in use: end the daemon that has this interface, or choose another name: %w", path, syscall.EADDRINUSE)
	case errors.Is(err, os.ErrNotExist):
		return nil
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("look for a daemon on socket %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replace dead socket: %w", err)
	}
	return nil
}

// ownerOnly runs before bind: Linux gives the name the mode of the socket
// (unix(7)), so at no moment can others connect, whatever the umask.
func ownerOnly(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) { failed = syscall.Fchmod(int(fd), 0o600) })
	return errors.Join(err, failed)
}

// ListenFile listens on a socket that another process opened, as WG_UAPI_FD
// hands it over. It does not close f.
func ListenFile(f *os.File) (*Listener, error) {
	listener, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listen on inherited descriptor %s: %w", f.Name(), err)
	}
	unix, ok := listener.(*net.UnixListener)
	if !ok {
		listener.Close()
		return nil, fmt.Errorf("inherited descriptor %s is no unix socket, see WG_UAPI_FD", f.Name())
	}
	unix.SetUnlinkOnClose(false)
	l := &Listener{UnixListener: unix, path: unix.Addr().String()}
	if made, err := os.Lstat(l.path); err == nil {
		l.made = made
	}
	return l, nil
}
