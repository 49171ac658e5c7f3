package tunnel

import (
	"slices"
	"testing"
	"time"
)

// spreadRig drives a spread through virtual time. passes says whether a probe
// on a lane is answered, 20 ms later.
type spreadRig struct {
	t        *testing.T
	s        spread
	now      int64
	passes   func(lane uint16) bool
	answers  []pendingProbe
	probes   map[uint16]int
	dead     []uint16
	alive    []uint16
	nextID   uint64
	lastSent map[uint16]int64
}

func newSpreadRig(t *testing.T, passes func(uint16) bool) *spreadRig {
	return &spreadRig{t: t, now: 1e9, passes: passes, probes: make(map[uint16]int), lastSent: make(map[uint16]int64)}
}

const rigRTT = int64(20 * time.Millisecond)

// run lets d pass, with data on the lanes all the time.
func (r *spreadRig) run(d time.Duration, lanes ...uint16) {
	const grain = int64(5 * time.Millisecond)
	for end := r.now + int64(d); r.now < end; r.now += grain {
		for len(r.answers) > 0 && r.answers[0].sent+rigRTT <= r.now {
			p := r.answers[0]
			r.answers = r.answers[1:]
			r.note(r.s.echoed(r.now, p.id, p.lane))
		}
		for _, lane := range lanes {
			r.lastSent[lane] = r.now
		}
		if len(lanes) > 0 {
			r.s.active(r.now)
		}
		if at := r.s.next(); at != 0 && at <= r.now {
			r.note(r.s.step(r.now, func(l uint16) int64 { return r.lastSent[l] }, r.id))
		}
	}
}

func (r *spreadRig) id() uint64 { r.nextID++; return r.nextID }

func (r *spreadRig) note(ev spreadEvents) {
	for _, p := range ev.probes {
		r.probes[p.lane]++
		if r.passes(p.lane) {
			r.answers = append(r.answers, p)
		}
	}
	r.dead = append(r.dead, ev.dead...)
	r.alive = append(r.alive, ev.alive...)
}

func (r *spreadRig) want(mode spreadMode) {
	r.t.Helper()
	if r.s.mode != mode {
		r.t.Fatalf("mode is %v (%s), want %v", r.s.mode, r.s.reason, mode)
	}
	if r.s.usable() != (mode == spreadDirect) {
		r.t.Fatalf("in mode %v usable is %v", mode, r.s.usable())
	}
}

func everyLane(uint16) bool      { return true }
func noLane(uint16) bool         { return false }
func onlyLane0(lane uint16) bool { return lane == 0 }

func TestSpreadGoesDirectWhenALaneAnswers(t *testing.T) {
	r := newSpreadRig(t, everyLane)
	r.s.agree(r.now, 1024)
	r.want(spreadProbing)
	r.run(time.Duration(rigRTT) + 10*time.Millisecond)
	r.want(spreadDirect)
	if r.s.reason != "" {
		t.Errorf("reason is %q although nothing is wrong", r.s.reason)
	}
}

func TestSpreadFallsBackWhenOnlyLane0Answers(t *testing.T) {
	r := newSpreadRig(t, onlyLane0)
	r.s.agree(r.now, 1024)
	r.run(10*time.Second, 1, 2)
	r.want(spreadFallback)
	if r.s.reason == "" {
		t.Error("no reason given")
	}
	// The firewall is opened: found at the next try.
	r.passes = everyLane
	r.run(2*time.Minute, 1, 2)
	r.want(spreadDirect)
}

func TestSpreadDoesNotTakeADeadPathForAFirewall(t *testing.T) {
	r := newSpreadRig(t, noLane)
	r.s.agree(r.now, 1024)
	r.run(time.Minute, 1)
	r.want(spreadProbing)
	if n := r.probes[1]; n > 30 {
		t.Errorf("%d probes on lane 1 in a minute without any answer", n)
	}

	r = newSpreadRig(t, everyLane)
	r.s.agree(r.now, 1024)
	r.run(time.Second, 1)
	r.passes = noLane
	r.run(time.Minute, 1)
	r.want(spreadDirect)
}

