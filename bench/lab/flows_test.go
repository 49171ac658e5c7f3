package lab

import (
	"math"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
)

func TestQueues(t *testing.T) {
	const each = 10
	// hash gives one that falls into a queue of four.
	hash := func(queue, n uint32) uint32 { return queue<<30 | n }
	for _, test := range []struct {
		name   string
		counts map[netlab.FlowSize]uint64
		want   queueing
	}{
		{"nothing", nil, queueing{}},
		{"each in its own", map[netlab.FlowSize]uint64{{Hash: hash(0, 1), Length: 254}: 10, {Hash: hash(1, 1), Length: 270}: 10, {Hash: hash(3, 1), Length: 286}: 11},
			queueing{kinds: 3, outer: 3, used: 3, alone: 3}},
		{"two outer flows in one queue", map[netlab.FlowSize]uint64{{Hash: hash(0, 1), Length: 254}: 10, {Hash: hash(0, 2), Length: 254}: 10, {Hash: hash(1, 1), Length: 286}: 10},
			queueing{kinds: 3, outer: 3, used: 2, alone: 1}},
		{"two flows in one outer flow", map[netlab.FlowSize]uint64{{Hash: hash(0, 1), Length: 254}: 10, {Hash: hash(0, 1), Length: 270}: 10},
			queueing{kinds: 2, outer: 1, used: 1, alone: 0}},
		{"two flows of one length in one outer flow", map[netlab.FlowSize]uint64{{Hash: hash(0, 1), Length: 254}: 20, {Hash: hash(1, 1), Length: 254}: 10},
			queueing{kinds: 2, outer: 2, used: 2, alone: 1}},
		{"a few strays and what the tunnel sends by itself", map[netlab.FlowSize]uint64{{Hash: hash(0, 1), Length: 254}: 9, {Hash: hash(0, 1), Length: 270}: 2, {Hash: hash(0, 3), Length: 150}: 99, {Hash: hash(2, 1), Length: 734}: 4},
			queueing{kinds: 1, outer: 1, used: 1, alone: 1}},
	} {
		if got := queues(test.counts, 4, each); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

// TestManyFlowsFit wants the sparse flows to leave most of the bottleneck alone,
// whatever their number, and bulk flows to have a share that TCP can use.
func TestManyFlowsFit(t *testing.T) {
	for _, test := range []struct {
		flows, bulk int
		rate        int64
	}{
		{1, 1, 20e6}, {2, 2, 20e6}, {100, 100, 20e6}, {2000, 100, 20e6}, {2000, 500, 100e6}, {50, 2, 1e5}, {2000, 100, 0},
	} {
		b := &bench{Experiment: &Experiment{Flows: test.flows, Path: netlab.Path{RateUp: test.rate, RateDown: test.rate}}}
		if got := b.bulkFlows(); got != test.bulk {
			t.Errorf("of %d flows at %d bit/s %d are bulk flows, want %d", test.flows, test.rate, got, test.bulk)
		}
		load := float64(test.flows) * meanLength * 8 / b.sparseInterval().Seconds()
		if test.rate > 0 && load > float64(test.rate)/sparseShare*1.001 {
			t.Errorf("%d flows take %.0f bit/s of %d", test.flows, load, test.rate)
		}
		if b.sparseInterval() < sparseInterval {
			t.Errorf("%d flows send every %v", test.flows, b.sparseInterval())
		}
	}
}

func TestCountOf(t *testing.T) {
	for _, test := range [][2]int{{1, 1}, {7, 3}, {72, 72}, {2000, 72}, {100, 50}} {
		sum, least, most := 0, test[0], 0
		for i := range test[1] {
			n := countOf(test[0], test[1], i)
			sum, least, most = sum+n, min(least, n), max(most, n)
		}
		if sum != test[0] || most-least > 1 {
			t.Errorf("%d in %d parts: %d in all, %d to %d", test[0], test[1], sum, least, most)
		}
	}
}

func TestJain(t *testing.T) {
	for _, test := range []struct {
		x    []float64
		want float64
	}{
		{[]float64{5, 5, 5}, 1},
		{[]float64{1, 0, 0, 0}, 0.25},
		{[]float64{2, 1, 1}, 16.0 / 18},
	} {
		if got := jain(test.x); math.Abs(got-test.want) > 1e-12 {
			t.Errorf("%v: %v, want %v", test.x, got, test.want)
		}
	}
	if got := jain([]float64{0, 0}); !math.IsNaN(got) {
		t.Errorf("of nothing: %v", got)
	}
}

// TestFairnessLeavesOutTheWarmUp wants flows that were unequal only while they
// started to count as equal.
func TestFairnessLeavesOutTheWarmUp(t *testing.T) {
	b := &bench{Experiment: &Experiment{Load: 4 * time.Second}}
	b.run = b.describe(&Scenario{Name: "x"})
	early := int((quiet + warmUp) / bin)
	flow := func(first uint64) traffic.Flow {
		bytes := make([]uint64, early+10)
		bytes[early-1] = first
		for i := early; i < len(bytes); i++ {
			bytes[i] = 1000
		}
		return traffic.Flow{Kind: traffic.TCPBulk, Series: &traffic.Series{Bytes: bytes}}
	}
	b.fairness(&traffic.Result{Flows: []traffic.Flow{flow(0), flow(1 << 20)}}, []traffic.Group{{}})
	if got := b.run.Metrics["jain_index_up"]; got != 1 {
		t.Errorf("Jain's index %v, want 1", got)
	}
}
