package tunnel

import (
	"math/bits"
	"time"
)

const (
	suspectProbes = 2
	suspectGrace  = int64(50 * time.Millisecond)  // of a late answer, or a quarter of the round trip,
	suspectMost   = int64(250 * time.Millisecond) // less two round trips, whichever is longest
	briskRate     = 3                             // packets between two lists,
	briskMissed   = 2                             // and lists without any of them, that need no probe to tell
	witnessAgain  = int64(40 * time.Millisecond)
	anyLanes      = 16
	goodFor       = int64(2 * time.Second)
	suspectForget = int64(3 * time.Second) // without any answer to anything: the path is at fault

	deadRetry    = int64(10 * time.Second) // doubled each time it fails,
	deadRetryMax = int64(5 * time.Minute)
	provenLately = int64(time.Second)     // before lanes begin to die: one with flows needs no probe then
	dyingFor     = int64(3 * time.Second) // without a death, and the next one is of something else
	guardFor     = int64(time.Minute)     // after the last lane came back

	// Lanes that were opened for us stay so for this long after something came
	// on them: 30 s is what routers give an unanswered mapping.
	openFor      = int64(25 * time.Second)
	openRefresh  = int64(12 * time.Second)
	restockLeast = 4                             // lanes to have in stock, at least,
	restockShare = 4                             // or one for so many in use
	restockAgain = int64(500 * time.Millisecond) // before a lane is asked for again

	silenceIdle  = int64(time.Second)            // without data, silence means nothing
	silenceAfter = int64(150 * time.Millisecond) // beyond a round trip: three times heardEvery
	silenceAgain = int64(300 * time.Millisecond)

	crowdCheck  = int64(time.Second)
	crowdActive = 2 * spreadTick                 // a lane is compared that data was sent on as lately as that
	crowdFresh  = int64(7 * time.Second)         // measurements as old as that are compared
	crowdLeast  = int64(2500 * time.Microsecond) // half of CoDel's target (RFC 8289 section 4.3),
	crowdPart   = 8                              // and one in so many of the round trip
	crowdProbes = 3                              // in a row
	crowdAtOnce = 8                              // lanes compared with an idle one
	crowdEvery  = int64(10 * time.Second)        // at most so often a flow is moved
	crowdRest   = int64(time.Minute)             // until the lane is used again
	crowdWait   = int64(time.Second)             // until a flow moves that does not pause
	crowdMost   = 8                              // of the packets of the busiest lane, a sparse flow has not more than one in so many,
	crowdSparse = 4                              // or so many packets between two lists
)

// laneCheck is what is known of one lane above 0, or of lane 0.
type laneCheck struct {
	checked int64 // last probe sent
	proved  int64 // last proof that the lane works: an answer, or the peer has listed it
	suspect int64 // since when it is suspected, 0 = it is not
	witness int64 // when another lane was answered that was probed after this one
	retryAt int64 // of a dead or crowded lane, when it is tried again
	wait    int64
	tries   uint8 // probes since it is suspected,
	dscp    uint8 // which had this
	brisk   bool  // it carried several packets between two lists,
	missed  uint8 // lists since then without it, and with others
	slow    uint8 // comparisons in a row in which it took far longer than an idle lane,
	beside  int64 // the newest of which began then
	tried   int64 // last probe sent on a better way,
	better  int64 // and last answer to one
	dead    bool
	shut    bool // flows may not have it yet
	crowded bool
	queued  bool
	anew    bool // it has come in since the newest list
}

// crowdedLane is a lane whose sparse flow waits behind somebody else's. Its packets
// take gap longer than elsewhere.
type crowdedLane struct {
	lane uint16
	gap  int64
}

// watched is the newest 64 lists of the peer's and one lane, a bit for each.
type watched struct {
	number uint64 // of packets sent when the newest list came
	sent   uint64 // whether something was, before each list and after the one before
	listed uint64 // whether the lane was in it
	rate   uint16 // packets sent between the newest two
}

