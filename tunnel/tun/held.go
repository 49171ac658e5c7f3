package tun

import "encoding/binary"

// held is a packet, and what was joined to it.
type held struct {
	buf []byte // headroom and first packet
	layout
	open    bool // more may be joined
	vouched bool
	sound   bool // the checksum is known to be right
	fixedID bool
	hash    uint32
	seq     uint32 // of TCP, of what can be joined next
	id      uint16 // of IPv4, of the first packet
	size    int    // payload of the first packet, and of all others but the last
	length  int    // of all together, headers included
	first   uint16 // of parts
	last    uint16
	parts   uint16 // how many
}

func (h *held) packet() []byte { return h.buf[Headroom:] }

// prepare says whether and what can be joined to the packet.
func (h *held) prepare() {
	p := h.packet()
	h.sound = h.vouched
	h.size = len(p) - h.headers
	h.open = h.size > 0
	if h.ip == ipv4Size {
		h.open = h.open && fold(sumTail(p[:ipv4Size], 0)) == 0xffff
		h.id = binary.BigEndian.Uint16(p[4:])
	}
	if h.protocol == protocolTCP {
		t := p[h.ip:]
		h.seq = binary.BigEndian.Uint32(t[4:]) + uint32(h.size)
		h.open = h.open && t[tcpFlags]&^flagECE == flagACK
	}
}

// follows says whether a packet with the same headers as h, but for what always
// differs, comes right after it: by its sequence number, its ID and its lengths.
func (h *held) follows(packet []byte) bool {
	t := packet[h.ip:]
	if h.protocol == protocolTCP && binary.BigEndian.Uint32(t[4:]) != h.seq ||
		h.protocol == protocolUDP && int(binary.BigEndian.Uint16(t[4:])) != len(t) {
		return false
	}
	if h.ip == ipv6Size {
		return int(binary.BigEndian.Uint16(packet[4:])) == len(t)
	}
	return int(binary.BigEndian.Uint16(packet[2:])) == len(packet) &&
		fold(sumTail(packet[:ipv4Size], 0)) == 0xffff &&
		h.followsID(binary.BigEndian.Uint16(packet[4:]))
}

// followsID says whether an ID is the next one, or always the same. That may be
// where a packet must not be fragmented, for it then means nothing (RFC 6864).
func (h *held) followsID(id uint16) bool {
	const dontFragment = 0x40
	if h.parts > 0 && h.fixedID {
		return id == h.id
	}
	next := id == h.id+1+h.parts
	h.fixedID = !next && h.parts == 0 && id == h.id && h.packet()[6]&dontFragment != 0
	return next || h.fixedID
}

// checkSound verifies the checksum, once.
func (h *held) checkSound() bool {
	if !h.sound {
		h.sound = checksumGood(h.packet(), &h.layout)
	}
	return h.sound
}

// finish completes the headers and gives the virtio_net header to go with them.
func (h *held) finish(o Offloads) Header {
	if h.parts == 0 && !h.vouched {
		return Header{}
	}
	p := h.packet()
	t := p[h.ip:]
	length := h.length - h.ip // of the transport header and what is behind it
	field := t[h.checksumOffset():]
	if !o.Has(OffloadChecksum) {
		h.complete(field)
		return Header{}
	}
	header := Header{
		Flags: NeedsChecksum, HeaderLen: uint16(h.headers),
		ChecksumStart: uint16(h.ip), ChecksumOffset: uint16(h.checksumOffset()),
	}
	if h.parts > 0 {
		header.GSO = [...]GSOType{tcp4: GSOTCP4, tcp6: GSOTCP6, udp4: GSOUDP, udp6: GSOUDP}[h.headerKind()]
		header.SegmentSize = uint16(h.size)
		if h.ip == ipv4Size {
			binary.BigEndian.PutUint16(p[2:], uint16(h.length))
			putSum(p[10:], 0)
			putSum(p[10:], ^fold(sum(p[:ipv4Size], 0)))
		} else {
			binary.BigEndian.PutUint16(p[4:], uint16(length))
		}
		if h.protocol == protocolUDP {
			binary.BigEndian.PutUint16(t[4:], uint16(length))
		}
	}
	putSum(field, fold(h.pseudo(p, length)))
	return header
}

// complete computes the checksum of a single packet.
func (h *held) complete(field []byte) {
	p := h.packet()
	putSum(field, 0)
	checksum := ^fold(sum(p[h.ip:], h.pseudo(p, len(p)-h.ip)))
	if h.protocol == protocolUDP {
		checksum = notZero(checksum)
	}
	putSum(field, checksum)
}
