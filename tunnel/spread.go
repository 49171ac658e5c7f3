package tunnel

import (
	"fmt"
	"math"
	"time"
)

// spreadMode says which lanes data to a peer may take.
type spreadMode uint8

const (
	spreadOff      spreadMode = iota // we were told not to spread
	spreadStock                      // the peer has not said HELLO: plain WireGuard on lane 0
	spreadProbing                    // HELLO answered, no lane has been seen to arrive yet: lane 0
	spreadDirect                     // lanes arrive: from our pool to the peer's listen port
	spreadFallback                   // lane 0 is answered and the others are not: lane 0
)

var spreadModeNames = [...]string{"off", "stock", "probing", "direct", "fallback"}

func (m spreadMode) String() string { return spreadModeNames[m] }

const (
	probeLanes       = 3                      // lanes tried before the first flow may use any
	probeTries       = 6                      // unanswered probes in a row that make a lane dead,
	probeSilence     = int64(3 * time.Second) // after at least this long without an answer on it
	probeLossRun     = 16                     // unanswered on any lanes that make all lanes useless,
	probeAllSilence  = int64(5 * time.Second) // after at least this long without an answer on any
	probeFirstRTO    = int64(time.Second)
	probeMinRTO      = int64(300 * time.Millisecond)
	probeMaxRTO      = int64(2 * time.Second)
	probeMaxPending  = 64
	probePerTick     = 4
	spreadTick       = int64(250 * time.Millisecond)
	laneCheckEvery   = int64(5 * time.Second)
	deadLaneRetry    = int64(30 * time.Second)
	spreadIdle       = int64(30 * time.Second) // no checks after this long without data
	quickRounds      = 8                       // first rounds at once, later ones slowly
	slowRound        = int64(5 * time.Second)
	fallbackRetry    = int64(30 * time.Second)
	fallbackRetryMax = int64(10 * time.Minute)
)

// spread is a peer's state machine for its sending lanes: pure, single-owner
// (behind the peer's mutex), time is an argument. Nothing is guessed: data goes
// on lanes above 0 only after a probe on one was echoed, each lane in use is
// probed when it is opened and now and then while it carries data, and lane 0 is
// probed beside a silent lane, so that a dead path is not taken for a firewall.
type spread struct {
	mode   spreadMode
	limit  uint16 // lanes above 0 agreed by HELLO
	reason string // why not direct, for people

	srtt     int64 // smoothed round trip of probes, 0 = not known
	pending  []pendingProbe
	lanes    []laneCheck // by lane, grown on use
	urgent   []uint16    // lanes to probe at once: just opened, or timed out
	cursor   uint16      // where the next round of checks goes on
	tickAt   int64       // 0 = asleep
	retryAt  int64       // fallback: when to try lanes again
	backoff  int64
	lossRun  int   // lane probes lost since the last echo on any lane above 0
	lossFrom int64 // when the first of these was sent
	heard    int64 // last echo on lane 0
	rounds   int   // probing: how many rounds were sent
	roundAt  int64 // probing: when the next may be
	used     int64 // when data was last sent to the peer
}

type pendingProbe struct {
	id   uint64
	lane uint16
	sent int64
}

type laneCheck struct {
	checked  int64 // last probe sent
	answered int64 // last echo, or the first probe before there was one
	failures uint8 // unanswered in a row
	dead     bool
	queued   bool
}

// spreadEvents is what a step asks the owner to do.
type spreadEvents struct {
	probes  []pendingProbe // to send now
	dead    []uint16       // lanes whose flows must move
	alive   []uint16       // dead lanes that answered
	changed bool           // mode or reason is new: worth a log line
}

// usable reports whether data may leave lane 0.
func (s *spread) usable() bool { return s.mode == spreadDirect }

// agree records that HELLO was answered for limit lanes. A mode found earlier
// survives a rekey.
func (s *spread) agree(now int64, limit uint16) {
	if s.limit == limit && s.mode != spreadStock && s.mode != spreadOff {
		return
	}
	s.limit = limit
	if limit == 0 {
		s.stock("the peer accepts no lanes")
		return
	}
	s.startProbing(now)
	s.backoff = 0
}

func (s *spread) startProbing(now int64) {
	s.mode, s.reason = spreadProbing, "waiting for the first probe on a lane to be answered"
	s.rounds, s.roundAt, s.lossRun = 0, 0, 0
	s.pending, s.urgent = s.pending[:0], s.urgent[:0]
	s.tickAt = now
}

