package accord

import (
	"encoding/binary"
	"net/netip"
)

// The lengths in bytes of the inner packets that carry a HELLO that asks, and one
// that does not: multiples of 16, to which WireGuard pads, below every path's MTU,
// and of no other traffic in particular. They differ so that the eBPF programs can
// tell them apart: what asks goes from another port first.
const (
	AskSize    = 416
	AnswerSize = 400
)

// Overhead is what WireGuard's message adds to the inner packet.
const Overhead = 32

const (
	sizeIPv4  = 20
	sizeIPv6  = 40
	sizeUDP   = 8
	protoUDP  = 17
	hopLimit  = 1
	dscpAF41  = 34 << 2 // as WireGuard's own handshakes
	firstPort = 49152   // of the source ports, see Packet
)

// packetSize is the length of the inner packet.
func (h *Hello) packetSize() int {
	if h.Flags.Has(Ask) {
		return AskSize
	}
	return AnswerSize
}

// Payload is the UDP payload that carries a HELLO to an address.
func (h *Hello) Payload(to netip.Addr) []byte {
	n := h.packetSize() - sizeUDP - sizeIPv6
	if to.Is4() {
		n = h.packetSize() - sizeUDP - sizeIPv4
	}
	return h.Append(make([]byte, 0, n))[:n] // the fields are fewer than half of it
}

// Packet is the whole inner packet that carries a HELLO. Both addresses are of one
// family; anything else gives nil.
func Packet(from, to netip.Addr, h *Hello) []byte {
	from, to = from.Unmap(), to.Unmap()
	if !from.IsValid() || !to.IsValid() || from.Is4() != to.Is4() {
		return nil
	}
	be := binary.BigEndian
	size := h.packetSize()
	b := make([]byte, size)
	at := sizeIPv6
	if to.Is4() {
		at = sizeIPv4
		b[0], b[1], b[8], b[9] = 0x45, dscpAF41, hopLimit, protoUDP
		be.PutUint16(b[2:], uint16(size))
		copy(b[12:], from.AsSlice())
		copy(b[16:], to.AsSlice())
		be.PutUint16(b[10:], ^sum(b[:sizeIPv4], 0))
	} else {
		be.PutUint32(b, 6<<28|dscpAF41<<20)
		be.PutUint16(b[4:], uint16(size-sizeIPv6))
		b[6], b[7] = protoUDP, hopLimit
		copy(b[8:], from.AsSlice())
		copy(b[24:], to.AsSlice())
	}
	udp := b[at:]
	be.PutUint16(udp, firstPort|uint16(h.Sequence))
	be.PutUint16(udp[2:], Port)
	be.PutUint16(udp[4:], uint16(len(udp)))
	copy(udp[sizeUDP:], h.Payload(to))
	pseudo := sum(from.AsSlice(), sum(to.AsSlice(), uint16(len(udp))))
	check := ^sum(udp, sum([]byte{0, protoUDP}, pseudo))
	if check == 0 {
		check = 0xffff
	}
	be.PutUint16(udp[6:], check)
	return b
}

// sum is the ones' complement sum of b, of even length, and of more.
func sum(b []byte, more uint16) uint16 {
	total := uint32(more)
	for ; len(b) > 1; b = b[2:] {
		total += uint32(binary.BigEndian.Uint16(b))
	}
	for total > 0xffff {
		total = total&0xffff + total>>16
	}
	return uint16(total)
}

// IsHello tells whether an inner packet is addressed as one that carries HELLO.
// It looks at no more than is necessary for any other packet.
func IsHello(packet []byte) bool {
	_, ok := payload(packet)
	return ok
}

// ParsePacket reads the HELLO of an inner packet, and the addresses that it came
// from and was sent to. Bytes behind the packet are ignored. Checksums are not
// looked at: WireGuard has authenticated the packet. The error is [ErrMalformed].
func ParsePacket(packet []byte) (from, to netip.Addr, h Hello, err error) {
	body, ok := payload(packet)
	if !ok {
		return from, to, h, ErrMalformed
	}
	if packet[0]>>4 == 4 {
		from, to = netip.AddrFrom4([4]byte(packet[12:])), netip.AddrFrom4([4]byte(packet[16:]))
	} else {
		from, to = netip.AddrFrom16([16]byte(packet[8:])), netip.AddrFrom16([16]byte(packet[24:]))
	}
	h, err = Parse(body)
	return from, to, h, err
}

// payload finds the UDP payload of what is HELLO by address and first bytes.
func payload(packet []byte) ([]byte, bool) {
	var at, protocol int
	switch {
	case len(packet) < AnswerSize:
		return nil, false
	case packet[0] == 0x45:
		at, protocol = sizeIPv4, int(packet[9])
		if binary.BigEndian.Uint16(packet[6:])&0x3fff != 0 { // a fragment
			return nil, false
		}
	case packet[0]>>4 == 6:
		at, protocol = sizeIPv6, int(packet[6])
	}
	if protocol != protoUDP || binary.BigEndian.Uint16(packet[at+2:]) != Port {
		return nil, false
	}
	body := packet[at+sizeUDP:]
	return body, string(body[:len(magic)]) == magic
}
