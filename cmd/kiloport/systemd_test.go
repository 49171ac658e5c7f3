package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// supervisor is what systemd is to a unit with Type=notify, a store for descriptors
// and a watchdog.
type supervisor struct {
	t       *testing.T
	n       *namespace
	socket  *net.UnixConn
	dir     string
	args    []string
	process *exec.Cmd
	stderr  lockedBuffer

	mu       sync.Mutex
	store    []handedFile
	ready    int
	watchdog int
}

// lockedBuffer may be read while processes write to it.
type lockedBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

const testUnit = "kiloport@test.service"

func newSupervisor(n *namespace, args ...string) *supervisor {
	n.t.Helper()
	s := &supervisor{t: n.t, n: n, dir: n.t.TempDir(), args: args}
	var err error
	s.socket, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(s.dir, "notify"), Net: "unixgram"})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { s.socket.Close(); closeHanded(s.store) })
	go s.listen()
	return s
}

func (s *supervisor) listen() {
	text, oob := make([]byte, 4096), make([]byte, 4096)
	for {
		n, oobn, _, _, err := s.socket.ReadMsgUnix(text, oob)
		if err != nil {
			return
		}
		var fds []int
		if messages, err := syscall.ParseSocketControlMessage(oob[:oobn]); err == nil && len(messages) > 0 {
			fds, _ = syscall.ParseUnixRights(&messages[0])
		}
		s.told(string(text[:n]), fds)
	}
}

func (s *supervisor) told(message string, fds []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, name, _ := strings.Cut(message, "FDNAME=")
	name, _, _ = strings.Cut(name, "\n")
	switch {
	case strings.HasPrefix(message, "FDSTORE=1"):
		for _, fd := range fds {
			s.store = append(s.store, handedFile{name, os.NewFile(uintptr(fd), name)})
		}
	case strings.HasPrefix(message, "FDSTOREREMOVE=1"):
		var kept []handedFile
		for _, f := range s.store {
			if f.name == name {
				f.file.Close()
			} else {
				kept = append(kept, f)
			}
		}
		s.store = kept
	case strings.HasPrefix(message, "BARRIER=1"):
		for _, fd := range fds {
			syscall.Close(fd)
		}
	case strings.HasPrefix(message, "READY=1"):
		s.ready++
	case strings.HasPrefix(message, "WATCHDOG=1"):
		s.watchdog++
	}
}

func (s *supervisor) count(which *int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *which
}

// start starts the process with what is in the store, and waits until it is ready.
func (s *supervisor) start() {
	s.t.Helper()
	ready := s.count(&s.ready)
	// LISTEN_PID is that of the process itself.
	script := `export LISTEN_PID=$$; exec "$0" "$@"`
	cmd := s.n.command(append([]string{"sh", "-c", script, os.Args[0]}, s.args...)...)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+filepath.Join(s.dir, "notify"), "WATCHDOG_USEC=300000",
		envUnit+"="+testUnit, "PATH="+s.dir+":"+os.Getenv("PATH"))
	s.mu.Lock()
	var names []string
	for _, f := range s.store {
		names = append(names, f.name)
		cmd.ExtraFiles = append(cmd.ExtraFiles, f.file)
	}
	s.mu.Unlock()
	if len(names) > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	cmd.Stderr = &s.stderr
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.process = cmd
	s.t.Cleanup(func() { cmd.Process.Kill() })
	await(s.t, "readiness", func() bool { return s.count(&s.ready) > ready })
}

// end tells the process to end. job is what systemctl says about the unit.
func (s *supervisor) end(job string) {
	s.t.Helper()
	stub := "#!/bin/sh\nprintf '%s\\n' '" + job + "'\n"
	if err := os.WriteFile(filepath.Join(s.dir, "systemctl"), []byte(stub), 0o755); err != nil {
		s.t.Fatal(err)
	}
	s.process.Process.Signal(syscall.SIGTERM)
	if err := s.process.Wait(); err != nil {
		s.t.Errorf("it ended with %v: %s", err, s.stderr.String())
	}
}

// systemctl restart under load: descriptors and sessions wait in systemd, no
// connection ends, next to nothing is lost, and nothing is left in the store. After
// systemctl stop, nothing is left at all.
func TestRestartBySystemd(t *testing.T) {
	l := newUnderLoad(t)
	if _, stderr, code := l.a.kiloport("down", l.nameA); code != 0 {
		t.Fatalf("down: status %d, %s", code, stderr)
	}
	s := newSupervisor(l.a, "up", "-f", l.pathA)
	s.start()
	l.begin()
	handshake := l.a.status(l.nameA).Peers[0].LastHandshake
	for range 3 {
		s.end("17 " + testUnit + " restart running")
		s.mu.Lock()
		if len(s.store) < 4 {
			t.Errorf("%d descriptors are kept: %s", len(s.store), s.stderr.String())
		}
		s.mu.Unlock()
		s.start()
		await(t, "an empty store", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.store) == 0 })
		await(t, "lanes after the restart", func() bool { return l.a.status(l.nameA).Peers[0].Lanes.InUse > tcpFlows })
		l.while()
	}
	lost := l.end()
	t.Logf("3 restarts: lost %d and %d datagrams of %d", lost[0], lost[1], l.sent[0].Load())
	if max(lost[0], lost[1]) >= mayBeLost {
		t.Errorf("lost %d and %d datagrams of %d in 3 restarts: %s", lost[0], lost[1], l.sent[0].Load(), s.stderr.String())
	}
	if now := l.a.status(l.nameA).Peers[0].LastHandshake; !now.Equal(*handshake) {
		t.Errorf("there was a handshake at %v", now)
	}
	if s.count(&s.watchdog) == 0 {
		await(t, "a sign of life", func() bool { return s.count(&s.watchdog) > 0 })
	}
	s.end("18 " + testUnit + " stop running")
	if after := l.a.state(); strings.Contains(after, l.nameA) || strings.Contains(after, "10.9.0") {
		t.Errorf("something is left:\n%s", after)
	}
	if len(s.store) != 0 || !gone(l.nameA)() {
		t.Errorf("%d descriptors, or the socket, are left", len(s.store))
	}
}

