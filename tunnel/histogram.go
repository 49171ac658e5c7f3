package tunnel

import (
	"sync/atomic"
	"time"
)

// histogramBounds are the upper ends of a histogram's buckets in nanoseconds:
// 1, 2, 5 from ten microseconds, less than a packet takes on any line, to ten
// seconds, longer than anything waits. There is one more for what is above.
var histogramBounds = [...]int64{
	10e3, 20e3, 50e3, 100e3, 200e3, 500e3,
	1e6, 2e6, 5e6, 10e6, 20e6, 50e6, 100e6, 200e6, 500e6,
	1e9, 2e9, 5e9, 10e9,
}

const histogramBuckets = len(histogramBounds) + 1

// bucketOf gives the bucket of a time in nanoseconds. The scan is short: most
// times are, and the bounds are next to each other in memory.
func bucketOf(ns int64) int {
	i := 0
	for i < len(histogramBounds) && ns > histogramBounds[i] {
		i++
	}
	return i
}

// histogram counts times. It has a fixed size and one owner. The zero histogram
// is empty.
type histogram struct {
	buckets [histogramBuckets]uint64
	sum     uint64 // ns
}

// observe counts a time in nanoseconds.
func (h *histogram) observe(ns int64) {
	h.buckets[bucketOf(ns)]++
	h.sum += uint64(max(ns, 0))
}

// add counts everything that another has counted.
func (h *histogram) add(o *histogram) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.sum += o.sum
}

// sharedHistogram is one that others may read while it counts.
type sharedHistogram struct {
	buckets [histogramBuckets]atomic.Uint64
	sum     atomic.Uint64
}

// observe counts a time in nanoseconds.
func (h *sharedHistogram) observe(ns int64) {
	h.buckets[bucketOf(ns)].Add(1)
	h.sum.Add(uint64(max(ns, 0)))
}

// addTo adds everything to a sum.
func (h *sharedHistogram) addTo(sum *histogram) {
	for i := range h.buckets {
		sum.buckets[i] += h.buckets[i].Load()
	}
	sum.sum += h.sum.Load()
}

// status gives nil if nothing was counted.
func (h *histogram) status() *HistogramStatus {
	s := &HistogramStatus{SumMs: *milliseconds(int64(h.sum))}
	for i, n := range h.buckets {
		if n == 0 {
			continue
		}
		s.Count += n
		b := HistogramBucket{Count: n}
		if i < len(histogramBounds) {
			b.LeMs = *milliseconds(histogramBounds[i])
		}
		s.Buckets = append(s.Buckets, b)
	}
	if s.Count == 0 {
		return nil
	}
	return s
}

// HistogramStatus is how often something took how long, since the device, or the
// peer, was made.
type HistogramStatus struct {
	Count uint64 `json:"count"`
	// SumMs is all times together, in ms.
	SumMs float64 `json:"sum_ms"`
	// Buckets are those that are not empty, the shortest times first.
	Buckets []HistogramBucket `json:"buckets"`
}

// HistogramBucket is one range of times: from the next lower end of a bucket,
// which may be one that is not listed, to its own.
type HistogramBucket struct {
	// LeMs is the longest time that counts here, in ms: 1, 2 or 5 times a power
	// of ten, from 0.01 to 10000. The bucket for all longer ones has none.
	LeMs  float64 `json:"le_ms,omitempty"`
	Count uint64  `json:"count"`
}

// Cumulative gives how many took at most so many seconds, for the upper end of
// every bucket, as Prometheus counts.
func (s *HistogramStatus) Cumulative() map[float64]uint64 {
	all := make(map[float64]uint64, len(histogramBounds))
	sum, next := uint64(0), 0
	for _, bound := range histogramBounds {
		if next < len(s.Buckets) && s.Buckets[next].LeMs == *milliseconds(bound) {
			sum += s.Buckets[next].Count
			next++
		}
		all[time.Duration(bound).Seconds()] = sum
	}
	return all
}
