package tunnel

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"kiloport/tunnel/ecn"
)

// classPath is what a path does to a traffic class; ok is whether it arrives.
type classPath func(class uint8) (arrives uint8, ok bool)

func clean(class uint8) (uint8, bool)     { return class, true }
func nothing(uint8) (uint8, bool)         { return 0, false }
func bleach(class uint8) (uint8, bool)    { return class &^ 3, true }
func dropECT(class uint8) (uint8, bool)   { return class, class&3 == 0 }
func dropCE(class uint8) (uint8, bool)    { return class, class&3 != 3 }
func markECT(class uint8) (uint8, bool)   { return class | 3&-min(class&3, 1), true }
func markAll(class uint8) (uint8, bool)   { return class | 3, true }
func bleach1(class uint8) (uint8, bool)   { return ternary(class&3 == 1, class&^3, class), true }
func oneIsZero(class uint8) (uint8, bool) { return ternary(class&3 == 1, class^3, class), true }
func noDSCP(class uint8) (uint8, bool)    { return class & 3, true }
func eraseCE(class uint8) (uint8, bool)   { return ternary(class&3 == 3, class^1, class), true }

// ecnRig drives an ecnPath through virtual time, with data of 100 packets a second
// that would be ECT(0), and the peer's reports on it.
type ecnRig struct {
	t       *testing.T
	e       ecnPath
	now     int64
	path    classPath
	silent  bool // no reports
	both    bool // every other packet would be ECT(1)
	echoes  []classProbe
	probes  []classProbe
	nextID  uint64
	lanes   []uint16
	bad     uint16 // a lane on which the path bleaches, 0 for none
	sent    markCounts
	seen    markCounts
	changes int
}

func newECNRig(t *testing.T, mode ECNMode, path classPath) *ecnRig {
	o := DefaultOptions()
	o.ECN = mode
	return &ecnRig{t: t, e: newECNPath(&o, 1<<o.ControlDSCP), now: 1e9, path: path, lanes: []uint16{0}}
}

func (r *ecnRig) random64() uint64      { r.nextID++; return r.nextID }
func (r *ecnRig) testLanes() []uint16   { return r.lanes }
func (r *ecnRig) sentMarks() markCounts { return r.sent }

func (r *ecnRig) note(ev ecnEvents) {
	if ev.changed {
		r.changes++
	}
	for _, p := range ev.probes {
		r.probes = append(r.probes, p)
		if class, ok := r.path(p.class); ok {
			p.class = class
			if r.bad != 0 && p.lane == r.bad {
				p.class, _ = bleach(class)
			}
			r.echoes = append(r.echoes, p)
		}
	}
}

// run lets d pass, with or without data.
func (r *ecnRig) run(d time.Duration, data bool) {
	const grain = int64(10 * time.Millisecond)
	for end := r.now + int64(d); r.now < end; r.now += grain {
		for len(r.echoes) > 0 && r.echoes[0].sent+2*grain <= r.now {
			p := r.echoes[0]
			r.echoes = r.echoes[1:]
			r.e.echoed(r.now, p.id, p.lane, p.class)
		}
		if data {
			r.data()
		}
		if at := r.e.next(); at != 0 && at <= r.now {
			r.note(r.e.step(r.now, r))
		}
		if data && !r.silent && r.now%int64(time.Second) == 0 && r.seen != (markCounts{}) {
			r.note(r.e.reported(r.now, false, r.sent, r.seen))
		}
	}
}

func (r *ecnRig) data() {
	cp := ternary(r.both && r.now/int64(10*time.Millisecond)%2 == 0, ecn.ECT1, ecn.ECT0)
	class := uint8(ecn.Encapsulate(r.e.mode(), cp))
	r.sent[class]++
	if class, ok := r.path(class); ok {
		r.seen[class&3]++
	}
	r.e.active(r.now)
}

func (r *ecnRig) want(normal bool, reason string) {
	r.t.Helper()
	if r.e.normal != normal || !strings.Contains(r.e.reason, reason) || (r.e.reason == "") != (reason == "") {
		r.t.Fatalf("normal %v (%s), want %v (%s)", r.e.normal, r.e.reason, normal, reason)
	}
}

