package attach

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kiloport/tunnel"
	"kiloport/tunnel/attach/accord"
)

// folder has a socket for each attached device. It is not WireGuard's own, where
// wg(8) would take the device for a daemon's.
const folder = "/run/kiloport"

const (
	socketSuffix = ".attach"
	askTimeout   = 5 * time.Second
	askShow      = "show"
	askDetach    = "detach"
	askRange     = "range"
)

// ErrNotAttached says that nothing is attached to a device.
var ErrNotAttached = errors.New("kiloport is not attached to it")

func socketPath(device string) string { return filepath.Join(folder, device+socketSuffix) }

// Names lists the devices that are attached to, in any network namespace.
func Names() []string {
	paths, _ := filepath.Glob(socketPath("*")) // the pattern is good
	var names []string
	for _, p := range paths {
		names = append(names, strings.TrimSuffix(filepath.Base(p), socketSuffix))
	}
	slices.Sort(names)
	return names
}

// ask makes one request of the process that is attached to a device.
func ask(device, request string, patience time.Duration) ([]byte, error) {
	if device == "" || strings.ContainsRune(device, '/') {
		return nil, fmt.Errorf("%q is no name of an interface", device)
	}
	conn, err := net.DialTimeout("unix", socketPath(device), askTimeout)
	if errors.Is(err, fs.ErrNotExist) || isRefused(err) {
		return nil, fmt.Errorf("interface %s: %w", device, ErrNotAttached)
	}
	if err != nil {
		return nil, fmt.Errorf("interface %s: ask the process that is attached to it: %w", device, err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, request+"\n"); err != nil {
		return nil, fmt.Errorf("interface %s: ask the process that is attached to it: %w", device, err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return nil, fmt.Errorf("interface %s: ask the process that is attached to it: %w", device, err)
	}
	return answer, nil
}

// isRefused tells whether a socket is there and nobody listens.
func isRefused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && strings.Contains(op.Err.Error(), "refused")
}

// Show gives the status of a device that is attached to. The error is
// [ErrNotAttached] if it is not.
func Show(device string) (*tunnel.Status, error) {
	answer, err := ask(device, askShow, askTimeout)
	if err != nil {
		return nil, err
	}
	s := new(tunnel.Status)
	if err := json.Unmarshal(answer, s); err != nil {
		return nil, fmt.Errorf("interface %s: read its status: %w", device, err)
	}
	return s, nil
}

// Detach ends what is attached to a device and returns when it is gone. What a
// killed process left behind on an old kernel is removed. The error is
// [ErrNotAttached] if there is neither.
func Detach(device string) error {
	_, err := ask(device, askDetach, leaveFor+drainFor+askTimeout)
	if !errors.Is(err, ErrNotAttached) {
		return err
	}
	removed, failed := removeFilters(device)
	if removed > 0 || failed != nil {
		return failed
	}
	return err
}

// attached is another device of this network namespace, and its ports.
type attached struct {
	name  string
	ports accord.Range
}

// rangeAnswer is what is answered to askRange.
type rangeAnswer struct {
	Namespace string // the network namespace, as /proc names it
	Ports     accord.Range
}

// otherAttached lists what else is attached in this network namespace.
func otherAttached(device string) (others []attached) {
	here, err := os.Readlink("/proc/self/ns/net")
	for _, name := range Names() {
		if name == device || err != nil {
			continue
		}
		answer, err := ask(name, askRange, askTimeout)
		var r rangeAnswer
		if err == nil && json.Unmarshal(answer, &r) == nil && r.Namespace == here {
			others = append(others, attached{name, r.Ports})
		}
	}
	return others
}

// listen opens the socket of a device, for root alone.
func listen(device string) (*net.UnixListener, error) {
	if _, err := ask(device, askRange, askTimeout); err == nil {
		return nil, fmt.Errorf("kiloport is attached to %s already: kiloport detach %s ends that", device, device)
	} else if !errors.Is(err, ErrNotAttached) {
		return nil, err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the sockets: %w", err)
	}
	path := socketPath(device)
	os.Remove(path) // of a process that was killed
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// serve answers until the listener is closed.
func (a *Attachment) serve(l *net.UnixListener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go a.answer(conn)
	}
}

func (a *Attachment) answer(conn net.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(leaveFor + drainFor + askTimeout))
	line, err := bufio.NewReader(io.LimitReader(conn, 64)).ReadString('\n')
	if err != nil {
		return
	}
	switch strings.TrimSpace(line) {
	case askShow:
		json.NewEncoder(conn).Encode(a.Status()) // who asked may have gone
	case askRange:
		here, _ := os.Readlink("/proc/self/ns/net")
		json.NewEncoder(conn).Encode(rangeAnswer{here, a.sends})
	case askDetach:
		a.stop()
		<-a.ended
	}
}
