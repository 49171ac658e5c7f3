package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/capture"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/tunnels"
)

func ours(t *testing.T) tunnels.Daemon {
	t.Helper()
	return tunnels.Kiloport{Binary: binary(t, kiloportBinary)}
}

// startOurs brings up kiloport on both sites, lanes agreed on.
func startOurs(t *testing.T, s *netlab.Sites, ipv6 bool) *tunnels.Tunnel {
	t.Helper()
	tun, err := tunnels.Start(t.Context(), s, ours(t), ours(t), tunnels.Config{IPv6: ipv6})
	if err != nil {
		t.Fatal(err)
	}
	sayOnFailure(t, tun)
	if err := tun.AwaitLanes(t.Context(), binary(t, kiloportBinary)); err != nil {
		t.Fatal(err)
	}
	return tun
}

// sayOnFailure has a test that fails end with what both daemons have said, and how
// they ended if they did.
func sayOnFailure(t *testing.T, tun *tunnels.Tunnel) {
	t.Cleanup(func() {
		for _, e := range []*tunnels.End{&tun.A, &tun.B} {
			if t.Failed() && e.Process != nil {
				t.Logf("%s: %v; it said:\n%s", e.Dev, e.Process.Err(), e.Process.Output())
			}
		}
	})
}

// TestEveryFlowInItsOwnLane is the promise of the project: 500 inner flows leave
// in 500 outer ones, each in exactly one.
func TestEveryFlowInItsOwnLane(t *testing.T) {
	const flows = 500
	families(t, func(t *testing.T, ipv6 bool) {
		s := netlab.ForTest(t, netlab.SitesConfig{})
		tun := startOurs(t, s, ipv6)
		seen, err := observe(t.Context(), tun, flowsPlan(tun, flows, 2*time.Second, 200*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		for from, lanes := range map[string][]lane{"A": seen.up, "B": seen.down} {
			got := spread(lanes)
			t.Logf("from site %s: %+v", from, got)
			if got.Flows != flows+demoPings {
				t.Errorf("from site %s: %d flows were seen, want %d", from, got.Flows, flows+demoPings)
			}
			if err := got.check(ipv6); err != nil {
				t.Errorf("from site %s: %v", from, err)
			}
		}
	})
}

// TestBulkThroughTheTunnel wants large transfers both ways to arrive unharmed,
// and the datagrams beside them in order and never twice. More is offered than
// the machine can carry, so some may be lost; how many, is for a measurement to
// say, and is only logged here.
func TestBulkThroughTheTunnel(t *testing.T) {
	families(t, func(t *testing.T, ipv6 bool) {
		s := netlab.ForTest(t, netlab.SitesConfig{})
		tun := startOurs(t, s, ipv6)
		v4, v6 := s.B.Inner4(1).Addr(), s.B.Inner6(1).Addr()
		r, err := traffic.Between(t.Context(), tun.A.Site.End(), tun.B.Site.End(), traffic.Plan{
			Duration: time.Second, Linger: 5 * time.Second,
			Groups: []traffic.Group{
				{Kind: traffic.TCPBulk, Count: 2, To: v4},
				{Kind: traffic.TCPBulk, Count: 2, To: v6, Down: true},
				{Kind: traffic.UDPEcho, Count: 20, To: v6},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range r.Flows {
			lossy := f.Kind == traffic.UDPEcho
			if f.Error != "" || f.Up.Lost+f.Down.Lost > 0 && !lossy || misled(f.Up) || misled(f.Down) {
				t.Errorf("flow %d (%s): %s up %+v, down %+v", f.ID, f.Kind, f.Error, f.Up, f.Down)
			}
		}
		beside := r.Groups[2]
		t.Logf("beside %.0f Mbit/s up and %.0f down: %d of %d datagrams lost%s", r.Groups[0].Goodput/1e6, r.Groups[1].Goodput/1e6,
			beside.Up.Lost+beside.Down.Lost, beside.Up.Sent+beside.Down.Sent, tun.Unread())
	})
}

// misled tells whether something arrived that should not have, or not then.
func misled(d traffic.Direction) bool { return d.Duplicated+d.Reordered+d.Corrupted > 0 }

// stockCases are [mixedCases] with wireguard-go.
func stockCases(t *testing.T, test func(t *testing.T, atA, atB tunnels.Daemon, c tunnels.Config)) {
	mixedCases(t, stock, test)
}

// mixedCases are kiloport in both roles, with and without a preshared key: site A,
// which starts, and site B, which only answers.
func mixedCases(t *testing.T, other func(*testing.T) tunnels.Daemon, test func(t *testing.T, atA, atB tunnels.Daemon, c tunnels.Config)) {
	preshared := make([]byte, 32)
	if _, err := rand.Read(preshared); err != nil {
		t.Fatal(err)
	}
	for i, psk := range [][]byte{nil, preshared} {
		// Both families in both roles would only repeat themselves.
		c := tunnels.Config{IPv6: i == 0, Preshared: psk, Responder: true}
		with := "without"
		if psk != nil {
			with = "with"
		}
		t.Run("initiator "+with+" preshared key", func(t *testing.T) { test(t, ours(t), other(t), c) })
		t.Run("responder "+with+" preshared key", func(t *testing.T) { test(t, other(t), ours(t), c) })
	}
}

// outerFlows are the 5-tuples with which the ends talked, in one direction.
func outerFlows(r *capture.Report, from netip.Addr) []capture.Flow {
	return r.Where(func(f *capture.Flow) bool { return f.Proto == 17 && f.Src.Addr() == from })
}

// checkOneOuterFlow wants a stock peer to see what it expects: one 5-tuple.
func checkOneOuterFlow(t *testing.T, seen *observation, from ...netip.Addr) {
	t.Helper()
	for _, addr := range from {
		flows := outerFlows(seen.wire, addr)
		if len(flows) != 1 || flows[0].Src.Port() != tunnels.ListenPort || flows[0].Dst.Port() != tunnels.ListenPort {
			t.Errorf("%d outer flows from %v: %+v; want one between the listen ports", len(flows), addr, flows)
		}
	}
}

// TestStockPeer runs flows between kiloport and wireguard-go.
func TestStockPeer(t *testing.T) {
	stockCases(t, func(t *testing.T, atA, atB tunnels.Daemon, c tunnels.Config) {
		s := netlab.ForTest(t, netlab.SitesConfig{})
		tun, err := tunnels.Start(t.Context(), s, atA, atB, c)
		if err != nil {
			t.Fatal(err)
		}
		seen, err := observe(t.Context(), tun, flowsPlan(tun, 100, time.Second, demoInterval))
		if err != nil {
			t.Fatal(err)
		}
		checkOneOuterFlow(t, seen, tun.A.Outer, tun.B.Outer)
	})
}

// TestStockPeerMoves changes the initiator's outer address under traffic. What
// is on its way at that time may be lost; nothing else.
func TestStockPeerMoves(t *testing.T) {
	stockCases(t, func(t *testing.T, atA, atB tunnels.Daemon, c tunnels.Config) {
		s := netlab.ForTest(t, netlab.SitesConfig{})
		tun, err := tunnels.Start(t.Context(), s, atA, atB, c)
		if err != nil {
			t.Fatal(err)
		}
		plan := flowsPlan(tun, 40, 2*time.Second, 50*time.Millisecond)
		plan.RollCall = false
		moved := make(chan error, 1)
		go func() {
			time.Sleep(time.Second)
			moved <- moveSiteA(s)
		}()
		during, err := traffic.Between(t.Context(), s.A.End(), s.B.End(), plan)
		if err := errors.Join(err, <-moved); err != nil {
			t.Fatal(err)
		}
		checkMove(t, during)
		tun.A.Outer = newAddr4
		if c.IPv6 {
			tun.A.Outer = newAddr6
		}
		after, err := observe(t.Context(), tun, flowsPlan(tun, 40, 500*time.Millisecond, demoInterval))
		if err != nil {
			t.Fatal(err)
		}
		checkOneOuterFlow(t, after, tun.A.Outer, tun.B.Outer)
	})
}

// Where site A moves to, on the same link.
var (
	newAddr4 = netip.MustParseAddr("192.0.2.2")
	newAddr6 = netip.MustParseAddr("2001:db8:a::2")
)

// moveSiteA gives site A new outer addresses and takes the old ones away. The
// default routes, which have no source address, stay.
func moveSiteA(s *netlab.Sites) error {
	err := errors.Join(s.A.AddAddr(s.A.Wan, netip.PrefixFrom(newAddr4, 24)), s.A.AddAddr(s.A.Wan, netip.PrefixFrom(newAddr6, 64)))
	// The kernel joins the multicast group by which neighbours find an IPv6
	// address a little later; a lost solicitation would be repeated after 1 s.
	time.Sleep(100 * time.Millisecond)
	return errors.Join(err,
		s.A.DelAddr(s.A.Wan, netip.PrefixFrom(s.A.Addr4, 24)), s.A.DelAddr(s.A.Wan, netip.PrefixFrom(s.A.Addr6, 64)),
		s.A.EnsureRoute(netip.PrefixFrom(netip.IPv4Unspecified(), 0), s.A.Gateway4),
		s.A.EnsureRoute(netip.PrefixFrom(netip.IPv6Unspecified(), 0), s.A.Gateway6))
}

// checkMove allows each flow to have lost what was on its way for a moment.
func checkMove(t *testing.T, r *traffic.Result) {
	t.Helper()
	for _, f := range r.Flows {
		const moment = 6 // datagrams, 50 ms apart
		lost := f.Up.Lost + f.Down.Lost
		if f.Error != "" || lost > moment || misled(f.Up) || misled(f.Down) {
			t.Errorf("flow %d (%s): %s up %+v, down %+v", f.ID, f.Kind, f.Error, f.Up, f.Down)
		}
	}
}

// TestStockPeerAcrossRekey talks for longer than the 120 s after which the
// initiator makes new keys (WireGuard white paper, section 6.2). wireguard-go
// knows no other clock than the real one, so this takes that long; the cases run
// side by side.
func TestStockPeerAcrossRekey(t *testing.T) {
	t.Parallel() // it waits for most of the time
	const rekeyAfter = 120 * time.Second
	stockCases(t, func(t *testing.T, atA, atB tunnels.Daemon, c tunnels.Config) {
		t.Parallel()
		s := netlab.ForTest(t, netlab.SitesConfig{})
		tun, err := tunnels.Start(t.Context(), s, atA, atB, c)
		if err != nil {
			t.Fatal(err)
		}
		sayOnFailure(t, tun)
		handshakes := countHandshakes(t, s)
		seen, err := observe(t.Context(), tun, flowsPlan(tun, 40, rekeyAfter+10*time.Second, 100*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		if handshakes() == 0 {
			t.Error("there was no rekey")
		}
		checkOneOuterFlow(t, seen, tun.A.Outer, tun.B.Outer)
	})
}

// TestTenThousandPeers wants many peers to cost memory in proportion, and no
// socket.
func TestTenThousandPeers(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	few := startWithPeers(t, s, s.Unique("kpa"), 1)
	many := startWithPeers(t, s, s.Unique("kpb"), 10_000)
	t.Logf("resident with 1 peer %d kB, with 10 000 %d kB; sockets %d and %d", few.resident, many.resident, few.sockets, many.sockets)
	if many.resident >= 100_000 {
		t.Errorf("%d kB resident with 10 000 peers, want less than 100 MB", many.resident)
	}
	if many.sockets > few.sockets {
		t.Errorf("%d sockets with 10 000 peers, %d with one", many.sockets, few.sockets)
	}
}

type footprint struct{ resident, sockets int }

func startWithPeers(t *testing.T, s *netlab.Sites, dev string, peers int) footprint {
	t.Helper()
	tunnels.RemoveSocket(s.Lab, dev)
	p, err := s.A.Start(exec.Command(binary(t, kiloportBinary), "-f", dev))
	if err != nil {
		t.Fatal(err)
	}
	var request strings.Builder
	key := make([]byte, 32)
	line := func(name string) {
		rand.Read(key)
		fmt.Fprintf(&request, "%s=%s\n", name, hex.EncodeToString(key))
	}
	request.WriteString("set=1\n")
	line("private_key")
	for i := range peers {
		line("public_key")
		fmt.Fprintf(&request, "allowed_ip=10.%d.%d.%d/32\n", 100+i>>16, i>>8&0xff, i&0xff)
	}
	request.WriteByte('\n')
	if err := tunnels.AwaitDaemon(t.Context(), p, func() error { return tunnels.Configure(dev, request.String()) }); err != nil {
		t.Fatal(err)
	}
	if err := s.A.Up(dev, 0); err != nil {
		t.Fatal(err)
	}
	return measure(t, p.Pid())
}

func measure(t *testing.T, pid int) (f footprint) {
	t.Helper()
	time.Sleep(time.Second) // the link comes up in the daemon's own time
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rss, _ := strings.Cut(string(text), "VmRSS:")
	if _, err := fmt.Sscan(rss, &f.resident); err != nil {
		t.Fatal(err)
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, "socket:") {
			f.sockets++
		}
	}
	return f
}

func TestDemo(t *testing.T) {
	binary := binary(t, kiloportBinary)
	var out, errs bytes.Buffer
	status := run(t.Context(), []string{"demo", "--kiloport", binary, "--flows", "40", "--seconds", "1"}, nil, &out, &errs)
	if status != exitOK {
		t.Errorf("status %d: %s", status, errs.String())
	}
	if !strings.Contains(out.String(), "42 of 42 flows one way, 42 of 42 the other") {
		t.Errorf("the demonstration does not show a lane for every flow:\n%s", out.String())
	}
	table := regexp.MustCompile(`(?s)with 1 port +with 1024 ports\n.*median +\+\d+\.\d ms +\+\d+\.\d ms\n.*goodput`)
	if !table.MatchString(out.String()) && !strings.Contains(out.String(), "`make bench` builds the lab kernel") {
		t.Errorf("the demonstration shows no latency under load, nor how to see it:\n%s", out.String())
	}
}
