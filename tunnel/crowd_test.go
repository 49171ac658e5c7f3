package tunnel

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestSparseFlowLeavesACrowdedLane: a gateway's hash has put one lane into a queue with
// somebody else's bulk. The sparse flow on it gets another lane, once, and in order;
// all others stay where they are.
func TestSparseFlowLeavesACrowdedLane(t *testing.T) {
	const base, queue = 10 * time.Millisecond, 40 * time.Millisecond
	for name, pause := range map[string]time.Duration{"a flow that pauses": 150 * time.Millisecond, "one that hardly does": 45 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet()
				const flows, crowded = 12, 5
				size := func(flow uint16) int { return 96 + 16*int(flow) } // so that lanes can be told apart outside
				lanes := make(map[uint16][]uint16)                         // the source ports of each flow, in turn
				slow := uint16(0)
				a, b := newSite(t, network, 1), newSite(t, network, 2)
				defer func() { b.stop(); a.stop() }()
				network.setPath(func(d *memDatagram) []time.Duration {
					if n := len(d.bytes) - headerSize - tagSize; d.to == b.at && n >= size(0) && n < size(flows) && (n-size(0))%16 == 0 {
						flow := uint16(n-size(0)) / 16
						if l := lanes[flow]; d.from.Port() != a.at.Port() && (len(l) == 0 || l[len(l)-1] != d.from.Port()) {
							lanes[flow] = append(l, d.from.Port())
						}
					}
					if d.from.Port() == slow {
						return []time.Duration{base + queue}
					}
					return []time.Duration{base}
				})
				a.knows(b, b.at)
				b.knows(a, a.at)
				synctest.Wait()
				numbers, sent, late := make(map[uint16]uint64), make(map[uint64]time.Time), time.Time{}
				number, next := uint64(0), make(map[uint16]time.Time)
				run := func(d time.Duration) {
					for start := time.Now(); time.Since(start) < d; time.Sleep(5 * time.Millisecond) {
						for flow := range uint16(flows) {
							if time.Now().Before(next[flow]) {
								continue
							}
							next[flow] = time.Now().Add(50 * time.Millisecond)
							if flow == crowded {
								next[flow] = time.Now().Add(pause)
							}
							number++
							sent[number] = time.Now()
							a.tun.in <- a.udp(b, flow, number, size(flow))
						}
						for _, p := range b.tun.received() {
							flow, got := parseUDP(p)
							if got < numbers[flow] {
								t.Errorf("flow %d: %d after %d", flow, got, numbers[flow])
							}
							numbers[flow] = got
							if took := time.Since(sent[got]); took > base+queue/2 {
								late = time.Now()
								if flow != crowded && slow != 0 { // before that there was the handshake
									t.Errorf("a packet of flow %d took %v", flow, took)
								}
							}
						}
					}
				}
				run(4 * time.Second)
				before := make(map[uint16]int)
				network.mu.Lock()
				for flow, l := range lanes {
					before[flow] = len(l)
				}
				slow = lanes[crowded][len(lanes[crowded])-1]
				network.mu.Unlock()
				start := time.Now()
				run(25 * time.Second)
				t.Logf("waited behind others for %v; %+v", late.Sub(start), a.peerStatus().Lanes)
				if late.Sub(start) > 15*time.Second || late.IsZero() {
					t.Errorf("waited behind others for %v", late.Sub(start))
				}
				for flow := range uint16(flows) {
					moved := len(lanes[flow]) - before[flow]
					if want := map[bool]int{true: 1}[flow == crowded]; moved != want {
						t.Errorf("flow %d was moved %d times, want %d", flow, moved, want)
					}
				}
				if got := numbers[crowded]; number-got > flows*uint64(pause/(40*time.Millisecond)+2) {
					t.Errorf("flow %d is stuck at %d of %d", crowded, got, number)
				}
			})
		})
	}
}
