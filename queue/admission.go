package queue

import (
	"fmt"
	"time"
)

// AdmissionConfig says when an [Admission] refuses. Start from
// [DefaultAdmission].
type AdmissionConfig struct {
	// Target and Interval are CoDel's, on the time that datagrams wait in the
	// socket: see [Config].
	Target, Interval time.Duration
	// Shed is the wait, above Target to 10 s, at which the socket is held by
	// cutting lanes to equal shares, if it has stood above that for two
	// Intervals, or at once if the socket is full. CoDel gets those that react to
	// slow down, in the course of round trips; it does nothing against who does
	// not react.
	Shed time.Duration
	// Sparse is how many bytes of a lane in half a second are never refused, 0
	// to 1 MiB.
	Sparse int
}

// DefaultAdmission gives CoDel's 5 ms in 100 ms, equal shares from 10 ms on, and
// leaves lanes of up to 256 kbit/s alone.
func DefaultAdmission() AdmissionConfig {
	return AdmissionConfig{Target: 5 * time.Millisecond, Interval: 100 * time.Millisecond, Shed: 10 * time.Millisecond, Sparse: 16000}
}

// Validate names the first field that is out of range, and the range.
func (c AdmissionConfig) Validate() error {
	if c.Interval <= 0 || c.Interval > time.Minute {
		return fmt.Errorf("queue: interval is %v, use more than 0 and at most %v", c.Interval, time.Minute)
	}
	if c.Target <= 0 || c.Target >= c.Interval {
		return fmt.Errorf("queue: target is %v, use more than 0 and less than the interval, which is %v", c.Target, c.Interval)
	}
	if c.Shed <= c.Target || c.Shed > 10*time.Second {
		return fmt.Errorf("queue: shed is %v, use more than the target, which is %v, to 10s", c.Shed, c.Target)
	}
	if c.Sparse < 0 || c.Sparse > 1<<20 {
		return fmt.Errorf("queue: sparse is %d bytes, use 0 to %d", c.Sparse, 1<<20)
	}
	return nil
}

// Arrival is what one message from the socket holds: datagrams of one lane.
type Arrival struct {
	// Lane is a hash of where they come from, of which all bits must be random;
	// keyed, lest a sender choose whom he is taken for.
	Lane uint64
	// Packets and Bytes are what the message holds.
	Packets, Bytes int
	// Keep says that none of it is to be dropped: handshakes, and what else
	// keeps the tunnel alive.
	Keep bool
	// Drop is the answer: how many of the datagrams, from the first on, are to
	// be dropped unread.
	Drop int

	rate float64 // of the lane, bit/s, 0 if nothing is dropped from it
}

// AdmissionStats counts datagrams since the start, those of batches that were
// decided upon.
type AdmissionStats struct {
	Admitted uint64
	// CoDel were dropped by CoDel's law, Shed to cut lanes to equal shares.
	CoDel, Shed uint64
}

// Admission decides which datagrams a receiver that cannot keep up is not to spend
// time on. A socket is a FIFO: when it is full the kernel drops whatever comes
// next, of whichever lane, after it has waited for as long as a FIFO can make it
// wait. Admission keeps it short, by CoDel's law on the time that the oldest
// datagram has waited, and fair, by dropping from the lanes that bring most.
// Sparse lanes lose nothing.
//
// It has one owner, allocates nothing and needs 32 KiB. Lanes are told apart by
// hash in two tables; one that shares a place in both with a fatter one is taken
// for that.
//
// Limits: a flood that is spread over so many lanes that each is sparse passes.
type Admission struct {
	law    law
	shed   int64
	sparse float64
	codel  codel
	last   int64   // when Decide was called last
	above  int64   // since when the wait is above shed, 0 = it is not
	full   int64   // when the socket was full last
	part   float64 // of the bytes that is to be shed, as found so far
	carry  float64 // of a datagram that is due to be dropped
	stats  AdmissionStats
	tables [2][admissionPlaces]meter
}

const (
	admissionPlaces = 1024
	bisections      = 20

	// The part that is shed is found by a controller with a proportional and an
	// integral term, as that of PIE (RFC 8033), of how far the wait is above
	// Shed, in units of that: it damps well for loads up to some times of what
	// the receiver can take, with the delay that the wait itself is.
	shedProportional = 0.3
	shedIntegral     = 5.0 // a second
	shedMost         = 0.98
	shedStep         = int64(10 * time.Millisecond) // that counts between two batches
)

// NewAdmission makes one. The configuration must be valid.
func NewAdmission(c AdmissionConfig) *Admission {
	return &Admission{
		law: law{int64(c.Target), int64(c.Interval)}, shed: int64(c.Shed),
		sparse: float64(c.Sparse) * 8 / time.Duration(meterWindow).Seconds(),
	}
}

// Stats gives the counters.
func (a *Admission) Stats() AdmissionStats { return a.stats }

