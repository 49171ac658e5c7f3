package tunnel

import (
	"encoding/binary"

	"kiloport/tunnel/tun"
)

// Every link must carry IPv6 packets of 1280 bytes. Over a path that itself carries
// not much more, the tunnel has to cut them in two, below the inner IP (RFC 2473
// section 7.1 would fragment the outer packet, which loses its ports), as two control
// messages on one lane:
//
// Of the marks that gateways make on the two, that on the second to arrive counts.
//
//	PIECE = id(4) offset(2) length(2) bytes, length that of the whole packet
const (
	pieceHeader  = 8
	pieceSlots   = 16
	pieceControl = 1 + controlHeaderLen + pieceHeader // before the bytes
)

// pieces cuts an inner packet for a path that carries most bytes of it.
func (t *transmitter) pieces(p *peer, pkt *packet, whole []byte, most int) {
	room := most - pieceControl
	if room < len(whole)/2+1 {
		p.drops.add(dropTooBig)
		return
	}
	id := p.pieceID.Add(1)
	for at := 0; at < len(whole); at += room {
		part := whole[at:min(at+room, len(whole))]
		t.enqueuePart(p, pkt, pieceControl+len(part), func(b []byte) {
			b[0], b[1] = controlMagic, byte(controlPiece)
			binary.BigEndian.PutUint16(b[2:], uint16(pieceHeader+len(part)))
			binary.BigEndian.PutUint32(b[4:], id)
			binary.BigEndian.PutUint16(b[8:], uint16(at))
			binary.BigEndian.PutUint16(b[10:], uint16(len(whole)))
			copy(b[pieceControl:], part)
		})
	}
}

// pieceTable puts pieces together. It is behind the peer's mutex, and bounded.
type pieceTable struct {
	slots [pieceSlots]pieceSlot
	ready []byte // a whole packet, behind room for a transport header
}

type pieceSlot struct {
	id     uint32
	have   int // bytes
	first  bool
	second bool
	buf    []byte
}

// take adds a piece; ready is then set if that makes a packet whole.
func (t *pieceTable) take(body []byte) bool {
	if len(body) <= pieceHeader {
		return false
	}
	id, at := binary.BigEndian.Uint32(body), int(binary.BigEndian.Uint16(body[4:]))
	length, part := int(binary.BigEndian.Uint16(body[6:])), body[pieceHeader:]
	if length > leastMTU6 || at+len(part) > length || at != 0 && at+len(part) != length {
		return false
	}
	s := &t.slots[id%pieceSlots]
	if s.id != id || len(s.buf) != headerSize+length {
		*s = pieceSlot{id: id, buf: make([]byte, headerSize+length, headerSize+length+tun.MaxPadding)}
	}
	seen := &s.second
	if at == 0 {
		seen = &s.first
	}
	if *seen {
		return false
	}
	*seen, s.have = true, s.have+len(part)
	copy(s.buf[headerSize+at:], part)
	if s.first && s.second {
		if s.have == length {
			t.ready = s.buf
		}
		*s = pieceSlot{}
	}
	return true
}

// heardPiece takes a piece of an inner packet. The caller holds mu, here and below.
func (p *peer) heardPiece(body []byte) {
	if p.pieces == nil {
		p.pieces = new(pieceTable)
	}
	if !p.pieces.take(body) {
		p.drops.add(dropControl)
	}
}

// takeWhole gives the packet that has become whole, nil if there is none.
func (p *peer) takeWhole() (whole []byte) {
	if p.pieces != nil {
		whole, p.pieces.ready = p.pieces.ready, nil
	}
	return whole
}
