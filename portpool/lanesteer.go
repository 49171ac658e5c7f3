package portpool

import "math"

// This file is for lanes that not every flow may take: those that a firewall on
// the way has not seen yet, those that another flow fills, and those that an
// answer has to come back on.

// leaving is how the flows on a lane that Vacate has taken out go elsewhere.
type leaving struct {
	since int64 // when that was
	gap   int64 // a pause of this length lets a flow go without overtaking itself
	until int64 // when it goes whether or not it pauses
}

// Place gives a flow a lane that the caller has chosen, and counts as a packet of
// the flow: where only answers get through, they have to go back on the lane that
// the question came on. A flow that has a lane keeps it, but it moves to the one given
// if its own is out, or if it shares its own with more than have the one given. Whoever
// is there makes room in turn when its own question comes elsewhere: each move ends where
// a question comes, so this ends. Other lanes are not taken, free as they may be: only of
// the one given is it known that answers get through now. But a flow that Assign had
// share waits for a lane for itself, as Assign will find one; if both ends followed each
// other's packets, they would share for ever. Nothing happens if the lane given is out
// itself, or above Limit.
func (l *Lanes) Place(now int64, flow uint64, lane uint16) {
	if lane == 0 || !l.alive(lane) {
		return
	}
	rec, known := l.table.find(flow)
	if !known {
		l.makeRoom(now)
		l.occupy(lane)
		rec := l.table.insert(flow, now, lane)
		l.table.recs[rec].placed = true
		l.emptied = 0
		return
	}
	r := &l.table.recs[rec]
	l.reach(lane)
	own, there := l.lanes[r.lane-1].flows, l.lanes[lane-1].flows
	if !l.alive(r.lane) || own > 1 && (there == 0 || own > there && !r.crammed) {
		l.uncram(r)
		l.leave(r.lane)
		l.occupy(lane)
		r.lane, r.placed = lane, true
	}
	if now-r.seen >= l.grain {
		l.table.touch(rec, now)
	}
}

// Vacate takes a lane out for new flows, and lets those on it go to another one
// when they next pause for gap nanoseconds, so that no packet overtakes one that
// is still on its way on the lane; at the latest at until. SetDead makes them go at
// once, or takes the lane back in.
func (l *Lanes) Vacate(now int64, lane uint16, gap, until int64) {
	if lane == 0 || lane > MaxPorts || l.isDead(lane) {
		return
	}
	l.SetDead(lane, true)
	if l.leaving == nil {
		l.leaving = make(map[uint16]leaving)
	}
	l.leaving[lane] = leaving{now, gap, until}
}

// Hold takes a lane out for new flows and lets those on it stay, while it is not known
// whether it works. SetDead ends that, either way.
func (l *Lanes) Hold(now int64, lane uint16) { l.Vacate(now, lane, math.MaxInt64, math.MaxInt64) }

// mayStay says whether a flow whose lane is out keeps it for one more packet.
func (l *Lanes) mayStay(now int64, rec uint32) bool {
	r := &l.table.recs[rec]
	v, ok := l.leaving[r.lane]
	if !ok || now >= v.until {
		return false
	}
	// seen is exact only from the first packet after Vacate.
	paused := r.seen >= v.since && now-r.seen >= v.gap
	l.table.touch(rec, now)
	return !paused
}

// Spare is how many lanes new flows can have for themselves. It looks at each lane.
func (l *Lanes) Spare() int {
	spare := l.usable
	for i := range l.lanes {
		if l.lanes[i].flows > 0 && l.alive(uint16(i+1)) {
			spare--
		}
	}
	return spare
}

// Crammed is how many flows share a lane because no other was in when they came. Each
// moves to one of its own when one comes in.
func (l *Lanes) Crammed() int { return l.crammed }

// mayMove says whether a flow that shares a lane for want of others can have one.
func (l *Lanes) mayMove(r *flowRec) bool {
	if l.lanes[r.lane-1].flows == 1 {
		l.uncram(r) // it has it for itself by now
		return false
	}
	return l.freeHead != 0
}

// yields says whether a flow leaves the lane that it shares to those that Place has
// put there.
func (l *Lanes) yields(r *flowRec) bool {
	if r.placed || l.lanes[r.lane-1].flows == 1 {
		return false
	}
	if l.freeHead == 0 {
		if lane := l.open(); lane != 0 {
			l.refree(lane)
		}
	}
	return l.freeHead != 0
}

func (l *Lanes) uncram(r *flowRec) {
	if r.crammed {
		r.crammed = false
		l.crammed--
	}
}

// occupy puts a flow on a lane of 1 to limit.
func (l *Lanes) occupy(lane uint16) {
	l.reach(lane)
	r := &l.lanes[lane-1]
	if r.free {
		l.unfree(lane)
	}
	r.flows++
	switch r.flows {
	case 1:
		l.inUse++
	case 2:
		l.shared++
	}
}

// reach makes lanes up to one known, so that they can be in the free list.
func (l *Lanes) reach(lane uint16) {
	for len(l.lanes) < int(lane) {
		l.lanes = append(l.lanes, laneRec{})
		l.refree(uint16(len(l.lanes)))
	}
}

// shutAll begins with every lane out.
func (l *Lanes) shutAll() {
	l.dead = make([]uint64, MaxPorts/64+1)
	for i := range l.dead {
		l.dead[i] = ^uint64(0)
	}
	l.dead[0] &^= 1 // there is no lane 0 here
	l.usable = 0
}
