package tunnel

import (
	"time"

	"kiloport/tunnel/ecn"
)

// verdict is what a path does, in one direction, to what is sent with an ECN
// codepoint or a DSCP. The numbers travel in REPORT.
type verdict uint8

const (
	verdictUnknown   verdict = iota // not tried, or hardly anything came back
	verdictPasses                   // arrives as it was sent
	verdictBleached                 // arrives as Not-ECT, or as DSCP 0
	verdictRewritten                // arrives as something else
	verdictMarked                   // arrives as CE, every time
	verdictDropped                  // does not arrive, while what is sent without does
	verdictCount     = iota
)

var verdictNames = [verdictCount]string{"unknown", "passes", "bleached", "rewritten", "marked CE every time", "dropped"}

func (v verdict) String() string {
	if v < verdictCount {
		return verdictNames[v]
	}
	return verdictNames[verdictUnknown] // a later version's
}

// verdicts are those of the four codepoints. That of Not-ECT tells whether the
// path marks what must not be marked.
type verdicts [4]verdict

// A test sends rounds of probes, one of each traffic class and the control, which
// is plain, on lanes that are known to work: those with another DSCP than the
// control's on lane 0, because packets of two classes may overtake each other by more
// than a lane's replay window bears. RFC 9000, appendix A.4, is the
// model: ten packets, and what happened to them.
const (
	testRounds     = 10
	testEvery      = int64(100 * time.Millisecond)
	testPatience   = int64(1500 * time.Millisecond) // a probe without an echo after this is lost
	testMinHeard   = 3                              // fewer say nothing
	testMinChanged = 2                              // once may be somebody's mistake
	testMinLost    = testRounds / 2                 // more than of the control, to blame the class
	testMinMarked  = testRounds / 2
)

// classTest is one test: pure, single-owner, time is an argument. Trial 0 is the
// control.
type classTest struct {
	trials  []classTrial
	lanes   []uint16
	rounds  int
	at      int64 // next round, or when the last probe is lost; 0 = not running
	pending []classProbe
}

// classTrial is what happened to the probes of one traffic class.
type classTrial struct {
	class   uint8
	sent    int
	lost    int
	arrived [4]int // by codepoint
	changed int    // arrived with another DSCP,
	as      uint8  // which was this, the last time
}

// classProbe is a probe on its way.
type classProbe struct {
	id    uint64
	lane  uint16
	class uint8
	trial uint8
	sent  int64
}

func (t *classTest) running() bool { return t.at != 0 }

// begin starts a test of traffic classes; the first is the control.
func (t *classTest) begin(now int64, lanes []uint16, classes []uint8) {
	*t = classTest{at: now, lanes: lanes, trials: make([]classTrial, len(classes))}
	for i, class := range classes {
		t.trials[i].class = class
	}
}

// step sends the round that is due and gives up late probes. over tells that the
// test has ended with this step.
func (t *classTest) step(now int64, id func() uint64) (probes []classProbe, over bool) {
	if t.at == 0 || now < t.at {
		return nil, false
	}
	t.expire(now)
	if t.rounds < testRounds {
		probes = t.round(now, id)
		t.at = now + testEvery
		return probes, false
	}
	if len(t.pending) > 0 {
		t.at = t.pending[0].sent + testPatience
		return nil, false
	}
	t.at = 0
	return nil, true
}

func (t *classTest) round(now int64, id func() uint64) []classProbe {
	lane := t.lanes[t.rounds%len(t.lanes)]
	t.rounds++
	from := len(t.pending)
	for i := range t.trials {
		t.trials[i].sent++
		p := classProbe{id: id(), lane: lane, class: t.trials[i].class, trial: uint8(i), sent: now}
		if p.class>>2 != t.trials[0].class>>2 {
			p.lane = 0
		}
		t.pending = append(t.pending, p)
	}
	return t.pending[from:]
}

// expire takes lost probes off the list, which is in the order of sending.
func (t *classTest) expire(now int64) {
	n := 0
	for n < len(t.pending) && now-t.pending[n].sent >= testPatience {
		t.trials[t.pending[n].trial].lost++
		n++
	}
	t.pending = t.pending[n:]
}

// echoed takes an answer, which says as what class the probe arrived. An id that
// is not pending is late, or not ours.
func (t *classTest) echoed(now int64, id uint64, lane uint16, class uint8) {
	for i := range t.pending {
		p := &t.pending[i]
		if p.id != id || p.lane != lane {
			continue
		}
		trial := &t.trials[p.trial]
		trial.arrived[class&3]++
		if class>>2 != trial.class>>2 {
			trial.changed++
			trial.as = class >> 2
		}
		t.pending = append(t.pending[:i], t.pending[i+1:]...)
		if len(t.pending) == 0 && t.rounds == testRounds {
			t.at = now // over
		}
		return
	}
}

func (t *classTrial) heard() int { return t.sent - t.lost }

// conclusive tells whether enough came back to judge anything.
func (t *classTest) conclusive() bool { return t.trials[0].heard() >= testMinHeard }

// codepoint judges trial i by its ECN field.
func (t *classTest) codepoint(i int) verdict {
	trial := &t.trials[i]
	if v := t.delivery(trial); v != verdictPasses {
		return v
	}
	sent := ecn.Codepoint(trial.class & 3)
	for got := range ecn.Codepoint(4) {
		switch n := trial.arrived[got]; {
		case got == sent, n < testMinChanged:
		case got == ecn.NotECT:
			return verdictBleached
		case got != ecn.CE:
			return verdictRewritten
		case n == trial.heard() && n >= testMinMarked:
			return verdictMarked
		case sent == ecn.NotECT:
			return verdictRewritten // now and then; no router may do that
		}
	}
	return verdictPasses
}

// dscp judges trial i by its DSCP.
func (t *classTest) dscp(i int) verdict {
	trial := &t.trials[i]
	switch v := t.delivery(trial); {
	case v != verdictPasses || trial.changed < testMinChanged:
		return v
	case trial.as == 0:
		return verdictBleached
	}
	return verdictRewritten
}

// delivery judges whether a class arrives, whatever it looks like then.
func (t *classTest) delivery(trial *classTrial) verdict {
	switch control := &t.trials[0]; {
	case !t.conclusive():
		return verdictUnknown
	case trial.lost-control.lost >= testMinLost:
		return verdictDropped
	case trial.heard() < testMinHeard:
		return verdictUnknown
	}
	return verdictPasses
}
