package tunnel

import "slices"

// compareDelays finds lanes on which a sparse flow's packets take far longer than
// on others: the gateway's hash has put the lane into one queue with somebody
// else's bulk. A flow that fills its own queue is left alone: it would only take
// the queue along.
func (s *spread) compareDelays(now int64, owner spreadOwner, ev *spreadEvents) {
	w := &s.watch
	if now < w.crowdAt || w.history == nil {
		return
	}
	w.crowdAt = now + crowdCheck
	delays := s.delays(now, owner)
	if len(delays) < 3 {
		return
	}
	median := middle(delays)
	for i := range delays {
		d := &delays[i]
		c := s.check(d.lane)
		above := d.delay - median
		if above < max(crowdLeast, s.srtt/4) || !s.sparse(d.lane) {
			c.slow = 0
			continue
		}
		if d.at > c.slowAt {
			c.slow, c.slowAt = c.slow+1, d.at
		}
		if c.slow < crowdProbes {
			c.checked = 0 // measured again, before the next comparison
			s.given(now, d.lane)
			continue
		}
		if now-w.movedAt < crowdEvery && w.movedAt != 0 {
			c.slow = crowdProbes - 1
			continue
		}
		w.movedAt = now
		c.slow, c.crowded, c.shut, c.retryAt = 0, true, true, now+crowdRest
		ev.crowded = append(ev.crowded, crowdedLane{d.lane, above})
	}
}

// delayOn is how long a probe took on a lane, and when that was known.
type delayOn struct {
	lane      uint16
	delay, at int64
}

// delays gives the newest delay of each lane that carries data.
func (s *spread) delays(now int64, owner spreadOwner) (all []delayOn) {
	for i := 1; i < len(s.lanes); i++ {
		c, lane := &s.lanes[i], uint16(i)
		if c.dead || c.shut || now-owner.lastSent(lane) > crowdFresh {
			continue
		}
		if d, at := owner.laneDelay(lane); at != 0 && now-at <= crowdFresh {
			all = append(all, delayOn{lane, d, at})
		}
	}
	return all
}

// middle is the median delay.
func middle(all []delayOn) int64 {
	sorted := slices.Clone(all)
	slices.SortFunc(sorted, func(a, b delayOn) int { return int(min(max(a.delay-b.delay, -1), 1)) })
	return sorted[(len(sorted)-1)/2].delay
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