// laneWatch follows what the peer says that it has heard.
type laneWatch struct {
	at        int64 // when the newest list came
	since     int64 // when data began, or silence was last explained
	doubtAt   int64 // since when silence is looked into, 0 = it is not
	doubtSent int64 // when probes were last sent for that
	doubts    int   // how often
	zeroAt    int64 // when lane 0 has answered one of them
	suspects  []uint16
	called    int64 // when others were last probed beside suspects
	any       uint16
	good      uint16 // the lane last taken for one that works
	guarded   bool   // lanes have died: only proven ones are given to flows
	guardTill int64
	diedAt    int64 // when the newest died
	doubted   int64 // lanes with flows that were proven before this may have died with it,
	trusted   int64 // and those without that were before this
	crowdAt   int64 // when to compare delays again
	beside    beside
	movedAt   int64 // when a flow was last moved for that
	history   *listHistory
}

// listHistory is made with the first list.
type listHistory struct {
	times [64]int64 // of the newest lists, the newest first
	known int
	lanes []watched
	most  uint16 // greatest rate of a lane

	keypair uint32 // that the numbers are of
}

// doubt has the lanes looked at although nothing is missed yet.
func (w *laneWatch) doubt(now int64) { w.doubtAt, w.doubtSent, w.doubts, w.zeroAt = now, 0, 0, 0 }

func (s *spread) check(lane uint16) *laneCheck {
	for int(lane) >= len(s.lanes) {
		s.lanes = append(s.lanes, laneCheck{shut: s.mode.shuts() || s.watch.guarded})
	}
	return &s.lanes[lane]
}

// forgetLanes begins anew, as the way is another one.
func (s *spread) forgetLanes() {
	s.lanes, s.cursor = s.lanes[:0], 0
	w := &s.watch
	w.suspects, w.guarded, w.diedAt, w.trusted = w.suspects[:0], false, 0, 0
	w.doubtAt, w.history, w.beside = 0, nil, beside{}
}

// given asks for a probe on a lane that a flow was just given.
func (s *spread) given(now int64, lane uint16) {
	c := s.check(lane)
	if c.queued || c.checked != 0 && now-c.checked < laneCheckEvery {
		return
	}
	c.queued = true
	s.urgent = append(s.urgent, lane)
	s.wake(now)
}

// watchLanes is a step while data is spread.
func (s *spread) watchLanes(now int64, owner spreadOwner, ev *spreadEvents) {
	s.probeUrgent(now, owner, ev)
	s.judgeSuspects(now, owner, ev)
	s.lookIntoSilence(now, owner, ev)
	if !s.mode.spreads() {
		return
	}
	idle := now-s.used > spreadIdle
	if !idle {
		s.probeActive(now, owner, ev)
		s.shutStale(now, owner, ev)
		s.restock(now, owner, ev)
		s.compareDelays(now, owner, ev)
		s.endGuard(now, ev)
		s.tick(now + spreadTick)
		s.tryBetter(now, owner, ev)
	}
	if len(s.watch.suspects) > 0 || s.watch.doubtAt != 0 || len(s.urgent) > 0 {
		s.tick(now + spreadSoon)
	}
}

func (s *spread) probeUrgent(now int64, owner spreadOwner, ev *spreadEvents) {
	n := min(len(s.urgent), probeAtOnce)
	for _, lane := range s.urgent[:n] {
		s.check(lane).queued = false
		s.emit(now, lane, s.mode, owner, ev)
	}
	s.urgent = s.urgent[:copy(s.urgent, s.urgent[n:])]
}

// suspectLane has a lane proven or given up, by probes on it and, right after each,
// on others that are known to work: if those are answered and these are not, the
// lane is at fault. No clock and no guess of the round trip is needed for that, so
// it holds while the path's delay changes.
func (s *spread) suspectLane(now int64, lane uint16, brisk bool, ev *spreadEvents) {
	c := s.check(lane)
	if c.dead || c.shut || c.suspect != 0 {
		return
	}
	c.suspect, c.tries, c.witness, c.brisk, c.missed = now, 0, 0, brisk, 0
	s.watch.suspects = append(s.watch.suspects, lane)
	if lane != 0 {
		ev.held = append(ev.held, lane)
	}
	s.wake(now)
}

