package tunnel

import (
	"bytes"

	"kiloport/portpool"
	"kiloport/tunnel/ecn"
)

// This file joins a peer to its spread machine. The caller holds the peer's mutex,
// but where another one is named.

func (p *peer) resetSpread() {
	p.resetPath()
	p.spread = spread{mode: spreadStock, reason: "no session yet"}
	if o := &p.device.options; !o.spreads() {
		p.spread = spread{mode: spreadOff, reason: ternary(o.Spread == SpreadOff, "spread is off", "with one port there is nothing to spread over")}
	}
	p.provider, p.lister = provider{}, lister{}
	p.providing.Store(false)
	p.ways.forget()
	p.applySpread()
}

// spreadStock records that the peer takes lane 0 alone.
func (p *peer) spreadStock(reason string) {
	p.pathStock(reason)
	if p.spread.mode == spreadOff {
		return
	}
	p.spread.stock(reason)
	p.version = 0
	p.provider, p.lister = provider{}, lister{}
	p.providing.Store(false)
	p.applySpread()
	if p.kernelLanes.Load() == 0 {
		p.forgetLanes()
	}
}

// agreed records that HELLO was exchanged.
func (p *peer) agreed(now int64, limit uint16, theirs *hello) {
	p.lister.wanted = theirs.Path&helloPathHeard != 0
	p.abilities = theirs.Path
	if p.spread.mode == spreadOff {
		return
	}
	was := p.spread.mode
	p.spread.agree(now, limit, p.waysThatMay())
	if p.spread.mode == spreadProbing && was != spreadProbing {
		p.forgetWays() // of what came before nothing was noted
	}
	p.applySpread()
}

// waysThatMay are those that our options, the peer's abilities and the address
// family leave, the best first.
func (p *peer) waysThatMay() (ways []spreadMode) {
	o, to := &p.device.options, p.endpoint.Load()
	if o.Spread.has(SpreadPorts) {
		if p.abilities&helloPathDirect != 0 {
			ways = append(ways, spreadDirect)
		}
		if p.abilities&helloPathReturn != 0 {
			ways = append(ways, spreadReturn, spreadPaired)
		}
	}
	v6 := to != nil && to.addr.Addr().Is6()
	labels := o.Spread.has(SpreadLabels) && v6
	addresses := o.Spread.has(SpreadAddresses) && to != nil && o.SourcePrefixes.of(to.addr.Addr()).IsValid()
	if !o.Spread.has(SpreadPorts) && (labels || addresses) || o.Spread == SpreadAuto && v6 {
		ways = append(ways, spreadListen)
	}
	return ways
}

// applySpread tells the packet path which way lanes go.
func (p *peer) applySpread() {
	p.via.Store(uint32(p.spread.mode))
	p.answering.Store(p.spread.mode.shuts())
}

// spreadEvents does what the spread machine asks for.
func (p *peer) spreadEvents(now int64, ev spreadEvents) {
	p.moveLanes(now, &ev)
	if ev.changed {
		p.device.log.Info("lanes", "peer", p.name(), "spread", p.spread.name(p.device.options.Spread), "reason", p.spread.reason)
	}
	s := p.sending.Load()
	if s == nil {
		return
	}
	for _, pending := range ev.probes {
		if uint32(pending.lane) <= s.limit.Load() {
			p.sendProbe(now, s, pending.lane, pending.via, pending.id, ecn.TrafficClass(pending.dscp, ecn.NotECT))
		}
	}
	if len(ev.ask) > 0 {
		p.askOpen(now, s, ev.ask, ev.pair)
	}
	if ev.silent {
		p.pathSilent(now)
	}
}

// moveLanes gives flows other lanes, and lanes another way: at once, so that no lane
// goes a way that it is not known to go.
func (p *peer) moveLanes(now int64, ev *spreadEvents) {
	if !ev.anew && !ev.changed && len(ev.out)+len(ev.in)+len(ev.held)+len(ev.crowded) == 0 {
		return
	}
	p.lanesMu.Lock()
	defer p.lanesMu.Unlock()
	p.applySpread()
	if ev.anew {
		p.lanes, p.opened = nil, p.opened[:0]
		if p.spread.mode == spreadProbing {
			p.forgetWays()
		}
	}
	if p.lanes == nil {
		if !p.spread.usable() {
			return
		}
		p.newLanes(0)
	}
	for _, lane := range ev.held {
		p.lanes.Hold(now, lane)
	}
	for _, lane := range ev.out {
		p.lanes.SetDead(lane, true)
	}
	for _, lane := range ev.in {
		p.lanes.SetDead(lane, false)
	}
	for _, c := range ev.crowded {
		p.lanes.Vacate(now, c.lane, c.gap, now+crowdWait)
	}
}

