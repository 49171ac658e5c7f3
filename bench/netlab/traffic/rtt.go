package traffic

import (
	"slices"
	"time"
)

// maxSamples bounds the round trips that one flow remembers.
const maxSamples = 1 << 14

// samples are the round-trip times of a flow. It remembers all of them until
// there are maxSamples, and from then on every second, fourth, … one, so that
// the percentiles stay those of the whole time. Count, minimum and worst stay
// exact. The zero value is ready.
type samples struct {
	kept       []time.Duration
	skip       uint64 // one in skip+1 is kept
	count      uint64
	best, most time.Duration
}

func (s *samples) add(d time.Duration) {
	if s.count == 0 || d < s.best {
		s.best = d
	}
	s.most = max(s.most, d)
	if s.count%(s.skip+1) == 0 {
		s.kept = append(s.kept, d)
	}
	s.count++
	if len(s.kept) < maxSamples {
		return
	}
	for i := range maxSamples / 2 {
		s.kept[i] = s.kept[2*i]
	}
	s.kept = s.kept[:maxSamples/2]
	s.skip = 2*s.skip + 1
}

// summarize sums up the samples of several flows of one kind.
func summarize(all ...*samples) RTT {
	var r RTT
	var kept []time.Duration
	for _, s := range all {
		if s.count == 0 {
			continue
		}
		if r.Count == 0 || s.best < r.Min {
			r.Min = s.best
		}
		r.Worst = max(r.Worst, s.most)
		r.Count += s.count
		kept = append(kept, s.kept...)
	}
	if len(kept) == 0 {
		return r
	}
	slices.Sort(kept)
	r.Median = percentile(kept, 50)
	r.P99 = percentile(kept, 99)
	return r
}

// percentile is the smallest value that p percent of the sorted values do not
// exceed (nearest rank).
func percentile(sorted []time.Duration, p int) time.Duration {
	rank := (len(sorted)*p + 99) / 100
	return sorted[max(rank, 1)-1]
}
