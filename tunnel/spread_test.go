package tunnel

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// spreadRig drives a spread through virtual time, as its owner. passes says whether
// what is sent on a lane arrives, 10 ms later; the answer takes as long.
type spreadRig struct {
	t        *testing.T
	s        spread
	now      int64
	passes   func(lane uint16) bool
	via      func(way spreadMode) bool // nil: what is sent on any way arrives
	rtt      func(lane uint16) time.Duration
	extra    func(p pendingProbe) time.Duration // that a probe takes longer; nil: none does
	answers  []rigAnswer
	probes   map[uint16]int
	dead     []uint16
	alive    []uint16
	crowded  []uint16
	asked    []uint16
	changes  []spreadMode
	nextID   uint64
	last     map[uint16]int64
	numbers  map[uint16]uint64
	ways     map[uint16]bool
	came     map[uint16]int64 // when something last came on a lane
	delay    map[uint16]int64
	measured map[uint16]int64
	arriving []rigData
	list     heardList
	listAt   int64
	dataCame bool // data, since the last list
	lists    []rigList
	mute     bool             // the peer sends no lists
	dscp     map[uint16]uint8 // of the data on a lane, 0 if it is not here
	data     map[uint16]int64 // a flow's packets on a lane come this often, 5 ms if it is not here
}

type rigAnswer struct {
	pendingProbe
	due int64
}

type rigData struct {
	lane uint16
	due  int64
	data bool // and no probe
}

type rigList struct {
	heardList
	due int64
}

func newSpreadRig(t *testing.T, passes func(uint16) bool) *spreadRig {
	return &spreadRig{
		t: t, now: 1e9, passes: passes, probes: make(map[uint16]int), last: make(map[uint16]int64),
		numbers: make(map[uint16]uint64), ways: make(map[uint16]bool), came: make(map[uint16]int64),
		delay: make(map[uint16]int64), measured: make(map[uint16]int64), data: make(map[uint16]int64),
		rtt: func(uint16) time.Duration { return rigRTT },
	}
}

const rigRTT = 20 * time.Millisecond

var rigWays = []spreadMode{spreadDirect}

func (r *spreadRig) agree(ways ...spreadMode) {
	if len(ways) == 0 {
		ways = rigWays
	}
	r.s.agree(r.now, 1024, ways)
}

// run lets d pass, with data on the lanes all the time.
func (r *spreadRig) run(d time.Duration, lanes ...uint16) {
	const grain = int64(time.Millisecond)
	for end := r.now + int64(d); r.now < end; r.now += grain {
		r.deliver()
		for _, lane := range lanes {
			if r.now-r.last[lane] >= max(r.data[lane], 5*grain) {
				r.send(lane)
			}
		}
		if at := r.s.next(); at != 0 && at <= r.now {
			r.note(r.s.step(r.now, r))
		}
	}
}

// send sends data on a lane.
func (r *spreadRig) send(lane uint16) {
	r.last[lane] = r.now
	r.numbers[lane]++
	r.s.active(r.now)
	if r.passes(lane) {
		r.arriving = append(r.arriving, rigData{lane, r.now + int64(r.rtt(lane)/2), true})
	}
}

// deliver lets arrive what is due, at either end.
func (r *spreadRig) deliver() {
	r.answers = slices.DeleteFunc(r.answers, func(a rigAnswer) bool {
		if a.due > r.now {
			return false
		}
		r.delay[a.lane], r.measured[a.lane] = (a.due-a.sent)/2, r.now
		r.note(r.s.echoed(r.now, a.id, a.lane))
		return true
	})
	r.arriving = slices.DeleteFunc(r.arriving, func(d rigData) bool {
		if d.due > r.now {
			return false
		}
		r.list.add(d.lane)
		r.dataCame = r.dataCame || d.data
		return true
	})
	if r.listAt <= r.now && r.dataCame && !r.mute {
		r.lists = append(r.lists, rigList{r.list, r.now + int64(r.rtt(0)/2)})
		r.list, r.listAt, r.dataCame = heardList{}, r.now+heardEvery, false
	}
	for len(r.lists) > 0 && r.lists[0].due <= r.now {
		r.note(r.s.heard(r.now, &r.lists[0].heardList, r))
		r.lists = r.lists[1:]
	}
}

