package tunnel

import (
	"slices"
	"time"
)

// spreadMode says which lanes data to a peer may take, and where they lead.
type spreadMode uint8

const (
	spreadOff      spreadMode = iota // we were told not to spread
	spreadStock                      // the peer has not said HELLO: plain WireGuard on lane 0
	spreadProbing                    // HELLO answered, no lane has been seen to arrive yet: lane 0
	spreadFallback                   // lane 0 is answered and the others are not: lane 0

	// From here on data is spread.
	spreadDirect // from our pool to the peer's listen port
	spreadReturn // from our listen port to the pool ports that the peer's packets came from
	spreadPaired // from each port of our pool to one of the peer's, which both have opened
	spreadListen // from listen port to listen port: labels or source addresses tell lanes apart
)

var spreadModeNames = [...]string{"off", "stock", "probing", "fallback", "direct", "return", "paired", "listen"}

func (m spreadMode) String() string { return spreadModeNames[m] }

// spreads says whether data leaves lane 0.
func (m spreadMode) spreads() bool { return m >= spreadDirect }

// pooled says whether lanes leave from ports of our pool.
func (m spreadMode) pooled() bool { return m == spreadDirect || m == spreadPaired }

// shuts says whether a lane has to be opened, by the peer or by both, before data
// may go on it.
func (m spreadMode) shuts() bool { return m == spreadReturn || m == spreadPaired }

const (
	probeLanes      = 3 // lanes tried before the first flow may use any
	probeMaxPending = 4096
	probeAtOnce     = 64                     // on lanes that flows were just given
	probeForget     = int64(3 * time.Second) // an answer that takes longer is none
	probePerTick    = 4
	probeBusyTick   = 16 // while lanes have to be found anew

	spreadTick     = int64(100 * time.Millisecond)
	spreadSoon     = int64(10 * time.Millisecond)
	laneCheckEvery = int64(5 * time.Second)
	spreadIdle     = int64(30 * time.Second) // no checks after this long without data

	// The search for a mode.
	firstRound   = int64(250 * time.Millisecond) // until the round trip is known
	quickRounds  = 12                            // first rounds at once, later ones slowly
	slowRound    = int64(2 * time.Second)
	searchAtMost = int64(700 * time.Millisecond) // after lane 0 was answered, or four round trips
	betterWaits  = int64(150 * time.Millisecond) // for a better way after another was answered, or two round trips,
	betterMost   = int64(300 * time.Millisecond) // and at most

	fallbackRetry    = int64(5 * time.Second)
	fallbackRetryMax = int64(time.Minute)
)

// spread is a peer's state machine for its sending lanes: pure, single-owner
// (behind the peer's mutex), time is an argument. Nothing is guessed: data goes
// on lanes above 0 only after a probe on one was echoed, by whichever of the ways
// that were tried comes first in their order. spreadlanes.go then watches each
// lane in use.
type spread struct {
	mode   spreadMode
	limit  uint16       // lanes above 0 agreed by HELLO
	ways   []spreadMode // that may be tried, the best first
	reason string       // why not direct, or what it is instead, for people

	srtt    int64 // smoothed round trip of probes, 0 = not known
	last    int64 // the newest one
	pending []pendingProbe
	lanes   []laneCheck // by lane, grown on use
	urgent  []uint16    // lanes to probe at once: just opened
	cursor  uint16      // where the next round of checks goes on
	tickAt  int64       // 0 = asleep
	used    int64       // when data was last sent to the peer

	retryAt int64 // fallback: when to try lanes again
	backoff int64

	// Probing.
	rounds    int        // how many were sent
	roundAt   int64      // when the next may be
	zeroAt    int64      // when lane 0 was first answered
	labelled  bool       // a lane between the listen ports was answered
	answersIn bool       // the peer has opened a lane for us
	second    spreadMode // the best way that was answered and is not the best that may be, if any,
	secondAt  int64      // since then

	watch  laneWatch
	better betterWay
}

type pendingProbe struct {
	id   uint64
	lane uint16
	via  spreadMode // the way that it took
	dscp uint8      // that of the data on the lane, whose fate it shall share
	sent int64
}

