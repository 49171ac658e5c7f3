package tunnel

import (
	"math/bits"
	"strings"
	"time"

	"kiloport/tunnel/ecn"
)

const (
	lookAgainEvery = int64(3 * time.Minute)  // while data is sent
	lookAgainSoon  = int64(10 * time.Second) // after a test that said nothing, doubled each time
	lookAgainBusy  = int64(30 * time.Second) // after everything was marked: it may have been congestion
	ecnIdle        = int64(30 * time.Second) // no tests after this long without data
	ecnTick        = int64(time.Second / 2)  // how often data in flight is watched
	ecnTickWhile   = int64(5 * time.Second)  // after the last data
	testDSCPs      = 8                       // in one test
)

// ecnPath decides whether what is sent to a peer carries the ECN field outside
// (RFC 6040, section 4.3): pure, single-owner (behind the peer's mutex), time is
// an argument. Nothing is guessed: compatibility mode lasts until the peer has
// said that it decapsulates, and a test has shown that ECT(0), ECT(1) and CE get
// through as they are. The test is repeated while data is sent, after roaming,
// and when data in flight contradicts it. DSCPs are tested along with it, to
// tell people; nothing is done about those.
//
// It judges the way to the peer. The way back is the peer's to judge; it says in
// REPORT what it found.
type ecnPath struct {
	want  ECNMode
	plain uint8 // DSCP of the probes

	able   bool // HELLO was exchanged, and the peer decapsulates by RFC 6040
	hello  bool // HELLO was exchanged, so PROBE is answered
	normal bool // data may be sent in normal mode
	reason string

	test     classTest
	suspect  suspicion // why the test runs
	found    verdicts
	sent     uint64 // DSCPs that were asked for, as bits
	untested uint64 // of these, not in any test yet
	dscps    []dscpFound
	tested   int64 // when the last test ended, 0 = never
	lookAt   int64 // when to test again
	backoff  int64

	watch  ecnWatch
	tickAt int64 // 0 = asleep
	used   int64 // when data was last sent
}

// dscpFound is what a test said of a DSCP.
type dscpFound struct {
	dscp    uint8
	verdict verdict
	as      uint8 // what it arrives as, if it is rewritten
}

// ecnEvents is what a step asks the owner to do.
type ecnEvents struct {
	probes  []classProbe // to send now
	changed bool         // mode, reason or verdicts are new: worth a log line, and telling the peer
}

// newECNPath begins without a session. dscps are those, as bits, that may be
// expected on the way.
func newECNPath(o *Options, dscps uint64) ecnPath {
	e := ecnPath{want: o.ECN, plain: o.DSCP.Outer(0), sent: dscps &^ 1}
	e.stock("no session yet")
	return e
}

// stock records that the peer is plain WireGuard, or that nothing is known of it.
func (e *ecnPath) stock(reason string) {
	if e.want == ECNOff {
		reason = "ecn is off"
	} else if e.want == ECNOn {
		reason = ""
	}
	e.able, e.hello, e.normal, e.reason = false, false, e.want == ECNOn, reason
	e.test, e.suspect, e.found, e.dscps = classTest{}, suspectNothing, verdicts{}, nil
	e.untested, e.tested, e.lookAt, e.backoff, e.tickAt = e.sent, 0, 0, 0, 0
	e.watch = ecnWatch{}
}

// asked records that HELLO was said, or is waited for, on a first session.
func (e *ecnPath) asked() {
	if !e.hello && e.want == ECNAuto {
		e.reason = "the peer has not answered HELLO yet"
	}
}

// agree records that HELLO was exchanged, on whichever keypair. What was found
// before survives a rekey.
func (e *ecnPath) agree(now int64, able bool) {
	if e.hello && e.able == able {
		return
	}
	e.stock("")
	e.hello, e.able = true, able
	if e.want == ECNAuto {
		e.reason = "testing the path"
		if !able {
			e.reason = "the peer does not say that it decapsulates by RFC 6040"
		}
	}
	e.look(now)
}

// roamed makes the path be tested as a new one, which it is.
func (e *ecnPath) roamed(now int64) {
	if !e.hello {
		return
	}
	if e.want == ECNAuto && e.able {
		e.normal, e.reason = false, "testing the path, which has changed"
	}
	e.test, e.found, e.backoff = classTest{}, verdicts{}, 0
	e.untested = e.sent
	e.look(now)
}