// stock records that the peer is plain WireGuard on the keypair in use.
func (s *spread) stock(reason string) {
	*s = spread{mode: spreadStock, reason: reason, srtt: s.srtt}
}

// opened asks for a probe on a lane that a flow was just given.
func (s *spread) opened(now int64, lane uint16) {
	c := s.check(lane)
	if c.queued || now-c.checked < laneCheckEvery && c.checked != 0 {
		return
	}
	c.queued = true
	s.urgent = append(s.urgent, lane)
	s.wake(now)
}

// active is told that data was sent to the peer: it wakes the checks.
func (s *spread) active(now int64) {
	s.used = now
	if s.tickAt != 0 {
		return
	}
	switch s.mode {
	case spreadDirect, spreadProbing:
		s.tickAt = now + spreadTick
	case spreadFallback:
		s.tickAt = max(s.retryAt, now)
	}
}

// roamed makes every lane be looked at again: the path is another one.
func (s *spread) roamed(now int64) {
	for i := range s.lanes {
		s.lanes[i].checked = now - laneCheckEvery
	}
	if s.mode == spreadFallback {
		s.retryAt, s.backoff = now, 0
	}
	s.wake(now)
}

func (s *spread) wake(now int64) {
	if s.mode >= spreadProbing && (s.tickAt == 0 || s.tickAt > now) {
		s.tickAt = now
	}
}

// next is when step wants to be called, 0 = not before something happens.
func (s *spread) next() int64 { return s.tickAt }

// step sends due probes and draws conclusions from unanswered ones. lastSent
// gives when data was last sent on a lane, id draws random numbers.
func (s *spread) step(now int64, lastSent func(lane uint16) int64, id func() uint64) (ev spreadEvents) {
	if s.tickAt == 0 || now < s.tickAt {
		return ev
	}
	s.tickAt = 0
	s.expire(now, &ev)
	switch s.mode {
	case spreadProbing:
		s.probeFirst(now, id, &ev)
	case spreadDirect:
		s.probeUrgent(now, id, &ev)
		s.probeActive(now, lastSent, id, &ev)
		s.judge(now, &ev)
	case spreadFallback:
		s.retry(now, &ev)
	}
	if len(s.pending) > 0 && (s.tickAt == 0 || s.tickAt > now+spreadTick) {
		s.tickAt = now + spreadTick
	}
	return ev
}

func (s *spread) check(lane uint16) *laneCheck {
	if int(lane) >= len(s.lanes) {
		s.lanes = append(s.lanes, make([]laneCheck, int(lane)+1-len(s.lanes))...)
	}
	return &s.lanes[lane]
}

func (s *spread) rto() int64 {
	if s.srtt == 0 {
		return probeFirstRTO
	}
	return min(max(4*s.srtt, probeMinRTO), probeMaxRTO)
}

func (s *spread) emit(now int64, lane uint16, id func() uint64, ev *spreadEvents) {
	if len(s.pending) >= probeMaxPending {
		return
	}
	p := pendingProbe{id: id(), lane: lane, sent: now}
	s.pending = append(s.pending, p)
	ev.probes = append(ev.probes, p)
	c := s.check(lane)
	c.checked = now
	if c.answered == 0 {
		c.answered = now
	}
}

// expire takes probes that got no answer in time off the list.
func (s *spread) expire(now int64, ev *spreadEvents) {
	kept := s.pending[:0]
	for _, p := range s.pending {
		if now-p.sent < s.rto() {
			kept = append(kept, p)
		} else if p.lane != 0 {
			s.lost(now, p, ev)
		}
	}
	s.pending = kept
}

func (s *spread) lost(now int64, p pendingProbe, ev *spreadEvents) {
	if s.lossRun == 0 || p.sent < s.lossFrom {
		s.lossFrom = p.sent
	}
	s.lossRun++
	c := s.check(p.lane)
	c.failures = min(c.failures+1, math.MaxUint8-1)
	if s.mode != spreadDirect || c.dead {
		return
	}
	// A flow that overloads its own lane loses probes too; it must lose many in
	// a row before the lane is blamed.
	if c.failures >= probeTries && now-c.answered >= probeSilence {
		c.dead = true
		ev.dead = append(ev.dead, p.lane)
	} else if !c.queued {
		c.queued = true
		s.urgent = append(s.urgent, p.lane)
	}
}