// paths are what tests find, by name.
var paths = []struct {
	name   string
	path   classPath
	normal bool
	reason string
	found  verdicts // Not-ECT, ECT(1), ECT(0), CE
}{
	{"passes", clean, true, "", verdicts{verdictPasses, verdictPasses, verdictPasses, verdictPasses}},
	{"bleaches", bleach, false, "bleaches ECT(0), ECT(1), CE", verdicts{verdictPasses, verdictBleached, verdictBleached, verdictBleached}},
	{"drops ECT", dropECT, false, "drops ECT(0), ECT(1), CE", verdicts{verdictPasses, verdictDropped, verdictDropped, verdictDropped}},
	{"drops CE", dropCE, false, "drops CE", verdicts{verdictPasses, verdictPasses, verdictPasses, verdictDropped}},
	{"marks ECT", markECT, false, "turns into CE every ECT(0), ECT(1)", verdicts{verdictPasses, verdictMarked, verdictMarked, verdictPasses}},
	{"marks all", markAll, false, "marks everything CE, even", verdicts{verdictMarked, verdictMarked, verdictMarked, verdictPasses}},
	{"bleaches ECT(1)", bleach1, false, "bleaches ECT(1)", verdicts{verdictPasses, verdictBleached, verdictPasses, verdictPasses}},
	{"rewrites ECT(1)", oneIsZero, false, "rewrites ECT(1)", verdicts{verdictPasses, verdictRewritten, verdictPasses, verdictPasses}},
	{"erases CE", eraseCE, false, "rewrites CE", verdicts{verdictPasses, verdictPasses, verdictPasses, verdictRewritten}},
}

// unnoticed are paths of which traffic in ECT(0) alone says nothing, so that the
// next test finds them out.
var unnoticed = map[string]bool{"drops CE": true, "erases CE": true, "bleaches ECT(1)": true, "rewrites ECT(1)": true}

func TestECNPathIsTestedBeforeUse(t *testing.T) {
	for _, c := range paths {
		t.Run(c.name, func(t *testing.T) {
			r := newECNRig(t, ECNAuto, c.path)
			r.want(false, "no session")
			r.e.agree(r.now, true)
			r.want(false, "testing")
			r.run(500*time.Millisecond, true)
			r.want(false, "testing")
			r.run(4*time.Second, true)
			r.want(c.normal, c.reason)
			if r.e.found != c.found {
				t.Errorf("found %v, want %v", r.e.found, c.found)
			}
			if n := r.sent[ecn.ECT0] + r.sent[ecn.ECT1]; n > 0 && !c.normal {
				t.Errorf("%d packets were sent ECN-capable", n)
			}
			if len(r.probes) > 60 {
				t.Errorf("%d probes", len(r.probes))
			}
		})
	}
}

// The path becomes another one under traffic: that is noticed within 10 s, and
// that it is well again within a few minutes.
func TestECNPathChangesUnderTraffic(t *testing.T) {
	for _, c := range paths[1:] {
		t.Run(c.name, func(t *testing.T) {
			r := newECNRig(t, ECNAuto, clean)
			r.e.agree(r.now, true)
			r.run(10*time.Second, true)
			r.want(true, "")
			r.path = c.path
			r.run(10*time.Second, true)
			if unnoticed[c.name] {
				r.want(true, "")
				r.run(3*time.Minute, true)
			}
			r.want(false, c.reason)
			r.path = clean
			r.run(4*time.Minute, true)
			r.want(true, "")
		})
	}
}

// One codepoint may go the way of the other, and marks of the one are no excuse
// for what becomes of the other.
func TestECNPathOfBothCodepoints(t *testing.T) {
	marking := 0
	for _, c := range paths[6:8] {
		r := newECNRig(t, ECNAuto, func(class uint8) (uint8, bool) {
			if marking++; marking%5 == 0 && class&3 != 0 {
				class |= 3
			}
			return class, true
		})
		r.both = true
		r.e.agree(r.now, true)
		r.run(20*time.Second, true)
		r.want(true, "")
		clean := r.path
		r.path = func(class uint8) (uint8, bool) {
			if class&3 == 1 {
				return c.path(class)
			}
			return clean(class)
		}
		r.run(10*time.Second, true)
		r.want(false, c.reason)
	}
}

