package tunnel

import (
	"slices"
	"time"

	"kiloport/tunnel/ecn"
)

const (
	reportEvery    = int64(time.Second)            // at most, while data arrives
	reportFirst    = int64(100 * time.Millisecond) // after the first data in a long time
	reportPayloads = 4                             // at a time; the other lanes come next
)

// reporter says when a REPORT is due: about a second after data arrived, and
// shortly after something new was found of the path, which it says twice, as one
// may be lost. Of what arrives without data nothing is reported, or two ends would
// report each other's reports for ever.
type reporter struct {
	epoch  uint32
	number uint32
	last   int64  // when the last was sent
	at     int64  // when the next is due, 0 = not before something happens
	again  bool   // one more after that
	cursor uint16 // lane to go on with
}

// arrived is told that data has arrived.
func (r *reporter) arrived(now int64) {
	if r.at == 0 {
		r.at = max(now+reportFirst, r.last+reportEvery)
	}
}

// found is told that there is news of the path.
func (r *reporter) found(now int64) { r.at, r.again = now, true }

// due reports whether it is time, and then counts it as done.
func (r *reporter) due(now int64) bool {
	if r.at == 0 || now < r.at {
		return false
	}
	r.at, r.last = 0, now
	if r.again {
		r.again, r.at = false, now+reportEvery
	}
	return true
}

// reports is what we know of a peer by REPORT and by the answers to our probes.
// It is behind the peer's mutex.
type reports struct {
	seen   bool
	epoch  uint32
	number uint32
	found  verdicts // what the path does on the way from the peer
	normal bool     // the peer sends in normal mode
	lanes  []departures
}

// departures is what became of what we sent on one lane.
type departures struct {
	reportLane       // the newest; Packets is 0 if there was none
	at         int64 // when it came
	delay      laneDelay
}

// lane gives the departures of a lane that we have sent on.
func (r *reports) lane(lane uint16) *departures {
	if int(lane) >= len(r.lanes) {
		r.lanes = append(r.lanes, make([]departures, int(lane)+1-len(r.lanes))...)
	}
	return &r.lanes[lane]
}

// take keeps a report, unless it is older than one before. anew tells that the
// counts in it have nothing to do with those before.
func (r *reports) take(now int64, t *report) (anew, ok bool) {
	anew = !r.seen || t.Epoch != r.epoch
	if !anew && int32(t.Number-r.number) <= 0 {
		return false, false
	}
	if anew {
		r.seen, r.epoch = true, t.Epoch
		for i := range r.lanes {
			r.lanes[i].reportLane, r.lanes[i].at = reportLane{}, 0
		}
	}
	r.number, r.found, r.normal = t.Number, t.Found, t.Normal == 1
	for i := range t.Lanes {
		d := r.lane(t.Lanes[i].Lane)
		d.reportLane, d.at = t.Lanes[i], now
	}
	return anew, true
}

// sendReports sends what is due. The caller holds mu, here and below.
func (p *peer) sendReports(now int64) {
	s := p.sending.Load()
	if !p.reporting || s == nil || s.expired(now) || !p.reporter.due(now) {
		return
	}
	base := p.fastestLane()
	for range reportPayloads {
		p.reporter.number++
		r := report{
			Epoch: p.reporter.epoch, Number: p.reporter.number, Found: p.ecn.found, Arrived: p.rx.marks(),
			Lanes: p.changedLanes(base),
		}
		if p.ecn.normal {
			r.Normal = 1
		}
		p.sendControl(now, s, appendControl(nil, controlReport, &r))
		if len(r.Lanes) < reportMaxLanes {
			return
		}
	}
}

// changedLanes takes the next lanes on which something arrived since they were
// last reported.
func (p *peer) changedLanes(base int64) (lanes []reportLane) {
	p.arrivals.from(p.reporter.cursor, func(lane uint16, a *arrivals) bool {
		if len(lanes) == reportMaxLanes {
			p.reporter.cursor = lane
			return false
		}
		if a.packets.Load() != a.reported {
			lanes = append(lanes, a.report(lane, base))
		}
		return true
	})
	return lanes
}

// report makes a lane's entry and begins the next.
func (a *arrivals) report(lane uint16, base int64) reportLane {
	l := reportLane{
		Lane: lane, Packets: a.packets.Load(), Bytes: a.bytes.Load(), Expected: a.expected.Load(),
		ECT1: uint32(a.marks[ecn.ECT1].Load()), ECT0: uint32(a.marks[ecn.ECT0].Load()), CE: uint32(a.marks[ecn.CE].Load()),
		Delay: delayUnknown, Low: delayUnknown, Base: delayUnknown, Hop: uint8(a.hop.Load()),
	}
	if a.way.known {
		l.Delay, l.Base = reportDelay(a.way.above()), reportDelay(a.way.minimum()-base)
	}
	if a.lowKnown {
		l.Low = reportDelay(a.low - a.way.minimum())
	}
	a.reported, a.lowKnown = l.Packets, false
	return l
}

// fastestLane is the least of the lanes' minimal delays, on the clock of the
// measurements.
func (p *peer) fastestLane() (base int64) {
	known := false
	p.arrivals.from(0, func(_ uint16, a *arrivals) bool {
		if a.way.known && (!known || a.way.minimum() < base) {
			base, known = a.way.minimum(), true
		}
		return true
	})
	return base
}

// sentOn reports whether we have sent on a lane, so that a peer cannot make us
// remember others.
func (p *peer) sentOn(s *session, lane uint16) bool {
	if s.sentOn(lane) {
		return true
	}
	sending := p.sending.Load()
	return sending != nil && sending.sentOn(lane)
}

// heardReport takes the peer's report on what we sent.
func (p *peer) heardReport(now int64, s *session, body []byte) {
	r, err := parseReport(body)
	if err != nil {
		p.drops.add(dropControl)
		return
	}
	r.Lanes = slices.DeleteFunc(r.Lanes, func(l reportLane) bool { return !p.sentOn(s, l.Lane) })
	anew, ok := p.reports.take(now, &r)
	if !ok {
		return
	}
	if p.blind.Swap(r.Found.blind()) != r.Found.blind() {
		p.sayBlind(r.Found.blind())
	}
	p.ecnEvents(now, p.ecn.reported(now, anew, p.tx.marks(), r.Arrived))
}
