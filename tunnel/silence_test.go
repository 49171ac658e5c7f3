package tunnel

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestSparseIsNotSilent sends a packet now and then. The peer's list of what it has heard
// comes a little later, which is not to be taken for silence: no probes are sent.
func TestSparseIsNotSilent(t *testing.T) {
	for _, every := range []time.Duration{20 * time.Millisecond, 170 * time.Millisecond, 210 * time.Millisecond, 730 * time.Millisecond} {
		t.Run(fmt.Sprint(every), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet()
				var large atomic.Int64
				network.setPath(func(d *memDatagram) []time.Duration {
					if len(d.bytes) > 1000 {
						large.Add(1)
					}
					return []time.Duration{10 * time.Millisecond}
				})
				a, b := pair(t, network)
				defer func() { b.stop(); a.stop() }()
				number := uint64(0)
				during := func(d time.Duration) {
					for start := time.Now(); time.Since(start) < d; time.Sleep(every) {
						number++
						a.tun.in <- a.udp(b, 1000, number, 200)
						b.tun.received()
					}
				}
				during(5 * time.Second)
				before := large.Load()
				during(30 * time.Second)
				if n := large.Load() - before; n != 0 {
					t.Errorf("%d probes of the path's size", n)
				}
				if s := a.peerStatus(); s.Mode != "direct" {
					t.Errorf("mode %s (%s)", s.Mode, s.Reason)
				}
			})
		})
	}
}
