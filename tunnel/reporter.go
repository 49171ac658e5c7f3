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

// reporter says when a REPORT is due: about a second after data arrived, or sooner
// if the peer wants to find its rate by it, and shortly after something new was found of the path, which it says twice, as one
// may be lost. Of what arrives without data nothing is reported, or two ends would
// report each other's reports for ever.
type reporter struct {
	epoch  uint32
	number uint32
	last   int64  // when the last was sent
	at     int64  // when the next is due, 0 = not before something happens
	again  bool   // one more after that
	cursor uint16 // lane to go on with
	quick  bool   // the peer wants them often
	lanes  int64  // when the last was sent that told of lanes

	low      int64 // the least of the peer's probes on lane 0 since the last report
	lowKnown bool  // there was one
}

// every is how often there is a report, at most.
func (r *reporter) every() int64 {
	if r.quick {
		return quickReport
	}
	return reportEvery
}

// lanesDue reports whether it is time to tell of lanes, of which there may be many:
// that is not done more often than once a second.
func (r *reporter) lanesDue(now int64) bool {
	if r.quick && now-r.lanes < reportEvery {
		return false
	}
	r.lanes = now
	return true
}

// probed is told of a probe on lane 0, and how long that took.
func (r *reporter) probed(took int64) {
	if !r.lowKnown || took < r.low {
		r.low, r.lowKnown = took, true
	}
}

// arrived is told that data has arrived.
func (r *reporter) arrived(now int64) {
	if r.at == 0 {
		r.at = max(now+reportFirst, r.last+r.every())
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
	totals arrivedTotals
	lanes  []departures
}

// arrivedTotals is what a report says of all lanes together.
type arrivedTotals struct {
	reportTotals
	arrived markCounts
	known   bool
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
		r.seen, r.epoch, r.totals.known = true, t.Epoch, false
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
	lanes, base, totals := p.reporter.lanesDue(now), p.fastestLane(), p.totals(now)
	for range reportPayloads {
		p.reporter.number++
		r := report{
			Epoch: p.reporter.epoch, Number: p.reporter.number, Found: p.ecn.found, Arrived: p.rx.marks(), Totals: totals,
		}
		if lanes {
			r.Lanes = p.changedLanes(base)
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

// totals is what has arrived on all lanes.
func (p *peer) totals(now int64) reportTotals {
	t := reportTotals{Time: uint32(now / 1000), Low: delayUnknown}
	p.arrivals.from(0, func(_ uint16, a *arrivals) bool {
		t.Bytes += a.bytes.Load()
		t.Expected += a.expected.Load()
		return true
	})
	if p.reporter.lowKnown {
		t.Low = reportDelay(p.reporter.low - p.arrivals.first.way.minimum())
		p.reporter.lowKnown = false
	}
	return t
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
	if p.device.uplink.adapts() && r.Totals != (reportTotals{}) {
		p.measureLine(now, &r)
	}
}

// measureLine tells the uplink what has arrived at the peer since the last report.
func (p *peer) measureLine(now int64, r *report) {
	was := p.reports.totals
	p.reports.totals = arrivedTotals{reportTotals: r.Totals, arrived: r.Arrived, known: true}
	trip, known := p.tripLow, p.tripKnown
	p.tripKnown = false
	if !was.known {
		return
	}
	s := pathSample{
		elapsed: time.Duration(r.Totals.Time-was.Time) * time.Microsecond,
		bytes:   r.Totals.Bytes - min(was.Bytes, r.Totals.Bytes),
		delay:   -1, headers: p.outerHeaders(),
	}
	for cp := range r.Arrived {
		s.packets += r.Arrived[cp] - min(was.arrived[cp], r.Arrived[cp])
	}
	s.lost = max(r.Totals.Expected-min(was.Expected, r.Totals.Expected), s.packets) - s.packets
	if !p.ecn.found.blind() {
		s.ce = r.Arrived[ecn.CE] - min(was.arrived[ecn.CE], r.Arrived[ecn.CE])
	}
	if r.Totals.Low != delayUnknown {
		s.delay = time.Duration(r.Totals.Low) * time.Microsecond
		if known { // it has one clock, and two ways
			s.delay = min(s.delay, time.Duration(trip))
		}
	}
	p.device.uplink.reported(now, p, s)
}
