package netlab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"kiloport/bench/netlab"
)

const helperEnv = "NETLAB_TEST_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperEnv) {
	case "":
		os.Exit(m.Run())
	case "abandon":
		abandonLab()
	case "stubborn":
		ignoreSignals()
	}
}

// exchange sends a line from one node to another over TCP and returns the echo.
func exchange(t *testing.T, from, to *netlab.Node, addr netip.Addr) {
	t.Helper()
	var listener net.Listener
	err := to.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
	}()
	var conn net.Conn
	err = from.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	const line = "through the router\n"
	if _, err := io.WriteString(conn, line); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != line {
		t.Fatalf("echo: %q, %v; want %q", got, err, line)
	}
}

func TestSitesReachEachOther(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	exchange(t, s.A.Node, s.B.Node, s.B.Addr4)
	exchange(t, s.B.Node, s.A.Node, s.A.Addr6)
}

func TestHostsReachTheirSite(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{Hosts: true})
	exchange(t, s.A.Host, s.A.Node, s.A.Inner4(1).Addr())
	exchange(t, s.B.Host, s.B.Node, s.B.Inner6(1).Addr())
	if s.A.End() != s.A.Host {
		t.Error("the end of a site with a host is not its host")
	}
}

func TestInnerNetworksAreNotRoutedOutside(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{Hosts: true})
	err := s.A.Host.Do(func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(s.B.Inner4(2).Addr(), 9).String(), time.Second)
		if err == nil {
			c.Close()
		}
		return err
	})
	if err == nil || strings.Contains(err.Error(), "refused") {
		t.Fatalf("the inner network of site B answers without a tunnel: %v", err)
	}
}

func TestRouteDev(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	for _, test := range []struct {
		node *netlab.Node
		to   netip.Addr
		want string
	}{
		{s.A.Node, s.B.Addr4, s.A.Wan}, {s.A.Node, s.B.Addr6, s.A.Wan}, {s.A.Node, s.A.Addr6, "lo"},
		{s.Router, s.B.Addr4, s.B.RouterDev}, {s.Router, s.A.Addr6, s.A.RouterDev},
	} {
		if got, err := test.node.RouteDev(test.to); err != nil || got != test.want {
			t.Errorf("node %s sends to %v by %q, %v; want %q", test.node.Name, test.to, got, err, test.want)
		}
	}
	if dev, err := s.Router.RouteDev(netip.MustParseAddr("203.0.113.1")); err == nil {
		t.Errorf("the router has a route to nowhere, by %s", dev)
	}
}

func TestOffloadsAreOff(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	for _, e := range []struct {
		node *netlab.Node
		dev  string
	}{{s.A.Node, s.A.Wan}, {s.B.Node, s.B.Wan}, {s.Router, s.A.RouterDev}, {s.Router, s.B.RouterDev}} {
		on, err := e.node.Offloads(e.dev)
		if err != nil {
			t.Fatal(err)
		}
		if len(on) != 0 {
			t.Errorf("%s of %s still has %v", e.dev, e.node.Name, on)
		}
	}
}

func TestOffloadsStayOnWhenAsked(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{Offload: true, MTU: 1400})
	on, err := s.A.Offloads(s.A.Wan)
	if err != nil {
		t.Fatal(err)
	}
	if len(on) == 0 {
		t.Error("no offload is on; the test of turning them off proves nothing")
	}
	link, err := s.A.Link(s.A.Wan)
	if err != nil {
		t.Fatal(err)
	}
	if link.Attrs().MTU != 1400 {
		t.Errorf("MTU %d, want 1400", link.Attrs().MTU)
	}
}

func TestDoLeavesTheCallerWhereItWas(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	want := errors.New("from inside")
	err = s.A.Do(func() error {
		here, err := netns.Get()
		if err != nil {
			return err
		}
		defer here.Close()
		if here.Equal(home) {
			return errors.New("still at home")
		}
		return want
	})
	if err != want {
		t.Errorf("Do: %v, want %v", err, want)
	}
	after, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	if !after.Equal(home) {
		t.Error("Do moved its caller")
	}
}

func TestRunInsideANode(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	out, err := s.A.Run(t.Context(), "cat", "/proc/self/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "wan:") {
		t.Errorf("the process does not see the site's interface:\n%s", out)
	}
	_, err = s.A.Run(t.Context(), "sh", "-c", "echo nothing to see >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "nothing to see") || !strings.Contains(err.Error(), "status 3") {
		t.Errorf("a failure says %v, want its status and output", err)
	}
}

func TestCloseRemovesEverything(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{Hosts: true})
	paths := []string{s.A.Path(), s.B.Path(), s.Router.Path(), s.A.Host.Path(), s.B.Host.Path()}
	p, err := s.A.Start(exec.Command("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	// One that went to the background, out of reach of its process group.
	if _, err := s.B.Run(t.Context(), "sh", "-c", "setsid sleep 1001 >/dev/null 2>&1 </dev/null &"); err != nil {
		t.Fatal(err)
	}
	undone := false
	s.OnClose(func() error { undone = true; return nil })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !undone {
		t.Error("what OnClose registered did not run")
	}
	if err := p.Err(); err == nil {
		t.Error("the process has not ended by a signal")
	}
	if left := processes(t, "sleep\x001001"); len(left) > 0 {
		t.Errorf("background processes %v survived", left)
	}
	for _, path := range paths {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
	if _, err := s.Node("late"); err == nil {
		t.Error("a closed lab made a node")
	}
}

// processes finds processes by their command line.
func processes(t *testing.T, part string) (pids []string) {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if text, err := os.ReadFile(line); err == nil && strings.Contains(string(text), part) {
			pids = append(pids, line)
		}
	}
	return pids
}

func TestCancelCloses(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, err := netlab.NewSites(ctx, netlab.SitesConfig{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.A.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", s.A.Path(), err)
	}
}

func ignoreSignals() {
	fmt.Println("ready")
	cmd := exec.Command("sh", "-c", `trap "" TERM; while :; do sleep 0.1; done`)
	cmd.Stdout = os.Stdout
	cmd.Run()
}

func TestStopKillsWhatDoesNotListen(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"=stubborn")
	p, err := s.A.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(p.Output(), "ready") && p.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(0); err == nil {
		t.Error("the process is still there")
	}
}

// abandonLab makes a lab, says its name and dies as by SIGKILL.
func abandonLab() {
	s, err := netlab.NewSites(context.Background(), netlab.SitesConfig{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.A.Namespace())
	os.Exit(0)
}

func TestSweepRemovesWhatTheDeadLeft(t *testing.T) {
	alive := netlab.ForTest(t, netlab.SitesConfig{})
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"=abandon")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	abandoned := filepath.Join(filepath.Dir(alive.A.Path()), strings.TrimSpace(string(out)))
	// Another test program may sweep at the same time, and be first.
	if _, err := netlab.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(abandoned); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", abandoned, err)
	}
	if _, err := os.Stat(alive.A.Path()); err != nil {
		t.Errorf("the sweeper took a living lab: %v", err)
	}
}

func TestUniqueNames(t *testing.T) {
	a := netlab.ForTest(t, netlab.SitesConfig{})
	b := netlab.ForTest(t, netlab.SitesConfig{})
	names := map[string]bool{}
	for _, name := range []string{a.Unique("kpa"), a.Unique("kpb"), b.Unique("kpa"), b.Unique("kpb"), a.Unique("a-very-long-interface-name")} {
		if len(name) > 15 {
			t.Errorf("%q is too long for an interface", name)
		}
		if names[name] {
			t.Errorf("%q came twice", name)
		}
		names[name] = true
	}
}
