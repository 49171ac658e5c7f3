package noise_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"kiloport/tunnel/noise"
)

// oracle is the definition: a set of all counters ever accepted.
type oracle struct {
	bits uint64
	last uint64
	seen map[uint64]bool
}

func (o *oracle) accept(c, limit uint64) bool {
	if c >= limit || o.seen[c] || (c < o.last && o.last-c > o.bits) {
		return false
	}
	o.seen[c] = true
	o.last = max(o.last, c)
	return true
}

func TestWindowAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := noise.NewWindow(rapid.IntRange(-64, 2000).Draw(t, "bits"))
		limit := rapid.SampledFrom([]uint64{math.MaxUint64, 1<<64 - 1<<13 - 1, noise.RejectLaneAfter, 5000}).Draw(t, "limit")
		o := &oracle{bits: uint64(w.Bits()), seen: map[uint64]bool{}}
		near := rapid.Int64Range(-3000, 3000)
		far := rapid.Uint64()
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			c := o.last + uint64(near.Draw(t, "near"))
			if rapid.IntRange(0, 40).Draw(t, "jump") == 0 {
				c = far.Draw(t, "far")
			}
			check := w.Check(c, limit)
			got, want := w.Accept(c, limit), o.accept(c, limit)
			if got != want || check != want {
				t.Fatalf("counter %d after %d: accept %v, check %v, want %v", c, o.last, got, check, want)
			}
			if w.Last() != o.last {
				t.Fatalf("last is %d, want %d", w.Last(), o.last)
			}
		}
	})
}

func TestWindowSizes(t *testing.T) {
	for _, c := range []struct{ ask, get int }{
		{0, 64}, {1, 64}, {64, 64}, {65, 192}, {192, 192}, {1984, 1984}, {1985, 4032}, {2048, 4032}, {8128, 8128},
	} {
		w := noise.NewWindow(c.ask)
		if w.Bits() != c.get {
			t.Errorf("asked for %d: got %d, want %d", c.ask, w.Bits(), c.get)
		}
	}
}

func TestWindowEdges(t *testing.T) {
	const limit = 1 << 20
	type step struct {
		counter uint64
		want    bool
	}
	for name, steps := range map[string][]step{
		"zero once":       {{0, true}, {0, false}, {1, true}, {0, false}},
		"start high":      {{100, true}, {0, false}, {36, true}, {35, false}, {37, true}, {100, false}},
		"limit":           {{limit - 1, true}, {limit, false}, {limit + 1, false}, {math.MaxUint64, false}, {limit - 2, true}},
		"jump far":        {{1, true}, {100_000, true}, {99_999, true}, {1, false}, {99_936, true}, {99_935, false}},
		"one block on":    {{63, true}, {64, true}, {63, false}, {0, true}, {128, true}, {64, false}, {65, true}, {63, false}},
		"reverse":         {{5, true}, {4, true}, {3, true}, {2, true}, {1, true}, {0, true}, {5, false}, {0, false}},
		"whole ring over": {{10, true}, {10 + 128, true}, {10 + 128 - 64, true}, {10, false}, {10 + 256, true}, {10 + 191, false}, {10 + 192, true}, {10 + 192, false}},
	} {
		w := noise.NewWindow(64)
		for i, s := range steps {
			if got := w.Accept(s.counter, limit); got != s.want {
				t.Errorf("%s, step %d: counter %d: %v", name, i, s.counter, got)
			}
		}
		w.Reset()
		if !w.Accept(0, limit) || w.Last() != 0 {
			t.Errorf("%s: 0 refused after Reset", name)
		}
	}
	var zero noise.Window
	if zero.Accept(0, limit) || zero.Check(1, limit) {
		t.Error("the zero window accepts")
	}
}
