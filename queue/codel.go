package queue

import "math"

// codel is the state of the control law for one flow, RFC 8289 section 5. It
// knows neither packets nor queues: it is told how long the packet at the head
// has waited, and says whether to drop it.
type codel struct {
	aboveSince int64 // when the delay will have been above target for an interval, 0 = it is not above
	dropNext   int64 // when to drop the next
	count      uint32
	lastCount  uint32 // count when dropping last began
	dropping   bool
}

// law is the two times that all flows share, nanoseconds.
type law struct{ target, interval int64 }

// next is the control law: drops come closer with the square root of their
// number, which brings a TCP's rate down linearly (RFC 8289 section 5.3).
func (l law) next(from int64, count uint32) int64 {
	return from + int64(float64(l.interval)/math.Sqrt(float64(count)))
}

// above reports whether the delay has been above target for a whole interval.
// backlog is what waits in the flow behind the packet, bytes; with no more than
// one full packet there is no standing queue.
func (c *codel) above(l law, now, sojourn int64, backlog, mtu int) bool {
	if sojourn < l.target || backlog <= mtu {
		c.aboveSince = 0
		return false
	}
	if c.aboveSince == 0 {
		c.aboveSince = now + l.interval
		return false
	}
	return now >= c.aboveSince
}

// verdict is what to do with the packet at the head.
type verdict uint8

const (
	pass verdict = iota
	signal
)

// enter begins to drop. If the last time is not long ago, it goes on near the
// rate that was needed then and not from the start: the load has hardly changed
// (RFC 8289 section 5.4).
func (c *codel) enter(l law, now int64) {
	c.dropping = true
	delta := c.count - c.lastCount
	c.count = 1
	if delta > 1 && now-c.dropNext < 16*l.interval {
		c.count = delta
	}
	c.lastCount = c.count
	c.dropNext = l.next(now, c.count)
}

// decide says whether the packet at the head is to be dropped or marked. After
// signal for a packet that was dropped, decide is asked again for the next one;
// marked tells that the last one was not dropped but marked, which ends the
// loop.
func (c *codel) decide(l law, now, sojourn int64, backlog, mtu int) verdict {
	above := c.above(l, now, sojourn, backlog, mtu)
	switch {
	case c.dropping && !above:
		c.dropping = false
	case c.dropping && now >= c.dropNext:
		c.count++
		c.dropNext = l.next(c.dropNext, c.count)
		return signal
	case !c.dropping && above:
		c.enter(l, now)
		return signal
	}
	return pass
}

// empty tells that the flow has nothing left: it has no standing queue.
func (c *codel) empty() {
	c.aboveSince = 0
	c.dropping = false
}