// Calm says that there is nothing to decide of a batch, all of which is admitted, so
// that Decide need not be called: nothing waits or was refused, now and of late.
func (a *Admission) Calm(now, sojourn int64, full bool) bool {
	quiet := a.full == 0 || now-a.full >= a.law.interval
	return quiet && !full && sojourn < a.law.target/2 && a.part == 0 && a.above == 0 && a.codel.aboveSince == 0 && !a.codel.dropping
}

// Decide sets the Drop of each message of a batch and says how many are to be
// dropped in all. The sojourn is how long the batch's oldest datagram has waited in
// the socket, nanoseconds; full says that the kernel has dropped something since
// the last batch because the socket was full (SO_RXQ_OVFL), which a socket with
// little room is before anything waits for long.
func (a *Admission) Decide(now, sojourn int64, full bool, batch []Arrival) (dropped int) {
	packets := 0
	for i := range batch {
		batch[i].Drop, batch[i].rate = 0, 0
		packets += batch[i].Packets
	}
	part := a.control(now, sojourn, full)
	// Far from overload nobody needs to know which lanes are fat. The law waits
	// for an interval before it acts, by when it is known again.
	if sojourn >= a.law.target/2 || part > 0 || full || a.codel.dropping {
		a.count(now, batch)
	}
	if part > 0 {
		dropped = a.cut(part, batch)
	}
	dropped += a.signal(now, sojourn, batch, packets)
	a.stats.Admitted += uint64(packets - dropped)
	return dropped
}

// control gives the part of the bytes that is to be shed.
func (a *Admission) control(now, sojourn int64, full bool) float64 {
	step := min(max(now-a.last, 0), shedStep)
	a.last = now
	excess := float64(sojourn)/float64(a.shed) - 1
	if full {
		a.full, excess = now, max(excess, 1)
	}
	recently := a.full != 0 && now-a.full < a.law.interval
	switch {
	case sojourn < a.law.target && !recently:
		a.above, a.part = 0, 0
		return 0
	case sojourn < a.shed && a.part == 0 && !full:
		a.above = 0
		return 0
	case a.above == 0:
		a.above = now
	}
	if now-a.above < 2*a.law.interval && !recently {
		return 0
	}
	a.part = min(max(a.part+shedIntegral*excess*float64(step)/1e9, 0), shedMost)
	return min(max(a.part+shedProportional*excess, 0), shedMost)
}

// places are where a lane is counted.
func places(lane uint64) (int, int) {
	return int(lane % admissionPlaces), int(lane >> 32 % admissionPlaces)
}

// count adds a batch to the tables and finds the rates of its lanes.
func (a *Admission) count(now int64, batch []Arrival) {
	for i := range batch {
		first, second := places(batch[i].Lane)
		a.tables[0][first].add(now, batch[i].Bytes)
		a.tables[1][second].add(now, batch[i].Bytes)
	}
	for i := range batch {
		m := &batch[i]
		first, second := places(m.Lane)
		rate := float64(min(a.tables[0][first].rate(now), a.tables[1][second].rate(now)))
		if !m.Keep && rate > a.sparse {
			m.rate = rate
		}
	}
}

// cut drops a part of the bytes, from the lanes above an equal share.
func (a *Admission) cut(part float64, batch []Arrival) (dropped int) {
	share := a.share(batch, part)
	for i := range batch {
		m := &batch[i]
		if m.rate <= share {
			continue
		}
		a.carry += float64(m.Packets) * (1 - share/m.rate)
		m.Drop = int(a.carry)
		a.carry -= float64(m.Drop)
		dropped += m.Drop
	}
	a.stats.Shed += uint64(dropped)
	return dropped
}

// share is the rate to which lanes are cut so that a part of the batch's bytes goes,
// or all that may go.
func (a *Admission) share(batch []Arrival, part float64) (share float64) {
	all, most := 0.0, 0.0
	for i := range batch {
		all += float64(batch[i].Bytes)
		most = max(most, batch[i].rate)
	}
	for low, high, n := a.sparse, most, 0; n < bisections; n++ {
		share = (low + high) / 2
		gone := 0.0
		for i := range batch {
			if m := &batch[i]; m.rate > share {
				gone += float64(m.Bytes) * (1 - share/m.rate)
			}
		}
		if gone > part*all {
			low = share
		} else {
			high = share
		}
	}
	return share
}

// signal drops a datagram of the fattest lane for each signal of CoDel's law.
func (a *Admission) signal(now, sojourn int64, batch []Arrival, packets int) (dropped int) {
	for packets > 0 && a.codel.decide(a.law, now, sojourn, packets, 0) == signal {
		m := fattest(batch)
		if m == nil {
			break
		}
		m.Drop++
		dropped++
	}
	a.stats.CoDel += uint64(dropped)
	return dropped
}

// fattest is the message of the lane that brings most and has a datagram left, nil
// if there is none.
func fattest(batch []Arrival) (fattest *Arrival) {
	most := 0.0
	for i := range batch {
		if m := &batch[i]; m.rate > most && m.Drop < m.Packets {
			fattest, most = m, m.rate
		}
	}
	return fattest
}
