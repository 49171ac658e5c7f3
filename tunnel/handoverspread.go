package tunnel

import (
	"net/netip"
	"slices"
	"time"
)

// goOnWithin is how long after a process before this one its lanes are believed to
// work still: firewalls keep for them what they have let out for 30 s at least.
const goOnWithin = 10 * time.Second

// handoverSpread is what is known of a peer's lanes, both ways.
type handoverSpread struct {
	Mode    string // spreadMode's name, of one that spreads
	Reason  string
	Trip    int64         // nanoseconds
	Guarded bool          // flows may have only the lanes of Open
	Open    []uint16      // lanes that have been seen to work
	Dead    []uint16      // lanes that flows have left
	Ways    []handoverWay // of the peer's lanes
	Kept    []uint16      // our lanes that the peer sends to, which are kept open for it
}

// handoverWay is where a lane leads.
type handoverWay struct {
	Lane   uint16
	Addr   netip.AddrPort
	Local  netip.Addr // not valid: the kernel's choice
	Paired bool
}

// handOverSpread gives what is known of the lanes. The caller holds mu, here and below.
func (p *peer) handOverSpread(now int64) *handoverSpread {
	s := &p.spread
	h := &handoverSpread{Mode: s.mode.String(), Reason: s.reason, Trip: s.last, Guarded: s.watch.guarded || s.mode.shuts()}
	for i := 1; i < len(s.lanes); i++ {
		switch c, lane := &s.lanes[i], uint16(i); {
		case c.dead:
			h.Dead = append(h.Dead, lane)
		case !c.shut && (c.proved != 0 || p.heardOn(lane) != 0):
			h.Open = append(h.Open, lane)
		}
	}
	for lane := uint16(1); lane <= s.limit && s.mode.shuts(); lane++ {
		if way := p.ways.get(lane); way != nil {
			h.Ways = append(h.Ways, handoverWay{lane, way.addr, way.local, way.paired})
		}
	}
	if p.provider.at == 0 {
		return h
	}
	p.arrivals.from(1, func(lane uint16, a *arrivals) bool {
		if lane != 0 && a.inner.Load() != 0 && now-a.inner.Load() < keepLately {
			h.Kept = append(h.Kept, lane)
		}
		return true
	})
	return h
}

// restoreSpread goes on in the mode that was found, if that may be still, with the
// lanes that are known to work. Others are taken when they are needed, as ever.
func (p *peer) restoreSpread(now int64, h *handoverSpread) {
	if h == nil {
		return
	}
	for _, w := range h.Ways {
		if w.Lane != 0 && w.Lane <= maxLanes && w.Addr.IsValid() {
			p.ways.place(w.Lane).Store(&endpoint{addr: w.Addr, local: w.Local, paired: w.Paired})
		}
	}
	if len(h.Kept) > 0 {
		p.provider.asked, p.provider.at = now, now+beatEvery
		p.providing.Store(true)
		p.reopen = h.Kept
	}
	p.spreadEvents(now, p.spread.goOn(now, h))
}

// goOn takes up what a process before this one knew, instead of searching.
func (s *spread) goOn(now int64, h *handoverSpread) (ev spreadEvents) {
	mode := spreadMode(slices.Index(spreadModeNames[:], h.Mode))
	if s.mode != spreadProbing || !mode.spreads() || !s.may(mode) {
		return ev
	}
	s.found(now, mode, &ev)
	s.reason = h.Reason
	if h.Trip > 0 {
		s.sample(h.Trip)
	}
	w := &s.watch
	w.guarded, w.guardTill = h.Guarded && !mode.shuts(), now+guardFor
	for lane := uint16(1); w.guarded && lane <= s.limit; lane++ {
		s.check(lane)
		ev.out = append(ev.out, lane)
	}
	for _, lane := range h.Open {
		if lane == 0 || lane > s.limit {
			continue
		}
		c := s.check(lane)
		c.proved, c.shut, c.anew = now, false, true
		ev.in = append(ev.in, lane)
	}
	for _, lane := range h.Dead {
		if lane == 0 || lane > s.limit {
			continue
		}
		c := s.check(lane)
		c.dead, c.wait, c.retryAt = true, deadRetry, now+deadRetry
		ev.out = append(ev.out, lane)
	}
	return ev
}

// reopenLanes opens the lanes that the process before this one has kept open and whose
// ports could not be kept: from its own ports, which the peer learns by it.
func (p *peer) reopenLanes(now int64) {
	lanes := p.reopen
	p.reopen = nil
	s, socks := p.sending.Load(), p.device.sockets.Load()
	if s == nil || socks == nil || len(lanes) == 0 {
		return
	}
	p.device.listenOnPool(socks)
	for _, lane := range lanes {
		if int(lane) <= socks.pool.Limit() && uint32(lane) <= s.limit.Load() && !socks.pool.IsOpen(lane) {
			p.sendOpening(now, s, lane, p.keptVia(lane))
		}
	}
}
