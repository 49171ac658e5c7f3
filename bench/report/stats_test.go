package report

import (
	"math"
	"testing"
)

var nan = math.NaN()

// near tells whether two figures are the same but for rounding; NaN is NaN.
func near(a, b float64) bool {
	return math.IsNaN(a) && math.IsNaN(b) || math.Abs(a-b) < 1e-9
}

// The wanted figures are numpy's: numpy.percentile(values, 100*q).
func TestQuantile(t *testing.T) {
	for _, test := range []struct {
		values  []float64
		q, want float64
	}{
		{nil, 0.5, nan},
		{[]float64{nan}, 0.5, nan},
		{[]float64{7}, 0, 7},
		{[]float64{7}, 1, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{1, 2, 3, 4, nan}, 0.25, 1.75},
		{[]float64{1, 2, 3, 4}, 0.99, 3.97},
		{[]float64{1, 1, 1, 5}, 0.5, 1},
		{[]float64{1, 1, 1, 5}, 0.9, 3.8},
		{[]float64{-2, 2}, 0.5, 0},
		{[]float64{1, 2}, -1, 1},
		{[]float64{1, 2}, 2, 2},
	} {
		if got := NewDistribution(test.values).Quantile(test.q); !near(got, test.want) {
			t.Errorf("Quantile(%v) of %v is %v, want %v", test.q, test.values, got, test.want)
		}
	}
}

func TestMergeKeepsEveryValue(t *testing.T) {
	d := merge([]Distribution{NewDistribution([]float64{1, 5, 5}), {}, NewDistribution([]float64{5, 2})}).shift(1)
	if d.Count() != 5 || d.Quantile(0) != 2 || d.Quantile(0.5) != 6 || d.Quantile(1) != 6 || !near(d.Mean(), 4.6) {
		t.Errorf("merged and shifted: count %d, %v to %v, median %v, mean %v", d.Count(), d.Quantile(0), d.Quantile(1), d.Quantile(0.5), d.Mean())
	}
}

// The ranks are those of tables of the sign test, such as in Conover's
// Practical Nonparametric Statistics: n = 6 → 1st and 6th, 9 → 2nd and 8th,
// 20 → 6th and 15th.
func TestSpread(t *testing.T) {
	count := func(n int) []float64 {
		values := make([]float64, n)
		for i := range values {
			values[i] = float64(n - i)
		}
		return values
	}
	for _, test := range []struct {
		values []float64
		want   Spread
	}{
		{nil, Spread{0, nan, nan, nan, nan, nan}},
		{[]float64{3}, Spread{1, 3, 3, 3, nan, nan}},
		{[]float64{3, nan, 1}, Spread{2, 2, 1, 3, nan, nan}},
		{count(5), Spread{5, 3, 1, 5, nan, nan}},
		{count(6), Spread{6, 3.5, 1, 6, 1, 6}},
		{count(9), Spread{9, 5, 1, 9, 2, 8}},
		{count(20), Spread{20, 10.5, 1, 20, 6, 15}},
	} {
		got := NewSpread(test.values)
		if got.N != test.want.N || !near(got.Median, test.want.Median) || !near(got.Min, test.want.Min) ||
			!near(got.Max, test.want.Max) || !near(got.Low, test.want.Low) || !near(got.High, test.want.High) {
			t.Errorf("NewSpread(%v) is %+v, want %+v", test.values, got, test.want)
		}
	}
}

func TestMedianDifference(t *testing.T) {
	a, b := []float64{10, 11, 12, 13, 14}, []float64{20, 21, 22, 23, 24}
	difference, low, high := medianDifference(a, b)
	if difference != 10 || !(low < 10 && low >= 6) || !(high > 10 && high <= 14) {
		t.Errorf("difference is %v, %v to %v; want 10, within 6 to 14", difference, low, high)
	}
	again, low2, high2 := medianDifference(a, b)
	if again != difference || low2 != low || high2 != high {
		t.Error("the same values gave another interval")
	}
	if d, low, high := medianDifference([]float64{5, 5}, []float64{5}); d != 0 || low != 0 || high != 0 {
		t.Errorf("equal values differ by %v, %v to %v", d, low, high)
	}
}

func TestResample(t *testing.T) {
	times, values := []float64{0, 1, 2, 3}, []float64{10, 20, nan, 40}
	for _, test := range []struct{ at, want float64 }{
		{-0.1, nan}, {0, 10}, {0.5, 15}, {1, 20}, {1 - 1e-12, 20}, {1.5, nan}, {2, nan}, {2.5, nan}, {3, 40}, {3.1, nan},
	} {
		if got := interpolate(times, values, test.at); !near(got, test.want) {
			t.Errorf("at %v: %v, want %v", test.at, got, test.want)
		}
	}
	if got := interpolate(nil, nil, 1); !math.IsNaN(got) {
		t.Errorf("of nothing: %v", got)
	}
}
