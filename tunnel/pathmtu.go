package tunnel

import "kiloport/tunnel/noise"

// This file joins a peer to what finds out the size that its path carries. The caller
// holds the peer's mutex, but where it says otherwise.

// mtuAgreed begins the search, when HELLO was exchanged for the first time.
func (p *peer) mtuAgreed(now int64, theirs *hello) {
	p.takesPieces.Store(theirs.Path&helloPathPieces != 0)
	if p.mtu.state == mtuUnknown {
		p.mtuBegin(now)
	}
}

// mtuBegin begins the search on what may be another path.
func (p *peer) mtuBegin(now int64) {
	to := p.endpoint.Load()
	if to == nil {
		return
	}
	least := baseMTU
	if to.addr.Addr().Is4() {
		least = leastMTU4
	}
	p.mtu.begin(now, least, p.device.mtu()+outerHeaders(to))
	p.applyMTU()
}

// mtuStop is for a peer that does not answer probes.
func (p *peer) mtuStop() {
	p.mtu.stop()
	p.applyMTU()
}

// mtuMoved is told that the path, or the TUN device's MTU, is another one.
func (p *peer) mtuMoved(now int64) {
	if p.mtu.state != mtuUnknown {
		p.mtuBegin(now)
	}
}

// applyMTU tells the packet path how large an inner packet may be; 0 is as large as
// the TUN device lets it.
func (p *peer) applyMTU() {
	most := int32(0)
	if to := p.endpoint.Load(); to != nil && p.mtu.size != 0 && p.mtu.size < p.mtu.most {
		most = int32(p.mtu.size - outerHeaders(to))
	}
	p.innerMax.Store(most)
}

// mtuEvents does what the machine asks for.
func (p *peer) mtuEvents(now int64, ev mtuEvents) {
	if ev.changed {
		p.applyMTU()
		if p.mtu.state != mtuSearching {
			p.device.log.Info("path mtu", "peer", p.name(), "bytes", p.mtu.size, "how", p.mtu.state.String())
		}
	}
	s := p.sending.Load()
	if s == nil {
		return
	}
	for _, probe := range ev.probes {
		lane := uint16(0)
		if probe.odd {
			lane = p.goodLane(now, s)
		}
		p.sendSizeProbe(now, s, lane, probe)
	}
}

// sendSizeProbe sends a PROBE that makes an outer packet of a certain size.
func (p *peer) sendSizeProbe(now int64, s *session, lane uint16, t mtuProbe) {
	to := p.endpoint.Load()
	payload := appendControl(nil, controlProbe, &probe{ID: t.id, Sent: p.device.clock.Now()})
	if to == nil || t.size-outerHeaders(to) < len(payload) {
		return
	}
	size := t.size - outerHeaders(to)
	buf := make([]byte, headerSize+size+noise.TagSize)
	copy(buf[headerSize:], payload)
	p.sendSealed(now, s, lane, p.spread.mode, buf, size, p.classOn(lane, p.ecn.plain<<2))
}

// padTo is how long padding may make a message. It is for the packet path.
func (p *peer) padTo(mtu int) int {
	if most := int(p.innerMax.Load()); most != 0 && most < mtu {
		return most
	}
	return mtu
}

// pathSilent is told that nothing of what was sent is heard of, or nothing of what was
// large.
func (p *peer) pathSilent(now int64) { p.mtu.doubt(now) }

// mtuUpdated is told that the TUN device has another MTU.
func (d *Device) mtuUpdated() {
	for _, p := range d.order {
		p.mu.Lock()
		p.mtuMoved(d.clock.Now())
		p.arm(d.clock.Now())
		p.mu.Unlock()
	}
}
