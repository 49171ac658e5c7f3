package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kiloport/tunnel"
)

// everything is a configuration that does all that up can do.
func everything(extra string) string {
	return "[Interface]\nPrivateKey=" + privateKey + "\nAddress=10.0.0.1/24, fd00::1/64\n" + extra +
		"[Peer]\nPublicKey=" + otherKey + "\nEndpoint=127.0.0.1:9\nAllowedIPs=10.9.0.0/16, 0.0.0.0/0, ::/0\n"
}

func (n *namespace) status(name string) (s tunnel.Status) {
	n.t.Helper()
	stdout, stderr, _ := n.kiloport("show", name, "--json")
	if err := json.Unmarshal([]byte(stdout), &s); err != nil {
		n.t.Fatalf("show %s: %v %s", name, err, stderr)
	}
	return s
}

// Flags may stand before the command, too, in the background as well.
func TestFlagsBeforeUp(t *testing.T) {
	n := newNamespace(t)
	name := linkName("b")
	path := writeConfig(t, name, "[Interface]\nPrivateKey="+privateKey+"\nDNS=192.0.2.1\n")
	for _, args := range [][]string{{"--ports", "64", "up"}, {"--log-level=error", "--ports=64", "up"}, {"up", "--ports", "64"}} {
		_, stderr, code := n.kiloport(append(args, path)...)
		if code != 0 {
			t.Fatalf("%v: status %d, %s", args, code, stderr)
		}
		if strings.Count(stderr, "DNS is left alone") != 1 {
			t.Errorf("%v: the note is to be there once: %s", args, stderr)
		}
		if s := n.status(name); s.Pool.Ports != 64 {
			t.Errorf("%v: %d ports", args, s.Pool.Ports)
		}
		if _, stderr, code := n.kiloport("down", name); code != 0 {
			t.Fatalf("down: status %d, %s", code, stderr)
		}
	}
}

// The log goes on after up only if much is to be said, whichever way it was asked
// for.
func TestTerminalIsLetGo(t *testing.T) {
	n := newNamespace(t)
	name := linkName("v")
	path := writeConfig(t, name, "[Interface]\nPrivateKey="+privateKey+"\n")
	for level, keeps := range map[string]bool{"info": false, "verbose": true, "DEBUG": true} {
		log, err := os.Create(filepath.Join(t.TempDir(), "log"))
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		cmd := n.command(os.Args[0], "up", "--log-level", level, path)
		cmd.Stderr = log
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v", level, err)
		}
		daemon, err := exec.Command("ip", "netns", "pids", n.name).Output()
		if err != nil {
			t.Fatal(err)
		}
		if to, err := os.Readlink("/proc/" + strings.TrimSpace(string(daemon)) + "/fd/2"); err != nil || (to == log.Name()) != keeps {
			t.Errorf("%s: the daemon's standard error is %q, %v", level, to, err)
		}
		n.kiloport("down", name)
	}
}

// What a command leaves in the background does not keep a failing up waiting.
func TestCommandsInheritNothing(t *testing.T) {
	n := newNamespace(t)
	name := linkName("h")
	marks := filepath.Join(t.TempDir(), "marks")
	path := writeConfig(t, name, "[Interface]\nPrivateKey="+privateKey+"\n"+
		"PreUp = env | grep -c "+envReady+" >"+marks+"; sleep 300 >/dev/null 2>&1 &\nPostUp = exit 3\n")
	if _, stderr, code := n.kiloport("up", path); code != 1 || !strings.Contains(stderr, "PostUp of interface") {
		t.Errorf("status %d, %s", code, stderr)
	}
	await(t, "the command", func() bool { text, _ := os.ReadFile(marks); return string(text) == "0\n" })
}

// The terminal was closed, or who read the log has gone: all is undone.
func TestTerminalGoes(t *testing.T) {
	n := newNamespace(t)
	name := linkName("x")
	path := writeConfig(t, name, everything("PostUp = (echo out; echo err >&2) || true\nPreDown = : "+privateKey+"; exit 4\n"))
	before := n.state()
	for what, end := range map[string]syscall.Signal{"SIGHUP": syscall.SIGHUP, "no reader, SIGTERM": syscall.SIGTERM} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := n.command("env", "--default-signal=HUP,PIPE", os.Args[0], "up", "-f", "--log-level", "verbose", path)
		cmd.Stdout, cmd.Stderr = w, w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if end != syscall.SIGHUP {
			r.Close()
		}
		t.Cleanup(func() { r.Close(); cmd.Process.Kill() })
		await(t, what+": up", func() bool {
			s := n.state()
			return strings.Contains(s, "lookup main suppress_prefixlength 0") && strings.Contains(s, "kiloport-"+name)
		})
		n.run("ip", "link", "set", name, "down") // something to be logged
		n.run("ip", "link", "set", name, "up")
		cmd.Process.Signal(end)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if d := cmp.Diff(before, n.state()); d != "" {
			t.Errorf("%s: left something:\n%s", what, d)
		}
		if !gone(name)() {
			t.Errorf("%s: the socket is still there", what)
			os.Remove("/var/run/wireguard/" + name + ".sock")
		}
	}
}

