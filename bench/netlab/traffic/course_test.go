package traffic_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/capture"
	"kiloport/bench/netlab/traffic"
)

// TestCourseOfTheLoad has probes all the time and bulk for a part of it, which is
// cut off.
func TestCourseOfTheLoad(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	const (
		bin  = 50 * time.Millisecond
		from = 4 * bin
		to   = 8 * bin
	)
	bulk := traffic.Group{Kind: traffic.TCPBulk, Count: 2, To: s.B.Addr4, Start: from, Stop: to}
	down := bulk
	down.Down = true
	r, err := traffic.Between(t.Context(), s.A.Node, s.B.Node, traffic.Plan{
		Series: true, Bin: bin, Abandon: true, Duration: 10 * bin,
		Groups: []traffic.Group{
			bulk, down,
			{Kind: traffic.UDPEcho, Count: 2, To: s.B.Addr4, Interval: 10 * time.Millisecond},
			{Kind: traffic.ICMPEcho, Count: 1, To: s.B.Addr6, Interval: 20 * time.Millisecond},
			{Kind: traffic.TCPEcho, Count: 1, To: s.B.Addr6, Interval: 20 * time.Millisecond},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	for _, f := range r.Flows {
		switch {
		case f.Series == nil:
			t.Errorf("flow %d (%s) has no series", f.ID, f.Kind)
		case f.Kind == traffic.TCPBulk:
			checkBins(t, &f, int(from/bin), int(to/bin), 10)
		default:
			checkProbes(t, &f, max(f.Up.Sent, f.Down.Sent), f.Down.Received)
		}
	}
	for _, g := range r.Groups[:2] {
		want := float64(g.Up.Bytes+g.Down.Bytes) * 8 / (to - from).Seconds()
		if g.Elapsed != to-from || g.Goodput != want {
			t.Errorf("%.0f bit/s in %v, want %.0f in %v", g.Goodput, g.Elapsed, want, to-from)
		}
	}
}

// checkBins wants bytes in the bins from first to before end only; the server's
// time may be later than the client's, so for flows up there may be some behind.
func checkBins(t *testing.T, f *traffic.Flow, first, end, all int) {
	t.Helper()
	bytes := f.Up.Bytes + f.Down.Bytes
	var sum uint64
	for i, n := range f.Series.Bytes {
		if n > 0 && (i < first || i >= end) {
			t.Errorf("flow %d received %d bytes in bin %d, outside of %d to %d", f.ID, n, i, first, end)
		}
		sum += n
	}
	if sum != bytes || sum == 0 || len(f.Series.Bytes) != all {
		t.Errorf("flow %d received %d bytes, %d in %d bins; want %d bins", f.ID, bytes, sum, len(f.Series.Bytes), all)
	}
	if f.TCP == nil || f.TCP.Delivered == 0 || f.TCP.Cwnd == 0 || f.TCP.RTT <= 0 || f.TCP.Congestion == "" {
		t.Errorf("flow %d: the sender's state is %+v", f.ID, f.TCP)
	}
}

func checkProbes(t *testing.T, f *traffic.Flow, sent, received uint64) {
	t.Helper()
	var answered uint64
	last := time.Duration(0)
	for i, p := range f.Series.Probes {
		if p.At < last || p.Lost != (p.RTT == 0) {
			t.Errorf("flow %d (%s): probe %d is %+v, after one at %v", f.ID, f.Kind, i, p, last)
		}
		if last = p.At; !p.Lost {
			answered++
		}
	}
	if sent == 0 || uint64(len(f.Series.Probes)) != sent || answered != received {
		t.Errorf("flow %d (%s): %d probes of %d sent, %d answered, %d answers", f.ID, f.Kind, len(f.Series.Probes), sent, answered, received)
	}
}

func TestBursts(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	const size = 300_001
	r, err := traffic.Between(t.Context(), s.A.Node, s.B.Node, traffic.Plan{
		Series: true, Duration: 200 * time.Millisecond, Linger: 10 * time.Second,
		Groups: []traffic.Group{
			{Kind: traffic.TCPBurst, Count: 2, To: s.B.Addr4, Interval: 20 * time.Millisecond, Size: size},
			{Kind: traffic.TCPBurst, Count: 1, To: s.B.Addr6, Interval: 20 * time.Millisecond, Congestion: "reno", TOS: 0x28},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	for _, f := range r.Flows {
		want := f.Down.Received * size
		if f.Group == 1 {
			want = f.Down.Received * 100_000
		}
		if f.Down.Bytes != want || f.RTT.Count != f.Down.Received || !f.Src.Addr().IsValid() || !f.Dst.IsValid() {
			t.Errorf("flow %d: %+v", f.ID, f)
		}
		checkProbes(t, &f, f.Up.Sent, f.Down.Received)
	}
}

func TestCongestionControlOfBothEnds(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	bulk := traffic.Group{Kind: traffic.TCPBulk, Count: 1, To: s.B.Addr4, Congestion: "reno"}
	down, unknown := bulk, bulk
	down.Down, unknown.Congestion = true, "carrier-pigeon"
	r, err := traffic.Between(t.Context(), s.A.Node, s.B.Node, traffic.Plan{
		Duration: 50 * time.Millisecond, Groups: []traffic.Group{bulk, down, unknown},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Flows[:2] {
		if f.Error != "" || f.TCP == nil || f.TCP.Congestion != "reno" {
			t.Errorf("flow %d: %q, %+v", f.ID, f.Error, f.TCP)
		}
	}
	if got := r.Flows[2].Error; !strings.Contains(got, "carrier-pigeon: the kernel does not have it") {
		t.Errorf("unknown congestion control: %q", got)
	}
}

// TestAnswersHaveTheTypeOfService watches what the server sends.
func TestAnswersHaveTheTypeOfService(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	type key struct {
		from  netip.Addr
		proto uint8
		tos   uint8
	}
	seen := map[key]int{}
	c, err := capture.Start(s.Router, s.A.RouterDev, capture.Config{OnPacket: func(p *capture.Packet) {
		if (p.Src.Addr() == s.B.Addr4 || p.Src.Addr() == s.B.Addr6) && p.Length > 200 {
			seen[key{p.Src.Addr(), p.Proto, p.TOS}]++
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	const expedited, audio = 0xb8, 0x28
	plan := traffic.Plan{Duration: 50 * time.Millisecond}
	for _, to := range []netip.Addr{s.B.Addr4, s.B.Addr6} {
		plan.Groups = append(plan.Groups,
			traffic.Group{Kind: traffic.UDPEcho, Count: 1, To: to, TOS: expedited | 1},
			traffic.Group{Kind: traffic.TCPBulk, Count: 1, To: to, TOS: audio, Down: true})
	}
	r, err := traffic.Between(t.Context(), s.A.Node, s.B.Node, plan)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	if _, err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	const tcp, udp = 6, 17
	for _, from := range []netip.Addr{s.B.Addr4, s.B.Addr6} {
		for _, want := range []key{{from, udp, expedited | 1}, {from, tcp, audio}} {
			if seen[want] == 0 {
				t.Errorf("no packet %+v among %v", want, seen)
			}
		}
	}
	if len(seen) != 4 {
		t.Errorf("packets with another type of service: %v", seen)
	}
}
