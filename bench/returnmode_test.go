package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/tunnels"
)

// wall is a stateful firewall or NAT of nftables: its rules, where they are, and what
// the other site sees of the one behind it.
type wall struct {
	node  *netlab.Node
	rules string
}

const wallTable = "inet wall"

func (w *wall) raise(t *testing.T) {
	t.Helper()
	w.nft(t, "add table "+wallTable+";"+w.rules)
}

func (w *wall) nft(t *testing.T, script string) {
	t.Helper()
	if out, err := w.node.Run(t.Context(), "nft", script); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// flush takes the rules away, puts them back, and makes the kernel forget all
// connections, which is what a router does that is started anew. Connections come last:
// one that began without the rules would not be translated for as long as it is used,
// whatever the ends do.
func (w *wall) flush(t *testing.T) {
	t.Helper()
	w.nft(t, "delete table "+wallTable)
	w.raise(t)
	if err := w.node.ForgetConnections(); err != nil {
		t.Fatal(err)
	}
}

// connections counts what the kernel tracks with one of the ends' outer addresses.
func (w *wall) connections(t *testing.T, tun *tunnels.Tunnel) int {
	t.Helper()
	n, err := w.node.Connections(tun.A.Outer, tun.B.Outer)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// lastCalls are the last turns of each flow: those before may be from when its lane
// was not open yet.
func lastCalls(all []traffic.RollCall) (last []traffic.RollCall) {
	at := map[int]int{}
	for _, call := range all {
		i, known := at[call.Flow]
		if !known {
			i = len(last)
			at[call.Flow] = i
			last = append(last, call)
		}
		if call.From.After(last[i].From) {
			last[i] = call
		}
	}
	return last
}

const (
	// filterRules let in what answers something that went out by an interface.
	filterRules = "add chain " + wallTable + " %[1]s { type filter hook %[1]s priority 0 ; policy accept ; };" +
		"add rule " + wallTable + " %[1]s iifname %[2]s udp dport != 0 ct state established accept;" +
		"add rule " + wallTable + " %[1]s iifname %[2]s meta l4proto udp drop;"
	// masqueradeRules hide what goes out behind the router's own address, and keep
	// the router itself silent.
	masqueradeRules = "add chain " + wallTable + " post { type nat hook postrouting priority 100 ; };" +
		"add rule " + wallTable + " post iifname wan-a oifname wan-b meta l4proto udp masquerade;" +
		"add chain " + wallTable + " input { type filter hook input priority 0 ; };" +
		"add rule " + wallTable + " input iifname wan-b meta l4proto udp drop;"
)

// A walledCase is what is before each site, and how lanes get through.
type walledCase struct {
	name         string
	ipv6         bool // outside; a NAT is NAT66 then
	nat, a, b    bool // a masquerading router before site A, stateful filters on the sites
	modeA, modeB string
}

var walledCases = []walledCase{
	{"filter before A", false, false, true, false, "direct", "return"},
	{"NAT before A", false, true, false, false, "direct", "return"},
	{"NAT66 before A", true, true, false, false, "direct", "return"},
	{"filter before B", true, false, false, true, "return", "direct"},
	{"filters before both", true, false, true, true, "paired", "paired"},
	{"NAT before A, filter before B", false, true, false, true, "paired", "paired"},
}

// raiseWalls puts the firewalls of a case up. The router's address takes the place of
// site A's where it masquerades.
func (c *walledCase) raiseWalls(t *testing.T, s *netlab.Sites) (walls []*wall) {
	t.Helper()
	return c.raiseWallsAs(t, s, masqueradeRules)
}

// raiseWallsAs has rules of its own for the router.
func (c *walledCase) raiseWallsAs(t *testing.T, s *netlab.Sites, router string) (walls []*wall) {
	t.Helper()
	if c.nat {
		walls = append(walls, &wall{s.Router, router})
		s.A.Addr4, s.A.Addr6, s.A.RouterDev = s.B.Gateway4, s.B.Gateway6, s.B.RouterDev
	}
	for i, behind := range []bool{c.a, c.b} {
		if behind {
			site := []*netlab.Site{s.A, s.B}[i]
			walls = append(walls, &wall{site.Node, fmt.Sprintf(filterRules, "input", site.Wan)})
		}
	}
	for _, w := range walls {
		w.raise(t)
	}
	return walls
}

// TestLanesThroughRealFirewalls runs flows between sites behind stateful firewalls
// and NATs of nftables: each gets through, in an outer flow of its own in both
// directions, with not many more connections tracked than there are flows. When the
// rules are flushed, and all connections forgotten, the tunnel is back within 2 s.
func TestLanesThroughRealFirewalls(t *testing.T) {
	for _, c := range walledCases {
		t.Run(c.name, func(t *testing.T) {
			testWalled(t, c)
		})
	}
}

func testWalled(t *testing.T, c walledCase) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	walls := c.raiseWalls(t, s)
	// The far side has to find out where it may send to, unless it has to begin too.
	config := tunnels.Config{IPv6: c.ipv6, Responder: c.nat && !c.b, Keepalive: 5}
	tun, err := tunnels.Start(t.Context(), s, ours(t), ours(t), config)
	if err != nil {
		t.Fatal(err)
	}
	sayOnFailure(t, tun)
	awaitModes(t, tun, c.modeA, c.modeB)
	const flows = 200
	ran := flows * testCallsAlone(t, tun, flows)
	for _, w := range walls {
		n := w.connections(t, tun)
		t.Logf("%s tracks %d connections", w.node.Name, n)
		if n > 2*ran {
			t.Errorf("%s tracks %d connections for %d flows", w.node.Name, n, ran)
		}
	}
	testFlush(t, tun, walls)
}

// testCallsAlone runs flows until nearly each has an outer flow of its own both ways,
// three times at most: to a machine that is busy with other tests, lanes seem to fail,
// and flows leave them for others for a while. Each time they are other flows. It gives
// how often they ran.
func testCallsAlone(t *testing.T, tun *tunnels.Tunnel, flows int) int {
	t.Helper()
	for try := 1; ; try++ {
		seen, err := observeCalls(t.Context(), tun, flowsPlan(tun, flows, 2*time.Second, demoInterval), lastCalls)
		if err != nil {
			t.Fatal(err)
		}
		a, b := spread(seen.up), spread(seen.down)
		t.Logf("try %d, from site A: %+v, from site B: %+v", try, a, b)
		if min(a.Alone, b.Alone) >= flows*9/10 {
			return try
		}
		if try == 3 {
			t.Errorf("not each flow has an outer flow of its own")
			return try
		}
	}
}

// testFlush sends while the walls forget everything: no flow is silent for more than
// 2 s.
func testFlush(t *testing.T, tun *tunnels.Tunnel, walls []*wall) {
	const interval, patience = 20 * time.Millisecond, 2 * time.Second
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		time.Sleep(time.Second)
		for _, w := range walls {
			w.flush(t)
		}
	}()
	r, err := traffic.Between(t.Context(), tun.A.Site.End(), tun.B.Site.End(), traffic.Plan{
		Duration: 4 * time.Second,
		Groups:   []traffic.Group{{Kind: traffic.UDPEcho, Count: 50, To: tun.B.Site.Inner6(1).Addr(), Interval: interval}},
	})
	<-flushed
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Flows {
		lost := f.Up.Lost + f.Down.Lost
		if f.Error != "" || time.Duration(lost)*interval > patience {
			t.Errorf("flow %d: %s up %+v, down %+v", f.ID, f.Error, f.Up, f.Down)
		}
	}
	t.Logf("lost while the firewalls forgot: %d of %d packets up, %d of %d down", r.Groups[0].Up.Lost, r.Groups[0].Up.Sent, r.Groups[0].Down.Lost, r.Groups[0].Down.Sent)
}