// A command that fails while going down is told of without the key in it.
func TestFailingCommandHidesKeys(t *testing.T) {
	n := newNamespace(t)
	name := linkName("k")
	path := writeConfig(t, name, "[Interface]\nPrivateKey="+privateKey+"\nPreDown = : "+privateKey+"; exit 4\nPostDown = : "+privateKey+"; exit 5\n")
	cmd, stderr, ended := n.start("up", "-f", path)
	await(t, "up", func() bool {
		return listening(name) && strings.Contains(n.state(), name+": <POINTOPOINT,MULTICAST,NOARP,UP")
	})
	await(t, "all of it", func() bool { return n.status(name).Up })
	cmd.Process.Signal(syscall.SIGTERM)
	<-ended
	for _, part := range []string{"PreDown of interface", "PostDown of interface", "(hidden)"} {
		if !strings.Contains(stderr.String(), part) {
			t.Errorf("the log lacks %q: %s", part, stderr)
		}
	}
	if strings.Contains(stderr.String(), privateKey) {
		t.Errorf("the key is in %s", stderr)
	}
}

// Two sites with a router between, one of which sends everything into the tunnel
// and has strict reverse path filters: what its peer sends arrives all the same,
// from whichever port.
func TestDefaultRouteUnderReversePathFilter(t *testing.T) {
	a, r, b := namedNamespace(t, "a"), namedNamespace(t, "r"), namedNamespace(t, "b")
	r.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	for i, site := range []*namespace{a, b} {
		port, prefix := fmt.Sprintf("to%d", i), fmt.Sprintf("10.%d.0.", i+1)
		site.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1") // it would come and go by itself
		r.run("ip", "link", "add", port, "type", "veth", "peer", "name", "wan", "netns", site.name)
		r.run("ip", "addr", "add", prefix+"1/24", "dev", port)
		r.run("ip", "link", "set", port, "up")
		site.run("ip", "addr", "add", prefix+"2/24", "dev", "wan")
		site.run("ip", "link", "set", "wan", "up")
		site.run("ip", "route", "add", "default", "via", prefix+"1")
	}
	a.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1", "net.ipv4.conf.wan.rp_filter=1")

	nameA, nameB := linkName("ra"), linkName("rb")
	pathA := writeConfig(t, nameA, "[Interface]\nPrivateKey="+privateKey+"\nListenPort=51820\nAddress=10.9.0.1/24\nPorts=16\n"+
		"[Peer]\nPublicKey="+peerPublic+"\nEndpoint=10.2.0.2:51820\nAllowedIPs=0.0.0.0/0\n")
	pathB := writeConfig(t, nameB, "[Interface]\nPrivateKey="+peerPrivate+"\nListenPort=51820\nAddress=10.9.0.2/24\nPorts=16\n"+
		"[Peer]\nPublicKey="+publicKey+"\nEndpoint=10.1.0.2:51820\nAllowedIPs=10.9.0.1/32\n")
	await(t, "the link", func() bool { return strings.Contains(a.state(), "state UP") })
	before := a.state()
	for n, path := range map[*namespace]string{a: pathA, b: pathB} {
		if _, stderr, code := n.kiloport("up", path); code != 0 {
			t.Fatalf("up: status %d, %s", code, stderr)
		}
	}
	// The first word is the peer's: nothing was sent to it that it could answer.
	for _, c := range []struct {
		from, to *namespace
		address  string
	}{{b, a, "10.9.0.1:7"}, {a, b, "10.9.0.2:7"}} {
		if err := c.from.connect(c.to, c.address, patience); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "lanes from the peer's ports", func() bool {
		if err := b.connect(a, "10.9.0.1:7", patience); err != nil {
			t.Fatal(err)
		}
		p := a.status(nameA).Peers[0]
		return p.Lanes.Received > 0 && b.status(nameB).Peers[0].Mode == "direct"
	})
	// The tunnel's address is for the inside alone.
	r.run("ip", "route", "add", "10.9.0.1/32", "via", "10.1.0.2")
	if err := r.connect(a, "10.9.0.1:7", time.Second); !isTimeout(err) {
		t.Errorf("the tunnel's address outside: %v", err)
	}
	for n, name := range map[*namespace]string{a: nameA, b: nameB} {
		if _, stderr, code := n.kiloport("down", name); code != 0 {
			t.Errorf("down: status %d, %s", code, stderr)
		}
	}
	if d := cmp.Diff(before, a.state()); d != "" {
		t.Errorf("left something:\n%s", d)
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

const (
	peerPrivate = "mI+BHCc3oTD3a4yRw+Zy8w1LFnSF8BWS0YWzwRSaoXM="
	peerPublic  = "SZgXpYVd7jpIzlsMi9hnr1Vfhd6585/fQwlo+yI3Nxc="
)