// All of one codepoint may be marked while the other is not, as by an L4S queue
// under load: nothing is suspected for that.
func TestECNPathBearsAnL4SQueue(t *testing.T) {
	r := newECNRig(t, ECNAuto, clean)
	r.both = true
	r.e.agree(r.now, true)
	r.run(10*time.Second, true)
	r.path = func(class uint8) (uint8, bool) { return ternary(class&3 == 1, class|3, class), true }
	r.run(20*time.Second, true)
	r.want(true, "")
	if r.changes != 1 {
		t.Errorf("%d changes", r.changes)
	}
}

// A path that drops ECN-capable packets may drop all there is, so that no report
// comes.
func TestECNPathFallsSilent(t *testing.T) {
	r := newECNRig(t, ECNAuto, clean)
	r.e.agree(r.now, true)
	r.run(10*time.Second, true)
	r.path, r.silent = dropECT, true
	r.run(6*time.Second, true)
	r.want(false, "drops ECT(0)")
}

// A path that is dead is none that drops ECT.
func TestECNPathIsDead(t *testing.T) {
	r := newECNRig(t, ECNAuto, clean)
	r.e.agree(r.now, true)
	r.run(10*time.Second, true)
	r.path, r.silent = nothing, true
	r.run(30*time.Second, true)
	r.want(false, "too few probes")
	r.path, r.silent = clean, false
	r.run(time.Minute, true)
	r.want(true, "")
	if n := len(r.probes); n > 400 {
		t.Errorf("%d probes", n)
	}
}

// Loss of a tenth, marks now and then, and reports that come late are no reason to
// give up marks.
func TestECNPathBearsALossyPath(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	lossy := func(class uint8) (uint8, bool) {
		if class&3 != 0 && random.Float64() < 0.3 {
			class |= 3
		}
		return class, random.Float64() >= 0.1
	}
	bad := 0
	for range 200 {
		r := newECNRig(t, ECNAuto, lossy)
		r.e.agree(r.now, true)
		r.run(20*time.Second, true)
		if !r.e.normal {
			bad++
		}
	}
	if bad > 4 {
		t.Errorf("%d of 200 times no normal mode", bad)
	}
}

func TestECNPathSleepsWithoutData(t *testing.T) {
	r := newECNRig(t, ECNAuto, clean)
	r.e.agree(r.now, true)
	r.run(time.Minute, true)
	r.run(time.Minute, false)
	probes := len(r.probes)
	r.run(time.Hour, false)
	if len(r.probes) != probes || r.e.next() != 0 {
		t.Errorf("%d probes while nothing was sent, next step at %d", len(r.probes)-probes, r.e.next())
	}
	r.path = bleach
	r.run(10*time.Second, true)
	r.want(false, "bleaches")
}

func TestECNPathIsTestedEveryFewMinutes(t *testing.T) {
	r := newECNRig(t, ECNAuto, clean)
	r.e.agree(r.now, true)
	r.run(5*time.Second, true)
	first := len(r.probes)
	r.run(30*time.Minute, true)
	if n := len(r.probes) / first; n < 10 || n > 11 {
		t.Errorf("%d tests in half an hour", n)
	}
	r.want(true, "")
	if r.changes != 1 {
		t.Errorf("%d changes were told of, want one", r.changes)
	}
}

func TestECNPathSurvivesARekeyAndNotAMove(t *testing.T) {
	r := newECNRig(t, ECNAuto, clean)
	r.e.agree(r.now, true)
	r.run(5*time.Second, true)
	r.e.agree(r.now, true)
	r.want(true, "")
	r.path = bleach1
	r.e.roamed(r.now)
	r.want(false, "which has changed")
	r.run(5*time.Second, true)
	r.want(false, "bleaches ECT(1)")
	r.e.stock("a stock peer")
	r.want(false, "a stock peer")
	if n := len(r.probes); r.e.next() != 0 {
		t.Errorf("goes on after %d probes with a stock peer", n)
	}
}

