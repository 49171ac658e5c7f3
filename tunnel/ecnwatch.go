package tunnel

import (
	"time"

	"kiloport/tunnel/ecn"
)

// markCounts counts messages by the ECN codepoint of their outer header. That of
// Not-ECT may be left at 0 where nobody asks for it.
type markCounts [4]uint64

// capable is how many were sent or arrived as ECN-capable, CE apart.
func (c *markCounts) capable() uint64 { return c[ecn.ECT0] + c[ecn.ECT1] }

// suspicion is what data in flight says of the path. A test has to confirm it.
type suspicion uint8

const (
	suspectNothing suspicion = iota
	suspectGone              // what is sent ECN-capable arrives without a mark, or not at all
	suspectMarked            // everything that is sent ECN-capable arrives as CE
)

const (
	watchMinOwed   = 10                             // messages, RFC 9000's number
	watchGoneAfter = int64(2500 * time.Millisecond) // two reports and a long round trip
	watchMinMarked = 20                             // in a report,
	watchMarkedRun = 3                              // in so many in a row
	watchCalmFirst = int64(10 * time.Second)        // no suspicion after one that was wrong,
	watchCalmMost  = int64(3 * time.Minute)         // doubled each time to this
)

// ecnWatch compares what we sent in normal mode with what the peer reports, as
// RFC 9000 section 13.4.2 does with acknowledgements: a path that begins to erase
// or to drop after it was tested must not cost more than a few seconds.
type ecnWatch struct {
	sent, seen markCounts // at the last report
	owed       uint64     // sent ECN-capable when a mark was last seen
	owedSince  int64      // when watchMinOwed more had been sent, 0 = not yet
	markedRun  int
	calmUntil  int64
	calm       int64
}

// restart begins anew with these counts, as when normal mode begins.
func (w *ecnWatch) restart(sent, seen markCounts) {
	w.sent, w.seen = sent, seen
	w.owed, w.owedSince, w.markedRun = sent.capable(), 0, 0
}

// wrong tells that the last suspicion was not confirmed.
func (w *ecnWatch) wrong(now int64) {
	w.calm = min(max(2*w.calm, watchCalmFirst), watchCalmMost)
	w.calmUntil = now + w.calm
}

// reported takes what the peer says it has received, with what had been sent
// until now.
func (w *ecnWatch) reported(now int64, sent, seen markCounts) suspicion {
	capable := seen.capable() - w.seen.capable()
	ce := seen[ecn.CE] - w.seen[ecn.CE]
	sentCE := sent[ecn.CE] - w.sent[ecn.CE]
	if capable+ce > 0 {
		w.owed, w.owedSince = sent.capable(), 0
	}
	switch {
	case capable > 0 || ce < 2*sentCE:
		w.markedRun = 0
	case ce >= watchMinMarked:
		w.markedRun++
	}
	w.sent, w.seen = sent, seen
	if w.markedRun >= watchMarkedRun && now >= w.calmUntil {
		return suspectMarked
	}
	return w.tick(now, sent)
}

// tick is to be called every second or so while data is sent, also when no report
// comes: that may be because nothing arrives.
func (w *ecnWatch) tick(now int64, sent markCounts) suspicion {
	switch {
	case sent.capable()-w.owed < watchMinOwed:
	case w.owedSince == 0:
		w.owedSince = now
	case now-w.owedSince >= watchGoneAfter && now >= w.calmUntil:
		return suspectGone
	}
	return suspectNothing
}