func (s *spread) judgeSuspects(now int64, owner spreadOwner, ev *spreadEvents) {
	w := &s.watch
	kept, probed, died, dscps := w.suspects[:0], 0, int64(-1), uint64(0)
	for _, lane := range w.suspects {
		c := s.check(lane)
		switch {
		case c.dead || c.proved > c.suspect || now-c.suspect > suspectForget:
			c.suspect = 0
			if lane != 0 && !c.dead && !c.shut {
				ev.in = append(ev.in, lane)
			}
			continue
		case c.missed >= briskMissed, c.witness != 0 && c.tries == suspectProbes && now-c.witness >= s.grace(c.brisk):
			s.bury(now, lane, ev)
			if lane != 0 {
				died = max(died, c.proved)
			}
			continue
		case c.tries == 0 || c.tries < suspectProbes && now-c.checked >= spreadSoon:
			c.dscp = owner.laneDSCP(lane)
			if s.emit(now, lane, s.mode, owner, ev) {
				c.tries++
				c.witness = 0
				probed++
			}
		}
		if c.witness == 0 {
			dscps |= 1 << c.dscp
		}
		kept = append(kept, lane)
	}
	w.suspects = kept
	if spare, _, _ := owner.spareLanes(); probed > spare {
		s.stockUp(now, probed-spare, owner, ev)
	}
	if dscps != 0 && (probed > 0 || now-w.called >= witnessAgain) {
		w.called = now
		s.callWitnesses(now, dscps, owner, ev)
	}
	if died >= 0 {
		s.guard(now, died, owner, ev)
	}
}

// callWitnesses probes lane 0 and two of the lanes that the peer has listed of late,
// with each of the DSCPs that the suspects have, as bits: a class of service may wait
// for others for as long as it takes. Any of them may be silent itself, so they are
// others each time.
func (s *spread) callWitnesses(now int64, dscps uint64, owner spreadOwner, ev *spreadEvents) {
	for ; dscps != 0; dscps &= dscps - 1 {
		dscp := uint8(bits.TrailingZeros64(dscps))
		s.emitAs(now, 0, spreadListen, dscp, owner, ev)
		for range 2 {
			lane := s.goodLane(now, func(lane uint16) bool { return owner.laneDSCP(lane) == dscp })
			if lane == 0 {
				break
			}
			s.emitAs(now, lane, s.mode, dscp, owner, ev)
		}
	}
}

// goodLane gives a lane that is known to work, another one each time, 0 if there is
// none.
func (s *spread) goodLane(now int64, fits func(lane uint16) bool) uint16 {
	if !s.mode.spreads() {
		return 0
	}
	w := &s.watch
	for range len(s.lanes) - 1 {
		w.good = w.good%uint16(len(s.lanes)-1) + 1
		c := &s.lanes[w.good]
		if !c.dead && !c.shut && c.suspect == 0 && c.proved != 0 && now-c.proved < goodFor && fits(w.good) {
			return w.good
		}
	}
	return 0
}

// anyLane is for when none is known to work: another one each time.
func (s *spread) anyLane() uint16 {
	if s.mode != spreadDirect {
		return 0
	}
	s.watch.any = s.watch.any%min(s.limit, anyLanes) + 1
	return s.watch.any
}

// bury gives a lane up, for now.
func (s *spread) bury(now int64, lane uint16, ev *spreadEvents) {
	c := s.check(lane)
	c.suspect = 0
	c.dead = true
	if lane == 0 {
		return // others carry control messages; there is nothing to move
	}
	c.wait = min(max(2*c.wait, deadRetry), deadRetryMax)
	c.retryAt = now + c.wait
	ev.out = append(ev.out, lane)
}

// guard lets flows have only lanes that are known to work, from the first death on:
// what has made one lane silent may have made others so that nobody has used since.
// Of a lane that was proven before the dead one last worked, nothing is known any more.
// Those that flows have keep them; one that was not proven lately is probed, once while
// lanes go on dying.
func (s *spread) guard(now, worked int64, owner spreadOwner, ev *spreadEvents) {
	w := &s.watch
	if now-w.diedAt > dyingFor || w.diedAt == 0 {
		w.doubted = now - provenLately
	}
	w.trusted = max(w.trusted, w.doubted, worked)
	w.diedAt, w.guardTill = now, now+guardFor
	alive := 0
	for lane := uint16(1); lane <= s.limit; lane++ {
		c := s.check(lane)
		switch {
		case c.dead || c.shut:
		case c.suspect != 0, c.proved > w.trusted:
			alive++
		case owner.flowsOn(lane) > 0:
			if alive++; c.proved <= w.doubted {
				s.suspectLane(now, lane, false, ev)
			}
		default:
			c.shut = true
			ev.out = append(ev.out, lane)
		}
	}
	w.guarded = true
	if alive == 0 {
		s.lostAll(now, ev)
	}
}

