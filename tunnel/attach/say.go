package attach

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"kiloport/tunnel/attach/accord"
)

// A speaker sends HELLO into the WireGuard device.
type speaker struct {
	device int // index
	v4     *ipv4.PacketConn
	v6     *ipv6.PacketConn
}

// hopLimit keeps HELLO from getting beyond a peer that does not know it.
const hopLimit = 1

func newSpeaker(device int) (*speaker, error) {
	s := &speaker{device: device}
	if c, err := net.ListenPacket("udp4", ":0"); err == nil {
		s.v4 = ipv4.NewPacketConn(c)
		s.v4.SetTTL(hopLimit)
	}
	if c, err := net.ListenPacket("udp6", ":0"); err == nil {
		s.v6 = ipv6.NewPacketConn(c)
		s.v6.SetHopLimit(hopLimit)
	}
	if s.v4 == nil && s.v6 == nil {
		return nil, errors.New("open a socket for HELLO: neither IPv4 nor IPv6")
	}
	return s, nil
}

func (s *speaker) close() {
	if s.v4 != nil {
		s.v4.Close()
	}
	if s.v6 != nil {
		s.v6.Close()
	}
}

// say sends a HELLO. An invalid from leaves our address to the kernel.
func (s *speaker) say(from, to netip.Addr, h *accord.Hello) error {
	at := &net.UDPAddr{IP: to.AsSlice(), Port: accord.Port}
	var err error
	switch {
	case to.Is4() && s.v4 != nil:
		_, err = s.v4.WriteTo(h.Payload(to), &ipv4.ControlMessage{IfIndex: s.device, Src: from.AsSlice()}, at)
	case to.Is6() && s.v6 != nil:
		_, err = s.v6.WriteTo(h.Payload(to), &ipv6.ControlMessage{IfIndex: s.device, Src: from.AsSlice()}, at)
	default:
		err = errors.ErrUnsupported
	}
	if err != nil {
		return fmt.Errorf("say HELLO to %v: %w", to, err)
	}
	return nil
}

// ownAddresses are those of the WireGuard device.
func ownAddresses(device netlink.Link) ([]netip.Prefix, error) {
	list, err := netlink.AddrList(device, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the addresses of %s: %w", device.Attrs().Name, err)
	}
	var own []netip.Prefix
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && !addr.IsLinkLocalUnicast() {
			ones, _ := a.Mask.Size()
			own = append(own, netip.PrefixFrom(addr.Unmap(), ones))
		}
	}
	return own, nil
}

// from is our address towards to: the only one of its family, or that in whose network
// it is. It is invalid where the kernel has to choose, which knows what routes say.
func from(own []netip.Prefix, to netip.Addr) netip.Addr {
	var only netip.Addr
	several := false
	for _, p := range own {
		if p.Addr().Is4() != to.Is4() {
			continue
		}
		if p.Contains(to) {
			return p.Addr()
		}
		several = several || only.IsValid()
		only = p.Addr()
	}
	if several {
		return netip.Addr{}
	}
	return only
}

// Where allowed IPs tell too little, HELLO goes to addresses that nobody has:
// RFC 7600's dummy address and RFC 6666's discard prefix.
var (
	dummy4 = netip.MustParseAddr("192.0.0.8")
	dummy6 = netip.MustParseAddr("100::1")
)

// vague is the length of a prefix that is too short to begin with an address of
// the peer's.
func vague(p netip.Prefix) bool {
	return p.Addr().Is4() && p.Bits() < 8 || p.Addr().Is6() && p.Bits() < 16
}

// targets are inner addresses by which HELLO gets to a peer: one for each of its
// allowed prefixes, at most maxTargets, those first that are one host's.
func targets(allowed, own []netip.Prefix) []netip.Addr {
	var hosts, others []netip.Addr
	for _, p := range allowed {
		if !usable(p, own) {
			continue
		}
		if p.IsSingleIP() {
			hosts = append(hosts, p.Addr())
			continue
		}
		others = append(others, first(p, own))
	}
	all := append(hosts, others...)
	return all[:min(len(all), maxTargets)]
}

const maxTargets = 4

// usable tells whether the device has an address of the family of p. Where it has
// none at all, the kernel may know one.
func usable(p netip.Prefix, own []netip.Prefix) bool {
	return len(own) == 0 || slices.ContainsFunc(own, func(o netip.Prefix) bool { return o.Addr().Is4() == p.Addr().Is4() })
}

// first is the lowest address of a prefix, which is no host's, or what stands for
// it: it may be our own, or the broadcast address of our network.
func first(p netip.Prefix, own []netip.Prefix) netip.Addr {
	base := p.Masked().Addr()
	if vague(p) {
		base = dummy4
		if p.Addr().Is6() {
			base = dummy6
		}
		for _, o := range own {
			if o.Addr().Is4() == p.Addr().Is4() && !o.IsSingleIP() {
				base = o.Masked().Addr()
				break
			}
		}
	}
	for _, o := range own {
		if o.Masked().Addr() == base && !o.IsSingleIP() {
			base = base.Next()
		}
		if o.Addr() == base {
			base = base.Next()
		}
	}
	return base
}