// spreadEvents is what a step asks the owner to do.
type spreadEvents struct {
	probes  []pendingProbe // to send now
	out     []uint16       // lanes whose flows must move
	in      []uint16       // lanes that flows may have
	held    []uint16       // lanes that new flows may not have for now
	crowded []crowdedLane  // lanes whose flows fare better elsewhere
	ask     []uint16       // lanes that the peer is asked to open
	pair    bool           // and to send on to our pool
	anew    bool           // lanes are to be given out anew, in the new mode
	silent  bool           // nothing of what was sent is heard of
	changed bool           // mode or reason is new: worth a log line
}

// spreadOwner is what the machine needs to know of the peer.
type spreadOwner interface {
	random64() uint64
	lastSent(lane uint16) int64              // when data was last sent on a lane
	sentNumber(lane uint16) uint64           // of messages, on the keypair in use
	keypairInUse() uint32                    // names it
	laneDSCP(lane uint16) uint8              // that data was last sent with on a lane
	heardOn(lane uint16) int64               // when something last arrived on a lane, to within lastGrain
	flowsOn(lane uint16) int                 // that have a lane
	hasWay(lane uint16, via spreadMode) bool // whether a lane is known to lead anywhere
	spareLanes() (spare, used, crammed int)  // of those that flows may have; flows that share one for want of more
	laneDelay(lane uint16) (delay, at int64) // of its newest probe, one way, by a clock that all lanes share; at 0 if there was none
}

// usable reports whether data may leave lane 0.
func (s *spread) usable() bool { return s.mode.spreads() }

// agree records that HELLO was answered for limit lanes, which may go these ways.
// A mode found earlier survives a rekey.
func (s *spread) agree(now int64, limit uint16, ways []spreadMode) {
	if s.limit == limit && s.mode != spreadStock && s.mode != spreadOff {
		return
	}
	s.limit, s.ways = limit, ways
	switch {
	case limit == 0:
		s.stock("the peer accepts no lanes")
	case len(ways) == 0:
		s.stock("over IPv4 there are no flow labels to tell lanes apart")
	default:
		s.startProbing(now, "waiting for the first probe on a lane to be answered")
		s.backoff = 0
	}
}

func (s *spread) startProbing(now int64, why string) {
	s.mode, s.reason = spreadProbing, why
	s.rounds, s.roundAt, s.zeroAt = 0, 0, 0
	s.labelled, s.answersIn, s.second, s.secondAt = false, false, 0, 0
	s.pending, s.urgent = s.pending[:0], s.urgent[:0]
	s.forgetLanes()
	s.tickAt = now
}

// stock records that the peer is plain WireGuard on the keypair in use.
func (s *spread) stock(reason string) {
	*s = spread{mode: spreadStock, reason: reason, srtt: s.srtt, last: s.last}
}

// active is told that data was sent to the peer: it wakes the checks.
func (s *spread) active(now int64) {
	if now-s.used > silenceIdle || s.used <= s.watch.at {
		s.watch.since = now // there was nothing that the peer has yet to list
	}
	s.used = now
	if s.tickAt != 0 {
		return
	}
	switch {
	case s.mode.shuts():
		s.tickAt = now // lanes may be open no longer
	case s.mode.spreads(), s.mode == spreadProbing:
		s.tickAt = now + spreadTick
	case s.mode == spreadFallback:
		s.tickAt = max(s.retryAt, now)
	}
}

// roamed makes everything be looked at again: the path is another one.
func (s *spread) roamed(now int64) {
	switch s.mode {
	case spreadDirect, spreadListen:
		s.watch.doubt(now)
		s.better = betterWay{at: now, wait: betterFirst}
		s.wake(now)
	case spreadReturn, spreadPaired, spreadFallback, spreadProbing:
		s.backoff = 0
		s.startProbing(now, "the path has changed: trying lanes again")
	}
}

func (s *spread) wake(now int64) {
	if s.mode >= spreadProbing && (s.tickAt == 0 || s.tickAt > now) {
		s.tickAt = now
	}
}

// next is when step wants to be called, 0 = not before something happens.
func (s *spread) next() int64 { return s.tickAt }

// step sends due probes and draws conclusions from unanswered ones.
func (s *spread) step(now int64, owner spreadOwner) (ev spreadEvents) {
	if s.tickAt == 0 || now < s.tickAt {
		return ev
	}
	s.tickAt = 0
	s.expire(now)
	switch {
	case s.mode == spreadProbing:
		s.search(now, owner, &ev)
	case s.mode == spreadFallback:
		s.retry(now)
	case s.mode.spreads():
		s.watchLanes(now, owner, &ev)
	}
	return ev
}

