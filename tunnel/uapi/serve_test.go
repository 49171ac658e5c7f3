package uapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fake is a Backend that keeps what it is given.
type fake struct {
	mu       sync.Mutex
	state    DeviceState
	requests []*SetRequest
	refuse   error
}

func (f *fake) State() DeviceState { f.mu.Lock(); defer f.mu.Unlock(); return f.state }
func (f *fake) Show() any          { return map[string]string{"name": "fake"} }
func (f *fake) Configure(r *SetRequest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r)
	return f.refuse
}
func (f *fake) take() (r []*SetRequest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, f.requests = f.requests, nil
	return r
}

// testName is an interface name of this test run alone.
func testName(suffix string) string { return fmt.Sprintf("kpt%d%s", os.Getpid()%100000, suffix) }

func serve(t *testing.T, name string, f *fake) {
	t.Helper()
	listener, err := Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, listener, f, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve ended with %v", err)
		}
		Remove(name)
	})
}

func dialRaw(t *testing.T, name string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", SocketPath(name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

func TestServeRaw(t *testing.T) {
	name := testName("a")
	f := &fake{state: DeviceState{ListenPort: 9}}
	serve(t, name, f)
	for _, c := range []struct{ say, want string }{
		{"get=1\n\n", "listen_port=9\nerrno=0\n\n"},
		{"get=kiloport\n\n", "kiloport={\"name\":\"fake\"}\nerrno=0\n\n"},
		{"set=1\nlisten_port=1\n\n", "errno=0\n\n"},
		{"set=1\nlisten_port=x\nfwmark=1\n\n", "errno=-22\n\n"},
		{"set=1\nlisten_port\n\n", "errno=-71\n\n"},
		{"set=1\n\nget=1\n\n", "errno=0\n\nlisten_port=9\nerrno=0\n\n"},
	} {
		conn := dialRaw(t, name)
		io.WriteString(conn, c.say)
		got := make([]byte, len(c.want))
		if _, err := io.ReadFull(conn, got); string(got) != c.want || err != nil {
			t.Errorf("%q answered %q, %v; want %q", c.say, got, err, c.want)
		}
	}
	if n := len(f.take()); n != 2 {
		t.Errorf("%d requests reached the backend, want the 2 without a wrong line", n)
	}
	for _, say := range []string{"get=2\n\n", "hello\n\n", "get=1\nx\n", "set=1\n" + strings.Repeat("x", 10000)} {
		conn := dialRaw(t, name)
		io.WriteString(conn, say)
		if got, err := io.ReadAll(conn); len(got) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%.20q answered %q, %v; want the connection closed", say, got, err)
		}
	}
}

func TestBackendErrnoReachesTheClient(t *testing.T) {
	name := testName("b")
	f := &fake{refuse: fmt.Errorf("listen: %w", syscall.EADDRINUSE)}
	serve(t, name, f)
	c, err := Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Set(&SetRequest{ListenPort: ptr(uint16(1))}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v", err)
	}
	f.mu.Lock()
	f.refuse = nil
	f.mu.Unlock()
	if err := c.Set(&SetRequest{}); err != nil {
		t.Error(err)
	}
	var shown map[string]string
	if text, err := c.Show(); err != nil || json.Unmarshal(text, &shown) != nil || shown["name"] != "fake" {
		t.Errorf("show: %s, %v", text, err)
	}
	if pid, err := c.Pid(); pid != os.Getpid() || err != nil {
		t.Errorf("pid %d, %v", pid, err)
	}
}

