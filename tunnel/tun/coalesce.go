package tun

import "encoding/binary"

const (
	maxHeld     = 256  // packets and super-packets between two flushes
	maxHeldPart = 1024 // payloads that were added to them
	flowBits    = 8
	flowSlots   = 1 << flowBits
	flowProbes  = 8

	maxDatagrams = 128 // in a super-packet of UDP
)

// Coalescer joins packets from the wire to super-packets and writes them to a
// [Queue]. What comes out, cut again, is what went in, to the byte, but for the
// IPv4 IDs of packets that must not be fragmented and all had the same (RFC 6864
// section 4.1: nobody looks at them).
//
// It goes by the rules of the kernel's GRO: TCP with no flags but ACK, PSH and
// ECE, in sequence, ended by PSH or by a shorter segment; UDP of equal length,
// ended by a shorter datagram; all else in the headers the same, the checksums
// right. Within a flow nothing is reordered. Fragments and everything else pass
// as they are.
//
// The packets stay where they are: the buffers must be left alone until
// [Coalescer.Flush]. A Coalescer belongs to one goroutine.
type Coalescer struct {
	queue    Queue
	offloads Offloads
	held     []held // in the order of their first packets
	parts    []part
	slots    [flowSlots]uint16 // of a flow's newest in held, plus 1
	gather   [MaxPieces][]byte
	stats    CoalescerStats
	refused  int
	err      error
}

// CoalescerStats counts since the start.
type CoalescerStats struct {
	// Packets were added.
	Packets uint64
	// Writes were made of them, refused ones included.
	Writes uint64
}

// part is a payload, and the number of the one behind it.
type part struct {
	bytes []byte
	next  uint16
}

// held is a packet, and what was joined to it.
type held struct {
	buf []byte // headroom and first packet
	layout
	plain   bool
	open    bool // more may be joined
	vouched bool
	sound   bool // the checksum is known to be right
	fixedID bool
	hash    uint32
	seq     uint32 // of TCP, of what can be joined next
	id      uint16 // of IPv4, likewise
	size    int    // payload of the first packet, and of all but the last
	length  int    // of all together, headers included
	first   uint16 // of parts
	last    uint16
	parts   uint16 // how many
}

// NewCoalescer makes one for a queue of a device with the given offloads.
// Without any it only passes packets on.
func NewCoalescer(q Queue, o Offloads) *Coalescer {
	return &Coalescer{
		queue: q, offloads: o.possible(),
		held: make([]held, 0, maxHeld), parts: make([]part, 0, maxHeldPart),
	}
}

// Stats says what was done so far.
func (c *Coalescer) Stats() CoalescerStats { return c.stats }

// Add takes an IP packet, buf[Headroom:], whose length is that of its headers.
// buf belongs to the Coalescer until [Coalescer.Flush], which may write to it.
// vouched says that the packet's origin has [Segmenter.Vouched] for it, so that
// its transport checksum is none; where that cannot be, it is left as it is.
func (c *Coalescer) Add(buf []byte, vouched bool) {
	if len(c.held) == cap(c.held) || len(c.parts) == cap(c.parts) {
		c.write()
	}
	c.stats.Packets++
	p := held{buf: buf, length: len(buf) - Headroom}
	if p.length <= 0 {
		c.held = append(c.held, p)
		return
	}
	var kind kind
	p.layout, kind = parse(buf[Headroom:])
	p.plain = kind == plain
	p.vouched = vouched && p.plain
	switch {
	case p.plain && c.joinable(p.protocol):
		c.addToFlow(&p)
		return
	case kind == fragment:
		// It may be of any flow between its addresses, and must not be
		// overtaken by what comes later.
		clear(c.slots[:])
	}
	c.held = append(c.held, p)
}

// joinable says whether the queue takes super-packets of a protocol.
func (c *Coalescer) joinable(protocol uint8) bool {
	if protocol == protocolTCP {
		return c.offloads.Has(OffloadTSO)
	}
	return c.offloads.Has(OffloadUSO)
}

// addToFlow joins a packet to its flow's newest, or makes it the newest, so that
// no later one overtakes it.
func (c *Coalescer) addToFlow(p *held) {
	p.prepare()
	slot, newest := c.find(p)
	if newest != nil && c.join(newest, p) {
		return
	}
	c.held = append(c.held, *p)
	c.slots[slot] = uint16(len(c.held))
}

