package traffic

import (
	"testing"
	"time"
)

// The moments of a jitterer are anywhere within the jitter after each beat, the same
// for the same seed and flow.
func TestJitter(t *testing.T) {
	const interval, jitter, n = 20 * time.Millisecond, 10 * time.Millisecond, 1000
	start := time.Unix(1e9, 0)
	moments := func(seed, flow uint64) (all []time.Time, tenths [10]int) {
		j, err := newJitterer(pacer{next: start, interval: interval}, &Group{Jitter: jitter}, seed, flow)
		if err != nil {
			t.Fatal(err)
		}
		defer j.alarm.close()
		for i := range n {
			at := j.moment()
			late := at.Sub(start.Add(time.Duration(i) * interval))
			if late < 0 || late >= jitter {
				t.Fatalf("moment %d is %v after its beat", i, late)
			}
			all = append(all, at)
			tenths[late*10/jitter]++
		}
		return all, tenths
	}
	first, tenths := moments(1, 2)
	for i, count := range tenths {
		if count < n/10/2 || count > n/10*2 {
			t.Errorf("%d of %d moments are in tenth %d of the jitter", count, n, i)
		}
	}
	same := func(other []time.Time) (k int) {
		for i := range other {
			if other[i].Equal(first[i]) {
				k++
			}
		}
		return k
	}
	again, _ := moments(1, 2)
	otherSeed, _ := moments(2, 2)
	otherFlow, _ := moments(1, 3)
	if a, s, f := same(again), same(otherSeed), same(otherFlow); a != n || s > n/100 || f > n/100 {
		t.Errorf("of %d moments %d are the same again, %d with another seed, %d of another flow", n, a, s, f)
	}
}

// An alarm is never early, and one for the past does not wait.
func TestAlarm(t *testing.T) {
	a, err := newAlarm()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []time.Duration{-time.Hour, 0, 1, 300 * time.Microsecond, 2 * time.Millisecond} {
		from := time.Now()
		if err := a.sleep(d); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(from); took < d {
			t.Errorf("slept %v, want %v", took, d)
		}
	}
	a.close()
	if err := a.sleep(time.Hour); err == nil {
		t.Error("slept by an alarm that is closed")
	}
}
