package tunnel

import (
	"kiloport/tunnel/ecn"
	"kiloport/tunnel/tun"
)

// packet is an inner packet, or super-packet, on its way from the TUN device to
// the socket.
type packet struct {
	buf    []byte // tun.Headroom, then the packet, then room for padding
	n      int
	header tun.Header
	hash   uint64
	peer   *peer
	note   note  // for those who watch
	kind   uint8 // which of bufferSizes
}

func (p *packet) payload() []byte { return p.buf[tun.Headroom : tun.Headroom+p.n] }

// Len is the packet's size in the queue.
func (p *packet) Len() int { return p.n }

// MarkCE marks the inner header, before it is sealed. All that a super-packet is
// cut into carry the mark.
func (p *packet) MarkCE() bool {
	p.note.marked = ecn.MarkCE(p.payload())
	return p.note.marked
}

// bufferSizes are what packets are kept in, so that ten thousand small ones in
// the queue do not cost as much as ten thousand large ones.
var bufferSizes = [...]int{384, 1088, 1600, 4096, 16384, 32768, superBuffer}

// superBuffer has room for any packet.
const superBuffer = bufferOverhead + tun.MaxPacket

// bufferOverhead is the room in a buffer beside the packet.
const bufferOverhead = tun.Headroom + tun.MaxPadding

// buffers keeps packets for reuse. It has one owner.
type buffers struct{ free [len(bufferSizes)][]*packet }

// maxFree bounds the memory kept: per size, 4 MiB or 64 buffers.
func maxFree(kind uint8) int { return max(64, 4<<20/bufferSizes[kind]) }

// take gives a packet with room for n bytes.
func (b *buffers) take(n int) *packet {
	kind := 0
	for n+bufferOverhead > bufferSizes[kind] {
		kind++
	}
	if free := b.free[kind]; len(free) > 0 {
		p := free[len(free)-1]
		b.free[kind] = free[:len(free)-1]
		p.n, p.header = n, tun.Header{}
		return p
	}
	return &packet{buf: make([]byte, bufferSizes[kind]), n: n, kind: uint8(kind)}
}

func (b *buffers) give(p *packet) {
	p.peer = nil
	if len(b.free[p.kind]) < maxFree(p.kind) {
		b.free[p.kind] = append(b.free[p.kind], p)
	}
}

// fit gives a packet in the smallest buffer that does, which may be the same one.
func (b *buffers) fit(p *packet) *packet {
	if 4*(p.n+bufferOverhead) > 3*bufferSizes[p.kind] {
		return p
	}
	small := b.take(p.n)
	if small.kind == p.kind {
		b.give(small)
		return p
	}
	copy(small.buf[tun.Headroom:], p.payload())
	small.header, small.hash, small.peer = p.header, p.hash, p.peer
	b.give(p)
	return small
}
