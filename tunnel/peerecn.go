package tunnel

import (
	"kiloport/portpool"
	"kiloport/tunnel/ecn"
)

// This file joins a peer to what finds out about its path: ecnPath, reporter and
// the delays. The caller holds the peer's mutex throughout.

// resetPath forgets what is known of the path, as after the last session.
func (p *peer) resetPath() {
	d := p.device
	p.ecn = newECNPath(&d.options, d.expectedDSCPs()|p.dscps.Load())
	p.reporter = reporter{epoch: uint32(d.random64())}
	p.reports, p.reporting = reports{}, false
	p.mtuStop()
	p.blind.Store(false)
	p.applyECN()
}

// expectedDSCPs are those, as bits, that will be on the way whatever the inner
// packets have.
func (d *Device) expectedDSCPs() uint64 {
	return d.options.DSCP.Outers() | 1<<d.options.ControlDSCP
}

// pathStock records that the peer is plain WireGuard.
func (p *peer) pathStock(reason string) {
	p.ecn.stock(reason)
	p.mtuStop()
	p.setReporting(false)
	p.reporter.quick = false
	p.downlink.asked.Store(nil)
	p.blind.Store(false)
	p.applyECN()
}

// pathAgreed records what the peer said in HELLO, on the current keypair.
func (p *peer) pathAgreed(now int64, theirs *hello) {
	p.mtuAgreed(now, theirs)
	p.ecn.agree(now, theirs.ECN&helloECNDecapsulates != 0)
	p.setReporting(theirs.Path&helloPathReports != 0)
	p.reporter.quick = theirs.Path&helloPathQuick != 0
	p.applyECN()
}

// setReporting records whether the peer reads REPORT. None may stay due for one
// that does not: the timer would wait for it to be sent.
func (p *peer) setReporting(reads bool) {
	if p.reporting = reads; !reads {
		p.reporter.at, p.reporter.again = 0, false
	}
}

// pathChanged is told that the peer has moved: nothing that was found is true any
// more.
func (p *peer) pathChanged(now int64) {
	p.spread.roamed(now)
	p.applySpread()
	p.ecn.roamed(now)
	p.mtuMoved(now)
	p.forgetWays()
	p.sources.forget()
	for i := range p.reports.lanes {
		p.reports.lanes[i].delay = laneDelay{}
	}
	p.arrivals.from(0, func(_ uint16, a *arrivals) bool {
		a.way, a.lowKnown = delay{}, false
		return true
	})
	p.reporter.lowKnown, p.tripKnown = false, false
	p.applyECN()
}

func (p *peer) applyECN() { p.normalECN.Store(p.ecn.normal) }

// ecnEvents does what the machine asks for.
func (p *peer) ecnEvents(now int64, ev ecnEvents) {
	p.applyECN()
	if s := p.sending.Load(); s != nil {
		for i := range ev.probes {
			probe := &ev.probes[i]
			if uint32(probe.lane) <= s.limit.Load() {
				p.sendProbe(now, s, probe.lane, p.spread.mode, probe.id, probe.class)
			}
		}
	}
	if !ev.changed {
		return
	}
	if p.reporting {
		p.reporter.found(now)
	}
	say := p.device.log.Info
	if !p.ecn.normal && p.ecn.tested != 0 {
		say = p.device.log.Warn
	}
	say("ecn", "peer", p.name(), "mode", p.ecn.mode().String(), "reason", p.ecn.reason)
}

// mode is that of packets to the peer on a keypair on which HELLO was exchanged.
func (e *ecnPath) mode() ecn.Mode {
	if e.normal {
		return ecn.Normal
	}
	return ecn.Compatibility
}

// sayBlind tells people that marks from the peer are ignored, or no longer.
func (p *peer) sayBlind(blind bool) {
	if blind {
		p.device.log.Warn("the path from the peer marks everything CE, even what is not ECN-capable: its marks are ignored", "peer", p.name())
		return
	}
	p.device.log.Info("the path from the peer no longer marks everything: its marks count again", "peer", p.name())
}

// sendProbe sends a PROBE on a lane, on one of its ways, in a traffic class.
func (p *peer) sendProbe(now int64, s *session, lane uint16, via spreadMode, id uint64, class uint8) {
	body := &probe{ID: id, Sent: p.device.clock.Now()}
	p.sendVia(now, s, lane, via, appendControl(nil, controlProbe, body), class)
}

// probeLine sends the probe that is due to find the rate of the line, and goes on
// with that for as long as data is sent.
func (p *peer) probeLine(now int64) {
	if p.lineAt == 0 || now < p.lineAt {
		return
	}
	p.lineAt = 0
	s := p.sending.Load()
	if now-p.spread.used > autorateIdle || !p.reporting || s == nil {
		return
	}
	p.sendProbe(now, s, 0, spreadListen, p.random64(), ecn.TrafficClass(p.ecn.plain, ecn.NotECT))
	p.lineAt = now + p.device.uplink.probeEvery()
}

// noteProbe takes how long a probe of the peer's took to us.
func (p *peer) noteProbe(lane uint16, t *probe, m *portpool.Message) {
	now := p.device.clock.Now()
	arrived := now
	if m.Time != 0 { // it may have waited in the socket
		arrived -= min(max(p.device.clock.Wall().UnixNano()-m.Time, 0), maxWait)
	}
	a := p.arrivals.lane(lane)
	a.way.add(now, arrived-t.Sent)
	p.keptDelays().from.observe(a.way.above())
	if !a.lowKnown || a.way.last < a.low {
		a.low, a.lowKnown = a.way.last, true
	}
	if lane == 0 {
		p.reporter.probed(a.way.last)
	}
}

// maxWait is the longest that a datagram is believed to have waited in a socket;
// more means that the wall clock was set meanwhile.
const maxWait = int64(1e9)

// noteEcho takes how long a probe of ours took.
func (p *peer) noteEcho(now int64, s *session, e *probeEcho) {
	if !p.sentOn(s, e.Lane) || e.Sent <= 0 || e.Sent > now || now-e.Sent > maxEchoAge {
		return
	}
	d := &p.reports.lane(e.Lane).delay
	d.add(e.Sent, now, e.Arrived)
	if above := d.trip.above(); e.Lane == 0 && (!p.tripKnown || above < p.tripLow) {
		p.tripLow, p.tripKnown = above, true
	}
	if above, known := d.above(); known {
		p.keptDelays().to.observe(above)
	}
}

// maxEchoAge is how old an answer may be to say anything of the path.
const maxEchoAge = int64(10e9)

// The rest is ecnOwner.

func (p *peer) random64() uint64 { return p.device.random64() }

func (p *peer) sentMarks() markCounts { return p.tx.marks() }

const maxTestLanes = 4

// testLanes are lane 0 and, where data is spread, some lanes that carry it.
func (p *peer) testLanes() []uint16 {
	lanes := []uint16{0}
	s := p.sending.Load()
	if s == nil || !p.spread.usable() {
		return lanes
	}
	recently := p.device.clock.Now() - laneCheckEvery
	for i := range p.spread.lanes {
		c := &p.spread.lanes[i]
		if lane := uint16(i); lane > 0 && p.laneDSCP(lane) == p.ecn.plain && !c.dead && !c.shut && c.suspect == 0 && c.proved != 0 && s.lastSent(lane) > recently {
			if lanes = append(lanes, lane); len(lanes) == maxTestLanes {
				break
			}
		}
	}
	return lanes
}
