package tunnel

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// mtuRig drives a pathMTU through virtual time. carries is the size of the path.
type mtuRig struct {
	m       pathMTU
	now     int64
	carries int
	dead    bool
	loss    func() bool
	rtt     time.Duration
	answers []rigAnswer
	sizes   map[uint64]int
	probes  int
	nextID  uint64
	used    bool
	spins   int // steps that wanted another one at once
}

func newMTURig(carries int) *mtuRig {
	return &mtuRig{now: 1e9, carries: carries, rtt: 20 * time.Millisecond, sizes: make(map[uint64]int), loss: func() bool { return false }, used: true}
}

func (r *mtuRig) run(d time.Duration) {
	for end := r.now + int64(d); r.now < end; r.now += int64(time.Millisecond) {
		for len(r.answers) > 0 && r.answers[0].due <= r.now {
			a := r.answers[0]
			r.answers = r.answers[1:]
			r.note(r.m.echoed(r.now, a.id))
		}
		if r.used {
			r.m.active(r.now)
		}
		if at := r.m.next(); at != 0 && at <= r.now {
			r.note(r.m.step(r.now, func() uint64 { r.nextID++; return r.nextID }))
			if at := r.m.next(); at != 0 && at <= r.now {
				r.spins++
			}
		}
	}
}

func (r *mtuRig) note(ev mtuEvents) {
	for _, p := range ev.probes {
		r.probes++
		r.sizes[p.id] = p.size
		if p.size <= r.carries && !r.dead && !r.loss() {
			r.answers = append(r.answers, rigAnswer{pendingProbe{id: p.id}, r.now + int64(r.rtt)})
		}
	}
}

// until runs until the search is over and gives how long it took.
func (r *mtuRig) until(t *testing.T) time.Duration {
	t.Helper()
	start := r.now
	for r.m.state == mtuSearching || r.m.confirm {
		if r.run(time.Millisecond); r.now-start > int64(20*time.Second) {
			t.Fatalf("the search does not end: %+v", r.m)
		}
	}
	return time.Duration(r.now - start)
}

func TestPathMTUIsFound(t *testing.T) {
	for _, most := range []int{1280, 1360, 1500, 9000} {
		for _, carries := range []int{576, 1000, 1280, 1300, 1399, 1400, 1401, 1492, 1500, 4000, 8999, 9000} {
			for _, rtt := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond} {
				t.Run(fmt.Sprintf("%d of %d, %v", carries, most, rtt), func(t *testing.T) {
					r := newMTURig(carries)
					r.rtt = rtt
					r.m.begin(r.now, leastMTU4, most)
					if r.m.size != most {
						t.Errorf("begins with %d", r.m.size)
					}
					took := r.until(t)
					want := min(carries, most)
					if r.m.state != mtuFound || r.m.size > want || r.m.size <= want-2*mtuGrain {
						t.Errorf("found %d (%v), the path carries %d", r.m.size, r.m.state, want)
					}
					if limit := 1200*time.Millisecond + 12*rtt; took > limit {
						t.Errorf("took %v", took)
					}
					if r.probes > 100 {
						t.Errorf("%d probes", r.probes)
					}
				})
			}
		}
	}
}

// TestPathMTUExactly: sizes that are common are found to the byte.
func TestPathMTUExactly(t *testing.T) {
	for _, carries := range []int{1280, 1400, 1492, 1500, 9000} {
		r := newMTURig(carries)
		r.m.begin(r.now, baseMTU, 9000)
		took := r.until(t)
		if r.m.size != carries {
			t.Errorf("found %d, the path carries %d", r.m.size, carries)
		}
		t.Logf("%d found after %v with %d probes", carries, took, r.probes)
	}
}

