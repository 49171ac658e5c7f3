package traffic_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/capture"
	"kiloport/bench/netlab/traffic"
)

func TestMain(m *testing.M) {
	traffic.RunIfHelper()
	os.Exit(m.Run())
}

func TestEveryKindArrivesIntact(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	for _, to := range []netip.Addr{s.B.Addr4, s.B.Addr6} {
		plan := traffic.Plan{
			Duration: 300 * time.Millisecond, IdleProbes: 5,
			Groups: []traffic.Group{
				{Kind: traffic.UDPEcho, Count: 20, To: to, Interval: 10 * time.Millisecond, Jitter: 10 * time.Millisecond},
				{Kind: traffic.UDPStream, Count: 5, To: to, Interval: time.Millisecond, Size: 1000},
				{Kind: traffic.TCPEcho, Count: 20, To: to, Interval: 20 * time.Millisecond},
				{Kind: traffic.TCPBulk, Count: 2, To: to},
				{Kind: traffic.TCPBulk, Count: 2, To: to, Down: true},
				{Kind: traffic.ICMPEcho, Count: 3, To: to, Interval: 20 * time.Millisecond},
			},
		}
		r, err := traffic.Between(t.Context(), s.A.Node, s.B.Node, plan)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Check(); err != nil {
			t.Error(err)
		}
		if r.Idle.Count != 5 || r.Idle.Min <= 0 {
			t.Errorf("idle round trips: %+v", r.Idle)
		}
		checkGroups(t, r)
		checkAddresses(t, r, to)
	}
}

// checkGroups wants traffic in every direction that a kind has.
func checkGroups(t *testing.T, r *traffic.Result) {
	t.Helper()
	for i, g := range r.Groups {
		up := g.Kind != traffic.ICMPEcho && i != 4
		down := g.Kind != traffic.UDPStream && i != 3
		if (g.Up.Received > 0) != up || (g.Down.Received > 0) != down || g.Goodput <= 0 || g.Failed != 0 {
			t.Errorf("group %d: %+v", i, g)
		}
		echo := g.Kind != traffic.UDPStream && g.Kind != traffic.TCPBulk
		if echo && (g.RTT.Count != g.Down.Received || g.RTT.Min <= 0 || g.RTT.Median < g.RTT.Min || g.RTT.Worst < g.RTT.P99) {
			t.Errorf("group %d: round trips %+v of %d answers", i, g.RTT, g.Down.Received)
		}
	}
}

// checkAddresses wants a different 5-tuple for every flow.
func checkAddresses(t *testing.T, r *traffic.Result, to netip.Addr) {
	t.Helper()
	type tuple struct {
		src, dst  netip.AddrPort
		transport string
	}
	seen := map[tuple]bool{}
	for _, f := range r.Flows {
		transport, _, _ := strings.Cut(string(f.Kind), "-")
		id := tuple{f.Src, f.Dst, transport}
		if seen[id] || f.Dst.Addr() != to || f.Src.Port() == 0 || !f.Src.Addr().IsValid() || f.Src.Addr().IsUnspecified() {
			t.Errorf("flow %d is %+v", f.ID, id)
		}
		seen[id] = true
	}
}

