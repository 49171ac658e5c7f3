package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/capture"
	"kiloport/bench/tunnels"
)

// replaceFamily makes a rule one for ip or ip6.
func replaceFamily(rule, family string) string { return strings.ReplaceAll(rule, "IP ", family+" ") }

// An offloadCase is whether kernels and tunnel may join packets.
type offloadCase struct {
	name     string
	offload  bool
	settings []string // lines for the [Interface] section
}

var offloadCases = []offloadCase{
	{name: "offloads off"},
	{name: "offloads on", offload: true},
}

// withMarks brings up kiloport on both sites for each family of outer addresses,
// with and without offloads.
func withMarks(t *testing.T, test func(t *testing.T, tun *tunnels.Tunnel)) {
	for _, c := range offloadCases {
		t.Run(c.name, func(t *testing.T) {
			families(t, func(t *testing.T, ipv6 bool) {
				s := netlab.ForTest(t, netlab.SitesConfig{Offload: c.offload})
				// The router judges datagrams by their length and counts them: it is
				// to see them as they are on a wire, not several as one.
				if err := errors.Join(s.A.OffloadOff(s.A.Wan), s.B.OffloadOff(s.B.Wan)); err != nil {
					t.Fatal(err)
				}
				daemon := tunnels.Kiloport{Binary: binary(t, kiloportBinary), Settings: c.settings}
				tun, err := tunnels.Start(t.Context(), s, daemon, daemon, tunnels.Config{IPv6: ipv6})
				if err != nil {
					t.Fatal(err)
				}
				awaitNormal(t, tun)
				roomy(t, tun)
				test(t, tun)
			})
		})
	}
}

