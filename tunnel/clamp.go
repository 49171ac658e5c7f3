package tunnel

import "encoding/binary"

const (
	flagSYN   = 0x02
	tcpLeast  = 20
	optionEnd = 0
	optionNop = 1
	optionMSS = 2
)

// clampMSS lowers the maximum segment size that a TCP SYN offers (RFC 9293 section
// 3.7.1) to what fits into packets of most bytes, for hosts that never hear that the
// path is narrow. summed says that the packet's TCP checksum is complete, so that it
// has to follow.
func clampMSS(p []byte, most int, summed bool) {
	ip := tcpIn(p)
	if ip == 0 {
		return
	}
	t := p[ip:]
	end := min(int(t[12]>>4)*4, len(t))
	for at := tcpLeast; at < end; {
		switch {
		case t[at] == optionEnd:
			return
		case t[at] == optionNop:
			at++
			continue
		case at+1 >= end || t[at+1] < 2 || at+int(t[at+1]) > end:
			return
		case t[at] == optionMSS && t[at+1] == 4:
			lowerMSS(t, at+2, max(most-ip-tcpLeast, 0), summed)
			return
		}
		at += int(t[at+1])
	}
}

// tcpIn gives where the header of a TCP SYN is, 0 if the packet is none. IPv6
// extension headers are not looked behind: hosts send a SYN without.
func tcpIn(p []byte) (ip int) {
	switch {
	case len(p) >= ipv4HeaderLen && p[0]>>4 == 4 && p[9] == protocolTCP && binary.BigEndian.Uint16(p[6:])&0x1fff == 0:
		ip = int(p[0]&15) * 4
	case len(p) >= ipv6HeaderLen && p[0]>>4 == 6 && p[6] == protocolTCP:
		ip = ipv6HeaderLen
	}
	if ip < ipv4HeaderLen || len(p) < ip+tcpLeast || p[ip+13]&flagSYN == 0 {
		return 0
	}
	return ip
}

// lowerMSS changes the option, which need not be aligned, and the checksum by RFC 1624
// equation 3.
func lowerMSS(t []byte, at, most int, summed bool) {
	old := binary.BigEndian.Uint16(t[at:])
	if int(old) <= most {
		return
	}
	binary.BigEndian.PutUint16(t[at:], uint16(most))
	if !summed {
		return
	}
	from, to := old, uint16(most)
	if at%2 == 1 { // the bytes belong to the other halves of two words
		from, to = from<<8|from>>8, to<<8|to>>8
	}
	sum := uint32(^binary.BigEndian.Uint16(t[16:])) + uint32(^from) + uint32(to)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(t[16:], ^uint16(sum))
}

// clamp is how long packets to and from a peer may be, for clampMSS; 0 if it is off.
func (p *peer) clamp() int {
	if !p.device.options.ClampMSS {
		return 0
	}
	return p.padTo(p.device.mtu())
}
