package report

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVerdicts(t *testing.T) {
	times := func(values ...float64) []float64 { return values }
	for _, test := range []struct {
		metric string
		a, b   []float64
		want   string
	}{
		{MetricInducedMedian, times(20, 21, 22, 23, 24), times(0.7, 0.7, 0.8, 0.8, 0.8), Better},
		{MetricInducedMedian, times(0.7, 0.7, 0.8, 0.8, 0.8), times(20, 21, 22, 23, 24), Worse},
		{MetricInducedMedian, times(0.6, 0.6, 0.6, 0.6, 0.6), times(0.7, 0.7, 0.7, 0.7, 0.7), Same}, // 0.1 ms is no difference
		{MetricInducedMedian, times(10, 20, 30, 40, 40), times(12, 22, 28, 41, 41), Agree},
		{MetricInducedMedian, times(9, 9, 9, 9, 30), times(9, 30, 30, 30, 30), Agree},                         // of two states, each the more frequent once
		{MetricInducedMedian, times(0.58, 0.58, 0.58, 0.59, 0.63), times(0.63, 0.64, 0.66, 0.73, 8.3), Agree}, // medians are 0.08 ms apart
		{MetricInducedMedian, times(20, 21, 22, 23), times(0.7, 0.7, 0.8, 0.8), Unsure},                       // too few
		{MetricInducedMedian, times(20, 21, 22, 23, 24), nil, Unsure},
		{MetricGoodputUp, times(15, 15.1, 15.2, 15.2, 15.3), times(17, 17.1, 17.2, 17.2, 17.3), Better},
		{MetricGoodputUp, times(17, 17.1, 17.2, 17.2, 17.3), times(15, 15.1, 15.2, 15.2, 15.3), Worse},
		{MetricGoodputUp, times(17, 17.1, 17.2, 17.2, 17.3), times(17.1, 17.1, 17.2, 17.2, 17.3), Same},
		{MetricLost, times(0, 0, 0, 0, 0), times(0.1, 0.1, 0.1, 0.1, 0.1), Same},
		{MetricLost, times(0, 0, 0, 0, 0), times(1, 1, 1, 1, 1), Worse},
		{MetricLanesPeak, times(9, 9, 9, 9, 9), times(64, 64, 64, 64, 64), Differ},
		{"acked_packets_s", times(1, 1, 1, 1, 1), times(2, 2, 2, 2, 2), Better},
		{"dropped_packets_count", times(1, 1, 1, 1, 1), times(2, 2, 2, 2, 2), Worse},
		{"memory_mib", times(2, 2, 2, 2, 2), times(1, 1, 1, 1, 1), Better},
		{"made_up", times(2, 2, 2, 2, 2), times(1, 1, 1, 1, 1), Differ},
	} {
		if got := difference(kindOf(test.metric), test.a, test.b); got.Verdict != test.want {
			t.Errorf("%s from %v to %v: %q (%v, %v to %v), want %q", test.metric, test.a, test.b, got.Verdict, got.Change, got.Low, got.High, test.want)
		}
	}
}

func TestCompare(t *testing.T) {
	a, b := sampleDocument(1, 6), sampleDocument(2, 6)
	a.Runs, b.Runs = a.Runs[:24], b.Runs[6:30] // "no tunnel" only in A, "tinc" only in B
	for i := range b.Runs {
		if b.Runs[i].Tunnel.Name == "kiloport" && b.Runs[i].Repetition == 6 {
			b.Runs[i].Error = "it ended"
		}
	}
	b.Environment.CPU = "Another CPU"
	var out strings.Builder
	if err := Compare(a, b, &out); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/compare.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if err := Compare(a, b, brokenWriter{}); err == nil {
		t.Error("no error of a writer that fails")
	}
}

// TestCopiesAreNoAgreement wants a note where a run of one document has the seed and
// the samples of one of the other.
func TestCopiesAreNoAgreement(t *testing.T) {
	for _, test := range []struct {
		seed uint64 // of B's second repetition; A's is 11
		b    uint64 // what B's samples are drawn with, A's with 1
		want bool
	}{{11, 1, true}, {11, 2, false}, {13, 1, false}, {0, 1, false}} {
		a, b := sampleDocument(1, 3), sampleDocument(test.b, 3)
		for i := range a.Runs {
			a.Runs[i].Seed = uint64(9 + a.Runs[i].Repetition)
			b.Runs[i].Seed = uint64(20 + b.Runs[i].Repetition)
			if b.Runs[i].Repetition == 2 {
				b.Runs[i].Seed = test.seed
			}
		}
		var out strings.Builder
		if err := Compare(a, b, &out); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), "no. 2 (seed 11), to the last digit"); got != test.want {
			t.Errorf("%+v: note %v", test, got)
		}
	}
}

// TestLoadsOfDifferentLengths wants a note where counts cannot be the same.
func TestLoadsOfDifferentLengths(t *testing.T) {
	for _, test := range []struct {
		seconds float64
		want    bool
	}{{11, true}, {12, false}} {
		a, b := sampleDocument(1, 1), sampleDocument(2, 1)
		for i := range b.Runs {
			b.Runs[i].Duration = test.seconds
		}
		var out strings.Builder
		if err := Compare(a, b, &out); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), "loads of A last 12 s and those of B 11 s"); got != test.want {
			t.Errorf("12 s and %v s: note %v, want %v", test.seconds, got, test.want)
		}
	}
}

// TestIntervalsHoldWhatTheyPromise compares medians of as few values as verdicts are
// given of, of distributions as TCP flows in one queue make them: a skewed one, and
// one of two states. 95 of 100 intervals or more have to contain the difference,
// which is none.
func TestIntervalsHoldWhatTheyPromise(t *testing.T) {
	const trials = 600
	random := rand.New(rand.NewPCG(1, 2))
	skewed := func() float64 { return 15 + 8*random.ExpFloat64() }
	ofTwoStates := func() float64 {
		if random.IntN(2) == 0 {
			return 30 + random.NormFloat64()
		}
		return 9 + random.ExpFloat64()
	}
	for i, value := range []func() float64{skewed, ofTwoStates} {
		series := func() []float64 {
			values := make([]float64, RepetitionsToTell)
			for i := range values {
				values[i] = value()
			}
			return values
		}
		held := 0
		for range trials {
			if _, low, high := medianDifference(series(), series()); low <= 0 && high >= 0 {
				held++
			}
		}
		if held < trials*95/100 {
			t.Errorf("distribution %d: %d of %d intervals of 95 %% hold", i, held, trials)
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

// TestPathsOfDifferentBurstsAreNotCompared wants a series before shapers with
// another burst to be another one.
func TestPathsOfDifferentBurstsAreNotCompared(t *testing.T) {
	a, b := sampleDocument(1, RepetitionsToTell), sampleDocument(2, RepetitionsToTell)
	for i := range b.Runs {
		b.Runs[i].Path.BurstMs = 10
	}
	for _, d := range Differences(a, b) {
		if d.Verdict != Unsure {
			t.Fatalf("%s over %s: %q", d.Metric, d.Path, d.Verdict)
		}
	}
}

func TestDifferencesOfItself(t *testing.T) {
	doc := sampleDocument(1, RepetitionsToTell)
	all := Differences(doc, doc)
	if len(all) == 0 {
		t.Fatal("nothing was compared")
	}
	for _, d := range all {
		if d.Change != 0 || d.Verdict == Better || d.Verdict == Worse || d.A.N != RepetitionsToTell {
			t.Errorf("a document differs from itself: %+v", d)
		}
	}
}