// look asks for a test at once.
func (e *ecnPath) look(now int64) { e.lookAt, e.tickAt = now, now }

// classUsed notes that something is sent with these DSCPs, as bits.
func (e *ecnPath) classUsed(now int64, dscps uint64) {
	if fresh := dscps &^ e.sent &^ 1; fresh != 0 {
		e.sent |= fresh
		e.untested |= fresh
		if e.hello && !e.test.running() {
			e.tickAt = now
		}
	}
}

// active is told that data was sent to the peer: it wakes the machine.
func (e *ecnPath) active(now int64) {
	e.used = now
	if e.hello && e.tickAt == 0 {
		e.tickAt = now + ecnTick
	}
}

// next is when step wants to be called, 0 = not before something happens.
func (e *ecnPath) next() int64 { return e.tickAt }

// ecnOwner is what a step needs to know of the peer.
type ecnOwner interface {
	random64() uint64
	testLanes() []uint16 // lanes that work, at least one
	sentMarks() markCounts
}

// step watches data in flight, and begins, goes on with and judges tests.
func (e *ecnPath) step(now int64, owner ecnOwner) (ev ecnEvents) {
	if e.tickAt == 0 || now < e.tickAt || !e.hello {
		return ev
	}
	if !e.test.running() {
		e.suspected(now, &ev, e.watchTick(now, owner))
		e.begin(now, owner)
	}
	if e.test.running() {
		var over bool
		if ev.probes, over = e.test.step(now, owner.random64); over {
			e.judge(now, owner, &ev)
		}
	}
	e.sleep(now)
	return ev
}

func (e *ecnPath) watchTick(now int64, owner ecnOwner) suspicion {
	if !e.watching() {
		return suspectNothing
	}
	return e.watch.tick(now, owner.sentMarks())
}

// watching tells whether data in flight is to agree with a test.
func (e *ecnPath) watching() bool { return e.want == ECNAuto && e.normal }

// reported takes what the peer says has arrived of what we sent. anew tells that
// its counts have begun anew.
func (e *ecnPath) reported(now int64, anew bool, sent, seen markCounts) (ev ecnEvents) {
	switch {
	case anew, !e.watching():
		e.watch.restart(sent, seen)
	default:
		if s := e.watch.reported(now, sent, seen); !e.test.running() {
			e.suspected(now, &ev, s)
		}
	}
	return ev
}

// suspected has a suspicion confirmed. While marks may be lost, or packets with
// them, nothing more is risked.
func (e *ecnPath) suspected(now int64, ev *ecnEvents, s suspicion) {
	switch s {
	case suspectNothing:
		return
	case suspectGone:
		e.normal, e.reason = false, "testing the path again: what was sent ECN-capable does not arrive so"
		ev.changed = true
	}
	e.suspect = s
	e.look(now)
}

// begin starts the test that is due, if any.
func (e *ecnPath) begin(now int64, owner ecnOwner) {
	full := now >= e.lookAt
	if !full && e.untested == 0 || now-e.used > ecnIdle && e.tested != 0 {
		return
	}
	classes := []uint8{ecn.TrafficClass(e.plain, ecn.NotECT)}
	if full {
		e.untested = e.sent
		if e.want != ECNOff {
			for _, cp := range testedCodepoints {
				classes = append(classes, ecn.TrafficClass(e.plain, cp))
			}
		}
	}
	for range testDSCPs {
		if e.untested == 0 {
			break
		}
		dscp := uint8(bits.TrailingZeros64(e.untested))
		e.untested &^= 1 << dscp
		classes = append(classes, ecn.TrafficClass(dscp, ecn.NotECT))
	}
	if len(classes) == 1 {
		e.tested, e.lookAt = now, now+lookAgainEvery
		return
	}
	e.test.begin(now, owner.testLanes(), classes)
}

