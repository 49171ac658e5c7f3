package queue

import (
	"math"
	"testing"
	"time"
)

// Every time is in the bucket that ends after it and begins at or before it.
func TestHistogramBuckets(t *testing.T) {
	var ends []time.Duration
	for end := range new(Histogram).Buckets() {
		ends = append(ends, end)
	}
	for i := 1; i < len(ends); i++ {
		if ends[i] <= ends[i-1] || i > 4 && i < len(ends)-1 && float64(ends[i]) > 1.26*float64(ends[i-1]) {
			t.Errorf("bucket %d ends at %v, the one before at %v", i, ends[i], ends[i-1])
		}
	}
	if ends[0] != 1024 || ends[len(ends)-2] < 25*time.Second || ends[len(ends)-1] != Forever {
		t.Errorf("buckets from %v to %v, %v", ends[0], ends[len(ends)-2], ends[len(ends)-1])
	}
	for v := int64(1); v > 0 && v < math.MaxInt64/2; v += v/7 + 1 {
		for _, at := range []int64{v - 1, v, v + 1} {
			b := histogramBucket(at)
			if int64(ends[b]) <= at || b > 0 && int64(ends[b-1]) > at {
				t.Fatalf("%v is in bucket %d, which ends at %v", time.Duration(at), b, ends[b])
			}
		}
	}
}

func TestHistogramQuantile(t *testing.T) {
	var h, other Histogram
	if h.Quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
	for i := range int64(1000) {
		h.Add(i * 100_000)
	}
	for _, share := range []float64{0, 0.1, 0.5, 0.9, 0.99, 1} {
		exact := min(share*1000, 999) * 100_000
		if got := float64(h.Quantile(share)); got < exact || got > 1.25*exact+1024 {
			t.Errorf("quantile %v is %v, want %v", share, time.Duration(got), time.Duration(exact))
		}
	}
	earlier := h
	other.Add(-5)
	other.Add(math.MaxInt64)
	h.Merge(&other)
	if d := h.Since(&earlier); h.Count() != 1002 || d != other || d.Count() != 2 {
		t.Errorf("%d times after two more, %d since", h.Count(), d.Count())
	}
	if got := other.Quantile(1); got < 25*time.Second || got == Forever {
		t.Errorf("the longest time is %v", got)
	}
}