// awaitModes waits until both ends have found their way.
func awaitModes(t *testing.T, tun *tunnels.Tunnel, modeA, modeB string) {
	t.Helper()
	for i, e := range []tunnels.End{tun.A, tun.B} {
		want := []string{modeA, modeB}[i]
		for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			s, err := tunnels.Show(t.Context(), e.Site.Node, binary(t, kiloportBinary), e.Dev)
			if err != nil {
				t.Fatal(err)
			}
			peer, err := s.Peer()
			if err != nil {
				t.Fatal(err)
			}
			if peer.Mode == want {
				break
			}
			if time.Since(began) > 5*time.Second {
				t.Fatalf("%s is in mode %s (%s), want %s", e.Dev, peer.Mode, peer.Reason, want)
			}
		}
	}
}

// TestSpreadByOtherMeans has flows told apart by label between the listen ports, and
// by source addresses out of a prefix that is routed to each site.
func TestSpreadByOtherMeans(t *testing.T) {
	const flows = 100
	prefixes := [2]netip.Prefix{netip.MustParsePrefix("2001:db8:aa::/64"), netip.MustParsePrefix("2001:db8:bb::/64")}
	for _, test := range []struct {
		spread string
		ports  string
		check  func(s spreading) bool
	}{
		{"labels", "1", func(s spreading) bool { return s.Tuples == 1 && s.Labels == s.Flows }},
		{"addresses", "1", func(s spreading) bool { return s.Ports == 1 && s.Tuples == s.Flows }},
		{"ports+addresses", "1024", func(s spreading) bool { return s.Ports == s.Flows && s.Tuples == s.Flows && s.Labels == s.Flows }},
	} {
		t.Run(test.spread, func(t *testing.T) {
			s := netlab.ForTest(t, netlab.SitesConfig{})
			for i, site := range []*netlab.Site{s.A, s.B} {
				if err := s.Router.Route(prefixes[i], site.Addr6); err != nil {
					t.Fatal(err)
				}
			}
			end := func(i int) tunnels.Daemon {
				return tunnels.Kiloport{Binary: binary(t, kiloportBinary), Settings: []string{
					"Spread = " + test.spread, "Ports = " + test.ports, "SourcePrefix = " + prefixes[i].String(),
				}}
			}
			tun, err := tunnels.Start(t.Context(), s, end(0), end(1), tunnels.Config{IPv6: true})
			if err != nil {
				t.Fatal(err)
			}
			sayOnFailure(t, tun)
			if strings.Contains(test.spread, "addresses") {
				tun.A.Sources, tun.B.Sources = prefixes[0], prefixes[1]
			}
			mode := test.spread
			if strings.Contains(mode, "ports") {
				mode = tunnels.ModeDirect
			}
			awaitModes(t, tun, mode, mode)
			seen, err := observe(t.Context(), tun, flowsPlan(tun, flows, 2*time.Second, demoInterval))
			if seen == nil || seen.result == nil {
				t.Fatal(err)
			}
			for from, lanes := range map[string][]lane{"A": seen.up, "B": seen.down} {
				got := spread(lanes)
				if got.Flows != flows+demoPings || !test.check(got) {
					t.Errorf("from site %s: %+v (%v)", from, got, err)
				}
			}
		})
	}
}
