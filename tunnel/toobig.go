package tunnel

import (
	"encoding/binary"

	"kiloport/tunnel/tun"
)

const (
	leastMTU6 = 1280 // of a link that carries IPv6 (RFC 8200 section 5)

	icmpQuote4 = 548 // of the packet, so that the error is no longer than 576 (RFC 1812 section 4.3.2.3)
	icmpQuote6 = leastMTU6 - ipv6HeaderLen - 8
	icmpHop    = 64

	tellEvery = int64(1e6) // ICMP errors, ns; a burst of tellBurst at once (RFC 4443 section 2.4)
	tellBurst = 64
)

// outerHeaders is what the tunnel adds to an inner packet on the way to an endpoint,
// without padding.
func outerHeaders(to *endpoint) int {
	const messages = udpHeaderLen + headerSize + tagSize
	if to.addr.Addr().Is4() {
		return ipv4HeaderLen + messages
	}
	return ipv6HeaderLen + messages
}

// narrow does with packets that are larger than the path to their peer carries what a
// router does: it never fragments outside. It has one owner.
type narrow struct {
	buf  []byte // of the answer to the inner host
	full int64  // when the bucket of answers is full again
}

// fits tells whether a packet may go on as it is. Otherwise it has been dealt with.
func (t *transmitter) fits(p *peer, pkt *packet) bool {
	most := int(p.innerMax.Load())
	if most == 0 || pkt.n <= most {
		return true
	}
	return t.squeeze(p, pkt, most)
}

// squeeze is for a packet that is larger than most, unless it is one that is cut into
// smaller ones.
func (t *transmitter) squeeze(p *peer, pkt *packet, most int) bool {
	length, headers := tun.WireLen(pkt.header, pkt.payload())
	if length <= most {
		return true
	}
	told := max(most, leastMTU6)
	ipv4 := pkt.payload()[0]>>4 == 4
	if ipv4 {
		told = most
	}
	if pkt.header.GSO&^tun.GSOECN == tun.GSOTCP4 || pkt.header.GSO&^tun.GSOECN == tun.GSOTCP6 {
		if most-headers > 0 {
			// A stream can be cut anywhere: nothing need be lost.
			pkt.header.SegmentSize = uint16(most - headers)
			if length > told {
				t.tell(pkt.payload(), told)
			}
			return true
		}
	}
	if length > told && (!ipv4 || pkt.header.GSO != tun.GSONone || pkt.payload()[6]&0x40 != 0) {
		t.tell(pkt.payload(), told)
		p.drops.add(dropTooBig)
		return false
	}
	t.split(p, pkt, most)
	return false
}

// tell answers a packet with an ICMP error: too big, the path carries mtu bytes. It
// says so in the name of the packet's destination, whose answers come from here, too.
func (t *transmitter) tell(packet []byte, mtu int) {
	n := &t.narrow
	if t.now > n.full {
		n.full = t.now
	}
	if n.full-t.now >= tellBurst*tellEvery || !answerable(packet) {
		return
	}
	n.full += tellEvery
	if n.buf == nil {
		n.buf = make([]byte, tun.Headroom+leastMTU6)
	}
	size := 0
	if packet[0]>>4 == 4 {
		size = tooBig4(n.buf[tun.Headroom:], packet, mtu)
	} else {
		size = tooBig6(n.buf[tun.Headroom:], packet, mtu)
	}
	if err := t.tun.Write(tun.Header{}, n.buf[:tun.Headroom+size], nil); err != nil {
		t.device.drops.add(dropTUN)
	}
}

// answerable says whether an ICMP error may answer a packet: neither an ICMP error,
// nor a fragment but the first, nor what goes to or comes from many (RFC 1122 section
// 3.2.2, RFC 4443 section 2.4).
func answerable(p []byte) bool {
	if p[0]>>4 == 4 {
		proto, offset := p[9], binary.BigEndian.Uint16(p[6:])&0x1fff
		header := int(p[0]&15) * 4
		return offset == 0 && p[12] < 224 && p[16] < 224 && (proto != 1 || len(p) > header && (p[header] == 8 || p[header] == 0))
	}
	return p[8] != 0xff && p[24] != 0xff && (p[6] != 58 || len(p) > ipv6HeaderLen && p[ipv6HeaderLen] >= 128)
}

