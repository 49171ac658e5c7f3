package tunnel

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Steps of a need, each what the threads did since the one before.
func TestNeed(t *testing.T) {
	const tick = urgencyEvery
	busy := step{ran: tick, waited: tick / 2, sparse: true}
	calm := step{ran: tick / 10, waited: tick / 100, sparse: true}
	fast := step{ran: tick / 2, waited: tick / 100, sparse: true} // much to do, nobody in the way
	for _, test := range []struct {
		name  string
		steps []step
		want  string // of each step: u is urgent
	}{
		{"nothing before the first period has passed", []step{busy}, "-"},
		{"processors are short and somebody waits", []step{calm, busy, busy}, "-uu"},
		{"processors are short for what is only bulk", []step{calm, {ran: tick, waited: tick}, busy}, "--u"},
		{"a daemon that waits little, for what it does", []step{calm, {ran: tick, waited: tick / 6, sparse: true}}, "--"},
		{"many threads that are all just woken up often", []step{calm, {ran: 16 * tick, waited: tick, sparse: true}}, "--"},
		{"a thread that ended takes its times along", []step{calm, {ran: -tick, waited: -tick, sparse: true}, busy}, "--u"},
		{"it lasts for the hold", []step{calm, busy, calm.lasting(leastHold - tick), calm}, "-uu-"},
		{"as long as there is much to do", []step{calm, busy, fast.lasting(2 * leastHold), fast, calm}, "-uuu-"},
		{"the hold begins anew while processors are short", []step{calm, busy, busy.lasting(leastHold), calm, calm.lasting(leastHold)}, "-uuu-"},
		{
			"and is twice as long if it comes again soon",
			[]step{calm, busy, calm.lasting(leastHold), busy, calm.lasting(leastHold), calm.lasting(leastHold)},
			"-u-uu-",
		},
		{
			"but not if it comes again late",
			[]step{calm, busy, calm.lasting(leastHold), calm.lasting(leastHold), busy, calm.lasting(leastHold)},
			"-u--u-",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var n need
			now, ran, waited, got := int64(1), time.Hour, time.Hour, ""
			for _, s := range test.steps {
				now += int64(max(s.lasts, tick))
				ran, waited = ran+s.ran, waited+s.waited
				got += map[bool]string{true: "u", false: "-"}[n.decide(now, ran, waited, s.sparse)]
			}
			if got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

type step struct {
	ran, waited time.Duration
	sparse      bool
	lasts       time.Duration // 0: urgencyEvery
}

// lasting makes a step of d, in which the same is done all the time.
func (s step) lasting(d time.Duration) step {
	n := d / urgencyEvery
	return step{ran: s.ran * n, waited: s.waited * n, sparse: s.sparse, lasts: d}
}

func TestHoldHasAnEnd(t *testing.T) {
	var n need
	now, waited := int64(1), time.Duration(0)
	for range 100 {
		now += int64(urgencyEvery)
		n.decide(now, 0, waited, true)
		now, waited = now+int64(urgencyEvery), waited+urgencyEvery
		if !n.decide(now, 0, waited, true) {
			t.Fatal("not urgent")
		}
		now += int64(mostHold)
		if n.decide(now, 0, waited, true) {
			t.Fatalf("still urgent after %v without a reason", mostHold)
		}
	}
}

// crowded is a Scheduler of a machine whose processors are short if it says so.
type crowded struct {
	mu      sync.Mutex
	short   bool
	refuses error
	raised  int // now
	raises  int // in all
	naps    int
	assists []int // of how many goroutines
	desists int
	began   time.Time
	// ending, if closed, ends naps: a test that closes a device waits for it in
	// ways that keep a bubble's time from passing.
	ending chan struct{}
}

func (c *crowded) Raise() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuses != nil {
		return c.refuses
	}
	c.raised++
	c.raises++
	return nil
}

func (c *crowded) Lower() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raised--
}

func (c *crowded) Assist(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.assists = append(c.assists, n)
	return nil
}

func (c *crowded) Desist() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.desists++
	return nil
}

