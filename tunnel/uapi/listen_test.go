package uapi

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func listen(t *testing.T, name string) *Listener {
	t.Helper()
	l, err := Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); l.Remove() })
	return l
}

func TestListen(t *testing.T) {
	name := testName("c")
	defer syscall.Umask(syscall.Umask(0))
	first := listen(t, name)
	if info, err := os.Stat(SocketPath(name)); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("socket has mode %v, %v", info.Mode(), err)
	}
	if names, err := Names(); !slices.Contains(names, name) || err != nil {
		t.Errorf("names %q, %v", names, err)
	}
	if _, err := Listen(name); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second daemon: %v", err)
	}
	first.Close() // a daemon that was killed: the name stays, nobody listens
	if _, err := Dial(name); !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "is the interface up") {
		t.Errorf("dial a dead socket: %v", err)
	}
	second := listen(t, name)
	dial(t, name)
	if err := first.Remove(); err != nil {
		t.Error(err)
	}
	dial(t, name) // still there: the first did not remove what is the second's
	for range 2 {
		if err := second.Remove(); err != nil {
			t.Error(err)
		}
	}
	if _, err := Dial(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("dial a removed socket: %v", err)
	}
	if names, err := Names(); slices.Contains(names, name) || err != nil {
		t.Errorf("names %q, %v", names, err)
	}
}

// What a daemon has said in the end is told to who looks for it, unless it is too much.
func TestLastWords(t *testing.T) {
	name := testName("w")
	if words := LastWords(name); words != "" {
		t.Errorf("of none %q", words)
	}
	for text, want := range map[string]string{
		"": "it was killed, or the machine was", "so\n": "so", strings.Repeat("x", 1<<16): strings.Repeat("x", mostWords),
	} {
		f, err := OpenLastWords(name)
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(f.Name())
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if words := LastWords(name); words != want {
			t.Errorf("of %.20q %.80q", text, words)
		}
	}
	if _, err := OpenLastWords("../x"); err == nil {
		t.Error("a file elsewhere")
	}
}

func TestListenRefusesNames(t *testing.T) {
	for _, name := range []string{"", ".", "..", "../x", "a b", "sixteen-letters-"} {
		if l, err := Listen(name); err == nil {
			l.Close()
			l.Remove()
			t.Errorf("listens as %q", name)
		}
		if _, err := Dial(name); err == nil || !strings.Contains(err.Error(), "cannot be an interface") {
			t.Errorf("dial %q: %v", name, err)
		}
	}
}

// TestListenFile hands a socket on, as a daemon does that goes to the background.
func TestListenFile(t *testing.T) {
	name := testName("n")
	parent := listen(t, name)
	f, err := parent.File()
	if err != nil {
		t.Fatal(err)
	}
	child, err := ListenFile(f)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	parent.Close()
	if child.Path() != SocketPath(name) {
		t.Errorf("path %q", child.Path())
	}
	go func() {
		if conn, err := child.Accept(); err == nil {
			conn.Close()
		}
	}()
	if _, err := dial(t, name).Get(); err == nil {
		t.Error("answered by a daemon that hangs up")
	}
	child.Close()
	if err := child.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(SocketPath(name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := ListenFile(null); err == nil {
		t.Error("listens on /dev/null")
	}
}

func TestWatch(t *testing.T) {
	for what, change := range map[string]func(path string) error{
		"removed":  os.Remove,
		"moved":    func(path string) error { return os.Rename(path, filepath.Join(t.TempDir(), "s")) },
		"replaced": func(path string) error { return os.Rename(other(t), path) },
	} {
		l := listen(t, testName("d"))
		gone, err := Watch(t.Context(), l.Path())
		if err != nil {
			t.Fatal(err)
		}
		// Of three events the first two take nothing away.
		for range 2 {
			if err := os.Chmod(l.Path(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-gone:
			t.Errorf("not yet %s, but said to be gone", what)
		default:
		}
		if err := change(l.Path()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-gone:
		case <-time.After(10 * time.Second):
			t.Errorf("%s, and not noticed", what)
		}
		l.Close()
		os.Remove(l.Path())
	}
}

// other is a file beside the sockets.
func other(t *testing.T) string {
	f, err := os.CreateTemp(directory, "kpt")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return f.Name()
}

func TestWatchEnds(t *testing.T) {
	if _, err := Watch(t.Context(), SocketPath(testName("o"))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket that is not there: %v", err)
	}
}