func TestSpreadFallsBackWhenLanesStopBeingAnswered(t *testing.T) {
	r := newSpreadRig(t, everyLane)
	r.s.agree(r.now, 1024)
	r.run(time.Second, 1, 2, 3)
	r.want(spreadDirect)
	r.passes = onlyLane0
	r.run(20*time.Second, 1, 2, 3)
	r.want(spreadFallback)
	slices.Sort(r.dead)
	for _, lane := range r.dead { // what died is given back: the next try begins afresh
		if !slices.Contains(r.alive, lane) {
			t.Errorf("lane %d stays dead in fallback", lane)
		}
	}
}

func TestSpreadTakesADeadLaneOutAndBackIn(t *testing.T) {
	r := newSpreadRig(t, everyLane)
	r.s.agree(r.now, 1024)
	r.run(time.Second, 1, 2, 7)
	r.passes = func(lane uint16) bool { return lane != 7 }
	r.s.opened(r.now, 7)
	r.run(30*time.Second, 1, 2, 7)
	r.want(spreadDirect)
	if !slices.Equal(r.dead, []uint16{7}) {
		t.Fatalf("dead lanes are %v, want 7 alone", r.dead)
	}
	r.passes = everyLane
	r.run(time.Minute, 1, 2)
	if !slices.Equal(r.alive, []uint16{7}) {
		t.Errorf("lanes back alive are %v, want 7", r.alive)
	}
}

func TestSpreadSleepsWithoutData(t *testing.T) {
	r := newSpreadRig(t, everyLane)
	r.s.agree(r.now, 1024)
	r.run(time.Second, 1, 2, 3)
	r.run(time.Minute)
	before := len(r.probes)
	sent := r.nextID
	r.run(10 * time.Minute)
	if r.nextID != sent || len(r.probes) != before {
		t.Errorf("%d probes while nothing was sent", r.nextID-sent)
	}
	if at := r.s.next(); at != 0 {
		t.Errorf("awake without data: next step at %d, now %d", at, r.now)
	}
	r.run(time.Second, 1)
	r.want(spreadDirect)
}

func TestSpreadChecksEachActiveLaneNowAndThen(t *testing.T) {
	r := newSpreadRig(t, everyLane)
	r.s.agree(r.now, 1024)
	r.run(time.Second)
	lanes := make([]uint16, 16)
	for i := range lanes {
		lanes[i] = uint16(i + 1)
		r.s.opened(r.now, lanes[i])
	}
	clear(r.probes)
	r.run(time.Minute, lanes...)
	for _, lane := range lanes {
		if n := r.probes[lane]; n < 8 || n > 14 {
			t.Errorf("lane %d was probed %d times in a minute, want about every 5 s", lane, n)
		}
	}
}

func TestSpreadIgnoresForeignEchoes(t *testing.T) {
	r := newSpreadRig(t, noLane)
	r.s.agree(r.now, 1024)
	r.run(100 * time.Millisecond)
	if len(r.s.pending) == 0 {
		t.Fatal("no probe is pending")
	}
	p := r.s.pending[len(r.s.pending)-1]
	for _, wrong := range []pendingProbe{{id: p.id + 1000, lane: p.lane}, {id: p.id, lane: p.lane + 1}} {
		if ev := r.s.echoed(r.now, wrong.id, wrong.lane); ev.changed || r.s.mode != spreadProbing {
			t.Errorf("echo of probe %d on lane %d was believed", wrong.id, wrong.lane)
		}
	}
	r.s.echoed(r.now, p.id, p.lane)
	r.want(spreadDirect)
}

func TestSpreadPeerAcceptsNoLanes(t *testing.T) {
	r := newSpreadRig(t, everyLane)
	r.s.agree(r.now, 0)
	r.want(spreadStock)
	r.run(time.Minute, 1)
	if len(r.probes) != 0 {
		t.Errorf("probes were sent: %v", r.probes)
	}
}

func TestSpreadSurvivesARekeyAndLooksAgainAfterRoaming(t *testing.T) {
	r := newSpreadRig(t, everyLane)
	r.s.agree(r.now, 1024)
	r.run(time.Second, 1)
	r.s.agree(r.now, 1024)
	r.want(spreadDirect)
	clear(r.probes)
	r.s.roamed(r.now)
	r.run(time.Second, 1)
	if r.probes[1] == 0 {
		t.Error("no probe on an active lane after roaming")
	}
	r.want(spreadDirect)
}
