package tunnel

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Either end of any two is handed over, with a firewall before one or both: no packet
// is lost, each flow has a lane of its own again with its next packet, both ends stay in
// the mode that they were in, and the firewalls see no other connections than before.
func TestHandOverKeepsLanes(t *testing.T) {
	cases := append(slices.Clone(wallCases), wallCase{[2]string{"", ""}, "direct", "direct"})
	const n = 30
	behindWalls(t, cases, n, 30, func(t *testing.T, w *walled, c wallCase, flows []uint16) {
		for _, s := range []*site{w.a, w.b, w.a} {
			other := map[*site]*site{w.a: w.b, w.b: w.a}[s]
			if err := s.successor(w.network, other, asItIs); err != nil {
				t.Fatal(err)
			}
			w.network.mu.Lock()
			w.network.keep, w.network.seen = true, nil
			w.network.mu.Unlock()
			for range 15 {
				if there, back := w.round(w.a, w.b, flows); there != n || back != n {
					t.Errorf("of %d packets %d arrived, of the answers %d", n, there, back)
				}
				for i, s := range []*site{w.a, w.b} {
					if got, want := s.peerStatus().Mode, []string{c.modeA, c.modeB}[i]; got != want {
						t.Fatalf("the mode is %s, want %s", got, want)
					}
				}
			}
			seen := w.network.taken()
			for _, s := range []*site{w.a, w.b} {
				if of := outerFlows(seen, s, roundSize); len(of) < n*9/10 {
					t.Errorf("%d flows left in %d outer flows", n, len(of))
				}
			}
		}
	})
}

// The lists of a process that goes on are taken, and those of one that began anew.
func TestListsAfterAHandOver(t *testing.T) {
	for name, change := range map[string]func(*handoverState){
		"goes on": func(*handoverState) {}, "begins anew": func(h *handoverState) { h.Peers = nil },
	} {
		synctest.Test(t, func(t *testing.T) {
			network := newMemNet()
			a, b := pair(t, network)
			defer func() { b.stop(); a.stop() }()
			exchange := func(d time.Duration) {
				for start := time.Now(); time.Since(start) < d; time.Sleep(10 * time.Millisecond) {
					a.tun.in <- a.udp(b, 7, 1, 100)
					b.tun.in <- b.udp(a, 7, 1, 100)
				}
			}
			exchange(20 * time.Second)
			if err := a.successor(network, b, changed(t, change)); err != nil {
				t.Fatal(err)
			}
			exchange(2 * time.Second)
			p := b.device.order[0]
			p.mu.Lock()
			defer p.mu.Unlock()
			if silent := time.Duration(b.device.clock.Now() - p.spread.watch.at); silent > 3*time.Duration(heardEvery) {
				t.Errorf("a %s, and b has taken no list for %v", name, silent)
			}
		})
	}
}