func (r *spreadRig) random64() uint64                       { r.nextID++; return r.nextID }
func (r *spreadRig) lastSent(lane uint16) int64             { return r.last[lane] }
func (r *spreadRig) sentNumber(lane uint16) uint64          { return r.numbers[lane] }
func (r *spreadRig) laneDSCP(lane uint16) uint8             { return r.dscp[lane] }
func (r *spreadRig) keypairInUse() uint32                   { return 1 }
func (r *spreadRig) heardOn(lane uint16) int64              { return r.came[lane] }
func (r *spreadRig) spareLanes() (spare, used, crammed int) { return len(r.alive), 3, 0 }
func (r *spreadRig) flowsOn(lane uint16) int {
	if last := r.last[lane]; last != 0 && r.now-last < spreadIdle {
		return 1
	}
	return 0
}
func (r *spreadRig) hasWay(lane uint16, via spreadMode) bool {
	return !via.shuts() || r.ways[lane]
}
func (r *spreadRig) laneDelay(lane uint16) (delay, at int64) {
	return r.delay[lane], r.measured[lane]
}

func (r *spreadRig) note(ev spreadEvents) {
	for _, p := range ev.probes {
		r.probes[p.lane]++
		r.numbers[p.lane]++
		if r.passes(p.lane) && (p.lane == 0 || r.via == nil || r.via(p.via)) {
			rtt := r.rtt(p.lane)
			if r.extra != nil {
				rtt += r.extra(p)
			}
			r.answers = append(r.answers, rigAnswer{p, r.now + int64(rtt)})
			r.arriving = append(r.arriving, rigData{p.lane, r.now + int64(r.rtt(p.lane)/2), false})
		}
	}
	r.asked = append(r.asked, ev.ask...)
	r.dead = append(r.dead, ev.out...)
	r.alive = append(r.alive, ev.in...)
	for _, c := range ev.crowded {
		r.crowded = append(r.crowded, c.lane)
	}
	if ev.changed {
		r.changes = append(r.changes, r.s.mode)
	}
}

func (r *spreadRig) want(mode spreadMode) {
	r.t.Helper()
	if r.s.mode != mode {
		r.t.Fatalf("mode is %v (%s), want %v", r.s.mode, r.s.reason, mode)
	}
	if r.s.usable() != (mode >= spreadDirect) {
		r.t.Fatalf("in mode %v usable is %v", mode, r.s.usable())
	}
}

func everyLane(uint16) bool      { return true }
func noLane(uint16) bool         { return false }
func onlyLane0(lane uint16) bool { return lane == 0 }

func TestSpreadGoesDirectWhenALaneAnswers(t *testing.T) {
	r := newSpreadRig(t, everyLane)
	r.agree()
	r.want(spreadProbing)
	r.run(rigRTT + 10*time.Millisecond)
	r.want(spreadDirect)
	if r.s.reason != "" {
		t.Errorf("reason is %q although nothing is wrong", r.s.reason)
	}
}

// TestSpreadFindsTheWay: each way that works is found within a second, the better
// one if there are several.
func TestSpreadFindsTheWay(t *testing.T) {
	all := []spreadMode{spreadDirect, spreadReturn, spreadPaired, spreadListen}
	for _, test := range []struct {
		name  string
		rtt   time.Duration
		works []spreadMode
		want  spreadMode
	}{
		{"everything", rigRTT, all, spreadDirect},
		{"only answers", rigRTT, []spreadMode{spreadReturn, spreadListen}, spreadReturn},
		{"only answers, far away", 200 * time.Millisecond, []spreadMode{spreadReturn, spreadListen}, spreadReturn},
		{"only what both open", rigRTT, []spreadMode{spreadPaired, spreadListen}, spreadPaired},
		{"only the listen port", rigRTT, []spreadMode{spreadListen}, spreadListen},
		{"only lane 0", rigRTT, nil, spreadFallback},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newSpreadRig(t, everyLane)
			r.rtt = func(uint16) time.Duration { return test.rtt }
			r.via = func(way spreadMode) bool { return slices.Contains(test.works, way) }
			r.agree(all...)
			for range 1000 {
				r.run(time.Millisecond)
				if len(r.asked) > 0 { // the peer opens lanes at once
					r.ways[1], r.ways[2], r.ways[3] = true, true, true
				}
				if r.s.mode != spreadProbing {
					break
				}
			}
			r.want(test.want)
			if (r.s.reason == "") != (test.want == spreadDirect) {
				t.Errorf("the reason is %q", r.s.reason)
			}
		})
	}
}

