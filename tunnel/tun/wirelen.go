package tun

// WireLen is the length of the longest packet that a [Segmenter] makes of what
// [Queue.Read] gave: a super-packet is longer than those. headers is that of its
// headers, 0 if it is not cut.
func WireLen(h Header, packet []byte) (length, headers int) {
	if h.GSO == GSONone {
		return len(packet), 0
	}
	s := Segmenter{packet: packet}
	if !s.findTransport(h) {
		return len(packet), 0 // Reset will refuse it
	}
	headers = s.ip + udpSize
	if s.tcp {
		headers = s.ip + tcpHeaderLen(packet[s.ip:])
	}
	return min(headers+int(h.SegmentSize), len(packet)), headers
}
