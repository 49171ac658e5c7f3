package tunnel

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"kiloport/tunnel/uapi"
)

// walled is two sites with a firewall before either or both.
type walled struct {
	t       *testing.T
	network *memNet
	a, b    *site
	walls   []*memFirewall
	sent    uint64 // number of the last round
}

const wallDelay = 10 * time.Millisecond // one way

// newWalled makes two sites. kinds says what is before each: "" nothing, "filter" a
// stateful firewall, "nat", or "shuffle" a NAT that gives other ports.
func newWalled(t *testing.T, kinds [2]string, options ...siteOption) *walled {
	w := &walled{t: t, network: newMemNet()}
	w.a, w.b = newSite(t, w.network, 1, options...), newSite(t, w.network, 2, options...)
	outside := [2]netip.AddrPort{w.a.at, w.b.at}
	for i, s := range []*site{w.a, w.b} {
		at := s.addr
		if kinds[i] == "nat" || kinds[i] == "shuffle" {
			at = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 14: 1, 15: byte(i + 1)})
		}
		outside[i] = netip.AddrPortFrom(at, s.at.Port())
		if kinds[i] != "" {
			wall := newMemFirewall(s.addr, at)
			wall.shuffle = kinds[i] == "shuffle"
			w.walls = append(w.walls, wall)
		}
	}
	w.network.setPath(func(d *memDatagram) []time.Duration {
		for _, wall := range w.walls { // each sees what leaves its host before what comes
			if d.from.Addr() == wall.host && !wall.pass(d) {
				return nil
			}
		}
		for _, wall := range w.walls {
			if d.to.Addr() == wall.outside && !wall.pass(d) {
				return nil
			}
		}
		return []time.Duration{wallDelay}
	})
	w.a.knows(w.b, outside[1])
	if kinds[0] == "" || kinds[1] != "" {
		w.b.knows(w.a, outside[0])
	} else {
		w.b.knows(w.a, netip.AddrPort{})
	}
	for i, s := range []*site{w.a, w.b} { // each has to open its own
		if other := []*site{w.b, w.a}[i]; kinds[i] != "" {
			keepalive := uint16(10)
			s.configure(&uapi.SetRequest{Peers: []uapi.PeerChange{{PublicKey: uapi.PublicKey(other.key.Public()), PersistentKeepalive: &keepalive}}})
		}
	}
	synctest.Wait()
	return w
}

func (w *walled) stop() {
	w.b.stop()
	w.a.stop()
}

// round sends a packet of each flow from one site, and an answer to each that comes.
// It gives how many came to the far site, and how many answers back.
func (w *walled) round(from, to *site, flows []uint16) (there, back int) {
	w.sent++
	for _, flow := range flows {
		from.tun.in <- from.udp(to, flow, w.sent, 200)
	}
	time.Sleep(wallDelay)
	synctest.Wait()
	for _, p := range to.tun.received() {
		flow, number := parseUDP(p)
		if number == w.sent {
			there++
		}
		to.tun.in <- to.udp(from, flow, number, 200)
	}
	time.Sleep(wallDelay)
	synctest.Wait()
	for _, p := range from.tun.received() {
		if _, number := parseUDP(p); number == w.sent {
			back++
		}
	}
	return there, back
}

func flowsFrom(first, n int) (flows []uint16) {
	for i := range n {
		flows = append(flows, uint16(first+i))
	}
	return flows
}

// settle sends until the modes are found.
func (w *walled) settle(modeA, modeB string) {
	w.t.Helper()
	start := time.Now()
	for time.Since(start) < 2*time.Second {
		w.round(w.a, w.b, []uint16{1})
	}
	for _, c := range []struct {
		s    *site
		want string
	}{{w.a, modeA}, {w.b, modeB}} {
		if s := c.s.peerStatus(); s.Mode != c.want {
			w.t.Fatalf("site %v is in mode %s (%s), want %s", c.s.addr, s.Mode, s.Reason, c.want)
		}
	}
}

// outerFlows counts the 5-tuples between the sites, of transport messages of a
// certain size, in one direction.
func outerFlows(seen []memDatagram, from *site, size int) map[[2]netip.AddrPort]int {
	flows := make(map[[2]netip.AddrPort]int)
	for _, d := range seen {
		if d.from.Addr() == from.addr && len(d.bytes) == size {
			flows[[2]netip.AddrPort{d.from, d.to}]++
		}
	}
	return flows
}

const roundSize = 208 + headerSize + tagSize // of the datagrams of a round

// wallCase is what is before each side, and which mode each finds then.
type wallCase struct {
	kinds        [2]string
	modeA, modeB string
}

