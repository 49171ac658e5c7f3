package ecn

import "encoding/binary"

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
)

// version is 4 or 6 where packet begins with a whole header of that version,
// else 0.
func version(packet []byte) uint8 {
	if len(packet) < ipv4HeaderLen {
		return 0
	}
	switch packet[0] >> 4 {
	case 4:
		if header := int(packet[0]&15) * 4; header >= ipv4HeaderLen && header <= len(packet) {
			return 4
		}
	case 6:
		if len(packet) >= ipv6HeaderLen {
			return 6
		}
	}
	return 0
}

// class is the traffic class (IPv6) or type of service (IPv4) of a packet whose
// version is known.
func class(packet []byte, version uint8) uint8 {
	if version == 4 {
		return packet[1]
	}
	return packet[0]<<4 | packet[1]>>4
}

// Of reads a packet that begins with its IP header. The DSCP is 0 to 63. It is
// not ok where packet is no IPv4 or IPv6 packet, or ends within the header.
func Of(packet []byte) (cp Codepoint, dscp uint8, ok bool) {
	v := version(packet)
	if v == 0 {
		return NotECT, 0, false
	}
	c := class(packet, v)
	return Codepoint(c & mask), c >> 2, true
}

// Set changes the ECN field of a packet, in place. IPv4's header checksum is
// changed with it: right if it was right before, else wrong by the same amount.
// It is not ok, and nothing is changed, where [Of] is not ok.
func Set(packet []byte, cp Codepoint) (ok bool) {
	v := version(packet)
	if v == 0 {
		return false
	}
	was := class(packet, v)
	set(packet, v, was, was&^mask|uint8(cp&mask))
	return true
}

// SetClass changes the whole traffic class, DSCP and ECN field, as [Set] does
// the latter.
func SetClass(packet []byte, now uint8) (ok bool) {
	v := version(packet)
	if v == 0 {
		return false
	}
	set(packet, v, class(packet, v), now)
	return true
}

// MarkCE signals congestion on a packet, in place, and is true where the packet
// now carries CE, also where it did before. It is false where the packet's
// transport does not understand ECN, so that it must be dropped instead, and
// where [Of] is not ok.
func MarkCE(packet []byte) bool {
	v := version(packet)
	if v == 0 {
		return false
	}
	was := class(packet, v)
	if Codepoint(was&mask) == NotECT {
		return false
	}
	set(packet, v, was, was|mask)
	return true
}

// set replaces the traffic class that was there.
func set(packet []byte, version, was, now uint8) {
	changed := was ^ now
	if changed == 0 {
		return
	}
	if version == 6 {
		packet[0] ^= changed >> 4
		packet[1] ^= changed << 4
		return
	}
	old := binary.BigEndian.Uint16(packet)
	packet[1] ^= changed
	sum := binary.BigEndian.Uint16(packet[10:])
	binary.BigEndian.PutUint16(packet[10:], updateChecksum(sum, old, binary.BigEndian.Uint16(packet)))
}

// updateChecksum is a checksum after one of the words under it changed: RFC
// 1624, equation 3, which unlike RFC 1141's gives what a recomputation gives.
// That is never 0xffff, as no IPv4 header is all zeros.
func updateChecksum(sum, old, now uint16) uint16 {
	s := uint32(^sum) + uint32(^old) + uint32(now)
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return ^uint16(s)
}

// TrafficClass joins a DSCP (0 to 63; higher bits are ignored) and a codepoint
// to the byte of the header: IPv6's traffic class, IPv4's type of service.
func TrafficClass(dscp uint8, cp Codepoint) uint8 {
	return dscp<<2 | uint8(cp&mask)
}