// judge draws conclusions from a test that has ended.
func (e *ecnPath) judge(now int64, owner ecnOwner, ev *ecnEvents) {
	before, beforeReason, beforeNormal := e.found, e.reason, e.normal
	full := false
	for i := range e.test.trials {
		trial := &e.test.trials[i]
		switch cp := ecn.Codepoint(trial.class & 3); {
		case i == 0:
			e.found[ecn.NotECT] = e.test.codepoint(0)
		case cp != ecn.NotECT:
			e.found[cp] = e.test.codepoint(i)
			full = true
		default:
			e.foundDSCP(dscpFound{trial.class >> 2, e.test.dscp(i), trial.as})
		}
	}
	e.tested = now
	if full || e.want == ECNOff {
		e.conclude(now, owner)
	}
	ev.changed = ev.changed || e.found != before || e.reason != beforeReason || e.normal != beforeNormal
	e.test = classTest{}
}

func (e *ecnPath) foundDSCP(f dscpFound) {
	for i := range e.dscps {
		if e.dscps[i].dscp == f.dscp {
			e.dscps[i] = f
			return
		}
	}
	e.dscps = append(e.dscps, f)
}

// conclude decides on the mode after a test of the codepoints.
func (e *ecnPath) conclude(now int64, owner ecnOwner) {
	suspect := e.suspect
	e.suspect = suspectNothing
	if !e.test.conclusive() {
		e.backoff = min(max(2*e.backoff, lookAgainSoon), lookAgainEvery)
		e.lookAt = now + e.backoff
		if e.want == ECNAuto && e.able && !e.normal {
			e.reason = "too few probes came back to tell what the path does to marks"
		}
		return
	}
	e.lookAt = now + lookAgainEvery
	if e.found[ecn.ECT0] == verdictMarked || e.found[ecn.ECT1] == verdictMarked {
		e.backoff = min(max(2*e.backoff, lookAgainBusy), lookAgainEvery)
		e.lookAt = now + e.backoff
	} else {
		e.backoff = 0
	}
	if e.want != ECNAuto || !e.able {
		return
	}
	fault := e.found.fault()
	if fault == "" && suspect != suspectNothing {
		e.watch.wrong(now)
	}
	if fault == "" && !e.normal {
		e.watch.restart(owner.sentMarks(), e.watch.seen)
	}
	e.normal, e.reason = fault == "", fault
}

// sleep sets when the next step is due.
func (e *ecnPath) sleep(now int64) {
	switch {
	case e.test.running():
		e.tickAt = e.test.at
	case e.untested != 0 && now-e.used <= ecnIdle:
		e.tickAt = now
	case e.watching() && now-e.used <= ecnTickWhile:
		e.tickAt = now + ecnTick
	case now-e.used <= ecnIdle || e.tested == 0:
		e.tickAt = max(e.lookAt, now+ecnTick)
	default:
		e.tickAt = 0
	}
}

// echoed takes an answer to a probe.
func (e *ecnPath) echoed(now int64, id uint64, lane uint16, class uint8) {
	if e.test.running() {
		e.test.echoed(now, id, lane, class)
		e.tickAt = min(e.tickAt, e.test.at)
	}
}

// blind tells that the path sets CE on what was sent Not-ECT. Then CE says
// nothing of congestion.
func (v *verdicts) blind() bool { return v[ecn.NotECT] == verdictMarked }

// testedCodepoints are those that normal mode needs, in the order for people.
var testedCodepoints = [...]ecn.Codepoint{ecn.ECT0, ecn.ECT1, ecn.CE}

// fault says in words why the path is not fit for normal mode, empty if it is.
func (v *verdicts) fault() string {
	if v.blind() {
		return "the path to the peer marks everything CE, even what is not ECN-capable"
	}
	var parts []string
	for _, bad := range [...]verdict{verdictDropped, verdictBleached, verdictRewritten, verdictMarked} {
		if which := v.with(bad); which != "" {
			parts = append(parts, faultVerbs[bad]+" "+which)
		}
	}
	if len(parts) > 0 {
		return "the path to the peer " + strings.Join(parts, " and ")
	}
	if which := v.with(verdictUnknown); which != "" {
		return "too few probes came back to tell what the path does to " + which
	}
	return ""
}

// with lists the codepoints of which this was found.
func (v *verdicts) with(found verdict) string {
	var which []string
	for _, cp := range testedCodepoints {
		if v[cp] == found {
			which = append(which, cp.String())
		}
	}
	return strings.Join(which, ", ")
}

var faultVerbs = [verdictCount]string{
	verdictBleached: "bleaches", verdictRewritten: "rewrites", verdictDropped: "drops",
	verdictMarked: "turns into CE every",
}