var wallCases = []wallCase{
	{[2]string{"filter", ""}, "direct", "return"},
	{[2]string{"nat", ""}, "direct", "return"},
	{[2]string{"shuffle", ""}, "direct", "return"},
	{[2]string{"", "filter"}, "return", "direct"},
	{[2]string{"filter", "filter"}, "paired", "paired"},
	{[2]string{"nat", "filter"}, "paired", "paired"},
	{[2]string{"nat", "nat"}, "paired", "paired"},
}

// behindWalls does a test in each of some cases, when both sides have found their mode
// and lanes have been opened for n flows, in so many rounds.
func behindWalls(t *testing.T, cases []wallCase, n, rounds int, test func(t *testing.T, w *walled, c wallCase, flows []uint16)) {
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s>%s", c.kinds[0], c.kinds[1]), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWalled(t, c.kinds)
				defer w.stop()
				w.settle(c.modeA, c.modeB)
				flows := flowsFrom(1000, n)
				for range rounds {
					w.round(w.a, w.b, flows)
				}
				test(t, w, c, flows)
			})
		})
	}
}

// TestLanesThroughFirewalls: whichever side only lets in answers, each flow has a
// lane of its own in both directions, its answers come back on the same one, and
// nothing is lost. A router that forgets everything is overcome within 2 s.
func TestLanesThroughFirewalls(t *testing.T) {
	const n = 60
	behindWalls(t, wallCases, n, 50, func(t *testing.T, w *walled, c wallCase, flows []uint16) {
		w.network.mu.Lock()
		w.network.keep = true
		w.network.mu.Unlock()
		for range 20 {
			if there, back := w.round(w.a, w.b, flows); there != n || back != n {
				t.Errorf("of %d packets %d arrived, of the answers %d", n, there, back)
			}
		}
		seen := w.network.taken()
		up, down := outerFlows(seen, w.a, roundSize), outerFlows(seen, w.b, roundSize)
		t.Logf("%+v %+v", w.a.peerStatus().Lanes, w.b.peerStatus().Lanes)
		if len(up) < n*9/10 || len(down) < n*9/10 {
			t.Errorf("%d flows went out in %d outer flows, their answers in %d", n, len(up), len(down))
		}
		for _, wall := range w.walls {
			t.Logf("%d connections at %v, at most %d", len(wall.entries), wall.outside, wall.most)
			if wall.most > 3*n {
				t.Errorf("%d connections for %d flows", wall.most, n)
			}
		}
		w.forget(flows, 2*time.Second)
	})
}

// forget has the firewalls forget everything: the tunnel is back within a time.
func (w *walled) forget(flows []uint16, within time.Duration) {
	w.t.Helper()
	for _, wall := range w.walls {
		wall.flush()
	}
	start := time.Now()
	for good := 0; good < 5; {
		if there, back := w.round(w.a, w.b, flows); there == len(flows) && back == len(flows) {
			good++
		} else {
			good = 0
		}
		if time.Since(start) > 10*time.Second {
			w.t.Fatalf("the tunnel is not back 10 s after the firewalls forgot everything: %+v, %+v", w.a.peerStatus().Lanes, w.b.peerStatus().Lanes)
		}
	}
	if took := time.Since(start) - 10*wallDelay; took > within {
		w.t.Errorf("back after %v, want it within %v", took, within)
	} else {
		w.t.Logf("back after %v", took)
	}
}

// TestManyLanesBehindFirewallsThatForget: of lanes that were open, and that nobody has
// used since, none is given to a flow. Otherwise it goes from one to the next.
func TestManyLanesBehindFirewallsThatForget(t *testing.T) {
	behindWalls(t, wallCases, 200, 20, func(t *testing.T, w *walled, c wallCase, flows []uint16) {
		for range 60 {
			w.round(w.a, w.b, flows[:40])
		}
		w.forget(flows[:40], time.Second)
		w.forget(flows[:40], 1500*time.Millisecond) // so soon that it is the same death to the other lanes
	})
}

// TestFlowsFromTheFarSide begin at the site that cannot reach the other's ports
// unasked.
func TestFlowsFromTheFarSide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWalled(t, [2]string{"nat", ""})
		defer w.stop()
		w.settle("direct", "return")
		const n = 40
		flows := flowsFrom(2000, n)
		for range 20 {
			w.round(w.b, w.a, flows)
		}
		w.network.mu.Lock()
		w.network.keep = true
		w.network.mu.Unlock()
		for range 20 {
			if there, back := w.round(w.b, w.a, flows); there != n || back != n {
				t.Errorf("of %d packets %d arrived, of the answers %d", n, there, back)
			}
		}
		if down := outerFlows(w.network.taken(), w.b, roundSize); len(down) < n*9/10 {
			t.Errorf("%d flows went in %d outer flows", n, len(down))
		}
	})
}

