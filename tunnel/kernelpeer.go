package tunnel

import (
	"net/netip"
	"time"

	"kiloport/portpool"
	"kiloport/tunnel/attach/accord"
	"kiloport/tunnel/noise"
)

// A peer may be the kernel's WireGuard with kiloport attached to it (package
// attach). It knows neither control messages nor counters of lanes, but restores
// ports: flows are spread both ways, and all share lane 0's counter and window. What
// is agreed on is a [accord.Agreement], by HELLO in inner packets.
//
// It begins: we do not know our own inner address before it has said HELLO to it.

// kernelTick is how often time is told to an agreement in which it matters.
const kernelTick = int64(250 * time.Millisecond)

// kernelPorts are where data of such a peer may come from; what does counts as
// coming from the canonical port.
type kernelPorts struct {
	ports     accord.Range
	canonical uint16
}

// kernelPeer is the agreement with such a peer, behind the peer's mutex.
type kernelPeer struct {
	*accord.Agreement
	local         accord.Local
	inside, there netip.Addr // inner addresses of HELLO
	at            int64      // when to look again, 0 = not before something happens
}

// atTime is a time of the device's clock for an agreement.
func atTime(now int64) time.Time { return time.Unix(0, now) }

// localEnd is what this device is to such a peer, listening on a port.
func (d *Device) localEnd(port uint16) accord.Local {
	l := accord.Local{Instance: d.random64() | 1, Port: port}
	if !d.options.Spread.has(SpreadPorts) {
		return l
	}
	low, high := d.options.PortRange.Low, d.options.PortRange.High
	if high == 0 {
		var err error
		if low, high, err = portpool.LocalPorts(); err != nil {
			d.limited.warn("flows to peers with kernel wireguard are not spread", "error", err)
			return l
		}
	}
	l.Sends = accord.Range{Low: low, Count: high - low + 1}
	return l
}

// heardKernel takes an inner packet with HELLO, which arrived from the peer.
func (p *peer) heardKernel(now int64, packet []byte) {
	from, to, h, err := accord.ParsePacket(packet)
	if err != nil || p.device.routes.lookup(from) != p {
		p.drops.add(dropControl)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	socks := p.device.sockets.Load()
	if p.removed || socks == nil {
		return
	}
	k, port := p.kernel, socks.listen.Port()
	if k == nil || k.local.Port != port {
		k = &kernelPeer{local: p.device.localEnd(port)}
		k.Agreement = accord.NewAgreement(&k.local)
		p.kernel = k
	}
	k.inside, k.there = to, from
	p.observeKernel(now)
	answer := k.Listen(atTime(now), h)
	p.applyKernel(now)
	if answer {
		p.sayKernel(now, false)
	}
	k.at = now
	p.arm(now)
}

func (p *peer) observeKernel(now int64) {
	if to := p.endpoint.Load(); to != nil {
		p.kernel.Observe(atTime(now), to.addr, p.completed)
	}
}

// flowedKernel is told once a batch that data was sent or received.
func (p *peer) flowedKernel(now int64) {
	k := p.kernel
	if k == nil {
		return
	}
	k.Flowed(atTime(now))
	if k.at == 0 {
		k.at = now
	}
}

// stepKernel is what time brings.
func (p *peer) stepKernel(now int64) {
	k := p.kernel
	if k == nil || k.at == 0 || now < k.at {
		return
	}
	p.observeKernel(now)
	say := k.Step(atTime(now))
	p.applyKernel(now)
	if say {
		p.sayKernel(now, true)
	}
	k.at = now + kernelTick
	if k.Resting(atTime(now)) {
		k.at = 0
	}
}

// applyKernel lets the packet path know.
func (p *peer) applyKernel(now int64) {
	k := p.kernel
	want := kernelPorts{ports: k.Restores(atTime(now)), canonical: k.Theirs.Port}
	if have := p.restores.Load(); have == nil || *have != want {
		p.restores.Store(&want)
	}
	lanes := uint32(0)
	if k.Mode == accord.Spread {
		lanes = uint32(min(p.device.options.Ports, int(k.Ports())))
	}
	if p.kernelLanes.Swap(lanes) != 0 && lanes == 0 {
		p.forgetLanes()
	}
}

// sayKernel sends HELLO: from a port of the pool, drawn by lot, if data may come
// from there or is to, so that what stops data stops HELLO.
func (p *peer) sayKernel(now int64, ask bool) {
	s, socks, k := p.sending.Load(), p.device.sockets.Load(), p.kernel
	if s == nil || s.expired(now) || socks == nil {
		return
	}
	h := k.Say(atTime(now), ask, p.restored.Load(), 0)
	packet := accord.Packet(k.inside, k.there, &h)
	lane := uint16(0)
	other := k.Mode == accord.Spread || k.Mode == accord.Probe && ask
	if n := min(p.device.options.Ports, socks.pool.Limit()); other && n > 0 {
		lane = uint16(1 + p.device.random64()%uint64(n))
	}
	buf := make([]byte, headerSize+len(packet)+noise.TagSize)
	copy(buf[headerSize:], packet)
	p.sendSealedFrom(now, s, lane, 0, spreadDirect, buf, len(packet), p.device.controlClass())
}

// canonical is where a message is taken to come from: the canonical port of a peer
// that spreads and expects us to restore it.
func (p *peer) canonical(from netip.AddrPort) netip.AddrPort {
	k := p.restores.Load()
	if k == nil || from.Port() == k.canonical || !k.ports.Contains(from.Port()) {
		return from
	}
	p.restored.Add(1)
	return netip.AddrPortFrom(from.Addr(), k.canonical)
}

// kernelStatus puts down what is known of such a peer.
func (p *peer) kernelStatus(s *PeerStatus) {
	k := p.kernel
	if k == nil || s.Version != 0 {
		return
	}
	s.Version, s.Reason, s.Mode = k.Theirs.Version, k.Reason, spreadFallback.String()
	switch k.Mode {
	case accord.Probe:
		s.Mode = spreadProbing.String()
	case accord.Spread:
		s.Mode = spreadDirect.String()
	}
	s.Lanes.Agreed = int(p.kernelLanes.Load())
	s.Lanes.Received = int(k.Restores(atTime(p.device.clock.Now())).Count)
	s.Attached = &AttachedStatus{Restored: uint64(p.restored.Load())}
}
