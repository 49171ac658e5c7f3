package tuntest

import (
	"encoding/binary"
	"fmt"

	"kiloport/tunnel/tun"
)

// Segment cuts a super-packet slowly and plainly: it builds each packet anew,
// with all checksums. It finishes the checksum of a packet that is none. It is
// what a host and its network card make of a packet with a header, to compare
// with.
func Segment(h tun.Header, packet []byte) ([][]byte, error) {
	if h.GSO == tun.GSONone {
		one := append([]byte(nil), packet...)
		if h.Flags&tun.NeedsChecksum == 0 {
			return [][]byte{one}, nil
		}
		at := int(h.ChecksumStart) + int(h.ChecksumOffset)
		if at+2 > len(one) {
			return nil, fmt.Errorf("the checksum at %d is outside of the %d bytes", at, len(one))
		}
		c := ^Sum(one[h.ChecksumStart:])
		if h.ChecksumOffset == 6 && c == 0 {
			c = 0xffff
		}
		binary.BigEndian.PutUint16(one[at:], c)
		return [][]byte{one}, nil
	}
	transport, headers, err := superHeaders(h, packet)
	if err != nil {
		return nil, err
	}
	var segments [][]byte
	payload := packet[headers:]
	for at := 0; at < len(payload); at += int(h.SegmentSize) {
		end := min(at+int(h.SegmentSize), len(payload))
		p := append([]byte(nil), packet[:headers]...)
		p = append(p, payload[at:end]...)
		number := len(segments)
		if p[0]>>4 == 4 {
			id := binary.BigEndian.Uint16(p[4:])
			binary.BigEndian.PutUint16(p[4:], id+uint16(number))
		}
		if h.GSO != tun.GSOUDP {
			t := p[transport:]
			binary.BigEndian.PutUint32(t[4:], binary.BigEndian.Uint32(t[4:])+uint32(at))
			if end < len(payload) {
				t[13] &^= 0x01 | 0x08 // FIN and PSH end a stream, or a part of it
			}
			if at > 0 {
				t[13] &^= 0x80 // CWR is said once
			}
		}
		Finish(p, transport)
		segments = append(segments, p)
	}
	return segments, nil
}

// superHeaders checks that a header and its super-packet go together. It gives
// the offsets of the transport header and of the payload.
func superHeaders(h tun.Header, p []byte) (transport, headers int, err error) {
	if len(p) < 20 || h.SegmentSize == 0 {
		return 0, 0, fmt.Errorf("%d bytes in segments of %d", len(p), h.SegmentSize)
	}
	version, gso := p[0]>>4, h.GSO&^tun.GSOECN
	switch {
	case version == 4 && gso == tun.GSOTCP4 && p[9] == 6, version == 4 && h.GSO == tun.GSOUDP && p[9] == 17:
		transport = int(p[0]&15) * 4
	case version == 6 && len(p) >= 40 && (gso == tun.GSOTCP6 || h.GSO == tun.GSOUDP):
		next := byte(0)
		transport, next = behindExtensions(p)
		if next != map[bool]byte{true: 17, false: 6}[h.GSO == tun.GSOUDP] {
			return 0, 0, fmt.Errorf("a super-packet of kind %#x has protocol %d", h.GSO, next)
		}
	default:
		return 0, 0, fmt.Errorf("a super-packet of kind %#x in IP version %d", h.GSO, version)
	}
	field := 6
	headers = transport + 8
	if gso != tun.GSOUDP {
		field = 16
		if len(p) < transport+20 {
			return 0, 0, fmt.Errorf("%d bytes have no TCP header at %d", len(p), transport)
		}
		headers = transport + int(p[transport+12]>>4)*4
		if headers < transport+20 {
			return 0, 0, fmt.Errorf("a TCP header of %d bytes", headers-transport)
		}
	}
	if len(p) <= headers {
		return 0, 0, fmt.Errorf("headers of %d bytes leave no payload in %d", headers, len(p))
	}
	if h.Flags&tun.NeedsChecksum != 0 && (int(h.ChecksumStart) != transport || int(h.ChecksumOffset) != field) {
		return 0, 0, fmt.Errorf("the checksum at %d+%d is not that of the transport header at %d", h.ChecksumStart, h.ChecksumOffset, transport)
	}
	return transport, headers, nil
}

// Finish gives a packet the lengths and checksums that it should have. transport
// is where its TCP or UDP header is.
func Finish(p []byte, transport int) {
	t := p[transport:]
	protocol, field := byte(6), 16
	var addresses []byte
	if p[0]>>4 == 4 {
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		binary.BigEndian.PutUint16(p[10:], 0)
		binary.BigEndian.PutUint16(p[10:], ^Sum(p[:transport]))
		protocol = p[9]
		addresses = p[12:20]
	} else {
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
		_, protocol = behindExtensions(p)
		addresses = p[8:40]
	}
	if protocol == 17 {
		field = 6
		binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
	}
	binary.BigEndian.PutUint16(t[field:], 0)
	c := ^Sum(append(PseudoHeader(addresses, protocol, len(t)), t...))
	if protocol == 17 && c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(t[field:], c)
}

// PseudoHeader is what the checksum of TCP and UDP covers beside their own
// bytes: RFC 9293 section 3.1, and RFC 8200 section 8.1, which counts the same.
func PseudoHeader(addresses []byte, protocol byte, length int) []byte {
	pseudo := append([]byte(nil), addresses...)
	return append(pseudo, 0, protocol, byte(length>>8), byte(length))
}

// behindExtensions is where the transport header of an IPv6 packet is, and what
// its protocol is.
func behindExtensions(p []byte) (at int, next byte) {
	next, at = p[6], 40
	for (next == 0 || next == 43 || next == 60) && at+1 < len(p) {
		next, at = p[at], at+8+int(p[at+1])*8
	}
	return at, next
}

// Sum is the sum of RFC 1071, one 16-bit word after the other, not inverted.
func Sum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i]) << 8
		if i+1 < len(b) {
			s += uint32(b[i+1])
		}
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
