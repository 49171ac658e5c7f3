package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kiloport/tunnel"
	"kiloport/tunnel/uapi"
)

const patience = 20 * time.Second

// namespace is a network namespace of one test.
type namespace struct {
	t    *testing.T
	name string
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	return namedNamespace(t, "")
}

// namedNamespace is for tests with several.
func namedNamespace(t *testing.T, name string) *namespace {
	t.Helper()
	n := &namespace{t, fmt.Sprintf("kpcmd%d%s%s", os.Getpid(), strings.ToLower(t.Name()[4:min(len(t.Name()), 12)]), name)}
	n.ip("netns", "add", n.name)
	t.Cleanup(n.remove)
	n.run("ip", "link", "set", "lo", "up")
	return n
}

// remove ends what still runs inside, as after a test that failed half-way, and
// then the namespace.
func (n *namespace) remove() {
	pids, _ := exec.Command("ip", "netns", "pids", n.name).Output()
	for _, text := range strings.Fields(string(pids)) {
		if pid, err := strconv.Atoi(text); err == nil && pid != os.Getpid() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	exec.Command("ip", "netns", "del", n.name).Run()
}

func (n *namespace) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %v: %v %s", args, err, out)
	}
}

// run runs a program inside and gives what it printed.
func (n *namespace) run(args ...string) string {
	n.t.Helper()
	out, err := n.command(args...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("%v: %v %s", args, err, out)
	}
	return string(out)
}

func (n *namespace) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	n.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.name}, args...)...)
	cmd.Env = append(os.Environ(), envBeKiloport+"=1")
	return cmd
}

