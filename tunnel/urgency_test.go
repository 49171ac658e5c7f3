package tunnel

import (
	"errors"
	"slices"
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
	flood := step{ran: tick, waited: tick / 2, lost: true}
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
		{"what came before they were short has not waited", []step{calm, busy.before(2 * tick), busy.before(3 * tick), busy.before(tick)}, "---u"},
		{"much to do, but nobody waits any more", []step{calm, busy, {ran: leastHold / 2, lasts: leastHold}}, "-u-"},
		{"packets of a flood are lost, and not just at first", append([]step{calm}, slices.Repeat([]step{flood}, losingFor+1)...), "-" + strings.Repeat("-", losingFor-1) + "uu"},
		{"packets are lost now and then", append([]step{calm}, slices.Repeat([]step{flood, {ran: tick, waited: tick}}, losingFor)...), strings.Repeat("-", 1+2*losingFor)},
		{"packets are lost, but not for want of a processor", append([]step{calm}, slices.Repeat([]step{{ran: tick, lost: true}}, 2*losingFor)...), strings.Repeat("-", 1+2*losingFor)},
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
				got += map[bool]string{true: "u", false: "-"}[n.decide(now, ran, waited, s.seen(now), s.loss(now))]
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
	lost        bool          // packets were
	lasts       time.Duration // 0: urgencyEvery
	ago         time.Duration // the packet of a sparse flow came, before the step's end
}

func (s step) before(d time.Duration) step { s.ago = d; return s }

// seen is when the packet of a sparse flow came.
func (s step) seen(now int64) int64 {
	if !s.sparse {
		return 0
	}
	return now - int64(s.ago)
}

// loss is when a packet was lost.
func (s step) loss(now int64) int64 {
	if !s.lost {
		return 0
	}
	return now
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
		n.decide(now, 0, waited, now, 0)
		now, waited = now+int64(urgencyEvery), waited+urgencyEvery
		if !n.decide(now, 0, waited, now, 0) {
			t.Fatal("not urgent")
		}
		now += int64(mostHold)
		if n.decide(now, 0, waited, now, 0) {
			t.Fatalf("still urgent after %v without a reason", mostHold)
		}
	}
}

// crowded is a Scheduler of a machine whose processors are short if it says so.
type crowded struct {
	mu      sync.Mutex
	short   bool
	refuses error
	first   []int // for how many goroutines, each time
	lasts   int
	before  bool // all go first
	naps    int
	began   time.Time
	// ending, if closed, ends naps: a test that closes a device waits for it in
	// ways that keep a bubble's time from passing.
	ending chan struct{}
}

func (c *crowded) First(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuses == nil {
		c.before = true
		c.first = append(c.first, n)
	}
	return c.refuses
}

func (c *crowded) Last() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before = false
	c.lasts++
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

// While processors are short, all workers go first and nap, and nothing is lost;
// then none does, and nothing is decided any more once nothing passes.
func TestWorkersGoFirstWhileProcessorsAreShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := &crowded{}
		a, b := pair(t, newMemNet(), func(c *Config) {
			if c.Scheduler == nil {
				c.Scheduler = machine
			}
		})
		if n := crossings(a, b, 100); n != 100 || machine.naps != 0 || machine.before {
			t.Errorf("at first %d of 100 arrived, with %d naps; before others: %v", n, machine.naps, machine.before)
		}
		machine.set(true)
		if n := crossings(a, b, 100); n != 100 || machine.naps == 0 {
			t.Errorf("when processors were short %d of 100 arrived, with %d naps", n, machine.naps)
		}
		// b sends nothing but keepalives and reports, which nobody waits for.
		if !machine.before || machine.first[0] != 2 {
			t.Errorf("before others: %v, two workers nap, and room was made for %v", machine.before, machine.first)
		}
		if s := a.device.Status().Realtime; !strings.HasPrefix(s, "in use since ") {
			t.Errorf("status %q", s)
		}
		machine.set(false)
		if n := crossings(a, b, int(leastHold/(20*time.Millisecond))+100); n != int(leastHold/(20*time.Millisecond))+100 {
			t.Errorf("afterwards %d arrived", n)
		}
		if machine.before || machine.lasts != 2 {
			t.Errorf("afterwards before others: %v, ended %d times", machine.before, machine.lasts)
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

// What is only bulk waits like any program, until some of it is lost.
func TestWorkersGoFirstForAFloodThatIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := &crowded{ending: make(chan struct{})}
		a, b := pair(t, newMemNet(), func(c *Config) {
			if c.Scheduler == nil {
				c.Scheduler = machine
			}
		})
		flood := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
				for range 10 {
					a.tun.in <- a.udp(b, 2000, 0, 1000)
				}
			}
			synctest.Wait()
		}
		flood(2 * sparseFor)
		machine.set(true)
		flood(time.Second)
		if machine.before {
			t.Error("they go first for a flood of which nothing is lost")
		}
		for range 4 * losingFor {
			a.device.urgency.lost(a.device.clock.Now())
			flood(urgencyEvery / 2)
		}
		if !machine.before {
			t.Error("they do not go first, though packets of a flood are lost")
		}
		close(machine.ending)
		a.stop()
		b.stop()
	})
}

