package portpool

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A steer is a step of a sequence about lanes that not every flow may take.
type steer struct {
	at   int64 // ms
	do   string
	flow uint64
	lane uint16 // for assign: expected; else which
	gap  int64  // for vacate, ms
}

func (s steer) run(t *testing.T, l *Lanes, i int) {
	t.Helper()
	now := 1 + s.at*1e6
	switch s.do {
	case "assign":
		if lane, _ := l.Assign(now, s.flow); lane != s.lane {
			t.Errorf("step %d: flow %d gets lane %d, want %d", i, s.flow, lane, s.lane)
		}
	case "place":
		l.Place(now, s.flow, s.lane)
	case "out", "in":
		l.SetDead(s.lane, s.do == "out")
	case "vacate":
		l.Vacate(now, s.lane, s.gap*1e6, now+1000e6)
	case "hold":
		l.Hold(now, s.lane)
	default:
		t.Fatalf("step %d: %q", i, s.do)
	}
}

func TestLanesSteered(t *testing.T) {
	tests := map[string]struct {
		cfg   LanesConfig
		steps []steer
		want  LanesStats
		spare int
	}{
		"shut lanes have to come in first": {
			LanesConfig{Limit: 4, Shut: true},
			[]steer{
				{do: "assign", flow: 1, lane: 0},
				{do: "in", lane: 3},
				{do: "assign", flow: 1, lane: 3},
				{do: "assign", flow: 2, lane: 3},
			},
			LanesStats{Limit: 4, Flows: 2, InUse: 1, Shared: 1, Opened: 4, Dead: 3}, 0,
		},
		"a flow that had to share gets the next lane that comes in": {
			LanesConfig{Limit: 4, Shut: true},
			[]steer{
				{do: "in", lane: 1},
				{do: "assign", flow: 1, lane: 1}, {do: "assign", flow: 2, lane: 1}, {do: "assign", flow: 3, lane: 1},
				{do: "in", lane: 4},
				{do: "assign", flow: 1, lane: 1}, {do: "assign", flow: 3, lane: 4}, {do: "assign", flow: 2, lane: 1},
				{do: "in", lane: 2},
				{do: "assign", flow: 3, lane: 4}, {do: "assign", flow: 2, lane: 2},
				{do: "in", lane: 3},
				{do: "assign", flow: 1, lane: 1}, {do: "assign", flow: 2, lane: 2}, {do: "assign", flow: 3, lane: 4},
			},
			LanesStats{Limit: 4, Flows: 3, InUse: 3, Opened: 4, Moved: 2}, 1,
		},
		"where all lanes are in, flows that share go on doing so": {
			LanesConfig{Limit: 1},
			[]steer{{do: "assign", flow: 1, lane: 1}, {do: "assign", flow: 2, lane: 1}, {do: "assign", flow: 2, lane: 1}},
			LanesStats{Limit: 1, Flows: 2, InUse: 1, Shared: 1, Opened: 1}, 0,
		},
		"answers go back where the question came": {
			LanesConfig{Limit: 8},
			[]steer{
				{do: "place", flow: 1, lane: 5},
				{do: "assign", flow: 1, lane: 5},
				{do: "place", flow: 1, lane: 6},
				{do: "assign", flow: 1, lane: 5},
				{do: "place", flow: 2, lane: 9}, {do: "place", flow: 2, lane: 0},
				{do: "assign", flow: 2, lane: 1},
			},
			LanesStats{Limit: 8, Flows: 2, InUse: 2, Opened: 6}, 6,
		},
		"answers leave a lane that they share": {
			LanesConfig{Limit: 8},
			[]steer{
				{do: "place", flow: 1, lane: 5}, {do: "place", flow: 2, lane: 5},
				{do: "place", flow: 2, lane: 7},
				{do: "assign", flow: 1, lane: 5}, {do: "assign", flow: 2, lane: 7},
				{do: "out", lane: 7},
				{do: "place", flow: 2, lane: 5},
				{do: "assign", flow: 2, lane: 5},
			},
			LanesStats{Limit: 8, Flows: 2, InUse: 1, Shared: 1, Opened: 7, Dead: 1}, 6,
		},
		"answers whose lanes are taken make each other move": {
			LanesConfig{Limit: 8},
			[]steer{
				{do: "place", flow: 1, lane: 2}, {do: "place", flow: 2, lane: 3},
				// Now the questions of flow 1 come on lane 4, and those of flow 2 on 2.
				{do: "place", flow: 3, lane: 3},
				{do: "place", flow: 1, lane: 4}, {do: "place", flow: 2, lane: 2}, {do: "place", flow: 3, lane: 3},
				{do: "assign", flow: 1, lane: 2}, {do: "assign", flow: 2, lane: 2}, {do: "assign", flow: 3, lane: 3},
				{do: "place", flow: 1, lane: 4}, {do: "place", flow: 2, lane: 2}, {do: "place", flow: 3, lane: 3},
				{do: "assign", flow: 1, lane: 4}, {do: "assign", flow: 2, lane: 2}, {do: "assign", flow: 3, lane: 3},
			},
			LanesStats{Limit: 8, Flows: 3, InUse: 3, Opened: 4}, 5,
		},
		"a flow that had to share does not follow what comes to where it shares, too": {
			LanesConfig{Limit: 8, Shut: true},
			[]steer{
				{do: "in", lane: 1}, {do: "assign", flow: 1, lane: 1},
				{do: "in", lane: 2}, {do: "assign", flow: 2, lane: 2}, {do: "assign", flow: 3, lane: 1},
				{do: "place", flow: 3, lane: 2},
				{do: "in", lane: 7}, {do: "assign", flow: 3, lane: 7}, {do: "assign", flow: 2, lane: 2},
			},
			LanesStats{Limit: 8, Flows: 3, InUse: 3, Opened: 8, Dead: 5, Moved: 1}, 0,
		},
		"answers to questions that share a lane share it": {
			LanesConfig{Limit: 8},
			[]steer{
				{do: "place", flow: 1, lane: 2}, {do: "place", flow: 2, lane: 2},
				{do: "place", flow: 1, lane: 2}, {do: "place", flow: 2, lane: 2},
				{do: "assign", flow: 1, lane: 2}, {do: "assign", flow: 2, lane: 2},
			},
			LanesStats{Limit: 8, Flows: 2, InUse: 1, Shared: 1, Opened: 2}, 7,
		},
		"two ends give flows the same lane, and both stay": {
			LanesConfig{Limit: 8},
			[]steer{{do: "assign", flow: 1, lane: 1}, {do: "place", flow: 2, lane: 1}, {do: "assign", flow: 1, lane: 1}, {do: "assign", flow: 2, lane: 1}},
			LanesStats{Limit: 8, Flows: 2, InUse: 1, Shared: 1, Opened: 1}, 7,
		},
		"two ends give flows the same lane, and one yields": {
			LanesConfig{Limit: 8, Yield: true},
			[]steer{
				{do: "assign", flow: 1, lane: 1}, {do: "place", flow: 2, lane: 1},
				{do: "assign", flow: 2, lane: 1}, {do: "assign", flow: 1, lane: 2}, {do: "assign", flow: 2, lane: 1},
				{do: "place", flow: 1, lane: 1}, {do: "assign", flow: 1, lane: 2}, // an answer that was still on its way
			},
			LanesStats{Limit: 8, Flows: 2, InUse: 2, Opened: 2, Moved: 1}, 6,
		},
		"where no lane is free, none yields": {
			LanesConfig{Limit: 8, Shut: true, Yield: true},
			[]steer{
				{do: "in", lane: 3}, {do: "assign", flow: 1, lane: 3}, {do: "place", flow: 2, lane: 3},
				{do: "assign", flow: 1, lane: 3},
				{do: "in", lane: 5}, {do: "assign", flow: 2, lane: 3}, {do: "assign", flow: 1, lane: 5},
			},
			LanesStats{Limit: 8, Flows: 2, InUse: 2, Opened: 8, Dead: 6, Moved: 1}, 0,
		},
		"a flow leaves a crowded lane when it pauses": {
			LanesConfig{Limit: 8},
			[]steer{
				{at: 0, do: "assign", flow: 1, lane: 1},
				{at: 100, do: "vacate", lane: 1, gap: 30},
				{at: 110, do: "assign", flow: 1, lane: 1},
				{at: 130, do: "assign", flow: 1, lane: 1},
				{at: 131, do: "assign", flow: 2, lane: 2},
				{at: 161, do: "assign", flow: 1, lane: 3},
				{at: 162, do: "assign", flow: 1, lane: 3},
			},
			LanesStats{Limit: 8, Flows: 2, InUse: 2, Opened: 3, Dead: 1, Moved: 1}, 5,
		},
		"a flow that does not pause leaves it in the end": {
			LanesConfig{Limit: 8},
			[]steer{
				{at: 0, do: "assign", flow: 1, lane: 1},
				{at: 100, do: "vacate", lane: 1, gap: 30},
				{at: 600, do: "assign", flow: 1, lane: 1},
				{at: 620, do: "assign", flow: 1, lane: 1},
				{at: 1101, do: "assign", flow: 1, lane: 2},
			},
			LanesStats{Limit: 8, Flows: 1, InUse: 1, Opened: 2, Dead: 1, Moved: 1}, 6,
		},
		"a crowded lane that dies is left at once": {
			LanesConfig{Limit: 8},
			[]steer{
				{at: 0, do: "assign", flow: 1, lane: 1},
				{at: 100, do: "vacate", lane: 1, gap: 30},
				{at: 101, do: "out", lane: 1},
				{at: 102, do: "assign", flow: 1, lane: 2},
			},
			LanesStats{Limit: 8, Flows: 1, InUse: 1, Opened: 2, Dead: 1, Moved: 1}, 6,
		},
		"a held lane keeps its flow and gets no other": {
			LanesConfig{Limit: 2},
			[]steer{
				{do: "assign", flow: 1, lane: 1},
				{do: "hold", lane: 1}, {do: "hold", lane: 2},
				{at: 9000, do: "assign", flow: 1, lane: 1},
				{at: 9000, do: "assign", flow: 2, lane: 0},
				{at: 9000, do: "in", lane: 1},
				{at: 9000, do: "assign", flow: 2, lane: 1},
			},
			LanesStats{Limit: 2, Flows: 2, InUse: 1, Shared: 1, Opened: 2, Dead: 1}, 0,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := NewLanes(test.cfg)
			for i, s := range test.steps {
				s.run(t, l, i)
			}
			if diff := cmp.Diff(test.want, l.Stats()); diff != "" {
				t.Error(diff)
			}
			if l.Spare() != test.spare {
				t.Errorf("%d spare, want %d", l.Spare(), test.spare)
			}
		})
	}
}

// TestLanesCrammedIsCounted: the count of flows that share for want of lanes comes
// back to nothing, however they end.
func TestLanesCrammedIsCounted(t *testing.T) {
	l := NewLanes(LanesConfig{Limit: 100, Shut: true})
	l.SetDead(1, false)
	for flow := range uint64(50) {
		l.Assign(1, flow)
	}
	if l.Crammed() != 49 {
		t.Errorf("%d flows share, want 49", l.Crammed())
	}
	for lane := range uint16(20) {
		l.SetDead(10+lane, false)
	}
	for flow := range uint64(50) {
		l.Assign(2, flow)
	}
	if l.Crammed() != 29 {
		t.Errorf("%d flows share, want 29", l.Crammed())
	}
	l.Expire(40 * sec)
	if l.Crammed() != 0 || l.Stats().Flows != 0 {
		t.Errorf("%d flows share of %d", l.Crammed(), l.Stats().Flows)
	}
}
