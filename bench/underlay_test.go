package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/capture"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/tunnels"
)

// under is the name of an interface that stands between WireGuard and the wire.
const under = "under"

// An underlay is what site A has in place of an Ethernet towards the router: an
// interface named under, and one at the router, which is the old one if none is named
// so there.
type underlay struct {
	name string
	// site and router are arguments of ip(8), SITE and ROUTER the old interfaces.
	site, router []string
	// lay does what ip cannot, nil is nothing.
	lay func(t *testing.T, s *netlab.Sites)
}

var (
	overVLAN = underlay{
		name: "VLAN",
		site: []string{"link add link SITE name under type vlan id 7"}, router: []string{"link add link ROUTER name under type vlan id 7"},
	}
	overBond = underlay{
		name: "bond",
		site: []string{"link add under type bond mode active-backup", "link set SITE down", "link set SITE master under"},
	}
	overBridge = underlay{
		name: "VLAN of a bridge",
		site: []string{
			"link add bridge type bridge", "link set SITE master bridge", "link set bridge up",
			"link add link bridge name under type vlan id 7",
		},
		router: []string{"link add link ROUTER name under type vlan id 7"},
	}
	overMacvlan = underlay{
		name: "macvlan",
		site: []string{"link add link SITE name under type macvlan mode bridge"},
	}
	overPPPoE = underlay{name: "PPPoE", lay: layPPPoE}
)

// build puts the underlay in place, with the site's addresses and its routes.
func (u underlay) build(t *testing.T, s *netlab.Sites) {
	t.Helper()
	a := s.A
	words := strings.NewReplacer("SITE", a.Wan, "ROUTER", a.RouterDev)
	run := func(n *netlab.Node, lines ...string) {
		t.Helper()
		for _, line := range lines {
			if out, err := n.Run(t.Context(), "ip", strings.Fields(words.Replace(line))...); err != nil {
				t.Fatalf("ip %s: %v: %s", line, err, out)
			}
		}
	}
	run(a.Node, "addr flush dev SITE", "link set SITE up")
	run(a.Node, u.site...)
	run(s.Router, u.router...)
	if u.lay != nil {
		u.lay(t, s)
	}
	far := a.RouterDev
	if _, err := s.Router.Link(under); err == nil {
		run(s.Router, "addr flush dev ROUTER")
		far = under
	}
	for _, end := range []struct {
		node         *netlab.Node
		dev          string
		addr4, addr6 netip.Addr
	}{{a.Node, under, a.Addr4, a.Addr6}, {s.Router, far, a.Gateway4, a.Gateway6}} {
		run(end.node, "addr replace "+end.addr4.String()+"/24 dev "+end.dev, "-6 addr replace "+end.addr6.String()+"/64 dev "+end.dev+" nodad", "link set "+end.dev+" up")
	}
	run(a.Node, "route replace default via "+a.Gateway4.String(), "-6 route replace default via "+a.Gateway6.String())
}

// attachedOver wants flows spread both ways where site A has another underlay, the
// programs to be on that, and no packet to be counted twice.
func attachedOver(t *testing.T, u underlay) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	u.build(t, s)
	tun := startAttached(t, s, false)
	check := watchBoth(t, tun)
	wire := spreadAsSeenAtB(t, tun, time.Second)
	check()
	wantOuterFlows(t, wire, fewFlows.fewest, tun.A.Outer, tun.B.Outer)
	before := attachedStatus(t, &tun.B)
	a, b := attachedStatus(t, &tun.A), attachedStatus(t, &tun.B)
	if !slices.Contains(a.Attached, under) {
		t.Errorf("attached on %v, want %s among them", a.Attached, under)
	}
	// HELLO may be on its way.
	if in, least, most := a.Peers[0].Received.Packets, before.Peers[0].Sent.Packets, b.Peers[0].Sent.Packets; in+3 < least || in > most+3 {
		t.Errorf("%d packets came in, %d to %d were sent", in, least, most)
	}
	if p := a.Peers[0]; p.Attached.PortsAsked != 0 || p.Attached.Restored == 0 || p.Attached.Strange != 0 {
		t.Errorf("%+v", p.Attached)
	}
}

