package tunnel

import "time"

// delayWindow is how long a minimum counts at least, at most twice as long: the
// memory of RFC 6817 section 3.4 (LEDBAT), which faces the same clocks.
const delayWindow = int64(5 * time.Minute)

// delay is a time above its own minimum of late: of what was measured with two
// clocks that know nothing of each other, only that has a meaning.
//
// A constant difference between the clocks is the same in the minimum and falls
// out. A drift does not: the clocks of two computers without NTP part by 20 to 100
// microseconds a second, which is up to 30 ms in the window; one that falls behind
// renews the minimum all the time and hides as much. With NTP on both it is a
// tenth of a millisecond. A clock that is set jumps by as much as it is set, until
// the window is over if it makes the delay longer, at once if shorter. The round
// trip has one clock alone, so where both are known the lesser one is right.
type delay struct {
	known bool
	last  int64
	at    int64    // when that was
	least [2]int64 // in the half of the window under way, and in both
	since int64    // when that half began
}

// add takes a measurement.
func (d *delay) add(now, t int64) {
	switch {
	case !d.known || now-d.since >= 2*delayWindow:
		d.known, d.least, d.since = true, [2]int64{t, t}, now
	case now-d.since >= delayWindow:
		d.least, d.since = [2]int64{t, min(t, d.least[0])}, now
	}
	d.least[0], d.least[1] = min(d.least[0], t), min(d.least[1], t)
	d.last, d.at = t, now
}

// minimum is the least of late, on the clock of the measurements.
func (d *delay) minimum() int64 { return d.least[1] }

// above is the newest above the minimum, nanoseconds.
func (d *delay) above() int64 { return d.last - d.least[1] }

// laneDelay is how long what we send on a lane takes to the peer, by the probes
// that it answered.
type laneDelay struct{ way, trip delay }

// add takes when a probe was sent and its answer came, on our clock, and when it
// arrived, on the peer's.
func (d *laneDelay) add(sent, answered, arrived int64) {
	d.trip.add(answered, answered-sent)
	if arrived != 0 {
		d.way.add(answered, arrived-sent)
	}
}

// above is the delay above its minimum; false if it is not known.
func (d *laneDelay) above() (int64, bool) {
	return min(d.way.above(), d.trip.above()), d.way.known
}