func TestSpreadFallsBackWhenOnlyLane0Answers(t *testing.T) {
	r := newSpreadRig(t, onlyLane0)
	r.agree()
	r.run(time.Second, 0)
	r.want(spreadFallback)
	if r.s.reason == "" {
		t.Error("no reason given")
	}
	// The firewall is opened: found at the next try.
	r.passes = everyLane
	r.run(31*time.Second, 0)
	r.want(spreadDirect)
}

func TestSpreadDoesNotTakeADeadPathForAFirewall(t *testing.T) {
	r := newSpreadRig(t, noLane)
	r.agree()
	r.run(time.Minute, 0)
	r.want(spreadProbing)
	if n := r.probes[1]; n > 50 {
		t.Errorf("%d probes on lane 1 in a minute without any answer", n)
	}

	r = newSpreadRig(t, everyLane)
	r.agree()
	r.run(time.Second, 1)
	r.passes = noLane
	clear(r.probes)
	r.run(time.Minute, 1)
	r.want(spreadDirect)
	if len(r.dead) > 0 {
		t.Errorf("lanes %v are blamed for a dead path", r.dead)
	}
	if n := r.probes[1]; n > 300 {
		t.Errorf("%d probes on lane 1 in a minute without any answer", n)
	}
}

func TestSpreadFallsBackWhenLanesStopBeingAnswered(t *testing.T) {
	r := newSpreadRig(t, everyLane)
	r.agree()
	r.run(time.Second, 1, 2, 3)
	r.want(spreadDirect)
	r.passes = onlyLane0
	r.run(500*time.Millisecond, 1, 2, 3)
	r.want(spreadProbing)
	r.run(2*time.Second, 0)
	r.want(spreadFallback)
}

// TestSpreadFindsADeadLane wants a lane that goes silent to be left within three
// round trips or 500 ms, whichever is more, and no other to be; and the lane to be
// used again when it is back.
func TestSpreadFindsADeadLane(t *testing.T) {
	for _, rtt := range []time.Duration{time.Millisecond, rigRTT, 100 * time.Millisecond, 170 * time.Millisecond, 300 * time.Millisecond} {
		t.Run(rtt.String(), func(t *testing.T) {
			r := newSpreadRig(t, everyLane)
			r.rtt = func(uint16) time.Duration { return rtt }
			r.agree()
			lanes := []uint16{1, 2, 7}
			r.run(time.Second)
			for _, lane := range lanes {
				r.s.given(r.now, lane)
			}
			r.run(3*time.Second, lanes...)
			if len(r.dead) > 0 {
				t.Fatalf("lanes %v are taken out although all work", r.dead)
			}
			r.passes = func(lane uint16) bool { return lane != 7 }
			at := r.now
			for len(r.dead) == 0 && r.now-at < int64(5*time.Second) {
				r.run(time.Millisecond, lanes...)
			}
			took := time.Duration(r.now - at)
			t.Logf("found after %v", took)
			if took > max(3*rtt, 500*time.Millisecond) {
				t.Errorf("found after %v", took)
			}
			if r.dead[0] != 7 || slices.Contains(r.dead, 1) || slices.Contains(r.dead, 2) {
				t.Fatalf("lanes %v are taken out, of those in use 7 alone is dead", r.dead)
			}
			r.passes = everyLane
			r.run(12*time.Second, 1, 2)
			if !slices.Contains(r.alive, 7) {
				t.Errorf("lanes back are %v, want 7 among them", r.alive)
			}
		})
	}
}