// TestRollCallTellsFlowsApart watches the wire without a tunnel, where the inner
// 5-tuple is the outer one: what the lengths say must be what the addresses say.
func TestRollCallTellsFlowsApart(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	var packets []capture.Packet
	c, err := capture.Start(s.Router, s.A.RouterDev, capture.Config{OnPacket: func(p *capture.Packet) {
		kept := *p
		kept.Head = nil
		packets = append(packets, kept)
	}})
	if err != nil {
		t.Fatal(err)
	}
	const each = 60
	r, err := traffic.Between(t.Context(), s.A.Node, s.B.Node, traffic.Plan{
		RollCall: true, Duration: 100 * time.Millisecond,
		Groups: []traffic.Group{
			{Kind: traffic.UDPEcho, Count: each, To: s.B.Addr4},
			{Kind: traffic.TCPEcho, Count: each, To: s.B.Addr6},
			{Kind: traffic.ICMPEcho, Count: 3, To: s.B.Addr4},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if len(r.RollCalls) != 2*len(r.Flows) {
		t.Errorf("%d flows answered %d times, want twice each", len(r.Flows), len(r.RollCalls))
	}
	for _, call := range r.RollCalls {
		f := r.Flows[call.Flow]
		var up, down, others int
		for _, p := range packets {
			if p.Length != call.InnerLength || p.Time.Before(call.From) || p.Time.After(call.To) {
				continue
			}
			switch {
			case p.Dst == f.Dst && (p.Src == f.Src || f.Kind == traffic.ICMPEcho):
				up++
			case p.Src == f.Dst && (p.Dst == f.Src || f.Kind == traffic.ICMPEcho):
				down++
			default:
				others++
			}
		}
		if up < call.Packets || down < call.Packets || call.Packets == 0 || others != 0 {
			t.Errorf("flow %d (%s, %v): %d packets of %d bytes up, %d down, %d of others", f.ID, f.Kind, f.Src, up, call.InnerLength, down, others)
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	nobody := netip.MustParseAddr("192.0.2.77")
	// The server can listen there, but no path leads to it.
	if err := s.B.AddAddr("lo", netip.PrefixFrom(nobody, 32)); err != nil {
		t.Fatal(err)
	}
	r, err := traffic.Between(t.Context(), s.A.Node, s.B.Node, traffic.Plan{
		OpenTimeout: 500 * time.Millisecond, Duration: 100 * time.Millisecond, RollCall: true, IdleProbes: 1,
		Groups: []traffic.Group{
			{Kind: traffic.UDPEcho, Count: 2, To: nobody},
			{Kind: traffic.TCPEcho, Count: 2, To: nobody},
			{Kind: traffic.ICMPEcho, Count: 2, To: nobody},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if total := r.Total(); total.Failed != 6 {
		t.Errorf("%d of 6 flows failed", total.Failed)
	}
	if err := r.Check(); err == nil || !strings.Contains(err.Error(), "6 of 6 flows") {
		t.Errorf("Check: %v", err)
	}
}

func TestServerThatCannotListenIsAnError(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	_, err := traffic.Between(t.Context(), s.A.Node, s.B.Node, traffic.Plan{
		Groups: []traffic.Group{{Kind: traffic.UDPEcho, Count: 1, To: netip.MustParseAddr("203.0.113.1")}},
	})
	if err == nil || !strings.Contains(err.Error(), "assign requested address") {
		t.Errorf("error %v does not say that there is no such address", err)
	}
}

func TestPlansThatMakeNoSense(t *testing.T) {
	to := netip.MustParseAddr("192.0.2.1")
	lasting := func(g traffic.Group) traffic.Plan {
		g.Count, g.To = 1, to
		return traffic.Plan{Duration: time.Second, Groups: []traffic.Group{g}}
	}
	rollCall := lasting(traffic.Group{Kind: traffic.TCPBurst})
	rollCall.RollCall = true
	for _, test := range []struct {
		want string
		plan traffic.Plan
	}{
		{"0 flows", traffic.Plan{}},
		{"unknown kind", traffic.Plan{Groups: []traffic.Group{{Kind: "carrier-pigeon", Count: 1, To: to}}}},
		{"no server address", traffic.Plan{Groups: []traffic.Group{{Kind: traffic.UDPEcho, Count: 1}}}},
		{"negative", traffic.Plan{Groups: []traffic.Group{{Kind: traffic.UDPEcho, Count: -1, To: to}}}},
		{"size 10", traffic.Plan{Groups: []traffic.Group{{Kind: traffic.UDPEcho, Count: 1, To: to, Size: 10}}}},
		{"70000 flows", traffic.Plan{Groups: []traffic.Group{{Kind: traffic.UDPEcho, Count: 70000, To: to}}}},
		{"size 1401", lasting(traffic.Group{Kind: traffic.TCPEcho, Size: 1401})},
		{"size 67108865", lasting(traffic.Group{Kind: traffic.TCPBurst, Size: 64<<20 + 1})},
		{"no lasting flow", rollCall},
		{"cannot answer a roll call", traffic.Plan{RollCall: true, Abandon: true, Groups: []traffic.Group{{Kind: traffic.TCPBulk, Count: 1, To: to}}}},
		{"from 1s to 1s", lasting(traffic.Group{Kind: traffic.UDPEcho, Start: time.Second})},
		{"from 0s to 2s", lasting(traffic.Group{Kind: traffic.UDPEcho, Stop: 2 * time.Second})},
		{"from -1s to 1s", lasting(traffic.Group{Kind: traffic.UDPEcho, Start: -time.Second})},
		{"jitter 200ms is not within 0 and the interval of 100ms", lasting(traffic.Group{Kind: traffic.UDPEcho, Jitter: 200 * time.Millisecond})},
		{"jitter -1ns is not", lasting(traffic.Group{Kind: traffic.ICMPEcho, Jitter: -1})},
		{"jitter 1ns for tcp-echo", lasting(traffic.Group{Kind: traffic.TCPEcho, Jitter: 1})},
		{"which has none", lasting(traffic.Group{Kind: traffic.UDPEcho, Congestion: "reno"})},
		{"longer than 15 bytes", lasting(traffic.Group{Kind: traffic.TCPBulk, Congestion: "sixteen-letters-"})},
		{"bins of 1ns", traffic.Plan{Duration: time.Second, Bin: 1, Groups: []traffic.Group{{Kind: traffic.UDPEcho, Count: 1, To: to}}}},
	} {
		_, err := traffic.Between(t.Context(), nil, nil, test.plan)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v, want %q", err, test.want)
		}
	}
}
