package tunnel

import (
	"kiloport/tunnel/ecn"
	"kiloport/tunnel/noise"
)

// packet is an inner packet between the TUN device and the socket: the bytes
// with room before them for the transport header and behind for padding and
// tag, so that it is sealed where it lies.
type packet struct {
	buf  []byte
	n    int
	hash uint64
	peer *peer
	kind uint8 // which of bufferSizes
}

func (p *packet) payload() []byte { return p.buf[headerSize : headerSize+p.n] }

// Len is the packet's size in the queue.
func (p *packet) Len() int { return p.n }

// MarkCE marks the inner header, before it is sealed.
func (p *packet) MarkCE() bool { return ecn.MarkCE(p.payload()) }

const bufferOverhead = headerSize + noise.PaddingMultiple + tagSize

// bufferSizes are what packets are copied into, so that ten thousand small ones
// in the queue do not cost as much as ten thousand large ones.
var bufferSizes = [...]int{384, 2048, 4096, 16384, 65535 + bufferOverhead}

// buffers keeps packets for reuse. It has one owner.
type buffers struct{ free [len(bufferSizes)][]*packet }

// maxFree bounds the memory kept: per size, 4 MiB or 64 buffers.
func maxFree(kind uint8) int { return max(64, 4<<20/bufferSizes[kind]) }

// take gives a packet with room for n bytes of payload.
func (b *buffers) take(n int) *packet {
	kind := 0
	for n+bufferOverhead > bufferSizes[kind] {
		kind++
	}
	if free := b.free[kind]; len(free) > 0 {
		p := free[len(free)-1]
		b.free[kind] = free[:len(free)-1]
		p.n = n
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