// TestSpreadDoesNotBlameALaneForItsPath: sudden delay, losses, pauses and a peer
// whose lists get lost are no reason to move a flow.
func TestSpreadDoesNotBlameALaneForItsPath(t *testing.T) {
	lanes := []uint16{1, 2, 3, 4, 5, 6}
	random := rand.New(rand.NewPCG(1, 2))
	for name, change := range map[string]func(r *spreadRig){
		"the delay grows twentyfold": func(r *spreadRig) { r.rtt = func(uint16) time.Duration { return 20 * rigRTT } },
		"one packet in ten is lost":  func(r *spreadRig) { r.passes = func(uint16) bool { return random.IntN(10) > 0 } },
		"a flow sends now and then":  func(r *spreadRig) { r.data[3] = int64(700 * time.Millisecond) },
		"no lists arrive":            func(r *spreadRig) { r.mute = true },
		"one lane is slower": func(r *spreadRig) {
			r.rtt = func(lane uint16) time.Duration { return rigRTT + time.Duration(lane/6)*80*time.Millisecond }
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newSpreadRig(t, everyLane)
			r.agree()
			r.run(time.Second, lanes...)
			change(r)
			r.run(30*time.Second, lanes...)
			r.want(spreadDirect)
			for _, lane := range r.dead {
				if slices.Contains(lanes, lane) {
					t.Errorf("lane %d was taken out", lane)
				}
			}
		})
	}
}

func TestSpreadSleepsWithoutData(t *testing.T) {
	r := newSpreadRig(t, everyLane)
	r.agree()
	r.run(time.Second, 1, 2, 3)
	r.run(time.Minute)
	sent := r.nextID
	r.run(10 * time.Minute)
	if r.nextID != sent {
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
	r.agree()
	r.run(time.Second)
	lanes := make([]uint16, 16)
	for i := range lanes {
		lanes[i] = uint16(i + 1)
		r.s.given(r.now, lanes[i])
	}
	clear(r.probes)
	r.run(time.Minute, lanes...)
	for _, lane := range lanes {
		if n := r.probes[lane]; n < 8 || n > 14 {
			t.Errorf("lane %d was probed %d times in a minute, want about every 5 s", lane, n)
		}
	}
}

// TestSpreadMovesASparseFlowFromACrowdedLane: its packets take much longer than
// others; those of a flow that fills its own lane may.
func TestSpreadMovesASparseFlowFromACrowdedLane(t *testing.T) {
	r := newSpreadRig(t, everyLane)
	r.agree()
	lanes := []uint16{1, 2, 3, 4, 5}
	for _, lane := range lanes[1:] {
		r.data[lane] = int64(50 * time.Millisecond)
	}
	r.run(time.Second, lanes...)
	r.rtt = func(lane uint16) time.Duration {
		if lane == 1 || lane == 4 {
			return rigRTT + 40*time.Millisecond
		}
		return rigRTT
	}
	r.run(12*time.Second, lanes...)
	if !slices.Equal(r.crowded, []uint16{4}) {
		t.Errorf("flows of lanes %v are to move, want those of 4: 1 is filled by its own flow", r.crowded)
	}
}

// TestSpreadTellsACrowdedLaneFromAnIdleOne: the lanes in use need not tell what a sparse
// flow would feel elsewhere.
func TestSpreadTellsACrowdedLaneFromAnIdleOne(t *testing.T) {
	const bulk, sparse, more = 4, 5, 6
	random := rand.New(rand.NewPCG(1, 2))
	crowd := func(extra time.Duration, lanes ...uint16) func(p pendingProbe, now int64) time.Duration {
		return func(p pendingProbe, _ int64) time.Duration {
			return map[bool]time.Duration{true: extra}[slices.Contains(lanes, p.lane)]
		}
	}
	var wobble time.Duration
	for name, test := range map[string]struct {
		extra func(p pendingProbe, now int64) time.Duration // on the way there and back
		dscp  map[uint16]uint8
		ways  []spreadMode
		want  []uint16
	}{
		"the only sparse flow": {extra: crowd(12*time.Millisecond, 1, 2, 3, bulk, sparse), want: []uint16{sparse}},
		"two that wait little longer than matters": {
			extra: crowd(8*time.Millisecond, 1, 2, 3, bulk, sparse, more), want: []uint16{sparse, more},
		},
		"less than matters":    {extra: crowd(4*time.Millisecond, 1, 2, 3, bulk, sparse)},
		"idle lanes wait, too": {extra: func(pendingProbe, int64) time.Duration { return 30 * time.Millisecond }},
		"a path whose delay changes all the time": {extra: func(_ pendingProbe, now int64) time.Duration {
			if now%int64(100*time.Millisecond) == 0 {
				wobble = time.Duration(random.IntN(60)) * time.Millisecond
			}
			return wobble
		}},
		"a class that waits for another": {
			extra: func(p pendingProbe, _ int64) time.Duration {
				return map[bool]time.Duration{true: 20 * time.Millisecond}[p.dscp == 8]
			},
			dscp: map[uint16]uint8{more: 8},
		},
		"idle lanes that are silent": {
			extra: func(p pendingProbe, _ int64) time.Duration {
				return map[bool]time.Duration{true: time.Hour, false: 12 * time.Millisecond}[p.lane > more || p.lane == 0]
			},
		},
		"no idle lane is open": {extra: crowd(12*time.Millisecond, 1, 2, 3, bulk, sparse), ways: []spreadMode{spreadReturn}, want: []uint16{sparse}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newSpreadRig(t, everyLane)
			lanes := []uint16{1, 2, 3, bulk, sparse, more}
			for _, lane := range lanes {
				r.ways[lane], r.came[lane] = true, r.now
			}
			r.agree(test.ways...)
			r.dscp = test.dscp
			r.data[sparse], r.data[more] = int64(40*time.Millisecond), int64(60*time.Millisecond)
			for range 40 {
				for _, lane := range lanes {
					if len(test.ways) > 0 {
						r.came[lane] = r.now
						r.note(r.s.openedLane(r.now, lane))
					}
				}
				r.run(time.Second, lanes...)
				r.extra = func(p pendingProbe) time.Duration { return test.extra(p, r.now) }
			}
			slices.Sort(r.crowded)
			if !slices.Equal(r.crowded, test.want) {
				t.Errorf("flows of lanes %v are to move, want those of %v", r.crowded, test.want)
			}
			// What is kept for lanes grows with those in use, of which lists tell in steps of 64.
			if n := len(r.s.lanes); n > 64 {
				t.Errorf("%d lanes are kept, with %d in use", n, more)
			}
		})
	}
}

