package tunnel

import "slices"

// A gateway's hash may put a lane into one queue with somebody else's bulk. This file
// finds such lanes by probes that are sent together: one on a lane with a sparse flow,
// and one on a lane that nobody uses, with the same DSCP. Only the two of one moment are
// compared, as the path's own delay changes; and an idle lane tells what a sparse flow
// would feel elsewhere, which lanes with bulk on them do not.

// A beside is the newest comparison.
type beside struct {
	lane uint16 // that nobody uses, or lane 0
	dscp uint8
	sent int64  // when its lanes were probed, 0 = never
	over bool   // conclusions were drawn
	from uint16 // the lane to look at first, next time
}

// compareDelays finds lanes on which a sparse flow's packets take far longer than they
// would elsewhere. A flow that fills its own queue is left alone: it would only take
// the queue along.
func (s *spread) compareDelays(now int64, owner spreadOwner, ev *spreadEvents) {
	w := &s.watch
	if now < w.crowdAt || w.history == nil {
		return
	}
	elsewhere, at := owner.laneDelay(w.beside.lane)
	known := w.beside.sent != 0 && at > w.beside.sent
	if !known && now-w.beside.sent < probeForget {
		return
	}
	if known && !w.beside.over {
		w.beside.over = true
		s.judgeCrowded(now, elsewhere, owner, ev)
	}
	s.compareAgain(now, elsewhere, known, owner, ev)
}

// judgeCrowded draws conclusions from the newest comparison.
func (s *spread) judgeCrowded(now, elsewhere int64, owner spreadOwner, ev *spreadEvents) {
	w := &s.watch
	for i := 1; i < len(s.lanes); i++ {
		c, lane := &s.lanes[i], uint16(i)
		if c.beside != w.beside.sent || c.dead || c.shut {
			continue
		}
		delay, at := owner.laneDelay(lane)
		above := delay - elsewhere
		switch {
		case at <= w.beside.sent: // not answered
		case above < s.crowdedFrom() || !s.sparse(lane):
			c.slow = 0
		case c.slow+1 < crowdProbes || now-w.movedAt < crowdEvery && w.movedAt != 0:
			c.slow = min(c.slow+1, crowdProbes-1)
		default:
			w.movedAt = now
			c.slow, c.crowded, c.shut, c.retryAt = 0, true, true, now+crowdRest
			ev.crowded = append(ev.crowded, crowdedLane{lane, above})
		}
	}
}

// crowdedFrom is how much longer packets take on a crowded lane, at least.
func (s *spread) crowdedFrom() int64 { return max(crowdLeast, s.srtt/crowdPart) }

// compareAgain probes the lanes whose packets seem to take longer than elsewhere, and
// from time to time another one in any case.
func (s *spread) compareAgain(now, elsewhere int64, known bool, owner spreadOwner, ev *spreadEvents) {
	w := &s.watch
	due := now-w.beside.sent >= laneCheckEvery
	var lanes []uint16
	var dscp uint8
	for n := 1; n < len(s.lanes) && len(lanes) < crowdAtOnce; n++ {
		lane := uint16((int(w.beside.from)+n-1)%(len(s.lanes)-1) + 1)
		c := &s.lanes[lane]
		if c.dead || c.shut || c.suspect != 0 || now-owner.lastSent(lane) > crowdActive || !s.sparse(lane) {
			continue
		}
		delay, at := owner.laneDelay(lane)
		seems := known && at != 0 && now-at <= crowdFresh && delay-elsewhere >= s.crowdedFrom()
		switch on := owner.laneDSCP(lane); {
		case c.slow == 0 && !seems && !(due && len(lanes) == 0):
		case len(lanes) == 0:
			lanes, dscp = append(lanes, lane), on
		case on == dscp:
			lanes = append(lanes, lane)
		}
	}
	if len(lanes) == 0 {
		return
	}
	w.crowdAt = now + crowdCheck
	w.beside = beside{lane: s.idleLane(now, owner), dscp: dscp, sent: now, from: lanes[0]}
	way := s.mode
	if w.beside.lane == 0 {
		way = spreadListen
	}
	if !s.emitAs(now, w.beside.lane, way, dscp, owner, ev) {
		return
	}
	for _, lane := range lanes {
		if s.emitAs(now, lane, s.mode, dscp, owner, ev) {
			s.lanes[lane].beside = now
		}
	}
}

// idleLane gives a lane that leads somewhere and that nobody uses, another one than
// last time, out of a few, as each may be news to a firewall on the way: the lowest, as
// flows have those, and what is kept for each lane is kept up to the highest that was
// used. It gives lane 0 if there is none.
func (s *spread) idleLane(now int64, owner spreadOwner) uint16 {
	idle := make([]uint16, 0, probeLanes)
	for lane := uint16(1); lane <= s.limit && len(idle) < probeLanes; lane++ {
		if int(lane) < len(s.lanes) {
			if c := &s.lanes[lane]; c.dead || c.shut || c.suspect != 0 {
				continue
			}
		} else if s.mode.shuts() || s.watch.guarded {
			continue
		}
		if sent := owner.lastSent(lane); (sent == 0 || now-sent > spreadIdle) && owner.hasWay(lane, s.mode) {
			idle = append(idle, lane)
		}
	}
	if len(idle) == 0 {
		return 0
	}
	return idle[(slices.Index(idle, s.watch.beside.lane)+1)%len(idle)]
}

// sparse tells whether a lane carries little, for itself or beside the busiest.
func (s *spread) sparse(lane uint16) bool {
	h := s.watch.history
	if int(lane) >= len(h.lanes) {
		return false
	}
	rate := int(h.lanes[lane].rate)
	return rate*crowdMost <= int(h.most) || rate <= crowdSparse
}