// roomy makes the queues of the tunnel interfaces long, so that a machine busy with
// something else does not look like a lossy tunnel.
func roomy(t *testing.T, tun *tunnels.Tunnel) {
	t.Helper()
	for _, e := range []*tunnels.End{&tun.A, &tun.B} {
		if out, err := e.Site.Run(t.Context(), "ip", "link", "set", e.Dev, "txqueuelen", "20000"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

// figure4 is RFC 6040's, section 4.2: inner codepoint, then outer one, both by
// value. What is odd has a mark behind it.
var figure4 = [4][4]string{
	notECT: {notECT: "Not-ECT", ect1: "Not-ECT!", ect0: "Not-ECT!", ce: "dropped!"},
	ect1:   {notECT: "ECT(1)", ect1: "ECT(1)", ect0: "ECT(1)!", ce: "CE"},
	ect0:   {notECT: "ECT(0)", ect1: "ECT(1)", ect0: "ECT(0)", ce: "CE"},
	ce:     {notECT: "CE", ect1: "CE!", ect0: "CE", ce: "CE"},
}

// TestEveryPairOfCodepointsThroughSockets sends datagrams of each codepoint, which
// the router gives each codepoint outside, by their length: of the sixteen pairs
// each must come out as the RFC has it, over IPv4 and IPv6, inside and outside.
func TestEveryPairOfCodepointsThroughSockets(t *testing.T) {
	const each = 50
	withMarks(t, func(t *testing.T, tun *tunnels.Tunnel) {
		var m meddler
		for inner := range 4 {
			for outer := range 4 {
				for _, to := range innerAddrs(tun) {
					m.rules = append(m.rules, fmt.Sprintf("udp length %d IP ecn set %d", outerLength(pairSize(inner, outer), to), outer))
				}
			}
		}
		meddle(t, tun.Sites, m)
		l := listenForMarks(t, tun.B.Site.End())
		before := showMarks(t, &tun.B)
		for _, to := range innerAddrs(tun) {
			for inner := range 4 {
				for outer := range 4 {
					s := newMarkSender(t, tun.A.Site.End(), to, kind{pairSize(inner, outer), 46<<2 | uint8(inner)})
					paced(each, 4000, func(int) { s.send(t) })
				}
			}
		}
		got := l.await(2 * 15 * each)
		for inner := range 4 {
			for outer := range 4 {
				want := map[kind]int{}
				cell, odd := strings.CutSuffix(figure4[inner][outer], "!")
				for cp, name := range codepointNames {
					if name == cell {
						want[kind{pairSize(inner, outer), 46<<2 | uint8(cp)}] = 2 * each
					}
				}
				seen := maps.Clone(got)
				maps.DeleteFunc(seen, func(k kind, _ int) bool { return k.size != pairSize(inner, outer) })
				if !maps.Equal(seen, want) {
					t.Errorf("%s inside %s: arrived %v, want %v", codepointNames[inner], codepointNames[outer], seen, want)
				}
				pair := codepointNames[inner] + "/" + codepointNames[outer]
				counted, wanted := showMarks(t, &tun.B).Anomalies[pair]-before.Anomalies[pair], uint64(0)
				if odd {
					wanted = 2 * each
				}
				if counted != wanted {
					t.Errorf("%s is counted %d times as an anomaly, want %d", pair, counted, wanted)
				}
			}
		}
		after := showMarks(t, &tun.B)
		if dropped := after.Drops["ecn"] - before.Drops["ecn"]; dropped != 2*each {
			t.Errorf("%d packets were dropped for CE outside Not-ECT, want %d", dropped, 2*each)
		}
		if a := showMarks(t, &tun.A); a.ECN != "normal" || after.MarksIgnored {
			t.Errorf("the path was given up: %s (%s)", a.ECN, a.ECNReason)
		}
	})
}

// pairSize is a payload's length that tells the pair also outside, whether the
// inner packet is IPv4 or IPv6, and is longer than all that a tunnel says by itself.
func pairSize(inner, outer int) int { return 1300 - 48*(4*inner+outer) }

// outerLength is what a datagram with a payload of this size to an inner address
// has in the outer UDP header: padded, with WireGuard's and UDP's own headers.
func outerLength(size int, to netip.Addr) int {
	inner := size + 8 + 40
	if to.Is4() {
		inner -= 20
	}
	return (inner+15)/16*16 + transportOverhead + 8
}

func innerAddrs(tun *tunnels.Tunnel) []netip.Addr {
	return []netip.Addr{tun.B.Site.Inner4(1).Addr(), tun.B.Site.Inner6(1).Addr()}
}

// TestMarksOutsideAreMarksInside sends more than 100 000 datagrams of all
// codepoints in many flows through a router that marks some, and counts them on
// the wire behind it and inside.
func TestMarksOutsideAreMarksInside(t *testing.T) {
	const packets, flows, size = 110_000, 40, 1000
	families(t, func(t *testing.T, ipv6 bool) {
		s := netlab.ForTest(t, netlab.SitesConfig{})
		tun := startOurs(t, s, ipv6)
		awaitNormal(t, tun)
		roomy(t, tun)
		meddle(t, s, meddler{[]string{
			"IP ecn 1 numgen random mod 100 < 3 IP ecn set 3",
			"IP ecn 2 numgen random mod 100 < 5 IP ecn set 3",
		}})
		to := s.B.Inner6(1).Addr()
		wire := [4]int{}
		tap, err := capture.Start(s.B.Node, s.B.Wan, capture.Config{Snap: 96, RingBytes: 128 << 20, OnPacket: func(p *capture.Packet) {
			if !p.Outgoing && p.Proto == 17 && p.Payload+8 == outerLength(size, to) {
				wire[p.ECN()]++
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		l := listenForMarks(t, s.B.Node)
		var senders []*markSender
		for i := range flows {
			senders = append(senders, newMarkSender(t, s.A.Node, to, kind{size, uint8(i % 3)})) // Not-ECT, ECT(1), ECT(0)
		}
		paced(packets, 8000, func(i int) { senders[i%flows].send(t) })
		got := l.await(packets)
		report, err := tap.Stop()
		if err != nil || report.KernelDrops > 0 {
			t.Fatalf("the capture is not complete: %v, %d packets dropped", err, report.KernelDrops)
		}
		total := 0
		for cp, name := range codepointNames {
			inside := got[kind{size, uint8(cp)}]
			if inside != wire[cp] {
				t.Errorf("%s: %d on the wire, %d inside", name, wire[cp], inside)
			}
			total += inside
		}
		t.Logf("on the wire %v, inside %v (Not-ECT, ECT(1), ECT(0), CE)%s", wire, got, tun.Unread())
		if total < 100_000 || wire[ce] < 1000 {
			t.Errorf("%d packets with %d marks, want 100 000 with 1000", total, wire[ce])
		}
	})
}

// paced calls f n times, at most a number of times a second, in small bursts. On a
// busy machine it takes longer, rather than to catch up in a large one.
func paced(n, perSecond int, f func(i int)) {
	const burst = 8
	for i := range n {
		if i%burst == 0 {
			time.Sleep(burst * time.Second / time.Duration(perSecond))
		}
		f(i)
	}
}

// A pathCase is a kind of path: what the router does, and what is to be said.
type pathCase struct {
	name  string
	rules []string
	found pathFate
	mode  string
	words []string // in what kiloport show says at site A
	// inside is what becomes of ECT(0) that site A sends.
	inside uint8
}

var pathCases = []pathCase{
	{
		name: "passes", mode: "normal", inside: ect0,
		found: pathFate{NotECT: "passes", ECT0: "passes", ECT1: "passes", CE: "passes"},
		words: []string{"ecn: normal\n", "path to the peer: passes: ECT(0), ECT(1), CE"},
	},
	{
		name: "bleaches", rules: []string{"IP ecn set 0"}, mode: "compatibility", inside: ect0,
		found: pathFate{NotECT: "passes", ECT0: "bleached", ECT1: "bleached", CE: "bleached"},
		words: []string{"ecn: compatibility (the path to the peer bleaches ECT(0), ECT(1), CE)", "bleached: ECT(0), ECT(1), CE"},
	},
	{
		name: "drops ECT", rules: []string{"IP ecn != 0 drop"}, mode: "compatibility", inside: ect0,
		found: pathFate{NotECT: "passes", ECT0: "dropped", ECT1: "dropped", CE: "dropped"},
		words: []string{"ecn: compatibility (the path to the peer drops ECT(0), ECT(1), CE)"},
	},
	{
		name: "marks all ECT", rules: []string{"IP ecn != 0 IP ecn set 3"}, mode: "compatibility", inside: ect0,
		found: pathFate{NotECT: "passes", ECT0: "marked CE every time", ECT1: "marked CE every time", CE: "passes"},
		words: []string{"turns into CE every ECT(0), ECT(1)"},
	},
	{
		name: "marks all", rules: []string{"IP ecn set 3"}, mode: "compatibility", inside: ect0,
		found: pathFate{NotECT: "marked CE every time", ECT0: "marked CE every time", ECT1: "marked CE every time", CE: "passes"},
		words: []string{"marks everything CE, even what is not ECN-capable"},
	},
	{
		name: "bleaches ECT(1)", rules: []string{"IP ecn 1 IP ecn set 0"}, mode: "compatibility", inside: ect0,
		found: pathFate{NotECT: "passes", ECT0: "passes", ECT1: "bleached", CE: "passes"},
		words: []string{"bleaches ECT(1)", "passes: ECT(0), CE; bleached: ECT(1)"},
	},
}

// TestPathsThatMeddle begins with each kind of path, and comes to each under
// traffic from a clean one. The tunnel notices within 10 s, says what it saw, and
// goes on: what is sent arrives as if nobody had meddled.
func TestPathsThatMeddle(t *testing.T) {
	for _, c := range pathCases {
		t.Run(c.name, func(t *testing.T) {
			t.Run("from the start, outer IPv4", func(t *testing.T) { testPath(t, &c, false, false) })
			t.Run("under traffic, outer IPv6", func(t *testing.T) { testPath(t, &c, true, true) })
		})
	}
}

func testPath(t *testing.T, c *pathCase, ipv6, later bool) {
	t.Parallel()
	s := netlab.ForTest(t, netlab.SitesConfig{})
	if !later {
		meddle(t, s, meddler{c.rules})
	}
	tun := startMeddled(t, s, ipv6)
	const size = 500
	senders := []*markSender{
		newMarkSender(t, s.A.Node, s.B.Inner6(1).Addr(), kind{size, ect0}), newMarkSender(t, s.A.Node, s.B.Inner4(1).Addr(), kind{size, ect0}),
		newMarkSender(t, s.A.Node, s.B.Inner6(1).Addr(), kind{size, notECT}), newMarkSender(t, s.A.Node, s.B.Inner6(1).Addr(), kind{size, ect1}),
	}
	stop := make(chan struct{})
	sending := make(chan struct{})
	go func() {
		defer close(sending)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				_, _ = senders[i%len(senders)].conn.Write(senders[0].payload)
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-sending })
	if later {
		awaitNormal(t, tun)
		meddle(t, s, meddler{c.rules})
		time.Sleep(100 * time.Millisecond)
	}
	roomy(t, tun)
	notice(t, c, tun)
	arriveUnchanged(t, c, tun)
}

// startMeddled is startOurs where the path may drop all data at first.
func startMeddled(t *testing.T, s *netlab.Sites, ipv6 bool) *tunnels.Tunnel {
	t.Helper()
	tun, err := tunnels.Start(t.Context(), s, ours(t), ours(t), tunnels.Config{IPv6: ipv6})
	if err != nil {
		t.Fatal(err)
	}
	return tun
}

// notice waits until site A has noticed, site B knows of it, and both say so.
func notice(t *testing.T, c *pathCase, tun *tunnels.Tunnel) {
	t.Helper()
	start := time.Now()
	same := func(f *pathFate) bool {
		return f != nil && f.NotECT == c.found.NotECT && f.ECT0 == c.found.ECT0 && f.ECT1 == c.found.ECT1 && f.CE == c.found.CE && f.Mode == c.mode
	}
	awaitMarks(t, &tun.A, c.name, func(p *peerMarks) bool { return p.ECN == c.mode && same(p.PathTo) })
	t.Logf("noticed after %v", time.Since(start).Round(10*time.Millisecond))
	b := awaitMarks(t, &tun.B, "the peer's view", func(p *peerMarks) bool { return same(p.PathFrom) && p.ECN == "normal" })
	if b.MarksIgnored != (c.found.NotECT != "passes") {
		t.Errorf("marks ignored: %v", b.MarksIgnored)
	}
	words := showWords(t, &tun.A)
	for _, want := range c.words {
		if !strings.Contains(words, want) {
			t.Errorf("kiloport show does not say %q:\n%s", want, words)
		}
	}
}

// arriveUnchanged sends datagrams of every codepoint that the path has no quarrel
// with in the mode that was chosen.
func arriveUnchanged(t *testing.T, c *pathCase, tun *tunnels.Tunnel) {
	t.Helper()
	const each, size = 200, 700
	l := listenForMarks(t, tun.B.Site.Node)
	for _, to := range innerAddrs(tun) {
		for cp := range uint8(4) {
			s := newMarkSender(t, tun.A.Site.Node, to, kind{size, cp})
			paced(each, 4000, func(int) { s.send(t) })
		}
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		complete := true
		got := l.counts()
		for cp := range uint8(4) {
			complete = complete && got[kind{size, cp}] == 2*each
		}
		if complete {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("arrived %v, want %d of each codepoint%s", got, 2*each, tun.Unread())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestStockPeerLosesNothing sends every codepoint to wireguard-go: it arrives, and
// outside is Not-ECT all the time.
func TestStockPeerLosesNothing(t *testing.T) {
	families(t, func(t *testing.T, ipv6 bool) {
		s := netlab.ForTest(t, netlab.SitesConfig{})
		tun, err := tunnels.Start(t.Context(), s, ours(t), stock(t), tunnels.Config{IPv6: ipv6})
		if err != nil {
			t.Fatal(err)
		}
		roomy(t, tun)
		marked := 0
		tap, err := capture.Start(s.B.Node, s.B.Wan, capture.Config{Snap: 96, OnPacket: func(p *capture.Packet) {
			if !p.Outgoing && p.Proto == 17 && p.ECN() != notECT {
				marked++
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		l := listenForMarks(t, s.B.Node)
		const each, size = 1000, 400
		for _, to := range innerAddrs(tun) {
			for cp := range uint8(4) {
				sender := newMarkSender(t, s.A.Node, to, kind{size, cp})
				paced(each, 2000, func(int) { sender.send(t) })
			}
		}
		got := l.await(8 * each)
		if _, err := tap.Stop(); err != nil {
			t.Fatal(err)
		}
		for cp, name := range codepointNames {
			if n := got[kind{size, uint8(cp)}]; n != 2*each {
				t.Errorf("%s: %d of %d arrived%s", name, n, 2*each, tun.Unread())
			}
		}
		if marked > 0 {
			t.Errorf("%d outer packets were not Not-ECT", marked)
		}
		if a := showMarks(t, &tun.A); a.ECN != "compatibility" || !strings.Contains(a.ECNReason, "HELLO") {
			t.Errorf("%s mode (%s)", a.ECN, a.ECNReason)
		}
	})
}