// lostAll goes back to the search: no lane works any more.
func (s *spread) lostAll(now int64, ev *spreadEvents) {
	s.startProbing(now, "lanes got no answer any more while lane 0 did: trying again")
	ev.out, ev.in, ev.crowded = nil, nil, nil
	ev.anew, ev.changed = true, true
}

// endGuard trusts all lanes again when none has been dead for a while.
func (s *spread) endGuard(now int64, ev *spreadEvents) {
	w := &s.watch
	if !w.guarded || now < w.guardTill {
		return
	}
	for i := 1; i < len(s.lanes); i++ {
		if s.lanes[i].dead {
			w.guardTill = now + guardFor
			return
		}
	}
	w.guarded = false
	if s.mode.shuts() {
		return
	}
	for i := range s.lanes {
		if c := &s.lanes[i]; c.shut {
			c.shut = false
			ev.in = append(ev.in, uint16(i))
		}
	}
}

// proven takes the answer to a probe while data is spread.
func (s *spread) proven(now int64, p *pendingProbe, ev *spreadEvents) {
	w := &s.watch
	for _, lane := range w.suspects {
		if c := s.check(lane); lane != p.lane && p.dscp == c.dscp && p.sent >= c.checked && c.witness == 0 && c.tries > 0 {
			c.witness = now
			s.tick(now + s.grace(c.brisk))
		}
	}
	if p.lane == 0 {
		s.revive(now, 0, ev)
		if w.doubtAt != 0 && p.sent >= w.doubtAt && w.zeroAt == 0 {
			w.zeroAt = now
		}
		return
	}
	if p.via == s.mode {
		s.revive(now, p.lane, ev)
		w.doubtAt, w.since = 0, now
	} else {
		s.betterAnswered(now, p)
	}
}

// revive notes that a lane works.
func (s *spread) revive(now int64, lane uint16, ev *spreadEvents) {
	c := s.check(lane)
	c.proved, c.tries = now, 0
	if lane == 0 {
		c.dead = false
	}
	if lane == 0 || !c.dead && !c.shut || c.crowded {
		return
	}
	c.dead, c.shut, c.wait, c.anew = false, false, 0, true
	ev.in = append(ev.in, lane)
}

// openedLane is told that something has come, where it goes, on a lane that the peer,
// or both, had to open.
func (s *spread) openedLane(now int64, lane uint16) (ev spreadEvents) {
	if lane <= s.limit {
		s.check(lane)
		s.openLane(now, lane, &ev)
	}
	return ev
}

// openLane lets flows have a lane that the peer has opened, at a time.
func (s *spread) openLane(at int64, lane uint16, ev *spreadEvents) {
	if c := &s.lanes[lane]; s.mode.shuts() && c.shut && !c.dead && !c.crowded && at > s.watch.trusted {
		c.shut, c.anew, c.proved = false, true, max(c.proved, at)
		ev.in = append(ev.in, lane)
	}
}

// lookIntoSilence finds out, when data is sent and nothing heard of it, whether
// all lanes are silent or the whole path is.
func (s *spread) lookIntoSilence(now int64, owner spreadOwner, ev *spreadEvents) {
	w := &s.watch
	if w.doubtAt == 0 {
		if s.used > w.at && now-s.used < silenceIdle && now-max(w.at, w.since) > s.last+silenceAfter {
			w.doubt(now)
			ev.silent = true
		} else {
			return
		}
	}
	switch {
	case w.zeroAt != 0 && w.doubts >= suspectProbes && now-w.zeroAt >= max(suspectGrace, s.last/4):
		s.lostAll(now, ev)
	case w.doubts < suspectProbes && now-w.doubtSent >= spreadSoon, now-w.doubtSent >= silenceAgain:
		if now-w.doubtAt > suspectForget && now-s.used > silenceIdle {
			w.doubtAt = 0
			return
		}
		w.doubts, w.doubtSent = w.doubts+1, now
		s.probeDoubted(now, owner, ev)
	}
}

