package portpool

import "math/bits"

// This file is the order in which lanes are taken: free ones, then new ones,
// then shared ones.

// take finds the lane for a flow and counts the flow there. There must be a
// usable one. crammed tells that it shares one while others are out.
func (l *Lanes) take(flow uint64) (lane uint16, crammed bool) {
	lane = l.freeHead
	if lane == 0 {
		lane = l.open()
	}
	if lane == 0 {
		lane = l.share(flow)
		crammed = l.usable < l.limit
	}
	l.occupy(lane)
	if crammed {
		l.crammed++
	}
	return lane, crammed
}

// leave counts a flow out of its lane.
func (l *Lanes) leave(lane uint16) {
	r := &l.lanes[lane-1]
	r.flows--
	switch r.flows {
	case 0:
		l.inUse--
		l.refree(lane)
	case 1:
		l.shared--
	}
}

// open begins the lowest lane that the peer has not used yet, 0 if there is
// none. It passes over dead ones: refree finds them should they revive.
func (l *Lanes) open() uint16 {
	for len(l.lanes) < l.limit {
		l.lanes = append(l.lanes, laneRec{})
		if lane := uint16(len(l.lanes)); !l.isDead(lane) {
			return lane
		}
	}
	return 0
}

// share picks the least loaded of a few lanes; all usable ones have flows.
func (l *Lanes) share(flow uint64) (best uint16) {
	for range shareCandidates {
		flow = mix(flow)
		lane := uint16(1 + reduce(flow, l.limit))
		if l.isDead(lane) {
			continue
		}
		if best == 0 || l.lanes[lane-1].flows < l.lanes[best-1].flows {
			best = lane
		}
	}
	if best == 0 {
		return l.aliveFrom(uint16(1 + reduce(flow, l.limit)))
	}
	return best
}

// aliveFrom finds the first usable lane at or after one, going round.
func (l *Lanes) aliveFrom(lane uint16) uint16 {
	for range l.limit {
		if !l.isDead(lane) {
			return lane
		}
		// Where 64 lanes in a row are dead, skip them in one step.
		if w := int(lane >> 6); lane&63 == 0 && l.dead[w] == ^uint64(0) {
			lane += 63
		}
		if lane++; int(lane) > l.limit {
			lane = 1
		}
	}
	return 0
}

// mix is a bijection of 64-bit numbers that looks random (the finaliser of
// SplitMix64, public domain, Steele, Lea and Flood 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// reduce maps a random number evenly to 0..n-1 without a division.
func reduce(x uint64, n int) int {
	hi, _ := bits.Mul64(x, uint64(n))
	return int(hi)
}

// refree puts a lane at the end of the free list if it may be there.
func (l *Lanes) refree(lane uint16) {
	r := &l.lanes[lane-1]
	if r.free || r.flows > 0 || !l.alive(lane) {
		return
	}
	r.free, r.prev, r.next = true, l.freeTail, 0
	if l.freeTail == 0 {
		l.freeHead = lane
	} else {
		l.lanes[l.freeTail-1].next = lane
	}
	l.freeTail = lane
}

func (l *Lanes) unfree(lane uint16) {
	r := &l.lanes[lane-1]
	if r.prev == 0 {
		l.freeHead = r.next
	} else {
		l.lanes[r.prev-1].next = r.next
	}
	if r.next == 0 {
		l.freeTail = r.prev
	} else {
		l.lanes[r.next-1].prev = r.prev
	}
	r.free, r.prev, r.next = false, 0, 0
}