func (c *crowded) Nap(d time.Duration) {
	c.mu.Lock()
	c.naps++
	c.mu.Unlock()
	select {
	case <-time.After(d):
	case <-c.ending:
	}
}

func (c *crowded) Usage() (ran, waited time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.short {
		return 0, time.Since(c.began), nil
	}
	c.began = time.Now()
	return 0, 0, nil
}

func (c *crowded) set(short bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.short, c.began = short, time.Now()
}

// crossings sends sparse datagrams from a to b for a while, and tells how many came.
func crossings(a, b *site, n int) int {
	for i := range n {
		a.tun.in <- a.udp(b, 2000, uint64(i), 100)
		time.Sleep(20 * time.Millisecond)
	}
	synctest.Wait()
	return len(b.tun.received())
}

// While processors are short, all workers are raised and nap, and nothing is lost;
// then none is, and nothing is decided any more once nothing passes.
func TestWorkersGoFirstWhileProcessorsAreShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := &crowded{}
		a, b := pair(t, newMemNet(), func(c *Config) {
			if c.Scheduler == nil {
				c.Scheduler = machine
			}
		})
		if n := crossings(a, b, 100); n != 100 || machine.naps != 0 || machine.raises != 0 {
			t.Errorf("at first %d of 100 arrived, with %d naps and %d workers raised", n, machine.naps, machine.raises)
		}
		machine.set(true)
		if n := crossings(a, b, 100); n != 100 || machine.naps == 0 {
			t.Errorf("when processors were short %d of 100 arrived, with %d naps", n, machine.naps)
		}
		// b sends nothing but keepalives and reports, which nobody waits for.
		if machine.raised != 2 || len(machine.assists) == 0 || machine.assists[0] != 2 {
			t.Errorf("%d workers are raised of two, assisted for %v", machine.raised, machine.assists)
		}
		if s := a.device.Status().Realtime; !strings.HasPrefix(s, "in use since ") {
			t.Errorf("status %q", s)
		}
		machine.set(false)
		if n := crossings(a, b, int(leastHold/(20*time.Millisecond))+100); n != int(leastHold/(20*time.Millisecond))+100 {
			t.Errorf("afterwards %d arrived", n)
		}
		if machine.raised != 0 || machine.desists != 1 {
			t.Errorf("afterwards %d workers are raised, and %d times the others were left alone", machine.raised, machine.desists)
		}
		naps := machine.naps
		crossings(a, b, 10)
		if machine.naps != naps {
			t.Error("workers nap although nothing is urgent")
		}
		if s := a.device.Status().Realtime; !strings.HasPrefix(s, "not needed since ") {
			t.Errorf("status %q", s)
		}
		a.stop()
		b.stop()
	})
}

// Raised workers end with the device, and are lowered.
func TestRaisedWorkersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := &crowded{short: true, began: time.Now(), ending: make(chan struct{})}
		a, b := pair(t, newMemNet(), func(c *Config) { c.Scheduler = machine })
		crossings(a, b, 100)
		if machine.raised == 0 {
			t.Error("none is raised")
		}
		close(machine.ending)
		a.stop()
		b.stop()
		synctest.Wait()
		if machine.raised != 0 || machine.desists == 0 {
			t.Errorf("%d workers are raised in the end; desisted %d times", machine.raised, machine.desists)
		}
	})
}

func TestWorkersThatMayNotGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := &crowded{short: true, began: time.Now(), refuses: errors.New("it takes CAP_SYS_NICE")}
		a, b := pair(t, newMemNet(), func(c *Config) { c.Scheduler = machine })
		if n := crossings(a, b, 100); n != 100 || machine.naps != 0 {
			t.Errorf("%d of 100 arrived, with %d naps", n, machine.naps)
		}
		if s := a.device.Status().Realtime; s != "it takes CAP_SYS_NICE" {
			t.Errorf("status %q", s)
		}
		a.stop()
		b.stop()
		if machine.raised != 0 {
			t.Errorf("%d are raised", machine.raised)
		}
	})
}