// probeDoubted probes lanes that have carried data of late, and then lane 0.
func (s *spread) probeDoubted(now int64, owner spreadOwner, ev *spreadEvents) {
	found := 0
	for lane := uint16(1); int(lane) < len(s.lanes) && found < probeLanes; lane++ {
		if c := s.check(lane); !c.dead && !c.shut && now-owner.lastSent(lane) < 2*silenceIdle {
			s.emit(now, lane, s.mode, owner, ev)
			found++
		}
	}
	for lane := uint16(1); found == 0 && lane <= min(probeLanes, s.limit); lane++ {
		s.emit(now, lane, s.mode, owner, ev)
	}
	s.emit(now, 0, spreadListen, owner, ev)
}

// probeActive goes on with the round over lanes that carry data, and over those
// that are due another chance.
func (s *spread) probeActive(now int64, owner spreadOwner, ev *spreadEvents) {
	for range len(s.lanes) - 1 {
		s.cursor = s.cursor%uint16(len(s.lanes)-1) + 1
		c := &s.lanes[s.cursor]
		switch {
		case c.crowded && now >= c.retryAt:
			c.crowded, c.shut = false, false
			ev.in = append(ev.in, s.cursor)
			continue
		case c.dead && now >= c.retryAt:
			c.wait = min(2*c.wait, deadRetryMax)
			c.retryAt = now + c.wait
		case c.dead || c.shut || now-c.checked < laneCheckEvery || owner.lastSent(s.cursor) <= c.checked:
			continue
		case c.checked > c.proved && c.proved != 0:
			s.suspectLane(now, s.cursor, false, ev) // the probe before was not answered
		}
		s.emit(now, s.cursor, s.mode, owner, ev)
		if len(ev.probes) >= probePerTick {
			break
		}
	}
}

// shutStale takes out lanes on which nothing has come for so long that the mapping
// may be gone, and has those refreshed that we use.
func (s *spread) shutStale(now int64, owner spreadOwner, ev *spreadEvents) {
	if !s.mode.shuts() {
		return
	}
	for i := 1; i < len(s.lanes); i++ {
		c, lane := &s.lanes[i], uint16(i)
		if c.shut || c.dead {
			if heard := owner.heardOn(lane); now-heard < openRefresh && owner.hasWay(lane, s.mode) {
				s.openLane(heard, lane, ev)
			}
			continue
		}
		age := now - max(owner.heardOn(lane), c.proved)
		if age > openFor {
			c.shut = true
			ev.out = append(ev.out, lane)
		} else if age > openRefresh && now-owner.lastSent(lane) < openFor && now-c.checked > spreadTick*5 && len(ev.ask) < probeBusyTick {
			c.checked = now
			ev.ask, ev.pair = append(ev.ask, lane), s.mode == spreadPaired
		}
	}
}

// restock sees to it that there are lanes in stock for new flows, where not every
// lane will do.
func (s *spread) restock(now int64, owner spreadOwner, ev *spreadEvents) {
	if !s.mode.shuts() && !s.watch.guarded {
		return
	}
	spare, used, crammed := owner.spareLanes()
	if want := max(restockLeast, used/restockShare) + crammed; spare < want {
		s.stockUp(now, want-spare, owner, ev)
	}
}

// stockUp has n more lanes proven.
func (s *spread) stockUp(now int64, n int, owner spreadOwner, ev *spreadEvents) {
	n = min(n, 2*probeBusyTick)
	for i := range s.lanes { // those that are on their way
		if c := &s.lanes[i]; c.shut && !c.dead && !c.crowded && c.checked != 0 && now-c.checked < restockAgain {
			n--
		}
	}
	for lane := uint16(1); lane <= s.limit && n > 0; lane++ {
		c := s.check(lane)
		fresh := !c.shut && c.proved == 0 && owner.lastSent(lane) == 0 // not guarded yet
		if c.dead || c.crowded || !c.shut && !fresh || c.checked != 0 && now-c.checked < restockAgain {
			continue
		}
		n--
		if s.mode.shuts() {
			ev.ask, ev.pair = append(ev.ask, lane), s.mode == spreadPaired
		}
		if !s.mode.shuts() || owner.hasWay(lane, s.mode) {
			s.emit(now, lane, s.mode, owner, ev)
		}
		c.checked = now
	}
}

