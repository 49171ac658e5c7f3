package attach

import "time"

// The kernel has one replay window of 8128 messages for all ports. What overtakes
// by more is dropped, silently: WireGuard counts only what it has accepted. So what
// came in below is compared with that.
const (
	lossWindow  = 5 * time.Second
	lossPackets = 32          // fewer in a window are chance
	lossShare   = 1.0 / 1000  // of what came in, fewer are none of our business
	calmFor     = time.Minute // without loss, then more ports are tried
	messageSize = 1400        // of those that reordering drops, about
	leastPorts  = 16          // fewer would be worse than what they prevent
	mostPorts   = 1 << 15     // then there is no limit any more
)

// losses is what WireGuard does not accept of what a peer sends, and what is asked
// of the peer because of it.
type losses struct {
	limit uint16 // ports that the peer should use, 0: any number

	lost    uint64 // bytes, in all
	began   time.Time
	least   int64 // of the gaps in this window
	before  int64 // of the gaps in the one before
	arrived uint64
	calm    time.Time
	started bool
}

// received takes how many bytes came from the peer and how many of them WireGuard
// has accepted. There are always some on their way from one to the other; so
// it is the least gap of a window that tells whether there was a loss.
func (l *losses) received(now time.Time, below, accepted uint64) {
	gap := int64(below - accepted)
	if !l.started {
		*l = losses{began: now, least: gap, before: gap, arrived: below, calm: now, started: true}
		return
	}
	l.least = min(l.least, gap)
	if now.Sub(l.began) < lossWindow {
		return
	}
	lost := l.least - l.before
	if lost > 0 {
		l.lost += uint64(lost)
	}
	share := float64(lost) / float64(max(below-l.arrived, 1))
	switch {
	case lost > lossPackets*messageSize && share > lossShare:
		l.narrow()
		l.calm = now
	case l.limit != 0 && now.Sub(l.calm) > calmFor:
		l.widen()
		l.calm = now
	}
	l.began, l.before, l.least, l.arrived = now, l.least, gap, below
}

// narrow halves the number of ports.
func (l *losses) narrow() {
	if l.limit == 0 {
		l.limit = DefaultPorts
	}
	l.limit = max(l.limit/2, leastPorts)
}

// widen doubles it.
func (l *losses) widen() {
	if l.limit >= mostPorts/2 {
		l.limit = 0
		return
	}
	l.limit *= 2
}