// spreadAsSeenAtB lets a few flows talk and tells what the router saw of it on its
// way to and from site B.
func spreadAsSeenAtB(t *testing.T, tun *tunnels.Tunnel, d time.Duration) *capture.Report {
	t.Helper()
	c, err := capture.Start(tun.Sites.Router, tun.Sites.B.RouterDev, capture.Config{})
	if err != nil {
		t.Fatal(err)
	}
	plan := flowsPlan(tun, fewFlows.flows, d, 200*time.Millisecond)
	plan.RollCall = false
	r, err := traffic.Between(t.Context(), tun.Sites.A.End(), tun.Sites.B.End(), plan)
	if err == nil {
		err = r.Check()
	}
	if err != nil {
		t.Error(err)
	}
	wire, err := c.Stop()
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// wantOuterFlows wants so many at least from each of some addresses.
func wantOuterFlows(t *testing.T, wire *capture.Report, fewest int, from ...netip.Addr) {
	t.Helper()
	for _, addr := range from {
		if n := len(outerFlows(wire, addr)); n < fewest {
			t.Errorf("%d outer flows from %v, want %d", n, addr, fewest)
		}
	}
}

// attachedStatus is what an attached end says, of one peer.
func attachedStatus(t *testing.T, e *tunnels.End) *tunnels.Status {
	t.Helper()
	s, err := tunnels.Show(t.Context(), e.Site.Node, binary(t, kiloportBinary), e.Dev)
	if err == nil {
		_, err = s.Peer()
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// attachedMoves moves site A from one interface to another, with other addresses,
// while flows run, and takes the first away. None breaks, and soon all are spread
// again, from where they leave now.
func attachedMoves(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	tun := startAttached(t, s, true)
	changed := make(chan error, 1)
	moved := netip.MustParseAddr("2001:db8:c::1")
	go func() {
		time.Sleep(time.Second)
		changed <- moveSite(t, s, moved)
	}()
	plan := flowsPlan(tun, fewFlows.flows, 5*time.Second, 100*time.Millisecond)
	plan.RollCall = false
	r, err := traffic.Between(t.Context(), s.A.End(), s.B.End(), plan)
	if err == nil {
		err = r.Check()
	}
	if err := <-changed; err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Error(err)
	}
	tun.A.Outer = moved
	check := watchBoth(t, tun)
	wire := spreadAsSeenAtB(t, tun, time.Second)
	check()
	wantOuterFlows(t, wire, fewFlows.fewest, moved, tun.B.Outer)
	if on := attachedStatus(t, &tun.A).Attached; !slices.Contains(on, "wan2") || slices.Contains(on, s.A.Wan) {
		t.Errorf("attached on %v, want wan2 and not %s", on, s.A.Wan)
	}
}

// moveSite gives site A another link, leads its default route there, and a second
// later takes the old one away.
func moveSite(t *testing.T, s *netlab.Sites, to netip.Addr) error {
	gateway := netip.MustParseAddr("2001:db8:c::ffff")
	err := s.Connect(
		netlab.End{Node: s.A.Node, Dev: "wan2", Addrs: []netip.Prefix{netip.PrefixFrom(to, 64)}},
		netlab.End{Node: s.Router, Dev: "wan-a2", Addrs: []netip.Prefix{netip.PrefixFrom(gateway, 64)}}, netlab.LinkOptions{})
	if err != nil {
		return err
	}
	time.Sleep(time.Second)
	for _, line := range []string{fmt.Sprintf("-6 route replace default via %v src %v", gateway, to), "", "link delete " + s.A.Wan} {
		if line == "" {
			time.Sleep(time.Second)
			continue
		}
		if out, err := s.A.Run(t.Context(), "ip", strings.Fields(line)...); err != nil {
			return fmt.Errorf("ip %s: %w: %s", line, err, out)
		}
	}
	return nil
}
