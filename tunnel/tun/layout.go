package tun

import "encoding/binary"

const (
	protocolTCP      = 6
	protocolUDP      = 17
	protocolFragment = 44 // of IPv6

	ipv4Size = 20 // without options
	ipv6Size = 40
	tcpSize  = 20 // without options
	udpSize  = 8

	tcpChecksum = 16 // where the field is
	udpChecksum = 6

	tcpFlags = 13
	flagFIN  = 0x01
	flagPSH  = 0x08
	flagACK  = 0x10
	flagECE  = 0x40
	flagCWR  = 0x80
)

// layout says where in a packet its headers are.
type layout struct {
	ip       int // length of the IP header, hence where the transport header is
	headers  int // length of all headers, hence where the payload is
	protocol uint8
}

// checksumOffset is where the field is in the transport header.
func (l *layout) checksumOffset() int {
	if l.protocol == protocolTCP {
		return tcpChecksum
	}
	return udpChecksum
}

// kind is what a packet is to this package.
type kind uint8

const (
	other    kind = iota // neither of those below
	fragment             // of an IPv4 or IPv6 packet
	plain                // TCP or UDP right after an IP header without options
)

// parse finds the headers of a plain packet. It checks that the lengths which
// the headers give are those of the packet, but not the checksums.
func parse(p []byte) (layout, kind) {
	switch {
	case len(p) >= ipv4Size && p[0]>>4 == 4:
		if binary.BigEndian.Uint16(p[6:])&0x3fff != 0 {
			return layout{}, fragment
		}
		if p[0] != 0x45 || int(binary.BigEndian.Uint16(p[2:])) != len(p) {
			return layout{}, other
		}
		return parseTransport(p, ipv4Size, p[9])
	case len(p) >= ipv6Size && p[0]>>4 == 6:
		if p[6] == protocolFragment {
			return layout{}, fragment
		}
		if int(binary.BigEndian.Uint16(p[4:])) != len(p)-ipv6Size {
			return layout{}, other
		}
		return parseTransport(p, ipv6Size, p[6])
	}
	return layout{}, other
}

func parseTransport(p []byte, ip int, protocol uint8) (layout, kind) {
	t := p[ip:]
	switch protocol {
	case protocolTCP:
		if n := tcpHeaderLen(t); n > 0 {
			return layout{ip, ip + n, protocol}, plain
		}
	case protocolUDP:
		if len(t) >= udpSize && int(binary.BigEndian.Uint16(t[4:])) == len(t) {
			return layout{ip, ip + udpSize, protocol}, plain
		}
	}
	return layout{}, other
}

// tcpHeaderLen is the length of a TCP header with its options, or 0 if it
// cannot be.
func tcpHeaderLen(t []byte) int {
	if len(t) < tcpSize {
		return 0
	}
	n := int(t[12]>>4) * 4
	if n < tcpSize || n > len(t) {
		return 0
	}
	return n
}

// skipExtensions gives the offset and the protocol of what comes after the
// extension headers of an IPv6 packet that is not a fragment (RFC 8200 section
// 4): of what a header can be said to have a length, no more than are taken.
func skipExtensions(p []byte) (at int, protocol uint8) {
	const hopByHop, routing, destination = 0, 43, 60
	at, protocol = ipv6Size, p[6]
	for at < maxHeaders && at+2 <= len(p) {
		switch protocol {
		case hopByHop, routing, destination:
			protocol, at = p[at], at+8+int(p[at+1])*8
		default:
			return at, protocol
		}
	}
	return 0, 0
}
