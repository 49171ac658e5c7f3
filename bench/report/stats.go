package report

import (
	"math"
	"math/rand/v2"
	"slices"
	"sort"
)

// A Distribution is a set of values, in order, each with how often it was seen.
// The zero value is empty and ready.
type Distribution struct {
	values []float64
	upTo   []int64 // how many values there are up to and including this one
}

// NewDistribution takes values in any order. NaN is left out.
func NewDistribution(values []float64) Distribution {
	sorted := slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	slices.Sort(sorted)
	var d Distribution
	for _, v := range sorted {
		d.add(v, 1)
	}
	return d
}

// add appends a value that is not below the last.
func (d *Distribution) add(value float64, count int64) {
	before := d.Count()
	if n := len(d.values); n > 0 && d.values[n-1] == value {
		d.upTo[n-1] = before + count
		return
	}
	d.values = append(d.values, value)
	d.upTo = append(d.upTo, before+count)
}

// merge puts several distributions together.
func merge(all []Distribution) Distribution {
	type bar struct {
		value float64
		count int64
	}
	var bars []bar
	for _, d := range all {
		before := int64(0)
		for i, v := range d.values {
			bars = append(bars, bar{v, d.upTo[i] - before})
			before = d.upTo[i]
		}
	}
	sort.SliceStable(bars, func(i, j int) bool { return bars[i].value < bars[j].value })
	var sum Distribution
	for _, b := range bars {
		sum.add(b.value, b.count)
	}
	return sum
}

// shift gives the distribution with x added to every value.
func (d Distribution) shift(x float64) Distribution {
	moved := slices.Clone(d.values)
	for i := range moved {
		moved[i] += x
	}
	return Distribution{moved, d.upTo}
}

// Count is how many values there are.
func (d Distribution) Count() int64 {
	if len(d.upTo) == 0 {
		return 0
	}
	return d.upTo[len(d.upTo)-1]
}

// at is the value of a rank, counted from 0.
func (d Distribution) at(rank int64) float64 {
	return d.values[sort.Search(len(d.upTo), func(i int) bool { return d.upTo[i] > rank })]
}

// Quantile is the value that the share q (0 to 1) of the values does not
// exceed, interpolated linearly as numpy and so flent do. It is NaN where there
// are no values.
func (d Distribution) Quantile(q float64) float64 {
	n := d.Count()
	if n == 0 {
		return math.NaN()
	}
	position := min(max(q, 0), 1) * float64(n-1)
	low := int64(position)
	a, b := d.at(low), d.at(min(low+1, n-1))
	return a + (b-a)*(position-float64(low))
}

// Mean is the arithmetic mean, NaN where there are no values.
func (d Distribution) Mean() float64 {
	sum, before := 0.0, int64(0)
	for i, v := range d.values {
		sum += v * float64(d.upTo[i]-before)
		before = d.upTo[i]
	}
	return sum / float64(d.Count())
}

// A Spread sums up one figure over the repetitions of a run.
type Spread struct {
	N                int
	Median, Min, Max float64
	// Low and High are the 95 % confidence interval of the median, NaN with
	// fewer than six values, of which none can be given.
	Low, High float64
}

// NewSpread sums up values, in any order; NaN is left out. With none left,
// everything but N is NaN.
func NewSpread(values []float64) Spread {
	d := NewDistribution(values)
	low, high := medianInterval(d)
	return Spread{N: int(d.Count()), Median: d.Quantile(0.5), Min: d.Quantile(0), Max: d.Quantile(1), Low: low, High: high}
}

// medianInterval is the 95 % confidence interval of the median by order
// statistics: the narrowest pair of ranks, as far from each end, that a fair
// coin puts around the median in at least 95 of 100 cases. It assumes nothing
// about how the values are distributed.
func medianInterval(d Distribution) (low, high float64) {
	n := int(d.Count())
	tail, ranks := 0.0, -1 // chance that at most so many values lie below it
	for k := 0; k < n/2; k++ {
		tail += choose(n, k) * math.Pow(0.5, float64(n))
		if tail > 0.025 {
			break
		}
		ranks = k
	}
	if ranks < 0 {
		return math.NaN(), math.NaN()
	}
	return d.at(int64(ranks)), d.at(int64(n - 1 - ranks))
}

func choose(n, k int) float64 {
	product := 1.0
	for i := range k {
		product *= float64(n-i) / float64(i+1)
	}
	return product
}

// resamples is how often a bootstrap draws.
const resamples = 4000

// medianDifference is how much larger the median of b is than that of a, with
// its 95 % confidence interval by the percentile bootstrap. The draws are
// seeded, so that the same values always give the same interval. Neither may
// be empty.
func medianDifference(a, b []float64) (difference, low, high float64) {
	random := rand.New(rand.NewPCG(8289, 8290))
	draws := make([]float64, resamples)
	roomA, roomB := make([]float64, len(a)), make([]float64, len(b))
	for i := range draws {
		draws[i] = redraw(random, b, roomB) - redraw(random, a, roomA)
	}
	d := NewDistribution(draws)
	return median(b) - median(a), d.Quantile(0.025), d.Quantile(0.975)
}

// redraw is the median of as many values drawn from values, with replacement.
func redraw(random *rand.Rand, values, room []float64) float64 {
	for i := range room {
		room[i] = values[random.IntN(len(values))]
	}
	slices.Sort(room)
	return middle(room)
}

func median(values []float64) float64 { return NewDistribution(values).Quantile(0.5) }

// middle is the median of sorted values.
func middle(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