// probeFirst sends rounds over the first lanes and lane 0 until one answers, or
// until lane 0 alone has answered for four rounds.
func (s *spread) probeFirst(now int64, id func() uint64, ev *spreadEvents) {
	if len(s.pending) > 0 {
		return
	}
	if s.rounds >= 4 && s.heard >= s.lossFrom && s.lossRun > 0 {
		s.fallBack(now, ev)
		return
	}
	if now < s.roundAt {
		s.tickAt = s.roundAt
		return
	}
	s.rounds++
	for lane := uint16(0); lane <= min(probeLanes, s.limit); lane++ {
		s.emit(now, lane, id, ev)
	}
	s.tickAt, s.roundAt = now+spreadTick, now+spreadTick
	if s.rounds > quickRounds {
		s.roundAt = now + slowRound
	}
}

// probeUrgent probes lanes just opened or just found silent, lane 0 beside the
// latter.
func (s *spread) probeUrgent(now int64, id func() uint64, ev *spreadEvents) {
	n := min(len(s.urgent), probeMaxPending/4)
	for _, lane := range s.urgent[:n] {
		c := s.check(lane)
		c.queued = false
		s.emit(now, lane, id, ev)
	}
	s.urgent = s.urgent[:copy(s.urgent, s.urgent[n:])]
	if s.lossRun > 0 {
		s.emit(now, 0, id, ev)
	}
	if len(s.urgent) > 0 {
		s.tickAt = now + spreadTick/8
	}
}

// probeActive goes on with the round over lanes that carry data, and over dead
// ones that are due another chance. It sleeps while no data is sent.
func (s *spread) probeActive(now int64, lastSent func(uint16) int64, id func() uint64, ev *spreadEvents) {
	if now-s.used > spreadIdle {
		return
	}
	for range len(s.lanes) - 1 {
		s.cursor = s.cursor%uint16(len(s.lanes)-1) + 1
		c := &s.lanes[s.cursor]
		due := !c.dead && now-c.checked >= laneCheckEvery && lastSent(s.cursor) > c.checked
		if !due && !(c.dead && now-c.checked >= deadLaneRetry) {
			continue
		}
		s.emit(now, s.cursor, id, ev)
		if len(ev.probes) >= probePerTick {
			break
		}
	}
	if s.tickAt == 0 {
		s.tickAt = now + spreadTick
	}
}

// judge falls back when lanes are silent while lane 0 is answered.
func (s *spread) judge(now int64, ev *spreadEvents) {
	if s.lossRun >= probeLossRun && now-s.lossFrom >= probeAllSilence && s.heard > s.lossFrom {
		s.fallBack(now, ev)
	}
}

func (s *spread) fallBack(now int64, ev *spreadEvents) {
	s.mode = spreadFallback
	s.reason = fmt.Sprintf("%d probes on lanes above 0 got no answer while lane 0 did: "+
		"does a firewall before the peer let in only one source port?", s.lossRun)
	s.backoff = min(max(2*s.backoff, fallbackRetry), fallbackRetryMax)
	s.retryAt = now + s.backoff
	s.tickAt = s.retryAt
	s.pending, s.urgent = s.pending[:0], s.urgent[:0]
	for i := range s.lanes {
		if s.lanes[i].dead {
			ev.alive = append(ev.alive, uint16(i))
		}
		s.lanes[i] = laneCheck{}
	}
	ev.changed = true
}

func (s *spread) retry(now int64, ev *spreadEvents) {
	if now < s.retryAt {
		s.tickAt = s.retryAt
		return
	}
	s.startProbing(now)
	s.reason = "trying lanes again after a fallback to lane 0"
	ev.changed = true
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
	s.sample(now - s.pending[at].sent)
	s.pending[at] = s.pending[len(s.pending)-1]
	s.pending = s.pending[:len(s.pending)-1]
	if lane == 0 {
		s.heard = now
		return ev
	}
	s.lossRun = 0
	c := s.check(lane)
	c.failures, c.answered = 0, now
	if c.dead {
		c.dead = false
		ev.alive = append(ev.alive, lane)
	}
	if s.mode == spreadProbing {
		s.mode, s.reason, s.backoff = spreadDirect, "", 0
		ev.changed = true
	}
	return ev
}

// sample smooths the round trip as RFC 6298 section 2 does (alpha = 1/8).
func (s *spread) sample(rtt int64) {
	if s.srtt == 0 {
		s.srtt = max(rtt, 1)
		return
	}
	s.srtt += (rtt - s.srtt) / 8
}
