package main

import (
	"net/netip"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/tunnels"
)

// twoPaths puts a second router before site B, to which the first one has two links,
// and has both choose one by the 5-tuple. Site B gets other outer addresses by that.
func twoPaths(t *testing.T, s *netlab.Sites) (far *netlab.Node) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	prefix := netip.MustParsePrefix
	far, err := s.Node("far")
	check(err)
	check(far.Forward())
	for _, link := range [][2][2]string{
		{{"198.18.0.1/30", "2001:db8:e0::1/64"}, {"198.18.0.2/30", "2001:db8:e0::2/64"}},
		{{"198.18.1.1/30", "2001:db8:e1::1/64"}, {"198.18.1.2/30", "2001:db8:e1::2/64"}},
	} {
		near, there := link[0], link[1]
		dev := map[string]string{"198.18.0.1/30": "path-0", "198.18.1.1/30": "path-1"}[near[0]]
		check(s.Connect(netlab.End{Node: s.Router, Dev: dev, Addrs: []netip.Prefix{prefix(near[0]), prefix(near[1])}},
			netlab.End{Node: far, Dev: dev, Addrs: []netip.Prefix{prefix(there[0]), prefix(there[1])}}, netlab.LinkOptions{}))
	}
	check(s.Connect(netlab.End{Node: s.B.Node, Dev: "wan2", Addrs: []netip.Prefix{prefix("203.0.113.1/24"), prefix("2001:db8:c::1/64")}},
		netlab.End{Node: far, Dev: "wan-b", Addrs: []netip.Prefix{prefix("203.0.113.254/24"), prefix("2001:db8:c::ffff/64")}}, netlab.LinkOptions{}))
	addr := netip.MustParseAddr
	s.B.Addr4, s.B.Addr6 = addr("203.0.113.1"), addr("2001:db8:c::1")
	s.B.Gateway4, s.B.Gateway6 = addr("203.0.113.254"), addr("2001:db8:c::ffff")
	check(s.B.EnsureRoute(prefix("0.0.0.0/0"), s.B.Gateway4))
	check(s.B.EnsureRoute(prefix("::/0"), s.B.Gateway6))
	for _, n := range []*netlab.Node{s.Router, far} {
		check(n.Sysctl("net/ipv4/fib_multipath_hash_policy", "1"))
		check(n.Sysctl("net/ipv6/fib_multipath_hash_policy", "1"))
	}
	check(s.Router.RouteByFlow(prefix("203.0.113.0/24"), addr("198.18.0.2"), addr("198.18.1.2")))
	check(s.Router.RouteByFlow(prefix("2001:db8:c::/64"), addr("2001:db8:e0::2"), addr("2001:db8:e1::2")))
	check(far.RouteByFlow(prefix("192.0.2.0/24"), addr("198.18.0.1"), addr("198.18.1.1")))
	check(far.RouteByFlow(prefix("2001:db8:a::/64"), addr("2001:db8:e0::1"), addr("2001:db8:e1::1")))
	return far
}

// TestPathOfTwoThatDies has flows go by two paths between real routers, by the hash of
// the 5-tuple, one of which then drops everything without a word. The flows on it move:
// none is silent for longer than it takes the first direction and then the answers, and
// none stays stuck.
func TestPathOfTwoThatDies(t *testing.T) {
	for _, test := range []struct {
		dev  string
		ipv6 bool
	}{{"path-0", false}, {"path-1", true}} {
		t.Run(test.dev, func(t *testing.T) {
			s := netlab.ForTest(t, netlab.SitesConfig{})
			far := twoPaths(t, s)
			testDyingPath(t, s, far, test.dev, test.ipv6)
		})
	}
}

func testDyingPath(t *testing.T, s *netlab.Sites, far *netlab.Node, dev string, ipv6 bool) {
	tun := startOurs(t, s, ipv6)
	const flows, interval = 60, 20 * time.Millisecond
	killed := make(chan error, 1)
	go func() {
		time.Sleep(2 * time.Second) // opening the flows takes a moment
		_, err := far.Run(t.Context(), "nft", "add table inet dead; add chain inet dead in { type filter hook prerouting priority -300 ; };"+
			"add rule inet dead in iifname "+dev+" drop; add chain inet dead out { type filter hook postrouting priority 300 ; };"+
			"add rule inet dead out oifname "+dev+" drop")
		killed <- err
	}()
	r, err := traffic.Between(t.Context(), s.A.End(), s.B.End(), traffic.Plan{
		Duration: 4500 * time.Millisecond, Series: true,
		Groups: []traffic.Group{{Kind: traffic.UDPEcho, Count: flows, To: s.B.Inner6(1).Addr(), Interval: interval}},
	})
	if err := <-killed; err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	hit, most := 0, time.Duration(0)
	for _, f := range r.Flows {
		silent := time.Duration(f.Up.Lost+f.Down.Lost) * interval
		most = max(most, silent)
		if silent > 0 {
			hit++
		}
		// Each direction has half a second; this machine's clock, and its load, the rest.
		if f.Error != "" || silent > 1500*time.Millisecond {
			t.Errorf("flow %d: %s up %+v, down %+v", f.ID, f.Error, f.Up, f.Down)
		}
		for _, probe := range f.Series.Probes[len(f.Series.Probes)-int(time.Second/interval):] {
			if probe.Lost {
				t.Errorf("flow %d is stuck: a datagram sent after %v was lost", f.ID, probe.At)
				break
			}
		}
	}
	t.Logf("%d of %d flows were on the path, the longest was silent for %v", hit, flows, most)
	if hit < flows/4 {
		t.Errorf("only %d flows were on the path", hit)
	}
	status, err := tunnels.Show(t.Context(), s.A.Node, binary(t, kiloportBinary), tun.A.Dev)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := status.Peer()
	if err != nil {
		t.Fatal(err)
	}
	if peer.Mode != tunnels.ModeDirect || peer.Lanes.Dead == 0 {
		t.Errorf("mode %s (%s), %d lanes dead", peer.Mode, peer.Reason, peer.Lanes.Dead)
	}
}
