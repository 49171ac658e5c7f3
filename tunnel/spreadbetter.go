package tunnel

import (
	"slices"
	"time"
)

// Where data goes another way than the best that may be, because that was not
// answered when it mattered, the better ones are tried again now and then. One that is
// answered is taken lane by lane: the lanes that flows have are probed on it while
// data goes on as before, and when they are answered, they all change over, each
// keeping its flows. Lanes that were not answered are taken out, so nothing is lost.

const (
	betterFirst = int64(time.Second)            // from when a way is found; doubled each time,
	betterRest  = int64(time.Minute)            // up to that
	betterOpens = int64(200 * time.Millisecond) // for what the peer is to open, or two round trips
	betterAgain = int64(200 * time.Millisecond) // between two probes on a lane
	betterProve = int64(time.Second)            // for the lanes in use to be answered, or four round trips
)

// betterWay is where the search for a better way stands.
type betterWay struct {
	at     int64      // when the next try is
	wait   int64      // from that to the one after it
	tries  int        // so far
	opened spreadMode // the way that the peer was asked to open lanes for, to be probed next
	way    spreadMode // that was answered, on which the lanes in use are tried; 0 = none
	since  int64      // when that was
}

// tryBetter is a step while data is spread.
func (s *spread) tryBetter(now int64, owner spreadOwner, ev *spreadEvents) {
	b := &s.better
	switch ways := s.betterThan(s.mode); {
	case b.way != 0:
		s.proveBetter(now, owner, ev)
	case len(ways) == 0 || now < b.at || len(ev.ask) > 0:
	case b.opened != 0:
		for _, lane := range s.testLanes() {
			if owner.hasWay(lane, b.opened) {
				s.emitBetter(now, lane, b.opened, owner, ev)
			}
		}
		b.opened = 0
		b.at, b.wait = now+b.wait, min(2*b.wait, betterRest)
	default:
		s.tryWays(now, ways, owner, ev)
	}
}

// testLanes are some that are unlikely to be in use: what they go may be noted for
// their way at the peer.
func (s *spread) testLanes() (lanes []uint16) {
	for i := range min(probeLanes, s.limit) {
		lanes = append(lanes, s.limit-i)
	}
	return lanes
}

// tryWays probes ways that need no opening, and asks for that of one that does.
func (s *spread) tryWays(now int64, ways []spreadMode, owner spreadOwner, ev *spreadEvents) {
	b := &s.better
	var shut []spreadMode
	for _, way := range ways {
		if way.shuts() {
			shut = append(shut, way)
			continue
		}
		for _, lane := range s.testLanes() {
			s.emitBetter(now, lane, way, owner, ev)
		}
	}
	if len(shut) == 0 {
		b.at, b.wait = now+b.wait, min(2*b.wait, betterRest)
		return
	}
	b.opened = shut[b.tries%len(shut)]
	b.tries++
	b.at = now + max(betterOpens, 2*s.last)
	ev.ask, ev.pair = s.testLanes(), b.opened == spreadPaired
}

// emitBetter sends a probe that says nothing of the lane on the way in use.
func (s *spread) emitBetter(now int64, lane uint16, way spreadMode, owner spreadOwner, ev *spreadEvents) {
	checked := s.check(lane).checked
	s.emit(now, lane, way, owner, ev)
	c := s.check(lane)
	c.checked, c.tried = checked, now
}

// betterAnswered takes the answer to a probe that did not go the way in use.
func (s *spread) betterAnswered(now int64, p *pendingProbe) {
	b := &s.better
	if b.way == 0 && slices.Contains(s.betterThan(s.mode), p.via) {
		b.way, b.since = p.via, now
		for i := range s.lanes {
			s.lanes[i].tried, s.lanes[i].better = 0, 0
		}
		s.wake(now)
	}
	if p.via == b.way {
		s.check(p.lane).better = now
	}
}

// proveBetter probes the lanes in use on the better way, and takes that when they, or
// most of them after a while, are answered.
func (s *spread) proveBetter(now int64, owner spreadOwner, ev *spreadEvents) {
	b := &s.better
	used, proven := 0, 0
	for i := 1; i < len(s.lanes); i++ {
		c, lane := &s.lanes[i], uint16(i)
		if sent := owner.lastSent(lane); c.dead || c.shut || sent == 0 || now-sent > spreadIdle {
			continue
		}
		used++
		switch {
		case c.better != 0:
			proven++
		case c.tried != 0 && now-c.tried < betterAgain || len(ev.probes) >= probeAtOnce:
		case owner.hasWay(lane, b.way):
			s.emitBetter(now, lane, b.way, owner, ev)
		case len(ev.ask) < probeAtOnce && (len(ev.ask) == 0 || ev.pair == (b.way == spreadPaired)):
			ev.ask, ev.pair, c.tried = append(ev.ask, lane), b.way == spreadPaired, now
		}
	}
	late := now-b.since >= max(betterProve, 4*s.last)
	switch {
	case proven == used, late && 2*proven >= used:
		s.changeOver(now, ev)
	case late:
		b.way, b.at = 0, now+b.wait
	default:
		s.tick(now + spreadSoon)
	}
}

// changeOver takes the better way, with the lanes that were answered on it.
func (s *spread) changeOver(now int64, ev *spreadEvents) {
	s.mode, s.reason = s.better.way, foundReasons[s.better.way]
	s.better = betterWay{at: now + betterFirst, wait: betterFirst}
	w := &s.watch
	w.suspects, w.doubtAt, w.since = w.suspects[:0], 0, now
	w.guarded, w.guardTill = true, now+guardFor
	ev.out, ev.in, ev.held = nil, nil, nil
	for lane := uint16(1); lane <= s.limit; lane++ {
		c := s.check(lane)
		c.suspect, c.dead = 0, false
		if c.shut = c.better == 0 || c.crowded; c.shut {
			ev.out = append(ev.out, lane)
			continue
		}
		c.proved = c.better
		ev.in = append(ev.in, lane)
	}
	ev.changed = true
}