// forgetWays makes all that the peer has opened unknown, so that what comes again is
// noticed.
func (p *peer) forgetWays() {
	p.ways.forget()
	for _, s := range []*session{p.current, p.previous, p.next} {
		if s != nil {
			s.forgetSources()
		}
	}
}

// newLanes makes the lanes of a mode. The caller holds lanesMu.
func (p *peer) newLanes(limit int) {
	via := spreadMode(p.via.Load())
	p.lanes = portpool.NewLanes(portpool.LanesConfig{Limit: limit, Shut: via.shuts(), Yield: p.yields(via)})
	p.lanesLimit = limit
}

// yields says that our flows make room where answers have to go the same lane: if the
// peer does not know of such lanes, and of two ends that both do, at one of them.
func (p *peer) yields(via spreadMode) bool {
	static := p.device.static.Load()
	if static == nil || via != spreadPaired {
		return via == spreadReturn
	}
	ours := static.Public()
	return bytes.Compare(ours[:], p.key[:]) < 0
}

// limitLanes changes the number of lanes if it is another one. The caller holds
// lanesMu.
func (p *peer) limitLanes(n int) {
	if p.lanes == nil {
		p.newLanes(n)
	}
	if p.lanesLimit != n {
		p.lanes.SetLimit(n)
		p.lanesLimit = n
	}
}

// forgetLanes lets flows choose anew.
func (p *peer) forgetLanes() {
	p.lanesMu.Lock()
	p.lanes, p.opened = nil, nil
	p.lanesMu.Unlock()
}

// noteLanes has lanes probed that flows were just given.
func (p *peer) noteLanes(now int64) {
	p.lanesMu.Lock()
	defer p.lanesMu.Unlock()
	if p.spread.usable() {
		for _, lane := range p.opened {
			p.spread.given(now, lane)
		}
	}
	p.opened = p.opened[:0]
}

// expireLanes frees lanes of idle flows. It runs with the spread machine's tick.
func (p *peer) expireLanes(now int64) {
	p.lanesMu.Lock()
	if p.lanes != nil {
		p.lanes.Expire(now)
	}
	p.lanesMu.Unlock()
}

// innerArrived is told that packets of others arrived: they are reported.
func (p *peer) innerArrived(now int64) {
	if p.reporting {
		p.reporter.arrived(now)
	}
	p.lister.arrived(now)
	p.provider.inner = now
}

// The rest is spreadOwner, but for random64.

func (p *peer) lastSent(lane uint16) int64 {
	if s := p.sending.Load(); s != nil {
		return s.lastSent(lane)
	}
	return 0
}

func (p *peer) laneDSCP(lane uint16) uint8 {
	if s := p.sending.Load(); s != nil && lane != 0 {
		if t := s.sentLane(lane); t != nil && t.last.Load() != 0 {
			return uint8(t.dscp.Load())
		}
	}
	return p.ecn.plain
}

// classOn is the outer class of what is not data, on a lane.
func (p *peer) classOn(lane uint16, class uint8) uint8 {
	if lane == 0 {
		return class
	}
	return ecn.TrafficClass(p.laneDSCP(lane), ecn.NotECT)
}

func (p *peer) sentNumber(lane uint16) uint64 {
	if s := p.sending.Load(); s != nil {
		return s.sentNumber(lane)
	}
	return 0
}

func (p *peer) keypairInUse() uint32 {
	if s := p.sending.Load(); s != nil {
		return s.keypair.LocalIndex
	}
	return 0
}

func (p *peer) heardOn(lane uint16) int64 {
	if a := p.arrivals.find(lane); a != nil {
		return a.last.Load()
	}
	return 0
}

func (p *peer) hasWay(lane uint16, via spreadMode) bool {
	if !via.shuts() {
		return true
	}
	way := p.ways.get(lane)
	return way != nil && way.paired == (via == spreadPaired)
}

func (p *peer) spareLanes() (spare, used, crammed int) {
	p.lanesMu.Lock()
	defer p.lanesMu.Unlock()
	if p.lanes == nil {
		return 0, 0, 0
	}
	return p.lanes.Spare(), p.lanes.Stats().InUse, p.lanes.Crammed()
}

func (p *peer) flowsOn(lane uint16) int {
	p.lanesMu.Lock()
	defer p.lanesMu.Unlock()
	if p.lanes == nil {
		return 0
	}
	return p.lanes.FlowsOn(lane)
}

func (p *peer) laneDelay(lane uint16) (delay, at int64) {
	if int(lane) < len(p.reports.lanes) {
		d := &p.reports.lanes[lane].delay.way
		return d.last, d.at
	}
	return 0, 0
}
