package tunnel

import (
	"slices"
	"time"

	"kiloport/tunnel/ecn"
)

// PathStatus is what a path does to the ECN field and the DSCP in one direction.
type PathStatus struct {
	// What becomes of each codepoint: unknown, passes, bleached, rewritten,
	// "marked CE every time" or dropped. Not-ECT is the control: it is marked
	// where the path marks what it must not mark.
	NotECT string `json:"not_ect"`
	ECT0   string `json:"ect0"`
	ECT1   string `json:"ect1"`
	CE     string `json:"ce"`
	// Mode is how the sender sets the outer field: compatibility or normal.
	Mode string `json:"mode"`
	// DSCP is what becomes of each DSCP that was tried, by name: as above, or
	// "rewritten as" another. Only of the direction that we send in.
	DSCP map[string]string `json:"dscp,omitempty"`
	// Tested is when the last test of ours ended.
	Tested *time.Time `json:"tested,omitempty"`
}

// LaneDetail is one lane that was in use within the last minute, in both
// directions. They have nothing to do with each other but their number. Lane 0 is
// the ordinary path between the listen ports.
type LaneDetail struct {
	Lane     uint16        `json:"lane"`
	Sent     *LaneSent     `json:"sent,omitempty"`
	Received *LaneReceived `json:"received,omitempty"`
}

// LaneCounts is what has arrived on a lane.
type LaneCounts struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	ECT0    uint64 `json:"ect0,omitempty"`
	ECT1    uint64 `json:"ect1,omitempty"`
	CE      uint64 `json:"ce,omitempty"`
	// Lost is by the sequence numbers; it falls when something arrives late.
	Lost uint64 `json:"lost"`
	// HopLimit is the outer hop limit or time to live at arrival; 0 if not known.
	HopLimit uint8 `json:"hop_limit"`
}

// LaneSent is what became of what we send on a lane.
type LaneSent struct {
	// LaneCounts is from the peer's last REPORT on the lane, a second old or
	// more. ECT0, ECT1 and CE are modulo 2^32.
	LaneCounts
	// DelayMs is how much longer than at best, within the last five to ten
	// minutes, our last probe took to the peer, in ms. It is at most that of the
	// whole round trip; see DelayFromMs for what clocks do to it.
	DelayMs *float64 `json:"delay_ms,omitempty"`
	// RTTMs is the round trip of our last probe, and how much of it is above the
	// least of late.
	RTTMs      *float64 `json:"rtt_ms,omitempty"`
	RTTAboveMs *float64 `json:"rtt_above_ms,omitempty"`
}

// LaneReceived is what we have received on a lane.
type LaneReceived struct {
	LaneCounts
	// HopLimitChanges counts how often the hop limit became another one: the
	// path has changed.
	HopLimitChanges uint32 `json:"hop_limit_changes,omitempty"`
	// DelayMs is how much longer than at best, within the last five to ten
	// minutes, the peer's last probe took to us, in ms. The peer's clock said
	// when it was sent, our kernel's when it arrived. That the two differ falls
	// out; that they drift apart does not: without NTP, up to 30 ms in that
	// time. A clock that is set by hand shows as that much delay, or hides as
	// much, for up to ten minutes.
	DelayMs *float64 `json:"delay_ms,omitempty"`
}

const (
	laneDetailFor = int64(time.Minute)
	laneDetailMax = 1024 // lanes of a peer, lest an answer become megabytes
)

// pathStatus fills in what is known of the path in both directions. The caller
// holds mu, here and below.
func (p *peer) pathStatus(s *PeerStatus) {
	s.ECN = ecn.Compatibility.String()
	if session := p.sending.Load(); session != nil {
		s.ECN = p.ecnMode(session).String()
	}
	s.ECNReason = p.ecn.reason
	if p.ecn.tested != 0 {
		s.PathTo = p.ecn.status()
		ago := time.Duration(p.device.clock.Now() - p.ecn.tested)
		tested := p.device.clock.Wall().Add(-ago).Round(time.Second)
		s.PathTo.Tested = &tested
	}
	if p.reports.seen {
		s.PathFrom = p.reports.found.status(p.reports.normal)
	}
	s.MarksIgnored = p.blind.Load()
	s.LaneDetails = p.laneDetails(p.device.clock.Now())
}

func (v *verdicts) status(normal bool) *PathStatus {
	s := &PathStatus{
		NotECT: v[ecn.NotECT].String(), ECT0: v[ecn.ECT0].String(), ECT1: v[ecn.ECT1].String(), CE: v[ecn.CE].String(),
		Mode: ecn.Compatibility.String(),
	}
	if normal {
		s.Mode = ecn.Normal.String()
	}
	return s
}

func (e *ecnPath) status() *PathStatus {
	s := e.found.status(e.normal)
	for _, f := range e.dscps {
		if s.DSCP == nil {
			s.DSCP = make(map[string]string)
		}
		word := f.verdict.String()
		if f.verdict == verdictRewritten {
			word += " as " + ecn.NameDSCP(f.as)
		}
		s.DSCP[ecn.NameDSCP(f.dscp)] = word
	}
	return s
}

// laneDetails lists the lanes that were in use of late, lowest first.
func (p *peer) laneDetails(now int64) (all []LaneDetail) {
	p.arrivals.from(0, func(lane uint16, a *arrivals) bool {
		if now-a.last.Load() < laneDetailFor+lastGrain {
			all = append(all, LaneDetail{Lane: lane, Received: a.detail()})
		}
		return len(all) < laneDetailMax
	})
	for lane := range p.reports.lanes {
		d := &p.reports.lanes[lane]
		if max(d.at, d.delay.trip.at) < now-laneDetailFor || d.at == 0 && !d.delay.trip.known {
			continue
		}
		at, found := slices.BinarySearchFunc(all, uint16(lane), func(d LaneDetail, lane uint16) int { return int(d.Lane) - int(lane) })
		if !found {
			if len(all) == laneDetailMax {
				break
			}
			all = slices.Insert(all, at, LaneDetail{Lane: uint16(lane)})
		}
		all[at].Sent = d.detail()
	}
	return all
}

func (a *arrivals) detail() *LaneReceived {
	r := &LaneReceived{
		LaneCounts: LaneCounts{
			Packets: a.packets.Load(), Bytes: a.bytes.Load(), Lost: a.lost(), HopLimit: uint8(a.hop.Load()),
			ECT0: a.marks[ecn.ECT0].Load(), ECT1: a.marks[ecn.ECT1].Load(), CE: a.marks[ecn.CE].Load(),
		},
		HopLimitChanges: a.hops.Load(),
	}
	if a.way.known {
		r.DelayMs = milliseconds(a.way.above())
	}
	return r
}

func (d *departures) detail() *LaneSent {
	s := &LaneSent{LaneCounts: LaneCounts{
		Packets: d.Packets, Bytes: d.Bytes, Lost: max(d.Expected, d.Packets) - d.Packets, HopLimit: d.Hop,
		ECT0: uint64(d.ECT0), ECT1: uint64(d.ECT1), CE: uint64(d.CE),
	}}
	if above, known := d.delay.above(); known {
		s.DelayMs = milliseconds(above)
	}
	if trip := &d.delay.trip; trip.known {
		s.RTTMs, s.RTTAboveMs = milliseconds(trip.last), milliseconds(trip.above())
	}
	return s
}

// milliseconds of a time in nanoseconds, to the microsecond.
func milliseconds(ns int64) *float64 {
	ms := float64(ns/1000) / 1000
	return &ms
}