// find gives the flow's newest, or nil, and the slot that is the flow's.
func (c *Coalescer) find(p *held) (slot uint32, newest *held) {
	home := p.hash >> (32 - flowBits)
	for i := range uint32(flowProbes) {
		slot = (home + i) % flowSlots
		number := c.slots[slot]
		if number == 0 {
			return slot, nil
		}
		h := &c.held[number-1]
		if h.hash == p.hash && sameFlow(h.packet(), p.packet(), &h.layout, &p.layout) {
			return slot, h
		}
	}
	// Whose slot it was will be joined by nothing more.
	return home, nil
}

// join adds p's payload to h, unless it must not.
func (c *Coalescer) join(h, p *held) bool {
	if !h.open || p.size == 0 || p.size > h.size ||
		h.length+p.size > MaxPacket || h.parts >= h.maxParts() ||
		!h.follows(p) || !sameHeaders(h.packet(), p.packet(), &h.layout) ||
		!h.checkSound() || !p.checkSound() {
		return false
	}
	packet := p.packet()
	if h.fixedID = h.isFixedID(p); !h.fixedID {
		h.id = p.id
	}
	number := uint16(len(c.parts))
	c.parts = append(c.parts, part{bytes: packet[p.headers:]})
	if h.parts == 0 {
		h.first = number
	} else {
		c.parts[h.last].next = number
	}
	h.last = number
	h.parts++
	h.length += p.size
	h.seq = p.seq
	h.open = p.open && p.size == h.size
	if h.protocol == protocolTCP {
		h.packet()[h.ip+tcpFlags] |= packet[h.ip+tcpFlags] & flagPSH
	}
	return true
}

// maxParts is how many payloads the kernel takes beside the first. Of UDP it
// refuses more than 128 datagrams (UDP_MAX_SEGMENTS).
func (h *held) maxParts() uint16 {
	if h.protocol == protocolUDP {
		return maxDatagrams - 1
	}
	return MaxPieces
}

func (h *held) packet() []byte { return h.buf[Headroom:] }

// prepare says what can be joined to the packet. size is 0 if it cannot be
// joined itself.
func (h *held) prepare() {
	p := h.packet()
	h.hash = flowHash(p, &h.layout)
	h.sound = h.vouched
	if h.ip == ipv4Size {
		if fold(sum(p[:ipv4Size], 0)) != 0xffff {
			return
		}
		h.id = binary.BigEndian.Uint16(p[4:]) + 1
	}
	payload := len(p) - h.headers
	h.size, h.open = payload, payload > 0
	if h.protocol == protocolTCP {
		t := p[h.ip:]
		h.seq = binary.BigEndian.Uint32(t[4:]) + uint32(payload)
		flags := t[tcpFlags]
		if flags&^(flagPSH|flagECE) != flagACK {
			h.size, h.open = 0, false
		}
		h.open = h.open && flags&flagPSH == 0
	}
}

// follows says whether p's sequence number and ID are those after h.
func (h *held) follows(p *held) bool {
	if h.protocol == protocolTCP && h.seq != p.seq-uint32(p.size) {
		return false
	}
	if h.ip != ipv4Size {
		return true
	}
	return !h.fixedID && h.id == p.id-1 || h.isFixedID(p)
}

// isFixedID says whether all packets have the same ID, and may: of what must not
// be fragmented it means nothing (RFC 6864).
func (h *held) isFixedID(p *held) bool {
	const dontFragment = 0x40
	return h.ip == ipv4Size && h.packet()[6]&dontFragment != 0 &&
		(h.fixedID || h.parts == 0) && h.id == p.id
}

// checkSound verifies the checksum, once.
func (h *held) checkSound() bool {
	if !h.sound {
		h.sound = checksumGood(h.packet(), &h.layout)
	}
	return h.sound
}

// Flush writes what is held. It says how many packets were refused since the
// last Flush, and the first reason.
func (c *Coalescer) Flush() (refused int, err error) {
	c.write()
	refused, err = c.refused, c.err
	c.refused, c.err = 0, nil
	return refused, err
}

func (c *Coalescer) write() {
	for i := range c.held {
		h := &c.held[i]
		c.stats.Writes++
		if err := c.queue.Write(h.finish(c.offloads), h.buf, c.gatherParts(h)); err != nil {
			c.refused += 1 + int(h.parts)
			if c.err == nil {
				c.err = err
			}
		}
	}
	c.held, c.parts = c.held[:0], c.parts[:0]
	clear(c.slots[:])
}

// gatherParts lists the payloads behind the first packet.
func (c *Coalescer) gatherParts(h *held) [][]byte {
	number := h.first
	for i := range h.parts {
		c.gather[i] = c.parts[number].bytes
		number = c.parts[number].next
	}
	return c.gather[:h.parts]
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