// spend does with what systemd keeps as a successor does that ends before it is ready.
func (s *supervisor) spend() (sessions int) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var copies []handedFile
	for _, f := range s.store {
		fd, err := duplicate(f.file)
		if err != nil {
			s.t.Fatal(err)
		}
		copies = append(copies, handedFile{f.name, os.NewFile(uintptr(fd), f.name)})
	}
	p, err := readHandover(copies)
	if err != nil || p == nil {
		s.t.Fatalf("%v, %v", p, err)
	}
	defer p.close()
	return len(p.Device)
}

// The keys and counters are there for one successor. If that ends before it is ready,
// the next one makes a new handshake, and goes on with everything else.
func TestSessionsAreHandedOverOnce(t *testing.T) {
	l := newUnderLoad(t)
	if _, stderr, code := l.a.kiloport("down", l.nameA); code != 0 {
		t.Fatalf("down: status %d, %s", code, stderr)
	}
	s := newSupervisor(l.a, "up", "-f", l.pathA)
	s.start()
	ping := func() { t.Helper(); l.a.run("ping", "-q", "-c", "1", "-W", "10", "10.9.0.2") }
	ping()
	handshake := l.a.status(l.nameA).Peers[0].LastHandshake
	s.end("17 " + testUnit + " restart running")
	if first, second := s.spend(), s.spend(); first == 0 || second != 0 {
		t.Errorf("there are %d bytes of sessions for the first successor, %d for the second", first, second)
	}
	s.start()
	ping()
	if now := l.a.status(l.nameA).Peers[0].LastHandshake; !now.After(*handshake) {
		t.Errorf("the last handshake is that of %v", now)
	}
	s.end("18 " + testUnit + " stop running")
	if after := l.a.state(); strings.Contains(after, l.nameA) || strings.Contains(after, "10.9.0") {
		t.Errorf("something is left:\n%s", after)
	}
}

// What is handed over for another interface is forgotten, also by systemd, and the
// interface begins anew.
func TestHandoverForAnotherInterface(t *testing.T) {
	l := newUnderLoad(t)
	for _, side := range []struct {
		n    *namespace
		name string
	}{{l.a, l.nameA}, {l.b, l.nameB}} {
		if _, stderr, code := side.n.kiloport("down", side.name); code != 0 {
			t.Fatalf("down: status %d, %s", code, stderr)
		}
	}
	s := newSupervisor(l.a, "up", "-f", l.pathA)
	s.start()
	s.end("17 " + testUnit + " restart running")
	other := linkName("lc")
	s.args = []string{"up", "-f", writeConfig(t, other, l.configA)}
	s.start()
	if state := l.a.state(); strings.Contains(state, l.nameA) || !strings.Contains(state, other) {
		t.Errorf("there is\n%s%s", state, s.stderr.String())
	}
	if !strings.Contains(s.stderr.String(), "starting anew") {
		t.Error(s.stderr.String())
	}
	s.end("18 " + testUnit + " stop running")
}

// A successor that cannot go on undoes what its predecessor did; what is handed
// over for another interface, or in pieces, is left.
func TestUselessHandover(t *testing.T) {
	state := func(text string) handedFile {
		f, err := os.CreateTemp(t.TempDir(), "state")
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString(text)
		return handedFile{handedState, f}
	}
	null := func(name string) handedFile {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		return handedFile{name, f}
	}
	for _, c := range []struct {
		files []handedFile
		says  string
	}{
		{nil, ""},
		{[]handedFile{null("sshd.socket"), null(handedTUN)}, ""},
		{[]handedFile{state("{}"), null(handedTUN)}, "missing"},
		{[]handedFile{state("{}"), null(handedControl)}, "missing"},
		{[]handedFile{state("x"), null(handedTUN), null(handedControl)}, "invalid character"},
	} {
		p, err := readHandover(c.files)
		if p != nil || err == nil && c.says != "" || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: %v, %v", c.files, p, err)
		}
		for _, f := range c.files {
			if f.file.Close() == nil {
				t.Errorf("%s is left open", f.name)
			}
		}
	}
}

// A watchdog that the device does not answer says nothing.
func TestWatchdogOfAStuckDevice(t *testing.T) {
	n := newNamespace(t)
	s := newSupervisor(n)
	t.Setenv("NOTIFY_SOCKET", filepath.Join(s.dir, "notify"))
	t.Setenv("WATCHDOG_USEC", "30000")
	asked := make(chan struct{}, 100)
	stuck := func() bool { asked <- struct{}{}; return false }
	go watchdog(t.Context(), stuck, nil)
	for range 3 {
		select {
		case <-asked:
		case <-time.After(patience):
			t.Fatal("the device was not asked")
		}
	}
	if n := s.count(&s.watchdog); n != 0 {
		t.Errorf("%d signs of life of a stuck device", n)
	}
}
