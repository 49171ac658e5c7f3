package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// scrape asks for the metrics at an address inside.
func (n *namespace) scrape(address string) (text string, err error) {
	var conn net.Conn
	err = n.inside(func() (err error) {
		conn, err = net.Dial("tcp", address)
		return err
	})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return string(body), err
}

func TestMetrics(t *testing.T) {
	n := newNamespace(t)
	name := linkName("m")
	after := filepath.Join(t.TempDir(), "after")
	config := writeConfig(t, name, "[Interface]\nPrivateKey = "+privateKey+"\nListenPort = 40404\nMetrics = :9586\nPostDown = ss -Hltn >"+after+"\n[Peer]\nPublicKey = "+otherKey+"\nAllowedIPs = 10.0.0.0/8\n")
	for _, c := range []struct {
		args   []string
		listen string // as ss says it
		ask    string
	}{
		{[]string{"--metrics", ":9586", name}, "127.0.0.1:9586", "127.0.0.1:9586"},
		{[]string{"up", config}, "127.0.0.1:9586", "127.0.0.1:9586"},
		{[]string{"up", config, "--metrics", "[::]:9587"}, "*:9587", "[::1]:9587"},
		{[]string{"up", config, "--metrics", "off"}, "", ""},
	} {
		if stdout, stderr, code := n.kiloport(c.args...); code != 0 {
			t.Fatalf("%v: status %d, %s%s", c.args, code, stdout, stderr)
		}
		sockets := n.run("ss", "-Hltn")
		if c.listen == "" && sockets != "" || !strings.Contains(sockets, c.listen) {
			t.Errorf("%v: listens on %q, want %q", c.args, sockets, c.listen)
		}
		if c.ask != "" {
			text, err := n.scrape(c.ask)
			if err != nil || !strings.Contains(text, `kiloport_peers{interface="`+name+`"}`) || !strings.Contains(text, "\ngo_goroutines ") {
				t.Errorf("%v: %v, %s", c.args, err, text)
			}
		}
		if _, stderr, code := n.kiloport("down", name); code != 0 {
			t.Fatalf("down: %s", stderr)
		}
		if sockets := n.run("ss", "-Hltn"); sockets != "" {
			t.Errorf("%v: after down there is %q", c.args, sockets)
		}
		if sockets, _ := os.ReadFile(after); len(sockets) > 0 {
			t.Errorf("%v: in PostDown there is still %q", c.args, sockets)
		}
	}
}

func TestMetricsEndWithSIGTERM(t *testing.T) {
	n := newNamespace(t)
	name := linkName("s")
	cmd, stderr, ended := n.start("-f", "--metrics", ":9586", name)
	await(t, "the answer to a scrape", func() bool { _, err := n.scrape("127.0.0.1:9586"); return err == nil })
	cmd.Process.Signal(syscall.SIGTERM)
	if code := <-ended; code != 0 {
		t.Errorf("status %d, %s", code, stderr)
	}
	if _, err := n.scrape("127.0.0.1:9586"); err == nil {
		t.Error("still answers")
	}
	if !strings.Contains(stderr.String(), "http://127.0.0.1:9586/metrics") {
		t.Errorf("does not say where it answers: %s", stderr)
	}
}

// TestMetricsThatCannotListen wants an error where the address was given, and
// nothing left.
func TestMetricsThatCannotListen(t *testing.T) {
	n := newNamespace(t)
	name := linkName("x")
	config := writeConfig(t, name, "[Interface]\nPrivateKey = "+privateKey+"\nListenPort = 40404\nMetrics = :9586\nPreUp = ip link add touched type dummy\n")
	var taken net.Listener
	err := n.inside(func() (err error) { taken, err = net.Listen("tcp", "127.0.0.1:9586"); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	before := n.state()
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--metrics", ":9586", name}, "127.0.0.1:9586: bind: address already in use"},
		{[]string{"-f", "--metrics", ":9586", name}, "choose another address with --metrics"},
		{[]string{"up", config}, "127.0.0.1:9586: bind: address already in use"},
		{[]string{"up", "-f", config}, "127.0.0.1:9586: bind: address already in use"},
		{[]string{"up", config, "--metrics", "192.0.2.1:1"}, "192.0.2.1:1: bind: cannot assign requested address"},
	} {
		stdout, stderr, code := n.kiloport(c.args...)
		if code != 1 || !strings.Contains(stderr, c.says) {
			t.Errorf("%v: status %d, %s%s; want it to say %q", c.args, code, stdout, stderr, c.says)
		}
		if d := cmp.Diff(before, n.state()); d != "" || !gone(name)() {
			t.Errorf("%v: left something: %s", c.args, d)
		}
	}
}