// tooBig4 writes an ICMP "fragmentation needed" (RFC 1191 section 4).
func tooBig4(b, packet []byte, mtu int) int {
	quote := packet[:min(len(packet), icmpQuote4)]
	size := ipv4HeaderLen + 8 + len(quote)
	clear(b[:ipv4HeaderLen+8])
	b[0], b[8], b[9] = 0x45, icmpHop, 1
	binary.BigEndian.PutUint16(b[2:], uint16(size))
	copy(b[12:16], packet[16:20])
	copy(b[16:20], packet[12:16])
	binary.BigEndian.PutUint16(b[10:], ^sum16(b[:ipv4HeaderLen], 0))
	icmp := b[ipv4HeaderLen:size]
	icmp[0], icmp[1] = 3, 4
	binary.BigEndian.PutUint16(icmp[6:], uint16(mtu))
	copy(icmp[8:], quote)
	binary.BigEndian.PutUint16(icmp[2:], ^sum16(icmp, 0))
	return size
}

// tooBig6 writes an ICMPv6 "packet too big" (RFC 4443 section 3.2).
func tooBig6(b, packet []byte, mtu int) int {
	quote := packet[:min(len(packet), icmpQuote6)]
	size := ipv6HeaderLen + 8 + len(quote)
	clear(b[:ipv6HeaderLen+8])
	b[0], b[6], b[7] = 6<<4, 58, icmpHop
	binary.BigEndian.PutUint16(b[4:], uint16(size-ipv6HeaderLen))
	copy(b[8:24], packet[24:40])
	copy(b[24:40], packet[8:24])
	icmp := b[ipv6HeaderLen:size]
	icmp[0] = 2
	binary.BigEndian.PutUint32(icmp[4:], uint32(mtu))
	copy(icmp[8:], quote)
	binary.BigEndian.PutUint16(icmp[2:], ^sum16(icmp, uint32(len(icmp))+58+uint32(sum16(b[8:40], 0))))
	return size
}

// sum16 is the sum of the Internet checksum (RFC 1071), not inverted.
func sum16(b []byte, sum uint32) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// split makes several packets of one: fragments of an IPv4 packet that allows it, and
// pieces of an IPv6 packet that every link must carry.
func (t *transmitter) split(p *peer, pkt *packet, most int) {
	cut := &t.segment
	if cut.Reset(pkt.header, pkt.payload(), false) != nil {
		p.drops.add(dropInvalid)
		return
	}
	for whole := cut.Next(); whole != nil; whole = cut.Next() {
		switch {
		case len(whole) <= most:
			t.enqueuePart(p, pkt, len(whole), func(b []byte) { copy(b, whole) })
		case whole[0]>>4 == 4:
			t.fragment(p, pkt, whole, most)
		case p.takesPieces.Load():
			t.pieces(p, pkt, whole, most)
		default:
			p.drops.add(dropTooBig)
		}
	}
}

// enqueuePart puts a packet of n bytes, which fill writes, into the queue in place of
// a larger one.
func (t *transmitter) enqueuePart(p *peer, of *packet, n int, fill func(b []byte)) {
	part := t.buffers.take(n)
	fill(part.payload())
	part.hash, part.peer = of.hash, p
	t.put(part)
}

// fragment cuts an IPv4 packet (RFC 791 section 3.2). Options are copied to the first
// fragment alone, as if none had the copied flag.
func (t *transmitter) fragment(p *peer, pkt *packet, whole []byte, most int) {
	header := int(whole[0]&15) * 4
	room := (most - ipv4HeaderLen) &^ 7
	if header != ipv4HeaderLen || room < 8 {
		p.drops.add(dropTooBig)
		return
	}
	flags := binary.BigEndian.Uint16(whole[6:])
	payload := whole[header:]
	for at := 0; at < len(payload); at += room {
		end := min(at+room, len(payload))
		t.enqueuePart(p, pkt, header+end-at, func(b []byte) {
			copy(b, whole[:header])
			copy(b[header:], payload[at:end])
			field := flags + uint16(at/8)
			if end < len(payload) {
				field |= 0x2000
			}
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
			binary.BigEndian.PutUint16(b[6:], field)
			binary.BigEndian.PutUint16(b[10:], 0)
			binary.BigEndian.PutUint16(b[10:], ^sum16(b[:header], 0))
		})
	}
}