// TestSpreadOpensLanesThatCameDuringTheSearch: what has come on a lane before the way was
// found does not hide lanes below it from then on.
func TestSpreadOpensLanesThatCameDuringTheSearch(t *testing.T) {
	r := newSpreadRig(t, everyLane)
	r.via = func(way spreadMode) bool { return way == spreadReturn }
	r.agree(spreadDirect, spreadReturn)
	const early, later = 1000, 7
	r.ways[early], r.came[early] = true, r.now
	r.note(r.s.openedLane(r.now, early))
	for lane := range uint16(4) {
		r.ways[lane], r.came[lane] = true, r.now
	}
	r.s.opened(r.now)
	r.run(time.Second)
	r.want(spreadReturn)
	r.alive = nil
	r.ways[later], r.came[later], r.came[early] = true, r.now, r.now
	r.note(r.s.openedLane(r.now, later))
	r.run(time.Second, 1)
	for _, lane := range []uint16{early, later} {
		if c := r.s.check(lane); c.shut {
			t.Errorf("lane %d is shut", lane)
		}
	}
	if !slices.Contains(r.alive, later) {
		t.Errorf("lanes %v came in, want %d", r.alive, later)
	}
}

func TestSpreadIgnoresForeignEchoes(t *testing.T) {
	r := newSpreadRig(t, noLane)
	r.agree()
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
	r.s.agree(r.now, 0, rigWays)
	r.want(spreadStock)
	r.run(time.Minute, 1)
	if len(r.probes) != 0 {
		t.Errorf("probes were sent: %v", r.probes)
	}
}

func TestSpreadSurvivesARekeyAndLooksAgainAfterRoaming(t *testing.T) {
	r := newSpreadRig(t, everyLane)
	r.agree()
	r.run(time.Second, 1)
	r.agree()
	r.want(spreadDirect)
	clear(r.probes)
	r.s.roamed(r.now)
	r.run(time.Second, 1)
	if r.probes[1] == 0 {
		t.Error("no probe on an active lane after roaming")
	}
	r.want(spreadDirect)
	// The new path lets nothing but lane 0 through.
	r.passes = onlyLane0
	r.s.roamed(r.now)
	r.run(500*time.Millisecond, 1)
	r.want(spreadProbing)
}