// tick makes step be called at a time, or earlier.
func (s *spread) tick(at int64) {
	if s.tickAt == 0 || at < s.tickAt {
		s.tickAt = at
	}
}

// grace is how much later than another probe's an answer may come before it counts
// as missing. Where little was sent, hence little was missed, there is more of it.
func (s *spread) grace(brisk bool) int64 {
	least := max(suspectGrace, s.last/4)
	if brisk {
		return least
	}
	return max(least, suspectMost-2*s.last)
}

// emit sends a probe. It reports false where too many wait for an answer already.
func (s *spread) emit(now int64, lane uint16, via spreadMode, owner spreadOwner, ev *spreadEvents) bool {
	return s.emitAs(now, lane, via, owner.laneDSCP(lane), owner, ev)
}

func (s *spread) emitAs(now int64, lane uint16, via spreadMode, dscp uint8, owner spreadOwner, ev *spreadEvents) bool {
	if len(s.pending) >= probeMaxPending {
		return false
	}
	p := pendingProbe{id: owner.random64(), lane: lane, via: via, dscp: dscp, sent: now}
	s.pending = append(s.pending, p)
	ev.probes = append(ev.probes, p)
	s.check(lane).checked = now
	return true
}

// expire takes probes that got no answer off the list.
func (s *spread) expire(now int64) {
	kept := s.pending[:0]
	for _, p := range s.pending {
		if now-p.sent < probeForget {
			kept = append(kept, p)
		}
	}
	s.pending = kept
}

func (s *spread) may(way spreadMode) bool { return slices.Contains(s.ways, way) }

// betterThan are the ways that may be tried and are better than one, the best first.
func (s *spread) betterThan(way spreadMode) []spreadMode {
	if at := slices.Index(s.ways, way); at >= 0 {
		return s.ways[:at]
	}
	return nil
}

// search sends rounds of probes on lane 0 and the first lanes, each way that may
// work, until the best one is answered, another one was and none of the better ones a
// while later, or lane 0 alone was for long enough.
func (s *spread) search(now int64, owner spreadOwner, ev *spreadEvents) {
	if s.second != 0 && now-s.secondAt >= s.patience() {
		s.found(now, s.second, ev)
		return
	}
	if s.second == 0 && s.zeroAt != 0 && now-s.zeroAt >= max(searchAtMost, 4*s.last) && s.rounds >= 4 {
		s.settle(now, ev)
		return
	}
	if s.second != 0 {
		s.tick(s.secondAt + s.patience())
	}
	if now < s.roundAt {
		s.tick(s.roundAt)
		return
	}
	s.rounds++
	s.emit(now, 0, spreadListen, owner, ev)
	for lane := uint16(1); lane <= min(probeLanes, s.limit); lane++ {
		for _, way := range s.ways {
			// The best way has a chance to be answered before others are tried.
			if s.rounds == 1 && way != s.ways[0] || way.shuts() && !owner.hasWay(lane, way) {
				continue
			}
			s.emit(now, lane, way, owner, ev)
		}
	}
	if s.rounds > 1 && s.second == 0 && (s.may(spreadReturn) || s.may(spreadPaired)) {
		s.ask(ev, 1, min(probeLanes, s.limit))
		ev.pair = s.may(spreadPaired) && (!s.may(spreadReturn) || s.zeroAt != 0 && now-s.zeroAt > 3*s.last+2*suspectGrace)
	}
	s.roundAt = now + s.roundGap()
	s.tick(s.roundAt)
	if s.zeroAt != 0 {
		s.tick(max(s.zeroAt+max(searchAtMost, 4*s.last), now+spreadSoon))
	}
}

// patience is how much later than another way's a better one's answer may come: on a
// busy machine by more than a round trip.
func (s *spread) patience() int64 { return min(max(2*s.last, betterWaits), betterMost) }

func (s *spread) roundGap() int64 {
	switch {
	case s.rounds > quickRounds:
		return slowRound
	case s.last == 0:
		return firstRound
	case s.rounds > 3:
		return firstRound / 2
	}
	return min(max(s.last, 2*spreadSoon), firstRound)
}

