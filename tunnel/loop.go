package tunnel

import (
	"encoding/binary"
	"net/netip"
)

// Where the route to a peer's endpoint leads into the tunnel, what was sealed comes
// back to be sealed again, without end. That happens to those who forget to except
// endpoints from a default route, and to others for a moment, when the address of the
// outer interface goes and the kernel takes the tunnel's own for a source, to which the
// peer then roams.

const loopWarning = "the route to a peer's endpoint leads into the tunnel itself: datagrams to it are dropped"

// loops tells that an inner packet, which goes to an address, is a datagram to the peer.
func (p *peer) loops(to netip.Addr, packet []byte) bool {
	e := p.endpoint.Load()
	if e == nil || e.addr.Addr() != to {
		return false
	}
	// Our own have neither options nor extension headers, and are no fragments.
	const udp = 17
	ports := packet[20:]
	switch {
	case to.Is4() && (packet[0] != 0x45 || packet[9] != udp), to.Is6() && packet[6] != udp:
		return false
	case to.Is6():
		ports = packet[40:]
	}
	socks := p.device.sockets.Load()
	if len(ports) < 4 || socks == nil {
		return false
	}
	from, there := binary.BigEndian.Uint16(ports), binary.BigEndian.Uint16(ports[2:])
	if there != e.addr.Port() && from != socks.listen.Port() {
		return false // somebody else's
	}
	if skipped, due := p.device.limited.due(loopWarning); due {
		p.device.limited.say(loopWarning, skipped, "peer", p.name(), "endpoint", e.addr)
	}
	return true
}