// TestSpreadWaitsForTheBetterWay: where two ways work, the better one wins, though
// its answers come later than those of the other one.
func TestSpreadWaitsForTheBetterWay(t *testing.T) {
	all := []spreadMode{spreadDirect, spreadReturn, spreadPaired, spreadListen}
	for _, late := range []time.Duration{0, 50 * time.Millisecond, 130 * time.Millisecond} {
		for _, lesser := range all[1:] {
			t.Run(late.String()+" after "+lesser.String(), func(t *testing.T) {
				r := newSpreadRig(t, everyLane)
				r.via = func(way spreadMode) bool { return way == spreadDirect || way == lesser }
				first := int64(0) // answer on the lesser way
				r.extra = func(p pendingProbe) time.Duration {
					if p.lane > 0 && p.via == spreadDirect {
						return time.Hour
					}
					return 0
				}
				r.agree(all...)
				for r.s.mode == spreadProbing && r.now < int64(3*time.Second) {
					r.run(time.Millisecond)
					if len(r.asked) > 0 {
						r.ways[1], r.ways[2], r.ways[3] = true, true, true
					}
					if first == 0 && (r.s.second != 0 || r.s.labelled) {
						first = r.now
						for _, p := range r.s.pending {
							if p.lane > 0 && p.via == spreadDirect {
								r.answers = append(r.answers, rigAnswer{p, first + int64(late)})
							}
						}
					}
				}
				r.want(spreadDirect)
			})
		}
	}
}

// TestSpreadLeavesALesserWay: the best way begins to work when another one has been
// taken. It is taken within seconds, with the lanes that flows have and no others.
func TestSpreadLeavesALesserWay(t *testing.T) {
	all := []spreadMode{spreadDirect, spreadReturn, spreadPaired, spreadListen}
	for _, lesser := range all[1:] {
		for _, after := range []time.Duration{100 * time.Millisecond, 20 * time.Minute} {
			t.Run(lesser.String()+" after "+after.String(), func(t *testing.T) {
				r := newSpreadRig(t, everyLane)
				works := []spreadMode{lesser}
				r.via = func(way spreadMode) bool { return slices.Contains(works, way) }
				r.agree(all...)
				for lane := range uint16(1024) {
					r.ways[lane+1] = true
				}
				r.run(time.Second)
				r.want(lesser)
				lanes := []uint16{1, 2, 7}
				for _, lane := range lanes {
					r.note(r.s.openedLane(r.now, lane))
				}
				r.run(after, lanes...)
				r.want(lesser)
				r.dead, r.alive = nil, nil
				works = append(works, spreadDirect)
				at := r.now
				for r.s.mode == lesser && r.now-at < int64(2*time.Minute) {
					r.run(100*time.Millisecond, lanes...)
				}
				r.want(spreadDirect)
				took := time.Duration(r.now - at)
				t.Logf("after %v", took)
				if limit := min(2*after+3*time.Second, 62*time.Second); took > limit {
					t.Errorf("taken after %v, want %v at most", took, limit)
				}
				for _, lane := range lanes {
					if slices.Contains(r.dead, lane) || !slices.Contains(r.alive, lane) {
						t.Errorf("lane %d did not change over", lane)
					}
				}
				if n := len(r.dead); n < 1000 {
					t.Errorf("%d lanes are taken out that were not answered", n)
				}
			})
		}
	}
}

// TestSpreadStaysWhereLanesAreNotAnswered: the best way lets a few lanes through, but
// not those in use.
func TestSpreadStaysWhereLanesAreNotAnswered(t *testing.T) {
	r := newSpreadRig(t, everyLane)
	open := false
	r.extra = func(p pendingProbe) time.Duration {
		if p.via == spreadDirect && p.lane > 0 && (p.lane < 1000 || !open) {
			return time.Hour
		}
		return 0
	}
	r.agree(spreadDirect, spreadReturn)
	for lane := range uint16(1024) {
		r.ways[lane+1] = true
	}
	lanes := []uint16{1, 2, 3, 4}
	r.run(time.Second)
	r.want(spreadReturn)
	open = true
	r.run(time.Minute, lanes...)
	r.want(spreadReturn)
	for _, lane := range lanes {
		if slices.Contains(r.dead, lane) {
			t.Errorf("lane %d was taken out", lane)
		}
	}
}