func (s *spread) ask(ev *spreadEvents, from, to uint16) {
	for lane := from; lane <= to; lane++ {
		ev.ask = append(ev.ask, lane)
	}
}

// settle ends the search without any of the better ways.
func (s *spread) settle(now int64, ev *spreadEvents) {
	if s.labelled {
		s.found(now, spreadListen, ev)
		return
	}
	s.mode = spreadFallback
	s.reason = "probes on lanes above 0 got no answer while lane 0 did: " +
		"does a firewall before the peer let in only one source port?"
	ev.anew, ev.changed = true, s.backoff == 0 // once is enough to say it
	s.backoff = min(max(2*s.backoff, fallbackRetry), fallbackRetryMax)
	s.retryAt = now + s.backoff
	s.tickAt = 0
	if now-s.used < spreadIdle {
		s.tickAt = s.retryAt
	}
	s.pending = s.pending[:0]
}

var foundReasons = map[spreadMode]string{
	spreadReturn: "the peer's firewall or NAT lets in only answers: lanes go back to the ports from which the peer opened them",
	spreadPaired: "both firewalls or NATs let in only answers: lanes go from port to port, opened from both sides",
}

// found records the way that works.
func (s *spread) found(now int64, mode spreadMode, ev *spreadEvents) {
	s.mode, s.reason, s.backoff = mode, foundReasons[mode], 0
	if mode == spreadListen && len(s.ways) > 1 {
		s.reason = "no other port gets through to the peer: lanes share the listen ports"
	}
	s.watch.since, s.watch.at = now, now
	s.better = betterWay{at: now + betterFirst, wait: betterFirst}
	for i := range s.lanes { // that came up during the search, when none was shut
		s.lanes[i].shut = mode.shuts()
	}
	ev.anew, ev.changed = true, true
	s.tick(now)
}

func (s *spread) retry(now int64) {
	if now < s.retryAt {
		s.tick(s.retryAt)
		return
	}
	s.startProbing(now, "trying lanes again after a fallback to lane 0")
}

// opened is told that the peer has opened a lane for us, while ways are searched.
func (s *spread) opened(now int64) {
	if s.mode == spreadProbing && !s.answersIn {
		s.answersIn, s.roundAt = true, now
		s.wake(now)
	}
}

// echoed takes an answer. An id that is not pending is late, forged or a
// replay of an old one, and ignored.
func (s *spread) echoed(now int64, id uint64, lane uint16) (ev spreadEvents) {
	at := -1
	for i := range s.pending {
		if s.pending[i].id == id && s.pending[i].lane == lane {
			at = i
		}
	}
	if at < 0 {
		return ev
	}
	p := s.pending[at]
	s.sample(now - p.sent)
	s.pending[at] = s.pending[len(s.pending)-1]
	s.pending = s.pending[:len(s.pending)-1]
	switch {
	case s.mode == spreadProbing:
		s.searched(now, &p, &ev)
	case s.mode.spreads():
		s.proven(now, &p, &ev)
	}
	return ev
}

// searched takes an answer during the search.
func (s *spread) searched(now int64, p *pendingProbe, ev *spreadEvents) {
	switch {
	case p.lane == 0:
		if s.zeroAt == 0 {
			s.zeroAt = now
			s.roundAt = min(s.roundAt, now+max(s.last/4, spreadSoon))
			s.tick(s.roundAt)
		}
	case p.via == spreadListen && len(s.ways) > 1:
		s.labelled = true
	case p.via == s.ways[0]:
		s.found(now, p.via, ev)
		s.proven(now, p, ev)
	case s.second == 0 || slices.Contains(s.betterThan(s.second), p.via):
		if s.second == 0 {
			s.secondAt = now
		}
		s.second = p.via
		s.roundAt = min(s.roundAt, now)
		s.wake(now)
	}
}

// sample smooths the round trip as RFC 6298 section 2 does (alpha = 1/8).
func (s *spread) sample(rtt int64) {
	s.last = max(rtt, 1)
	if s.srtt == 0 {
		s.srtt = s.last
		return
	}
	s.srtt += (s.last - s.srtt) / 8
}

// name is the mode for people: between listen ports it is what tells lanes apart.
func (s *spread) name(by SpreadMode) string {
	if s.mode != spreadListen {
		return s.mode.String()
	}
	return by.between()
}
