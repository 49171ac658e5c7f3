package tunnel

import (
	"time"

	"kiloport/tunnel/ecn"
)

// markCounts counts messages by the ECN codepoint of their outer header. That of
// Not-ECT may be left at 0 where nobody asks for it.
type markCounts [4]uint64

// suspicion is what data in flight says of the path. A test has to confirm it.
type suspicion uint8

const (
	suspectNothing suspicion = iota
	suspectGone              // what is sent ECN-capable arrives without a mark, or not at all
	suspectMarked            // everything that is sent ECN-capable arrives as CE
)

const (
	watchMinOwed   = 10                             // messages, RFC 9000's number
	watchGoneAfter = int64(2000 * time.Millisecond) // a report and a long round trip
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
	debts      [2]ecnDebt // of ECT(1) and ECT(0)
	markedRun  int
	calmUntil  int64
	calm       int64
}

// ecnDebt is what was sent with one codepoint and not seen with it, or CE, since.
type ecnDebt struct {
	paid  uint64 // sent when it was last seen
	since int64  // when watchMinOwed more had been sent, 0 = not yet
}

func (w *ecnWatch) debt(cp ecn.Codepoint) *ecnDebt { return &w.debts[cp-ecn.ECT1] }

// restart begins anew with these counts, as when normal mode begins.
func (w *ecnWatch) restart(sent, seen markCounts) {
	w.sent, w.seen, w.markedRun = sent, seen, 0
	for _, cp := range capable {
		*w.debt(cp) = ecnDebt{paid: sent[cp]}
	}
}

// capable are the codepoints of ECN-capable packets that were not marked yet.
var capable = [...]ecn.Codepoint{ecn.ECT1, ecn.ECT0}

// wrong tells that the last suspicion was not confirmed.
func (w *ecnWatch) wrong(now int64) {
	w.calm = min(max(2*w.calm, watchCalmFirst), watchCalmMost)
	w.calmUntil = now + w.calm
}

// reported takes what the peer says it has received, with what had been sent
// until now.
func (w *ecnWatch) reported(now int64, sent, seen markCounts) suspicion {
	ce, unmarked := seen[ecn.CE]-w.seen[ecn.CE], false
	for _, cp := range capable {
		same := seen[cp] != w.seen[cp]
		unmarked = unmarked || same
		if same || ce > 0 && 2*ce >= sent[cp]-w.sent[cp] { // so many may all have been marked
			*w.debt(cp) = ecnDebt{paid: sent[cp]}
		}
	}
	switch {
	case unmarked || ce < 2*(sent[ecn.CE]-w.sent[ecn.CE]):
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

// tick is to be called every half second or so while data is sent, also when no
// report comes: that may be because nothing arrives.
func (w *ecnWatch) tick(now int64, sent markCounts) suspicion {
	for _, cp := range capable {
		switch d := w.debt(cp); {
		case sent[cp]-d.paid < watchMinOwed:
		case d.since == 0:
			d.since = now
		case now-d.since >= watchGoneAfter && now >= w.calmUntil:
			return suspectGone
		}
	}
	return suspectNothing
}