// A queue that overflows is a loss, one that CoDel keeps short is none.
func TestOverflowIsALoss(t *testing.T) {
	a, b, _ := stillPair(t)
	transmit := a.device.transmit[0]
	flood := a.udp(b.site, 2000, 1, 1000)
	transmit.now = a.clock.Now()
	n := 0
	for ; a.device.urgency.lostAt.Load() == 0; n++ {
		if n > 1<<16 {
			t.Fatalf("%d packets fit into the queue", n)
		}
		transmit.offer(flood)
	}
	if at := a.device.urgency.lostAt.Load(); at != transmit.now {
		t.Errorf("urgency was told of a loss at %d, now is %d", at, transmit.now)
	}
	if drops := a.device.Status().Totals.Drops; n < 1000 || drops["overlimit"] == 0 {
		t.Errorf("%d packets, and dropped were %v", n, drops)
	}
	a.device.urgency.lostAt.Store(0)
	for range 1000 {
		a.clock.now.Add(10e6)
		transmit.send()
	}
	if at := a.device.urgency.lostAt.Load(); at != 0 {
		t.Errorf("what CoDel dropped was a loss at %d", at)
	}
}

// An urgent worker that always finds a packet, and never two, naps all the same.
func TestUrgentWorkersNapThoughThereIsAlwaysAPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := &crowded{short: true, began: time.Now(), ending: make(chan struct{})}
		a, b := pair(t, newMemNet(), func(c *Config) {
			if c.Scheduler == nil {
				c.Scheduler = machine
			}
		})
		crossings(a, b, 100)
		const lasts = time.Second
		end := time.Now().Add(lasts)
		next := func() []byte {
			time.Sleep(100 * time.Microsecond) // what it costs
			return a.udp(b, 2000, 0, 100)
		}
		machine.mu.Lock()
		before := machine.naps
		machine.mu.Unlock()
		a.tun.endless.Store(&next)
		time.Sleep(time.Until(end))
		a.tun.endless.Store(nil)
		machine.mu.Lock()
		naps := machine.naps - before
		machine.mu.Unlock()
		t.Logf("%d naps in %v", naps, lasts)
		// Of the two workers one has nothing to receive, and dozes.
		if want := int(lasts / (longestRun + napFor)); naps < want*9/10 || naps > want*12/10 {
			t.Errorf("%d naps in %v, want %d by who sends", naps, lasts, want)
		}
		close(machine.ending)
		a.stop()
		b.stop()
	})
}

// Urgent workers end with the device, and nobody goes first then.
func TestUrgentWorkersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := &crowded{short: true, began: time.Now(), ending: make(chan struct{})}
		a, b := pair(t, newMemNet(), func(c *Config) { c.Scheduler = machine })
		crossings(a, b, 100)
		if !machine.before {
			t.Error("they do not go first")
		}
		close(machine.ending)
		a.stop()
		b.stop()
		synctest.Wait()
		if machine.before {
			t.Error("they go first in the end")
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
		if machine.before {
			t.Error("they go first")
		}
	})
}
