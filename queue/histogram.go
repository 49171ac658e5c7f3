package queue

import (
	"iter"
	"math/bits"
	"time"
)

// Histogram counts how long packets waited, in buckets of which each reaches a
// quarter of a power of two further than the one before: from 1 µs to 34 s, with
// an error of at most a quarter, in 768 bytes. The zero value is empty.
type Histogram struct{ counts [histogramBuckets]uint64 }

const (
	histogramBuckets = 96
	histogramShift   = 10 // the finest bucket is 1024 ns
	histogramParts   = 2  // log2 of the buckets to a power of two
)

// Add counts one time, nanoseconds. What is below 0 counts as 0.
func (h *Histogram) Add(t int64) { h.counts[histogramBucket(t)]++ }

// histogramBucket is where a time belongs.
func histogramBucket(t int64) int {
	u := uint64(max(t, 0)) >> histogramShift
	octave := max(bits.Len64(u)-1-histogramParts, 0)
	return min(octave<<histogramParts+int(u>>octave), histogramBuckets-1)
}

// histogramBound is where a bucket ends and the next one begins.
func histogramBound(bucket int) time.Duration {
	octave := max(bucket>>histogramParts-1, 0)
	return time.Duration(bucket+1-octave<<histogramParts) << octave << histogramShift
}

// Count is how many times were added.
func (h *Histogram) Count() (n uint64) {
	for _, c := range h.counts {
		n += c
	}
	return n
}

// Merge adds all that another histogram has counted, as that of another worker.
func (h *Histogram) Merge(other *Histogram) {
	for i, c := range other.counts {
		h.counts[i] += c
	}
}

// Since gives what was added after an earlier copy of the same histogram.
func (h *Histogram) Since(earlier *Histogram) (d Histogram) {
	for i, c := range h.counts {
		d.counts[i] = c - earlier.counts[i]
	}
	return d
}

// Quantile gives a time that a share of the packets, 0 to 1, did not exceed, to
// within a bucket; 0 if nothing was counted. The last bucket has no end; of what
// is in it, its beginning is given.
func (h *Histogram) Quantile(share float64) time.Duration {
	all := h.Count()
	if all == 0 {
		return 0
	}
	rank := min(uint64(share*float64(all)), all-1)
	for i, c := range h.counts[:histogramBuckets-1] {
		if rank < c {
			return histogramBound(i)
		}
		rank -= c
	}
	return histogramBound(histogramBuckets - 2)
}

// Buckets yields the end of each bucket and how many times are below it that are
// not below the one before. The last one, whose end is [Forever], is for all
// that is longer.
func (h *Histogram) Buckets() iter.Seq2[time.Duration, uint64] {
	return func(yield func(time.Duration, uint64) bool) {
		for i, c := range h.counts {
			end := histogramBound(i)
			if i == histogramBuckets-1 {
				end = Forever
			}
			if !yield(end, c) {
				return
			}
		}
	}
}

// Forever is where the last bucket of a [Histogram] ends.
const Forever = time.Duration(1<<63 - 1)
