package tunnel

import (
	"net/netip"
	"sync/atomic"

	"kiloport/portpool"
)

// wayTable is where the lanes of a peer lead that do not lead to its listen port:
// the ports that the peer's own lanes came from, as NATs on the way have made them.
// It is read by the packet path without a lock, and filled only by what the peer
// has authenticated.
type wayTable struct {
	chunks atomic.Pointer[[maxLanes/laneChunk + 1]atomic.Pointer[[laneChunk]atomic.Pointer[endpoint]]]
}

// get gives a lane's way, nil if none is known.
func (t *wayTable) get(lane uint16) *endpoint {
	chunks := t.chunks.Load()
	if chunks == nil {
		return nil
	}
	chunk := chunks[lane/laneChunk].Load()
	if chunk == nil {
		return nil
	}
	return chunk[lane%laneChunk].Load()
}

// place gives the place of a lane's way, and makes it.
func (t *wayTable) place(lane uint16) *atomic.Pointer[endpoint] {
	chunks := t.chunks.Load()
	if chunks == nil {
		t.chunks.CompareAndSwap(nil, new([maxLanes/laneChunk + 1]atomic.Pointer[[laneChunk]atomic.Pointer[endpoint]]))
		chunks = t.chunks.Load()
	}
	chunk := &chunks[lane/laneChunk]
	if chunk.Load() == nil {
		chunk.CompareAndSwap(nil, new([laneChunk]atomic.Pointer[endpoint]))
	}
	return &chunk.Load()[lane%laneChunk]
}

// forget makes all ways unknown.
func (t *wayTable) forget() { t.chunks.Store(nil) }

// learnWay notes where a lane of the peer's came from, and at which of our ports
// it arrived.
func (p *peer) learnWay(lane uint16, m *portpool.Message, paired bool) {
	at := p.ways.place(lane)
	if old := at.Load(); old != nil && old.addr == m.Addr && old.local == m.Local && old.paired == paired {
		return
	}
	at.Store(&endpoint{addr: m.Addr, local: m.Local, paired: paired})
}

// claimWay notes where the peer says that a lane leads, if nothing has come from
// there yet.
func (p *peer) claimWay(lane uint16, port uint16) {
	to, at := p.endpoint.Load(), p.ways.place(lane)
	if to == nil {
		return
	}
	if old := at.Load(); old == nil || !old.paired || old.addr.Addr() != to.addr.Addr() {
		at.Store(&endpoint{addr: netip.AddrPortFrom(to.addr.Addr(), port), local: to.local, paired: true})
	}
}

// laneCame is told that a lane of the peer's has come from elsewhere than before.
func (p *peer) laneCame(now int64, lane uint16, m *portpool.Message, pooled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if to := p.endpoint.Load(); p.removed || p.spread.mode < spreadProbing || to == nil || to.addr == m.Addr {
		return // from the listen port: that way leads nowhere else than lane 0
	}
	p.learnWay(lane, m, pooled)
	p.spread.opened(now)
	if p.hasWay(lane, p.spread.mode) {
		p.spreadEvents(now, p.spread.openedLane(now, lane))
	}
	p.arm(now)
}

// wayOf is where the packets of a lane go from and to, in a mode; false if there
// is no such way.
func (p *peer) wayOf(now int64, socks *sockets, lane uint16, via spreadMode) (portpool.Socket, *endpoint, bool) {
	to := p.endpoint.Load()
	if lane == 0 {
		return socks.listen, to, to != nil
	}
	switch via {
	case spreadReturn, spreadPaired:
		to = p.ways.get(lane)
		if to == nil || to.paired != (via == spreadPaired) {
			return nil, nil, false
		}
	case spreadListen, spreadDirect:
		if to = p.sourceOf(lane, to, via); to == nil {
			return nil, nil, false
		}
	default:
		return nil, nil, false
	}
	if !via.pooled() {
		return socks.listen, to, true
	}
	socket, err := socks.pool.Socket(now, lane)
	return socket, to, err == nil
}