// TestPathMTUChanges: a path that becomes narrower is found to be so within half a
// second of the doubt, and one that becomes wider in time.
func TestPathMTUChanges(t *testing.T) {
	r := newMTURig(1500)
	r.m.begin(r.now, baseMTU, 1500)
	r.until(t)
	for _, carries := range []int{1492, 1280, 1400} {
		r.carries = carries
		if carries > r.m.size {
			r.run(time.Duration(mtuRaise) + 5*time.Second)
		} else {
			r.run(2 * time.Second)
			r.m.doubt(r.now)
			if took := r.until(t); took > 700*time.Millisecond {
				t.Errorf("found after %v", took)
			}
		}
		if r.m.size != carries {
			t.Errorf("size is %d (%v), the path carries %d", r.m.size, r.m.state, carries)
		}
	}
	// Nobody doubts it: found by the check that is made anyway.
	r.carries = 1300
	r.run(time.Duration(mtuConfirm) + 2*time.Second)
	if r.m.size > 1300 {
		t.Errorf("size is %d, the path carries 1300", r.m.size)
	}
}

// TestPathMTUBelievesNoAccident: what is lost by chance, and a path that is dead for a
// while, do not make it narrower.
func TestPathMTUBelievesNoAccident(t *testing.T) {
	r := newMTURig(1500)
	r.m.begin(r.now, baseMTU, 1500)
	r.until(t)
	r.dead = true
	r.m.doubt(r.now)
	r.run(5 * time.Minute)
	r.dead = false
	r.run(10 * time.Second)
	if r.m.size != 1500 || r.m.state != mtuFound {
		t.Errorf("size is %d (%v) after the path was dead", r.m.size, r.m.state)
	}
	random := rand.New(rand.NewPCG(1, 2))
	r.loss = func() bool { return random.IntN(20) == 0 }
	narrow := 0
	for range 600 {
		r.m.doubt(r.now)
		if r.run(time.Second); r.m.size < 1500 {
			narrow++
		}
	}
	if narrow > 6 {
		t.Errorf("narrower for %d s of 600 with one packet in twenty lost", narrow)
	}
}

func TestPathMTUWhileThePathIsDead(t *testing.T) {
	r := newMTURig(1400)
	r.dead = true
	r.m.begin(r.now, baseMTU, 1500)
	r.run(time.Minute)
	if r.m.state == mtuFound || r.m.size != 1500 {
		t.Errorf("size is %d (%v) though nothing was answered", r.m.size, r.m.state)
	}
	if r.probes > 200 {
		t.Errorf("%d probes in a minute", r.probes)
	}
	r.dead = false
	r.run(40 * time.Second)
	if r.m.size != 1400 || r.m.state != mtuFound {
		t.Errorf("size is %d (%v), the path carries 1400", r.m.size, r.m.state)
	}
}

func TestPathMTUSleepsWithoutData(t *testing.T) {
	r := newMTURig(1400)
	r.m.begin(r.now, baseMTU, 1500)
	r.until(t)
	r.run(time.Second)
	r.used = false
	r.run(2 * time.Minute)
	before := r.probes
	r.run(time.Hour)
	if r.probes != before || r.m.next() != 0 {
		t.Errorf("%d probes without data, next step at %d", r.probes-before, r.m.next())
	}
}

func TestPathMTUIgnoresForeignEchoes(t *testing.T) {
	r := newMTURig(100)
	r.m.begin(r.now, baseMTU, 1500)
	r.run(10 * time.Millisecond)
	if ev := r.m.echoed(r.now, 1<<40); ev.changed || r.m.low != 0 {
		t.Error("a foreign echo was believed")
	}
	if ev := r.m.echoed(r.now, 0); ev.changed || r.m.low != 0 {
		t.Error("an echo of no probe was believed")
	}
}

// TestPathMTUSleepsBetweenProbes: whatever was found, a step does not ask for the next
// one at once, for an hour of data and after it.
func TestPathMTUSleepsBetweenProbes(t *testing.T) {
	for name, r := range map[string]*mtuRig{
		"as wide as the link": newMTURig(1500), "narrower": newMTURig(1400), "nothing comes": newMTURig(100), "lossy": newMTURig(1500),
	} {
		t.Run(name, func(t *testing.T) {
			if name == "lossy" {
				random := rand.New(rand.NewPCG(1, 2))
				r.loss = func() bool { return random.IntN(3) == 0 }
			}
			r.m.begin(r.now, leastMTU4, 1500)
			r.run(time.Hour)
			r.used = false
			r.run(20 * time.Minute)
			if r.spins > 0 {
				t.Errorf("%d steps at once after another", r.spins)
			}
			if r.probes > 2000 {
				t.Errorf("%d probes", r.probes)
			}
		})
	}
}
