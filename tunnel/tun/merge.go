package tun

import (
	"bytes"
	"encoding/binary"
)

// header kinds, to index compared.
const (
	tcp4 = iota
	tcp6
	udp4
	udp6
)

// headerKind is the kind of a plain packet.
func (l *layout) headerKind() int {
	kind := tcp4
	if l.protocol == protocolUDP {
		kind = udp4
	}
	if l.ip == ipv6Size {
		kind++
	}
	return kind
}

// comparison is eight bytes of two headers, of which those in mask must be the
// same.
type comparison struct {
	at   int
	mask uint64
}

// compared says for each kind of header what must be the same in packets that
// are joined. That is everything but the lengths, the checksums, the sequence
// number, the IPv4 ID and PSH: so also what GRO calls for, the addresses and
// ports, ECN and DSCP, TTL, flow label, DF, the other flags, the
// acknowledgement and the window.
var compared = [...][]comparison{
	tcp4: comparisons(ipv4Size+tcpSize, []int{2, 3, 4, 5, 10, 11, ipv4Size + 4, ipv4Size + 5, ipv4Size + 6, ipv4Size + 7, ipv4Size + 16, ipv4Size + 17}, ipv4Size+tcpFlags),
	tcp6: comparisons(ipv6Size+tcpSize, []int{4, 5, ipv6Size + 4, ipv6Size + 5, ipv6Size + 6, ipv6Size + 7, ipv6Size + 16, ipv6Size + 17}, ipv6Size+tcpFlags),
	udp4: comparisons(ipv4Size+udpSize, []int{2, 3, 4, 5, 10, 11, ipv4Size + 4, ipv4Size + 5, ipv4Size + 6, ipv4Size + 7}, -1),
	udp6: comparisons(ipv6Size+udpSize, []int{4, 5, ipv6Size + 4, ipv6Size + 5, ipv6Size + 6, ipv6Size + 7}, -1),
}

func comparisons(length int, free []int, flags int) (list []comparison) {
	mask := bytes.Repeat([]byte{0xff}, length)
	for _, at := range free {
		mask[at] = 0
	}
	if flags >= 0 {
		mask[flags] = ^byte(flagPSH)
	}
	for at := 0; at < length; at += 8 {
		at = min(at, length-8) // the last overlaps
		list = append(list, comparison{at, binary.NativeEndian.Uint64(mask[at:])})
	}
	return list
}

// sameHeaders says whether what must be the same is, in two packets of a flow.
func sameHeaders(a, b []byte, l *layout) bool {
	kind := l.headerKind()
	differ := uint64(0)
	for _, c := range compared[kind] {
		differ |= (binary.NativeEndian.Uint64(a[c.at:]) ^ binary.NativeEndian.Uint64(b[c.at:])) & c.mask
	}
	if differ != 0 {
		return false
	}
	options := l.ip + tcpSize
	return l.protocol == protocolUDP || bytes.Equal(a[options:l.headers], b[options:l.headers])
}

// flowHash mixes addresses, ports and protocol; its high bits are the best mixed.
// Who finds collisions only gets fewer of his packets joined.
func flowHash(p []byte, l *layout) uint32 {
	const odd = 0x9e3779b97f4a7c15
	h := uint64(binary.NativeEndian.Uint32(p[l.ip:])) + uint64(l.protocol)<<32
	if l.ip == ipv4Size {
		h = (h ^ binary.NativeEndian.Uint64(p[12:])) * odd
	} else {
		for at := 8; at < 40; at += 8 {
			h = (h ^ binary.NativeEndian.Uint64(p[at:])) * odd
			h ^= h >> 29
		}
	}
	return uint32(h >> 32)
}

// sameFlow compares addresses, ports and protocol.
func sameFlow(a, b []byte, la, lb *layout) bool {
	if la.ip != lb.ip || la.protocol != lb.protocol {
		return false
	}
	from := 12
	if la.ip == ipv6Size {
		from = 8
	}
	return bytes.Equal(a[from:la.ip+4], b[from:la.ip+4])
}

// checksumGood verifies the transport checksum of a plain packet. That of UDP
// over IPv4 may be missing, which is not good.
func checksumGood(p []byte, l *layout) bool {
	t := p[l.ip:]
	if l.protocol == protocolUDP && sumField(t[udpChecksum:]) == 0 {
		return false
	}
	return fold(sum(t, l.pseudo(p, len(t)))) == 0xffff
}
