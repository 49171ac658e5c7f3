package uapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func dial(t *testing.T, name string) *Client {
	t.Helper()
	c, err := Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestClient makes every request on one connection.
func TestClient(t *testing.T) {
	name := testName("f")
	f := &fake{state: someState, show: map[string]string{"name": "fake"}}
	serve(t, name, f)
	c := dial(t, name)

	state, err := c.Get()
	if d := cmp.Diff(someState, state, sameAddresses); d != "" || err != nil {
		t.Error(err, d)
	}
	f.refuseWith(fmt.Errorf("listen: %w", syscall.EADDRINUSE))
	if err := c.Configure(&SetRequest{ListenPort: ptr(uint16(1))}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("refused with %v", err)
	}
	f.refuseWith(nil)
	f.take()
	if err := c.Set(iotest.OneByteReader(strings.NewReader("listen_port=1\n" + onePeer + "allowed_ip=-10.0.0.0/8"))); err != nil {
		t.Error(err)
	}
	want := []*SetRequest{{ListenPort: ptr(uint16(1)), Peers: []PeerChange{{PublicKey: fill(2), AllowedIPs: []AllowedIPChange{{prefix("10.0.0.0/8"), true}}}}}}
	if d := cmp.Diff(want, f.take(), sameAddresses); d != "" {
		t.Error(d)
	}
	var shown map[string]string
	if text, err := c.Show(); err != nil || json.Unmarshal(text, &shown) != nil || shown["name"] != "fake" {
		t.Errorf("show: %s, %v", text, err)
	}
	if pid, err := c.Pid(); pid != os.Getpid() || err != nil {
		t.Errorf("pid %d, %v", pid, err)
	}
}

func TestClientChecksLinesItself(t *testing.T) {
	name := testName("g")
	f := &fake{}
	serve(t, name, f)
	c := dial(t, name)
	for text, says := range map[string]string{
		"fwmark=1\nlisten_port=x\n":     "line 2",
		"fwmark=1\n\n" + onePeer:        "leave that out",
		"fwmark=1\n\n\n\nlisten_port=1": "leave that out",
	} {
		var e *Error
		if err := c.Set(strings.NewReader(text)); !errors.As(err, &e) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v; want %q", text, err, says)
		}
	}
	for _, text := range []string{"fwmark=1", "fwmark=1\n", "fwmark=1\n\n", "fwmark=1\n\n\n"} {
		if err := c.Set(strings.NewReader(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	if n := len(f.take()); n != 4 {
		t.Errorf("the backend got %d requests, want 4", n)
	}
}

// answers has one connection to the name answered with text.
func answers(t *testing.T, name, text string) *Client {
	t.Helper()
	listener, err := Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close(); listener.Remove() })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		buf := make([]byte, 1000)
		conn.Read(buf)
		io.WriteString(conn, text)
	}()
	return dial(t, name)
}

func TestClientOfOtherDaemons(t *testing.T) {
	if _, err := answers(t, testName("h"), "").Show(); !errors.Is(err, ErrNotKiloport) {
		t.Errorf("a daemon that hangs up: %v", err)
	}
	if _, err := answers(t, testName("i"), "errno=0\n\n").Show(); !errors.Is(err, ErrNotKiloport) {
		t.Errorf("a daemon that says nothing: %v", err)
	}
	if _, err := answers(t, testName("j"), "listen_port=1\nerrno=22\n\n").Get(); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("errno without a sign: %v", err)
	}
	if got, err := answers(t, testName("k"), "listen_port=1\n").Get(); err == nil || got.ListenPort != 0 {
		t.Errorf("an answer that breaks off: %+v, %v", got, err)
	}
	if _, err := answers(t, testName("l"), "private_key="+misplaced+"\nerrno=0\n\n").Get(); err == nil || strings.Contains(err.Error(), misplaced) {
		t.Errorf("a wrong answer: %v", err)
	}
	if _, err := answers(t, testName("m"), "errno=x\n\n").Get(); err == nil {
		t.Error("errno=x is taken for success")
	}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func prefixes(s ...string) (p []netip.Prefix) {
	for _, s := range s {
		p = append(p, prefix(s))
	}
	return p
}
