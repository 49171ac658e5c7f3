package tunnel

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestHistogramBuckets(t *testing.T) {
	for _, c := range []struct {
		ns int64
		le float64 // ms
	}{
		{0, 0.01}, {-5, 0.01}, {1, 0.01}, {10e3, 0.01}, {10e3 + 1, 0.02}, {50e3, 0.05}, {499e3, 0.5},
		{5e6, 5}, {5e6 + 1, 10}, {1e9, 1000}, {10e9, 10000}, {10e9 + 1, 0}, {1 << 60, 0},
	} {
		var h histogram
		h.observe(c.ns)
		s := h.status()
		if len(s.Buckets) != 1 || s.Buckets[0].LeMs != c.le || s.Count != 1 {
			t.Errorf("%d ns: %+v, want the bucket up to %v ms", c.ns, s, c.le)
		}
	}
}

// Against an obvious count of what is at most each bound.
func TestHistogramCumulative(t *testing.T) {
	var h, other histogram
	r := rand.New(rand.NewPCG(1, 2))
	want := make(map[float64]uint64)
	sum := int64(0)
	for n := range 10000 {
		ns := int64(r.ExpFloat64() * 20e6)
		if n%100 == 0 {
			ns *= 1000
		}
		sum += ns
		if n%2 == 0 {
			h.observe(ns)
		} else {
			other.observe(ns)
		}
		for _, bound := range histogramBounds {
			seconds := time.Duration(bound).Seconds()
			if want[seconds] += 0; ns <= bound {
				want[seconds]++
			}
		}
	}
	h.add(&other)
	text, err := json.Marshal(h.status())
	if err != nil {
		t.Fatal(err)
	}
	var s HistogramStatus
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, s.Cumulative()); diff != "" {
		t.Error(diff)
	}
	if s.Count != 10000 || s.SumMs != *milliseconds(sum) {
		t.Errorf("%d with a sum of %v ms, want 10000 with %v", s.Count, s.SumMs, *milliseconds(sum))
	}
}

// Both kinds count alike.
func TestSharedHistogram(t *testing.T) {
	var shared sharedHistogram
	var own, got histogram
	for ns := int64(-1); ns < 1e11; ns = ns*3 + 5 {
		shared.observe(ns)
		own.observe(ns)
	}
	if shared.addTo(&got); got != own {
		t.Errorf("%+v, want %+v", got, own)
	}
}

func TestEmptyHistogramIsNotShown(t *testing.T) {
	if s := new(histogram).status(); s != nil {
		t.Errorf("%+v", s)
	}
}

// BenchmarkHistogram is what a packet costs: most waited for tens of
// microseconds, some for milliseconds.
func BenchmarkHistogram(b *testing.B) {
	var h histogram
	times := [8]int64{8e3, 12e3, 15e3, 30e3, 9e3, 60e3, 1e3, 4e6}
	for i := 0; b.Loop(); i++ {
		h.observe(times[i%len(times)])
	}
}
