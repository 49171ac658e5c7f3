package tunnel

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// suspendingClock is a clock of a machine that the test suspends.
type suspendingClock struct {
	systemClock
	slept, counted *atomic.Int64
}

func (c suspendingClock) Now() int64 { return c.systemClock.Now() + c.counted.Load() }

func (c suspendingClock) Suspended() time.Duration {
	all := c.slept.Load()
	return time.Duration(all - c.counted.Swap(all))
}

// TestSuspendAndResume: while a site is suspended, the other end forgets its session.
// Within two seconds after it wakes up, flows get through both ways, by their lanes;
// and also those that only come to it, if it keeps its firewall open.
func TestSuspendAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slept, counted atomic.Int64
		made := 0
		w := newWalled(t, [2]string{"filter", ""}, func(c *Config) {
			if made++; made == 1 {
				c.Clock = suspendingClock{newSystemClock(), &slept, &counted}
			}
		})
		defer func() { w.stop() }()
		w.settle("direct", "return")
		const n = 20
		flows := flowsFrom(1000, n)
		for range 50 {
			w.round(w.a, w.b, flows)
		}
		// The far side has forgotten everything, as it does in ten minutes.
		p := w.b.device.order[0]
		p.mu.Lock()
		p.clearSessions()
		p.mu.Unlock()
		w.walls[0].flush()
		slept.Add(int64(10 * time.Minute))
		start := time.Now()
		for {
			if there, back := w.round(w.a, w.b, flows); there == n && back == n {
				break
			}
			if time.Since(start) > 10*time.Second {
				t.Fatalf("not back after %v: %+v, %+v", time.Since(start), w.a.peerStatus(), w.b.peerStatus())
			}
		}
		took := time.Since(start)
		for time.Since(start) < 2*time.Second {
			w.round(w.a, w.b, flows)
		}
		t.Logf("back after %v", took)
		if took > 2*time.Second {
			t.Errorf("back after %v", took)
		}
		for _, s := range []*site{w.a, w.b} {
			if p := s.peerStatus(); p.Lanes.InUse < n {
				t.Errorf("%s (%s), %+v", p.Mode, p.Reason, p.Lanes)
			}
		}
	})
}

// TestClockCountsSuspension: the real clock agrees with the kernel's, and has not been
// suspended since it was made.
func TestClockCountsSuspension(t *testing.T) {
	c := NewPreciseClock().(preciseClock)
	if gone := c.Suspended(); gone != 0 {
		t.Errorf("suspended for %v", gone)
	}
	if asleep() < -leastSuspend || readClock(clockBoottime) <= 0 {
		t.Errorf("asleep for %v of %v", time.Duration(asleep()), time.Duration(readClock(clockBoottime)))
	}
	c.suspends.before -= int64(time.Minute)
	before := c.Now()
	if gone := c.Suspended(); gone < time.Minute || gone > time.Minute+time.Second {
		t.Errorf("suspended for %v, want a minute", gone)
	}
	if now := c.Now(); now-before < int64(time.Minute) {
		t.Errorf("the clock has gone on by %v", time.Duration(now-before))
	}
	if gone := c.Suspended(); gone != 0 {
		t.Errorf("suspended for %v once more", gone)
	}
}