// kiloport runs this program inside.
func (n *namespace) kiloport(args ...string) (stdout, stderr string, code int) {
	n.t.Helper()
	cmd := n.command(append([]string{os.Args[0]}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		n.t.Fatalf("kiloport %v: %v", args, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// start runs this program inside and leaves it running; its end gives the state.
func (n *namespace) start(args ...string) (cmd *exec.Cmd, stderr *bytes.Buffer, ended <-chan int) {
	n.t.Helper()
	cmd = n.command(append([]string{os.Args[0]}, args...)...)
	stderr = new(bytes.Buffer)
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	codes := make(chan int, 1)
	go func() { cmd.Wait(); codes <- cmd.ProcessState.ExitCode() }()
	n.t.Cleanup(func() { cmd.Process.Kill() })
	return cmd, stderr, codes
}

// state is what an interface daemon may change in the namespace.
func (n *namespace) state() string {
	n.t.Helper()
	var all strings.Builder
	for _, c := range []string{
		"ip -o link", "ip -o addr", "ip route show table all", "ip -6 route show table all", "ip rule", "ip -6 rule",
		"nft list ruleset", "cat /proc/sys/net/ipv4/conf/all/src_valid_mark",
	} {
		all.WriteString(n.run(strings.Fields(c)...))
	}
	return all.String()
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

// linkName is an interface of this test run alone: the sockets' directory is
// not in the namespace.
func linkName(suffix string) string { return fmt.Sprintf("kc%d%s", os.Getpid()%1000000, suffix) }

// listener is the process that listens for an interface.
func (n *namespace) listener(name string) (pid string) {
	n.t.Helper()
	stdout := n.run("ss", "-xlpH")
	for line := range strings.Lines(stdout) {
		if strings.Contains(line, "/"+name+".sock") {
			_, rest, _ := strings.Cut(line, "pid=")
			pid, _, _ := strings.Cut(rest, ",")
			return pid
		}
	}
	n.t.Fatalf("no process listens for %s: %s", name, stdout)
	return ""
}

func listening(name string) bool {
	conn, err := net.Dial("unix", uapi.SocketPath(name))
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func gone(name string) func() bool {
	return func() bool {
		_, err := os.Lstat(uapi.SocketPath(name))
		return os.IsNotExist(err)
	}
}

func writeConfig(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUpAndDown(t *testing.T) {
	n := newNamespace(t)
	name := linkName("u")
	marks := filepath.Join(t.TempDir(), "marks")
	path := writeConfig(t, name, `[Interface]
PrivateKey = `+privateKey+`
ListenPort = 51820
Address = 10.0.0.1/24, fd00::1/64
Ports = 32
DSCP = 46
PreUp = echo preup %i >>`+marks+`
PostUp = ip link show %i >/dev/null && echo postup >>`+marks+`
PreDown = ip link show %i >/dev/null && echo predown >>`+marks+`
PostDown = ip link show %i 2>/dev/null || echo postdown >>`+marks+`
[Peer]
PublicKey = `+otherKey+`
Endpoint = 127.0.0.1:9
AllowedIPs = 10.0.0.2/32, 10.7.0.0/16, ::/0, 0.0.0.0/0
`)
	before := n.state()
	for range 2 { // again, as if nothing had been
		os.Remove(marks)
		stdout, stderr, code := n.kiloport("up", path)
		if code != 0 {
			t.Fatalf("up: status %d, %s%s", code, stdout, stderr)
		}
		if s := n.state(); !strings.Contains(s, "10.7.0.0/16 dev "+name) || !strings.Contains(s, "fwmark 0xca6c") || !strings.Contains(s, "inet6 fd00::1/64") {
			t.Errorf("after up:\n%s", s)
		}
		if dump := n.run("wg", "show", name, "dump"); !strings.Contains(dump, "51820\t0xca6c") || !strings.Contains(dump, otherKey) {
			t.Errorf("wg show: %s", dump)
		}
		stdout, _, _ = n.kiloport("show", name, "--json")
		var s tunnel.Status
		if err := json.Unmarshal([]byte(stdout), &s); err != nil || s.Name != name || !s.Up || s.Pool.Ports != 32 || s.DSCP != "46" || len(s.Peers) != 1 || s.PublicKey != publicKey {
			t.Errorf("show --json: %v %s", err, stdout)
		}
		for _, args := range [][]string{{"show"}, {"show", name}} {
			if stdout, _, code := n.kiloport(args...); code != 0 || !strings.Contains(stdout, "interface: "+name) || !strings.Contains(stdout, "peer: "+otherKey) || strings.Contains(stdout, privateKey) {
				t.Errorf("%v: %d %s", args, code, stdout)
			}
		}
		if _, stderr, code := n.kiloport("up", path); code != 1 || !strings.Contains(stderr, "in use") {
			t.Errorf("a second up: status %d, %s", code, stderr)
		}
		if _, stderr, code := n.kiloport("down", path); code != 0 {
			t.Fatalf("down: status %d, %s", code, stderr)
		}
		if d := cmp.Diff(before, n.state()); d != "" {
			t.Errorf("down left something:\n%s", d)
		}
		if !gone(name)() {
			t.Error("the socket is still there")
		}
		if got, _ := os.ReadFile(marks); string(got) != "preup "+name+"\npostup\npredown\npostdown\n" {
			t.Errorf("commands ran as %q", got)
		}
	}
}

// Of a daemon in the background that crashed, who asks for it hears why; of one that
// ended as it was told to, nothing is left.
func TestLastWords(t *testing.T) {
	n := newNamespace(t)
	name := linkName("l")
	path := writeConfig(t, name, "[Interface]\nPrivateKey="+privateKey+"\n")
	ended := strings.TrimSuffix(uapi.SocketPath(name), ".sock") + ".ended"
	for _, c := range []struct {
		signal syscall.Signal
		said   string
	}{{syscall.SIGQUIT, "SIGQUIT: quit"}, {syscall.SIGKILL, "it was killed"}, {syscall.SIGTERM, ""}} {
		if _, stderr, code := n.kiloport("up", path); code != 0 {
			t.Fatalf("up: status %d, %s", code, stderr)
		}
		if pid, err := strconv.Atoi(n.listener(name)); err != nil {
			t.Fatal(err)
		} else if err := syscall.Kill(pid, c.signal); err != nil {
			t.Fatal(err)
		}
		await(t, "its end", func() bool { return !listening(name) })
		await(t, "the interface to go", func() bool { return !strings.Contains(n.state(), name) })
		await(t, "last words", func() bool { return c.said != "" || uapi.LastWords(name) == "" })
		if _, err := uapi.Dial(name); err == nil || !strings.Contains(err.Error(), c.said) || (c.said == "") != !strings.Contains(err.Error(), ended) {
			t.Errorf("after %v: %v", c.signal, err)
		}
	}
	// Who waits for down finds nothing any more.
	for range 10 {
		if _, stderr, code := n.kiloport("up", path); code != 0 {
			t.Fatalf("up: status %d, %s", code, stderr)
		}
		if _, stderr, code := n.kiloport("down", name); code != 0 {
			t.Fatalf("down: status %d, %s", code, stderr)
		}
		if _, err := os.Stat(ended); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it left %s: %v", ended, err)
		}
	}
}

// An error with which a daemon ended is there for who asks.
func TestLastWordsOfAnError(t *testing.T) {
	name := linkName("w")
	log := slog.New(slog.DiscardHandler)
	t.Cleanup(func() { debug.SetCrashOutput(nil, debug.CrashOptions{}) })
	openLastWords(name, log).say(errors.New("no more"))
	if words := uapi.LastWords(name); words != "no more" {
		t.Errorf("said %q", words)
	}
	openLastWords(name, log).say(nil)
	if words := uapi.LastWords(name); words != "" {
		t.Errorf("said %q", words)
	}
}

func TestSIGTERMUndoesUp(t *testing.T) {
	n := newNamespace(t)
	name := linkName("t")
	path := writeConfig(t, name, "[Interface]\nPrivateKey="+privateKey+"\nAddress=10.0.0.1/24\nTable=77\n[Peer]\nPublicKey="+otherKey+"\nAllowedIPs=10.9.0.0/16\n")
	before := n.state()
	cmd, stderr, ended := n.start("up", "-f", path)
	await(t, "up", func() bool { return strings.Contains(n.state(), "10.9.0.0/16 dev "+name+" table 77") })
	cmd.Process.Signal(syscall.SIGTERM)
	if code := <-ended; code != 0 {
		t.Errorf("status %d: %s", code, stderr)
	}
	if d := cmp.Diff(before, n.state()); d != "" {
		t.Errorf("left something:\n%s", d)
	}
	if !gone(name)() {
		t.Error("the socket is still there")
	}
}

// A step that fails leaves nothing of those before it.
func TestUpThatFailsLeavesNothing(t *testing.T) {
	n := newNamespace(t)
	busy, err := busySocket(n)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	const head = "[Interface]\nPrivateKey=" + privateKey + "\nAddress=10.0.0.1/24\n"
	const defaults = "[Peer]\nPublicKey=" + otherKey + "\nAllowedIPs=0.0.0.0/0, ::/0\n"
	before := n.state()
	for what, c := range map[string]struct{ config, says string }{
		"command":  {head + "PostUp = : " + privateKey + "; exit 3\n" + defaults, `PostUp of interface`},
		"address":  {head + "Address = 10.0.0.1/24\n", "address 10.0.0.1/24"},
		"name":     {head + "[Peer]\nPublicKey=" + otherKey + "\nEndpoint=nosuch.invalid:1\n", ":6: endpoint nosuch.invalid"},
		"port":     {head + "ListenPort = 40404\n", "address already in use"},
		"mtu":      {head + "Address = fd00::1/64\nMTU = 1000\n", "address fd00::1/64"},
		"pre":      {head + "PreUp = false\n", "PreUp of interface"},
		"ports":    {head + "Ports = 1\nPortRange = 40404-40404\nListenPort = 40404\n", "in use"},
		"two keys": {head + "PrivateKey=" + privateKey + "\n", ":4: PrivateKey again"},
	} {
		name := linkName("f")
		for _, args := range [][]string{{"up"}, {"up", "-f"}} {
			stdout, stderr, code := n.kiloport(append(args, writeConfig(t, name, c.config))...)
			if code != 1 || !strings.Contains(stderr, c.says) {
				t.Errorf("%s, %v: status %d, %s%s; want it to say %q", what, args, code, stdout, stderr, c.says)
			}
			if d := cmp.Diff(before, n.state()); d != "" {
				t.Errorf("%s, %v: left something:\n%s", what, args, d)
			}
			if !gone(name)() {
				t.Errorf("%s, %v: the socket is still there", what, args)
			}
			if strings.Contains(stderr, privateKey) {
				t.Errorf("%s: the key is in %s", what, stderr)
			}
		}
	}
}

// TestInPlaceOfWireguardGo: the same arguments, the same way to the background,
// the same ways to end.
func TestInPlaceOfWireguardGo(t *testing.T) {
	n := newNamespace(t)
	for what, end := range map[string]func(name string){
		"link deleted":   func(name string) { n.run("ip", "link", "del", name) },
		"socket deleted": func(name string) { os.Remove(uapi.SocketPath(name)) },
		"down":           func(name string) { n.kiloport("down", name) },
	} {
		name := linkName("w")
		if stdout, stderr, code := n.kiloport(name); code != 0 || stdout != "" {
			t.Fatalf("status %d, %s%s", code, stdout, stderr)
		}
		if !listening(name) || !strings.Contains(n.state(), name) {
			t.Errorf("%s: when the command returned, the link or the socket was not there", what)
		}
		// All while the link is down.
		n.run("sh", "-c", "echo "+privateKey+" | wg set "+name+" private-key /dev/stdin listen-port 51999 fwmark 0x9 peer "+otherKey+" allowed-ips 10.0.0.0/8 endpoint 127.0.0.1:9")
		n.run("ip", "link", "set", name, "up")
		await(t, "listening on the port", func() bool { return strings.Contains(n.run("ss", "-lun"), ":51999") })
		if dump := n.run("wg", "show", name, "dump"); !strings.HasPrefix(dump, privateKey+"\t"+publicKey+"\t51999\t0x9") {
			t.Errorf("wg show: %s", dump)
		}
		if out, err := n.command("wg", "set", name, "listen-port", "51998", "peer", otherKey, "remove").CombinedOutput(); err != nil {
			t.Errorf("wg set: %v %s", err, out)
		}
		await(t, "the other port", func() bool { return strings.Contains(n.run("ss", "-lun"), ":51998") })
		end(name)
		await(t, what+": the end of the daemon", func() bool {
			return gone(name)() && !strings.Contains(n.run("ip", "-o", "link"), name)
		})
	}
}

func TestForeground(t *testing.T) {
	n := newNamespace(t)
	for _, c := range []struct {
		name string
		env  string
		args []string
	}{{"-f", "A=1", []string{"-f", linkName("g")}}, {"the environment", envForeground + "=1", []string{linkName("g")}}} {
		cmd := n.command(append([]string{os.Args[0]}, c.args...)...)
		cmd.Env = append(cmd.Env, c.env)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		await(t, c.name, func() bool { return listening(linkName("g")) })
		cmd.Process.Signal(syscall.SIGINT)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if !gone(linkName("g"))() || strings.Contains(n.state(), linkName("g")) {
			t.Errorf("%s: something is left", c.name)
		}
	}
}

// TestInheritedDescriptors: WG_TUN_FD and WG_UAPI_FD, as a supervisor hands them
// over, and nonsense in their place.
func TestInheritedDescriptors(t *testing.T) {
	n := newNamespace(t)
	name := linkName("i")
	n.run("ip", "tuntap", "add", "dev", name, "mode", "tun")
	listener, err := uapi.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Remove()
	defer listener.Close()
	socket, err := listener.File()
	if err != nil {
		t.Fatal(err)
	}
	tunFile := openTUN(t, n, name)
	cmd := n.command(os.Args[0], "-f", name)
	cmd.Env = append(cmd.Env, envTUN+"=3", envUAPI+"=4")
	cmd.ExtraFiles = []*os.File{tunFile, socket}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	client, err := uapi.Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Get(); err != nil {
		t.Errorf("the inherited socket: %v, %s", err, errs.String())
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v, %s", err, errs.String())
	}
	for variable, value := range map[string]string{envTUN: "x", envUAPI: "0"} {
		cmd := n.command(os.Args[0], "-f", linkName("j"))
		cmd.Env = append(cmd.Env, variable+"="+value)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), variable) {
			t.Errorf("%s=%s: %v %s", variable, value, err, out)
		}
		if strings.Contains(n.state(), linkName("j")) {
			t.Errorf("%s=%s: a link is left", variable, value)
		}
	}
}

// TestFileLimit: too few descriptors, and no right to more, is said at once.
func TestFileLimit(t *testing.T) {
	n := newNamespace(t)
	name := linkName("l")
	cmd := n.command("prlimit", "--nofile=256:256", "setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource", os.Args[0], "-f", name)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "1152") {
		t.Errorf("%v %s; want it to say which limit is needed", err, out)
	}
	if strings.Contains(n.state(), name) {
		t.Error("a link is left")
	}
}

// TestPrivateKeyIsNowhere: not in ps, not in the log at its most verbose.
func TestPrivateKeyIsNowhere(t *testing.T) {
	n := newNamespace(t)
	name := linkName("p")
	path := writeConfig(t, name, "[Interface]\nPrivateKey="+privateKey+"\n[Peer]\nPublicKey="+otherKey+"\nPresharedKey="+privateKey+"\nAllowedIPs=10.0.0.0/8\nEndpoint=127.0.0.1:9\nPersistentKeepalive=1\n")
	cmd, stderr, ended := n.start("up", "-f", "--log-level", "verbose", path)
	await(t, "up", func() bool { return listening(name) && strings.Contains(n.state(), "10.0.0.0/8") })
	for _, file := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", cmd.Process.Pid, file))
		if err != nil || bytes.Contains(text, []byte(privateKey)) {
			t.Errorf("%s: %v", file, err)
		}
	}
	n.command("wg", "set", name, "peer", "nonsense").Run()
	cmd.Process.Signal(syscall.SIGTERM)
	<-ended
	if strings.Contains(stderr.String(), privateKey) || !strings.Contains(stderr.String(), "link up") {
		t.Errorf("the log is %s", stderr)
	}
}