func TestECNModes(t *testing.T) {
	on := newECNRig(t, ECNOn, bleach)
	on.want(true, "")
	on.e.agree(on.now, true)
	on.run(30*time.Second, true)
	on.want(true, "")
	if on.e.found[ecn.ECT0] != verdictBleached {
		t.Errorf("on: ECT(0) is %v, want it told", on.e.found[ecn.ECT0])
	}
	off := newECNRig(t, ECNOff, clean)
	off.e.agree(off.now, true)
	off.run(30*time.Second, true)
	off.want(false, "off")
	for _, p := range off.probes {
		if p.class&3 != 0 {
			t.Errorf("off: a probe with class %#x", p.class)
		}
	}
	unable := newECNRig(t, ECNAuto, clean)
	unable.e.agree(unable.now, false)
	unable.run(30*time.Second, true)
	unable.want(false, "does not say")
}

// DSCPs are tested when they are first used, and after that along with the rest.
func TestECNPathTestsDSCPs(t *testing.T) {
	remark := func(class uint8) (uint8, bool) {
		switch class >> 2 {
		case 46:
			return class&3 | 8<<2, true
		case 10:
			return class, false
		case 26:
			return class & 3, true
		}
		return class, true
	}
	r := newECNRig(t, ECNAuto, remark)
	r.e.agree(r.now, true)
	r.run(5*time.Second, true)
	r.want(true, "")
	r.e.classUsed(r.now, 1<<0|1<<46|1<<10|1<<26|1<<12)
	r.run(5*time.Second, true)
	want := map[uint8]dscpFound{
		34: {34, verdictPasses, 0}, 46: {46, verdictRewritten, 8}, 10: {10, verdictDropped, 0},
		26: {26, verdictBleached, 0}, 12: {12, verdictPasses, 0},
	}
	if len(r.e.dscps) != len(want) {
		t.Errorf("%d DSCPs were tested, want %d", len(r.e.dscps), len(want))
	}
	for _, f := range r.e.dscps {
		if f != want[f.dscp] {
			t.Errorf("DSCP %d: %+v, want %+v", f.dscp, f, want[f.dscp])
		}
	}
	r.path = noDSCP
	r.run(4*time.Minute, true)
	for _, f := range r.e.dscps {
		if f.verdict != verdictBleached {
			t.Errorf("DSCP %d: %v after the path began to bleach", f.dscp, f.verdict)
		}
	}
	r.e.classUsed(r.now, ^uint64(0))
	r.run(30*time.Second, true)
	if len(r.e.dscps) != 63 {
		t.Errorf("%d of 63 DSCPs were tested", len(r.e.dscps))
	}
	r.want(true, "")
}

// Several lanes are tested in turn, and one that bleaches is enough.
func TestECNPathOfSeveralLanes(t *testing.T) {
	r := newECNRig(t, ECNAuto, clean)
	r.lanes, r.bad = []uint16{0, 3, 7}, 7
	r.e.agree(r.now, true)
	r.run(2*time.Second, false)
	r.want(false, "bleaches")
	used := map[uint16]int{}
	for _, p := range r.probes {
		used[p.lane]++
	}
	if len(used) != 3 {
		t.Errorf("lanes used: %v", used)
	}
}

func TestClassTestIgnoresForeignEchoes(t *testing.T) {
	var c classTest
	n := uint64(0)
	c.begin(1, []uint16{5}, []uint8{0, 2})
	probes, _ := c.step(1, func() uint64 { n++; return n })
	if len(probes) != 2 {
		t.Fatalf("%d probes", len(probes))
	}
	c.echoed(2, 99, 5, 2)
	c.echoed(2, probes[1].id, 6, 2)
	c.echoed(2, probes[1].id, 5, 2)
	c.echoed(2, probes[1].id, 5, 0) // a second time
	if got := c.trials[1].arrived; got != [4]int{2: 1} {
		t.Errorf("arrived %v, want one ECT(0)", got)
	}
}
