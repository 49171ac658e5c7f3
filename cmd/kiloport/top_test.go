package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiloport/tunnel"
	"kiloport/tunnel/uapi"
)

// busyBackend is a daemon with two peers and a flow. One peer sends, what goes to
// the other is dropped.
type busyBackend struct {
	mu      sync.Mutex
	status  tunnel.Status
	dropped uint64
}

func (b *busyBackend) State() uapi.DeviceState          { return uapi.DeviceState{} }
func (b *busyBackend) Configure(*uapi.SetRequest) error { return nil }

func (b *busyBackend) Show() any {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status.Totals.Sent.Bytes += 1e6
	b.status.Flows[0].Bytes += 1e6
	b.status.Peers[0].Sent.Bytes += 1e6
	b.dropped++
	b.status.Peers[1].Drops = map[string]uint64{"codel": b.dropped}
	return b.status
}

// serveBusy serves it on the socket of an interface.
func serveBusy(t *testing.T, name string) {
	t.Helper()
	l, err := uapi.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	b := &busyBackend{status: tunnel.Status{
		Name: name, Up: true, ListenPort: 51820,
		Peers: []tunnel.PeerStatus{{PublicKey: otherKey, Mode: "direct"}, {PublicKey: publicKey, Mode: "stock"}},
		Flows: []tunnel.FlowDetail{{Flow: "tcp 10.0.0.1:443 > 10.1.0.1:40000", Peer: otherKey, Lane: 5}},
	}}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- uapi.Serve(ctx, l, b, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		l.Remove()
		cancel()
		<-served
	})
}

// pty is a terminal: what a program that runs on it has printed.
type pty struct {
	t      *testing.T
	master *os.File
	mu     sync.Mutex
	all    bytes.Buffer
	read   int // of all: what await has found
	cmd    *exec.Cmd
	ended  chan error
}

// startOnPTY runs this program on a new terminal of 80 columns and 24 lines.
func startOnPTY(t *testing.T, environment []string, args ...string) *pty {
	t.Helper()
	p := &pty{t: t, ended: make(chan error, 1)}
	var slave *os.File
	p.master, slave = openPTY(t)
	defer slave.Close()
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Env = append(append(os.Environ(), envBeKiloport+"=1"), environment...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	go p.collect()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.master.Close()
	})
	return p
}

func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func (p *pty) collect() {
	buf := make([]byte, 1<<14)
	for {
		n, err := p.master.Read(buf)
		p.mu.Lock()
		p.all.Write(buf[:n])
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (p *pty) printed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all.String()
}

// await waits until something is printed after what it waited for before.
func (p *pty) await(what string) {
	p.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if at := strings.Index(p.printed()[p.read:], what); at >= 0 {
			p.read += at + len(what)
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("%q was not printed, but %q", what, p.printed()[p.read:])
		}
	}
}

func (p *pty) press(keys string) { io.WriteString(p.master, keys) }

// end wants the program to end well.
func (p *pty) end() {
	p.t.Helper()
	select {
	case err := <-p.ended:
		if err != nil {
			p.t.Errorf("%v: %q", err, p.printed())
		}
	case <-time.After(patience):
		p.t.Fatalf("still runs: %q", p.printed())
	}
}

func TestTopOnATerminal(t *testing.T) {
	name := linkName("t")
	serveBusy(t, name)
	for _, c := range []struct {
		environment string
		colour      bool
	}{{"A=1", true}, {"NO_COLOR=1", false}} {
		p := startOnPTY(t, []string{"TERM=xterm-256color", c.environment}, "top", name, "--interval", "100ms")
		p.await(otherKey[:16])
		if p.await("Mbit/s"); c.colour {
			p.await("\x1b[31m")
		}
		p.press("3")
		p.await("443 > 10.1.0.1:40000")
		p.press("/nothing-like-it\r")
		p.await("nothing to show")
		p.press("q")
		p.end()
		p.await(screenBefore)
		if coloured := colour.MatchString(p.printed()); coloured != c.colour {
			t.Errorf("%s: colours: %v, %q", c.environment, coloured, p.printed())
		}
	}
}

// screenBefore is the sequence by which what was on the terminal comes back.
const screenBefore = "\x1b[?1049l"

// colour is the sequence that makes text coloured (SGR 30 to 38).
var colour = regexp.MustCompile(`\x1b\[([0-9;]*;)?3[0-8][0-9;:]*m`)

func TestTopEndsWithSIGTERM(t *testing.T) {
	name := linkName("e")
	serveBusy(t, name)
	// The library closes the terminal while it reads it, if that takes it half a
	// second to let go: the race detector is to report that, and no more.
	p := startOnPTY(t, []string{"TERM=xterm", "GORACE=exitcode=0"}, "top", name)
	p.await(otherKey[:16])
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.end()
	p.await(screenBefore)
}

// A terminal that can only print gets a list each time.
func TestTopOnADumbTerminal(t *testing.T) {
	name := linkName("d")
	serveBusy(t, name)
	p := startOnPTY(t, []string{"TERM=dumb"}, "top", name, "--view", "flows", "--interval", "100ms")
	for range 2 {
		p.await("tcp 10.0.0.1:443 > 10.1.0.1:40000")
	}
	if text := p.printed(); strings.Contains(text, "\x1b") {
		t.Errorf("not plain: %q", text)
	}
	p.cmd.Process.Signal(syscall.SIGINT)
	p.end()
}

func TestTopWithoutATerminal(t *testing.T) {
	name := linkName("n")
	serveBusy(t, name)
	for args, says := range map[string]string{
		"top " + name:                      "must be a terminal: for a file or another program use kiloport show --json",
		"top no-such-if":                   "no daemon listens",
		"top a b":                          "wants one interface at most",
		"top --view sockets " + name:       `view "sockets": use one of peers, lanes, flows`,
		"top --interval 1ms " + name:       "interval 1ms: use 100ms to 1h0m0s",
		"top --interval sometimes " + name: "sometimes",
	} {
		code, stdout, stderr := call(t, "", strings.Fields(args)...)
		want := 2
		if strings.HasPrefix(says, "must") || strings.HasPrefix(says, "no daemon") {
			want = 1
		}
		if code != want || !strings.Contains(stderr, says) || stdout != "" {
			t.Errorf("%s: status %d, %q%q; want %d and %q", args, code, stdout, stderr, want, says)
		}
	}
}
