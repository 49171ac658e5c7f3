package tunnel

import (
	"fmt"
	"hash/fnv"
	"testing"
	"testing/synctest"
	"time"
)

// ecmp is two paths between sites, by a hash of the 5-tuple, one of which may stop
// to deliver without a word.
type ecmp struct {
	network *memNet
	a, b    *site
	dead    bool // the path that lane 0 is on, or the other one,
	zero    bool // that is
	delay   time.Duration
}

func (e *ecmp) member(d *memDatagram) bool {
	h := fnv.New64a()
	fmt.Fprint(h, d.from, d.to)
	return h.Sum64()>>7&1 == 1
}

func (e *ecmp) path(d *memDatagram) []time.Duration {
	from, to := e.a.at, e.b.at
	if d.from.Addr() == e.b.addr {
		from, to = to, from
	}
	same := e.member(d) == e.member(&memDatagram{from: from, to: to})
	if e.dead && same == e.zero {
		return nil
	}
	return []time.Duration{e.delay}
}

// TestPathThatDropsSilently has one of two paths die under 80 flows. Each that was
// on it arrives again within three round trips or 500 ms, none is reordered that was
// not on it, and all lanes are used again when the path is back.
func TestPathThatDropsSilently(t *testing.T) {
	for _, zero := range []bool{false, true} {
		for _, rtt := range []time.Duration{2 * time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond} {
			t.Run(fmt.Sprintf("lane 0 dies %v, %v", zero, rtt), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testSilentPath(t, zero, rtt) })
			})
		}
	}
}

func testSilentPath(t *testing.T, zero bool, rtt time.Duration) {
	e := &ecmp{network: newMemNet(), zero: zero, delay: rtt / 2}
	e.network.setPath(e.path)
	e.a, e.b = newSite(t, e.network, 1), newSite(t, e.network, 2)
	defer e.b.stop()
	defer e.a.stop()
	e.a.knows(e.b, e.b.at)
	e.b.knows(e.a, e.a.at)
	synctest.Wait()
	const n, interval = 40, 10 * time.Millisecond
	ends := [2]*site{e.a, e.b}
	var last [2][n]time.Time
	var numbers [2][n]uint64
	var gap [2][n]time.Duration
	var reordered [2][n]int
	number := uint64(0)
	run := func(d, interval time.Duration) {
		for start := time.Now(); time.Since(start) < d; time.Sleep(interval) {
			number++
			for i, s := range ends {
				for flow := range n {
					s.tun.in <- s.udp(ends[1-i], uint16(1000+500*i+flow), number, 100)
				}
				for _, p := range s.tun.received() { // from the other end
					port, got := parseUDP(p)
					flow := int(port) - 1000 - 500*(1-i)
					gap[i][flow] = max(gap[i][flow], time.Since(last[i][flow]))
					last[i][flow] = time.Now()
					if got < numbers[i][flow] {
						reordered[i][flow]++
					}
					numbers[i][flow] = max(numbers[i][flow], got)
				}
			}
		}
	}
	run(3*time.Second, interval)
	for i := range ends {
		clear(gap[i][:])
		clear(reordered[i][:])
	}
	run(time.Second, interval)
	for i := range ends {
		for flow := range n {
			if gap[i][flow] > 2*interval || reordered[i][flow] > 0 {
				t.Fatalf("flow %d: a gap of %v, %d reordered, with both paths working", flow, gap[i][flow], reordered[i][flow])
			}
		}
	}
	e.network.mu.Lock()
	e.dead = true
	e.network.mu.Unlock()
	run(2*time.Second, interval)
	most, hit := time.Duration(0), 0
	for i := range ends {
		for flow := range n {
			most = max(most, gap[i][flow])
			if gap[i][flow] > 3*interval {
				hit++
			} else if reordered[i][flow] > 0 {
				t.Errorf("to %v, flow %d lost nothing, and %d of its packets were reordered", ends[i].addr, flow, reordered[i][flow])
			}
			if time.Since(last[i][flow]) > rtt+2*interval {
				t.Errorf("to %v, flow %d is stuck", ends[i].addr, flow)
			}
		}
	}
	t.Logf("%d of %d flows were hit, the longest gap was %v; %+v", hit, 2*n, most, e.a.peerStatus().Lanes)
	if hit < n/2 {
		t.Errorf("only %d flows were on the path", hit)
	}
	if limit := max(500*time.Millisecond, 3*rtt) + 2*interval; most > limit {
		t.Errorf("a gap of %v, want %v at most", most, limit)
	}
	e.network.mu.Lock()
	e.dead = false
	e.network.mu.Unlock()
	run(12*time.Second, 10*interval)
	if s := e.a.peerStatus(); s.Lanes.Dead > 0 {
		t.Errorf("%d lanes are dead still: %+v", s.Lanes.Dead, s.Lanes)
	}
}