func TestListen(t *testing.T) {
	name := testName("c")
	first, err := Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer Remove(name)
	if info, err := os.Stat(SocketPath(name)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket has mode %v, %v", info.Mode(), err)
	}
	if _, err := Listen(name); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second daemon: %v", err)
	}
	f, err := first.File()
	if err != nil {
		t.Fatal(err)
	}
	inherited, err := ListenFile(f)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	inherited.Close()
	first.Close() // a daemon that was killed: the name stays, nobody listens
	if _, err := Dial(name); err == nil || !strings.Contains(err.Error(), "is it up") {
		t.Errorf("dial: %v", err)
	}
	second, err := Listen(name)
	if err != nil {
		t.Fatalf("a dead socket was not replaced: %v", err)
	}
	second.Close()
	file, _ := os.Open(os.DevNull)
	defer file.Close()
	if _, err := ListenFile(file); err == nil {
		t.Error("listened on /dev/null")
	}
	if left, _ := filepath.Glob(SocketPath(name) + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestWatch(t *testing.T) {
	name := testName("d")
	listener, err := Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	gone, err := Watch(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(SocketPath(name), 0o600) // an event, but it is still there
	select {
	case <-gone:
		t.Fatal("said to be gone while it is there")
	case <-time.After(50 * time.Millisecond):
	}
	Remove(name)
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Fatal("its removal was not noticed")
	}
	if _, err := Watch(t.Context(), name); err == nil {
		t.Error("a socket that is not there is watched")
	}
}

func wg(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "wg", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestWithWg has the stock tool set and show everything.
func TestWithWg(t *testing.T) {
	if _, err := exec.LookPath("wg"); err != nil {
		t.Fatal("wg is missing: make deps installs it")
	}
	name := testName("e")
	private, public := "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
	f := &fake{state: DeviceState{
		PrivateKey: fill(1), ListenPort: 51820, FwMark: 0x10,
		Peers: []PeerState{{
			PublicKey: fill(2), PresharedKey: fill(1), Endpoint: netip.MustParseAddrPort("192.0.2.1:9"), LastHandshake: time.Unix(1700000000, 0),
			RxBytes: 100, TxBytes: 200, PersistentKeepalive: 25, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/64")},
		}},
	}}
	serve(t, name, f)

	out, err := wg(t, "", "show", name, "dump")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err != nil || len(lines) != 2 {
		t.Fatalf("wg show: %v %q", err, out)
	}
	if fields := strings.Fields(lines[0]); fields[0] != private || fields[2] != "51820" || fields[3] != "0x10" {
		t.Errorf("interface: %v", fields)
	}
	want := []string{public, private, "192.0.2.1:9", "10.0.0.0/8,fd00::/64", "1700000000", "100", "200", "25"}
	if d := cmp.Diff(want, strings.Fields(lines[1])); d != "" {
		t.Error(d)
	}

	if out, err := wg(t, private, "set", name, "private-key", "/dev/stdin", "listen-port", "1", "fwmark", "0x20",
		"peer", public, "endpoint", "[2001:db8::1]:2", "persistent-keepalive", "5", "allowed-ips", "10.9.0.0/16,fd01::/48"); err != nil {
		t.Fatalf("wg set: %v %s", err, out)
	}
	wanted := &SetRequest{
		PrivateKey: ptr(SecretKey(fill(1))), ListenPort: ptr(uint16(1)), FwMark: ptr(uint32(0x20)),
		Peers: []PeerChange{{
			PublicKey: fill(2), Endpoint: ptr(netip.MustParseAddrPort("[2001:db8::1]:2")), PersistentKeepalive: ptr(uint16(5)), ReplaceAllowedIPs: true,
			AllowedIPs: []AllowedIPChange{{Prefix: netip.MustParsePrefix("10.9.0.0/16")}, {Prefix: netip.MustParsePrefix("fd01::/48")}},
		}},
	}
	got := f.take()
	if len(got) != 1 {
		t.Fatalf("%d requests", len(got))
	}
	if d := cmp.Diff(wanted, got[0], sameAddresses); d != "" {
		t.Error(d)
	}

	config := filepath.Join(t.TempDir(), "c.conf")
	os.WriteFile(config, []byte("[Interface]\nPrivateKey="+private+"\n[Peer]\nPublicKey="+public+"\nAllowedIPs=10.0.0.0/8\n"), 0o600)
	for _, verb := range []string{"setconf", "syncconf", "addconf"} {
		if out, err := wg(t, "", verb, name, config); err != nil {
			t.Errorf("wg %s: %v %s", verb, err, out)
		}
		if r := f.take(); len(r) != 1 || len(r[0].Peers) != 1 || r[0].ReplacePeers != (verb == "setconf") {
			t.Errorf("wg %s sent %+v", verb, r)
		}
	}
	if out, err := wg(t, "", "set", name, "peer", public, "remove"); err != nil {
		t.Errorf("wg set peer remove: %v %s", err, out)
	}
	if r := f.take(); len(r) != 1 || !r[0].Peers[0].Remove {
		t.Errorf("remove sent %+v", r)
	}

	f.mu.Lock()
	f.refuse = syscall.EADDRINUSE
	f.mu.Unlock()
	if out, err := wg(t, "", "set", name, "listen-port", "1"); err == nil || !strings.Contains(out, "in use") {
		t.Errorf("wg shows a port in use as %v %q", err, out)
	}
}

func TestSecretsAreHidden(t *testing.T) {
	k := SecretKey(fill(0x41))
	r := SetRequest{PrivateKey: &k, Peers: []PeerChange{{PresharedKey: &k}}}
	text, _ := json.Marshal(k)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k, "key pointer", &k)
	for _, shown := range []string{fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %x %s %q %d", k, k, k, k, k, k, k), fmt.Sprintf("%+v %v", *r.PrivateKey, r.Peers[0].PresharedKey), string(text), log.String()} {
		for _, never := range []string{"65", "41", "AAAA", "QUFB"} {
			if strings.Contains(strings.ReplaceAll(shown, "time=2", ""), never) && !strings.Contains(shown, "time=") {
				t.Errorf("%q shows the key", shown)
			}
		}
		if !strings.Contains(shown, hidden) {
			t.Errorf("%q does not say that the key is hidden", shown)
		}
	}
}
