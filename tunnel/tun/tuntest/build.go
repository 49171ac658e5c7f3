package tuntest

import (
	"encoding/binary"
	"net/netip"

	"kiloport/tunnel/tun"
)

// Inner describes a TCP or UDP packet, to be built with [Inner.Packet].
type Inner struct {
	From, To netip.AddrPort
	UDP      bool  // else TCP
	Class    uint8 // DSCP and ECN
	TTL      uint8 // 64 if 0
	ID       uint16
	DF       bool
	Label    uint32 // IPv6's flow label
	Seq, Ack uint32
	Flags    uint8 // of TCP; ACK if 0
	Window   uint16
	Options  []byte // of TCP, a multiple of 4
	Between  []byte // IPv6 extension headers, each beginning with its next header
	Payload  []byte
}

// Packet builds the packet, with checksums and lengths.
func (in Inner) Packet() []byte {
	p := in.ipHeader()
	transport := len(p)
	p = binary.BigEndian.AppendUint16(p, in.From.Port())
	p = binary.BigEndian.AppendUint16(p, in.To.Port())
	if in.UDP {
		p = append(p, 0, 0, 0, 0)
	} else {
		p = binary.BigEndian.AppendUint32(p, in.Seq)
		p = binary.BigEndian.AppendUint32(p, in.Ack)
		p = append(p, byte(5+len(in.Options)/4)<<4, in.Flags)
		if in.Flags == 0 {
			p[len(p)-1] = 0x10
		}
		p = binary.BigEndian.AppendUint16(p, in.Window)
		p = append(p, 0, 0, 0, 0)
		p = append(p, in.Options...)
	}
	p = append(p, in.Payload...)
	Finish(p, transport)
	return p
}

func (in Inner) ipHeader() []byte {
	protocol, ttl := byte(6), in.TTL
	if in.UDP {
		protocol = 17
	}
	if ttl == 0 {
		ttl = 64
	}
	if in.From.Addr().Is4() {
		p := []byte{0x45, in.Class, 0, 0, byte(in.ID >> 8), byte(in.ID), 0, 0, ttl, protocol, 0, 0}
		if in.DF {
			p[6] = 0x40
		}
		return append(append(p, in.From.Addr().AsSlice()...), in.To.Addr().AsSlice()...)
	}
	first := 6<<28 | uint32(in.Class)<<20 | in.Label&0xfffff
	p := binary.BigEndian.AppendUint32(nil, first)
	p = append(p, 0, 0, protocol, ttl)
	p = append(append(p, in.From.Addr().AsSlice()...), in.To.Addr().AsSlice()...)
	if len(in.Between) > 0 {
		p[6] = 0 // hop-by-hop options
		p = append(p, in.Between...)
	}
	return p
}

// Super builds the packet as a super-packet of segments with size bytes of
// payload, the checksum left unfinished as a host does.
func (in Inner) Super(size int) (tun.Header, []byte) {
	p := in.Packet()
	transport := 20
	h := tun.Header{Flags: tun.NeedsChecksum, GSO: tun.GSOTCP4, SegmentSize: uint16(size), ChecksumOffset: 16}
	if !in.From.Addr().Is4() {
		transport = 40 + len(in.Between)
		h.GSO = tun.GSOTCP6
	}
	if in.UDP {
		h.GSO, h.ChecksumOffset = tun.GSOUDP, 6
	}
	h.ChecksumStart = uint16(transport)
	h.HeaderLen = uint16(len(p) - len(in.Payload))
	Unfinish(p, transport)
	return h, p
}

// Unfinish puts the sum of the pseudo header into the checksum field.
func Unfinish(p []byte, transport int) {
	protocol, addresses, field := p[9], p[12:20], 16
	if p[0]>>4 == 6 {
		_, protocol = behindExtensions(p)
		addresses = p[8:40]
	}
	if protocol == 17 {
		field = 6
	}
	binary.BigEndian.PutUint16(p[transport+field:], Sum(PseudoHeader(addresses, protocol, len(p)-transport)))
}
