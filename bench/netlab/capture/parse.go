package capture

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

// A Tuple is what a gateway tells flows apart by. Ports are zero where the
// protocol has none or the packet is a later fragment.
type Tuple struct {
	Src, Dst netip.AddrPort
	Proto    uint8
}

// A Packet is what the headers of one captured packet say.
type Packet struct {
	Tuple
	// Time is when the kernel saw the packet, on the wall clock.
	Time time.Time
	// Outgoing is whether the node sent the packet out of the interface, rather
	// than received it there.
	Outgoing bool
	// Length is the length of the IP packet in bytes, its headers included.
	Length int
	// Payload is how many bytes follow the UDP header; for other protocols, the
	// IP headers.
	Payload int
	// TOS is the IPv4 type of service or IPv6 traffic class: DSCP and ECN.
	TOS uint8
	// Label is the IPv6 flow label, 20 bits; zero for IPv4.
	Label uint32
	// HopLimit is the IPv6 hop limit or the IPv4 time to live.
	HopLimit uint8
	// Fragment is whether the packet is part of a larger one.
	Fragment bool
	// Head holds the captured part of the payload. It is valid only until the
	// function that got the packet returns.
	Head []byte
}

// ECN is the packet's ECN field (RFC 3168): 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE.
func (p *Packet) ECN() uint8 { return p.TOS & 3 }

// DSCP is the packet's differentiated services codepoint (RFC 2474), 0 to 63.
func (p *Packet) DSCP() uint8 { return p.TOS >> 2 }

// Reasons why a frame has no IP packet that [Parse] can describe.
var (
	// ErrNotIP means another protocol than IP, ARP for example.
	ErrNotIP = errors.New("not an IP packet")
	// ErrMalformed means that the headers contradict the frame or each other,
	// or were cut off by the capture.
	ErrMalformed = errors.New("malformed IP packet")
)

// Protocol numbers that the parser knows.
const (
	protoHopByHop = 0
	protoTCP      = 6
	protoUDP      = 17
	protoRouting  = 43
	protoFragment = 44
	protoAH       = 51
	protoDestOpts = 60
	protoDCCP     = 33
	protoSCTP     = 132
	protoUDPLite  = 136
)

// maxExtensions bounds the walk through IPv6 extension headers.
const maxExtensions = 8

// Parse describes the Ethernet frame, of which the first bytes are at hand, in
// p, whose Time and Outgoing it leaves alone. It looks through up to two VLAN
// tags. It fails with [ErrNotIP] or [ErrMalformed].
func Parse(frame []byte, p *Packet) error {
	const macs = 12
	rest := frame
	if len(rest) < macs+2 {
		return ErrNotIP
	}
	rest = rest[macs:]
	for range 3 {
		etherType := binary.BigEndian.Uint16(rest)
		rest = rest[2:]
		switch etherType {
		case 0x0800:
			return parse4(rest, p)
		case 0x86dd:
			return parse6(rest, p)
		case 0x8100, 0x88a8:
			if len(rest) < 4 {
				return ErrMalformed
			}
			rest = rest[2:]
		default:
			return ErrNotIP
		}
	}
	return ErrNotIP
}

// parse4 reads an IPv4 header (RFC 791).
func parse4(b []byte, p *Packet) error {
	if len(b) < 20 || b[0]>>4 != 4 {
		return ErrMalformed
	}
	header := int(b[0]&15) * 4
	length := int(binary.BigEndian.Uint16(b[2:]))
	if header < 20 || length < header || len(b) < header {
		return ErrMalformed
	}
	p.Length = length
	p.TOS = b[1]
	p.Label = 0
	p.HopLimit = b[8]
	fragment := binary.BigEndian.Uint16(b[6:])
	offset := fragment & 0x1fff
	p.Fragment = fragment&0x2000 != 0 || offset != 0
	src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	return parseTransport(p, src, dst, b[9], offset == 0, length-header, b[header:])
}

// parse6 reads an IPv6 header and its extensions (RFC 8200).
func parse6(b []byte, p *Packet) error {
	const header = 40
	if len(b) < header || b[0]>>4 != 6 {
		return ErrMalformed
	}
	first := binary.BigEndian.Uint32(b)
	p.TOS = uint8(first >> 20)
	p.Label = first & 0xfffff
	p.HopLimit = b[7]
	p.Fragment = false
	left := int(binary.BigEndian.Uint16(b[4:]))
	p.Length = header + left
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	next, rest, whole := b[6], b[header:], true
	for range maxExtensions {
		size := 0
		switch next {
		case protoHopByHop, protoRouting, protoDestOpts:
			if len(rest) < 8 {
				return ErrMalformed
			}
			size = 8 + 8*int(rest[1])
		case protoAH:
			if len(rest) < 8 {
				return ErrMalformed
			}
			size = 8 + 4*int(rest[1])
		case protoFragment:
			if len(rest) < 8 {
				return ErrMalformed
			}
			size = 8
			p.Fragment = true
			whole = whole && binary.BigEndian.Uint16(rest[2:])>>3 == 0
		default:
			return parseTransport(p, src, dst, next, whole, left, rest)
		}
		if len(rest) < size || left < size {
			return ErrMalformed
		}
		next, rest, left = rest[0], rest[size:], left-size
		if !whole {
			// What follows in a later fragment is data, not headers.
			return parseTransport(p, src, dst, next, false, left, rest)
		}
	}
	return ErrMalformed
}

// parseTransport reads the ports. length is how many bytes follow the IP
// headers on the wire, of which b are at hand.
func parseTransport(p *Packet, src, dst netip.Addr, proto uint8, first bool, length int, b []byte) error {
	p.Tuple = Tuple{Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(dst, 0), Proto: proto}
	p.Payload = length
	p.Head = b[:min(len(b), length)]
	if !first {
		return nil
	}
	switch proto {
	case protoTCP, protoUDP, protoUDPLite, protoSCTP, protoDCCP:
		if len(p.Head) < 4 {
			return ErrMalformed
		}
		p.Src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b))
		p.Dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
	}
	if proto != protoUDP {
		return nil
	}
	if len(p.Head) < 8 {
		return ErrMalformed
	}
	p.Payload = length - 8
	p.Head = p.Head[8:]
	return nil
}