// TestFlowsFromBothSides begin at the same time at both sites, which then give them the
// same lanes: in the end each has one for itself.
func TestFlowsFromBothSides(t *testing.T) {
	const n = 50
	behindWalls(t, wallCases, 1, 1, func(t *testing.T, w *walled, c wallCase, _ []uint16) {
		fromA, fromB := flowsFrom(2000, n), flowsFrom(3000, n)
		round := func() {
			w.sent++
			for i := range n {
				w.a.tun.in <- w.a.udp(w.b, fromA[i], w.sent, 200)
				w.b.tun.in <- w.b.udp(w.a, fromB[i], w.sent, 200)
			}
			for range 2 {
				time.Sleep(wallDelay)
				synctest.Wait()
				for _, s := range []*site{w.a, w.b} {
					other := map[*site]*site{w.a: w.b, w.b: w.a}[s]
					for _, p := range s.tun.received() {
						if flow, number := parseUDP(p); (s == w.b) == slices.Contains(fromA, flow) {
							s.tun.in <- s.udp(other, flow, number, 200) // it is a question
						}
					}
				}
			}
		}
		for range 100 {
			round()
		}
		w.network.mu.Lock()
		w.network.keep = true
		w.network.mu.Unlock()
		round()
		seen := w.network.taken()
		for _, s := range []*site{w.a, w.b} {
			if got := len(outerFlows(seen, s, roundSize)); got < 2*n {
				t.Errorf("from %v, %d flows go in %d outer flows", s.addr, 2*n, got)
			}
		}
	})
}

// TestOneWayThroughAFirewallThatForgets sends from the far side alone: the near one
// notices that nothing comes any more.
func TestOneWayThroughAFirewallThatForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWalled(t, [2]string{"nat", ""})
		defer w.stop()
		w.settle("direct", "return")
		send := func() int {
			w.sent++
			for _, flow := range flowsFrom(3000, 10) {
				w.b.tun.in <- w.b.udp(w.a, flow, w.sent, 200)
			}
			time.Sleep(2 * wallDelay)
			synctest.Wait()
			return len(w.a.tun.received())
		}
		for range 3000 { // a minute, longer than an unanswered mapping lives
			if n := send(); n != 10 {
				t.Fatalf("of 10 packets %d arrived after %d rounds", n, w.sent)
			}
		}
		w.walls[0].flush()
		start := time.Now()
		for send() != 10 {
			if time.Since(start) > 2*time.Second {
				t.Fatalf("not back within 2 s: %+v", w.b.peerStatus())
			}
		}
		t.Logf("back after %v", time.Since(start))
	})
}

// TestLanesAreCapped: a peer gets no more lanes than it may have, in neither
// direction, though it has more flows.
func TestLanesAreCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, n = 16, 100
		w := newWalled(t, [2]string{"nat", ""}, func(c *Config) { c.Options.MaxLanes = most })
		defer w.stop()
		w.settle("direct", "return")
		flows := flowsFrom(1000, n)
		for range 50 {
			if there, back := w.round(w.a, w.b, flows); there != n || back != n {
				t.Errorf("of %d packets %d arrived, of the answers %d", n, there, back)
			}
		}
		if most := w.walls[0].most; most > 17 {
			t.Errorf("%d connections at the NAT, with 16 lanes", most)
		}
		if s := w.a.peerStatus(); s.Lanes.InUse != most || s.Lanes.Agreed != most {
			t.Errorf("%+v", s.Lanes)
		}
	})
}

// TestChangeOver: a firewall that lets in only answers is opened under traffic both
// ways. The far side takes the ports of its pool soon, and neither loses nor reorders a
// packet by it.
func TestChangeOver(t *testing.T) {
	// No port outside stands for one inside of a NAT that shuffles them.
	cases := slices.DeleteFunc(slices.Clone(wallCases), func(c wallCase) bool { return c.kinds[0] == "shuffle" })
	const n = 30
	behindWalls(t, cases, n, 40, func(t *testing.T, w *walled, c wallCase, flows []uint16) {
		w.network.mu.Lock()
		for _, wall := range w.walls {
			wall.open = true
		}
		w.network.mu.Unlock()
		start, direct := time.Now(), false
		for !direct && time.Since(start) < 70*time.Second {
			if there, back := w.round(w.a, w.b, flows); there != n || back != n {
				t.Errorf("of %d packets %d arrived, of the answers %d", n, there, back)
			}
			direct = w.a.peerStatus().Mode == "direct" && w.b.peerStatus().Mode == "direct"
		}
		t.Logf("direct after %v", time.Since(start))
		if !direct {
			t.Fatalf("%s, %s", w.a.peerStatus().Mode, w.b.peerStatus().Mode)
		}
		for range 40 {
			if there, back := w.round(w.a, w.b, flows); there != n || back != n {
				t.Errorf("of %d packets %d arrived, of the answers %d", n, there, back)
			}
		}
		for _, s := range []*site{w.a, w.b} {
			if l := s.peerStatus().Lanes; l.InUse < n*9/10 || l.Dead > 0 {
				t.Errorf("%+v", l)
			}
		}
	})
}