// heard takes a list of the lanes on which something has come to the peer since
// its list before.
func (s *spread) heard(now int64, list *heardList, owner spreadOwner) (ev spreadEvents) {
	if !s.mode.spreads() {
		return ev
	}
	w := &s.watch
	w.at = now
	h := w.history
	if h == nil {
		h = new(listHistory)
		w.history = h
	}
	copy(h.times[1:], h.times[:])
	h.times[0] = now
	h.known = min(h.known+1, len(h.times))
	back, mask := h.horizon(now - s.last - spreadSoon)
	top := uint16(min(max(len(h.lanes), min(list.limit(), int(s.limit)+1), len(s.lanes)), heardCovers))
	same := h.keypair == owner.keypairInUse()
	h.keypair = owner.keypairInUse()
	h.most = 0
	for lane := range top {
		at, listed := h.lane(lane), list.has(lane)
		c := s.check(lane)
		if c.anew { // what was to open it is lost
			*at = watched{listed: at.listed}
		}
		at.update(owner.sentNumber(lane), same && !c.anew, listed)
		c.anew = false
		h.most = max(h.most, at.rate)
		switch {
		case listed && lane <= s.limit:
			s.revive(now, lane, &ev)
			if lane > 0 {
				w.doubtAt = 0
			}
		case back > 0 && at.sent>>back&1 == 1 && at.listed&mask == 0:
			s.suspectLane(now, lane, at.rate >= briskRate, &ev)
		}
		if !listed && c.suspect != 0 && c.brisk && list.others(lane) {
			c.missed++
		}
	}
	return ev
}

// horizon gives the newest interval between lists of which all that was sent must
// have arrived before the newest list was made, 0 if there is none; and which lists
// it may be in.
func (h *listHistory) horizon(arrived int64) (back int, lists uint64) {
	for back = 1; back < h.known; back++ {
		if h.times[back] > arrived {
			continue
		}
		lists = 3
		if back+1 >= h.known || h.times[back]-h.times[back+1] > 2*heardEvery {
			lists = 1<<(back+1) - 1 // lists are not regular
		}
		return back, lists
	}
	return 0, 0
}

func (h *listHistory) lane(lane uint16) *watched {
	for int(lane) >= len(h.lanes) {
		h.lanes = append(h.lanes, watched{})
	}
	return &h.lanes[lane]
}

// update takes a list. After a change of keypair, which begins to count anew,
// nothing is known of what was sent before it.
func (w *watched) update(number uint64, same, listed bool) {
	sent := number - w.number
	if !same {
		sent = 0
	}
	w.rate = uint16(min(sent, 1<<16-1))
	w.sent, w.listed, w.number = w.sent<<1, w.listed<<1, number
	if sent != 0 {
		w.sent |= 1
	}
	if listed {
		w.listed |= 1
	}
}

// paired is told which lanes the peer has opened from its side, port to port.
func (s *spread) paired(now int64, lanes []uint16, owner spreadOwner) (ev spreadEvents) {
	if s.mode != spreadPaired && !(s.mode == spreadProbing && s.may(spreadPaired)) {
		return ev
	}
	for _, lane := range lanes {
		if c := s.check(lane); s.mode == spreadProbing || c.shut && !c.crowded {
			s.emit(now, lane, spreadPaired, owner, &ev)
		}
	}
	return ev
}

// outOfUse counts the lanes that flows have left.
func (s *spread) outOfUse() (dead, crowded int) {
	for i := 1; i < len(s.lanes); i++ {
		if s.lanes[i].dead {
			dead++
		}
		if s.lanes[i].crowded {
			crowded++
		}
	}
	return dead, crowded
}

// zeroDoubtful says that lane 0 is not known to get through, though others are.
func (s *spread) zeroDoubtful(now int64) bool {
	if !s.mode.spreads() || len(s.lanes) == 0 {
		return false
	}
	c := &s.lanes[0]
	return c.dead || c.suspect != 0 || now-c.proved > s.last+3*heardEvery
}
