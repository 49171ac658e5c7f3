package tun

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
	last     uint16            // which of held was added or joined to last, plus 1
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
	if len(buf) <= Headroom {
		c.held = append(c.held, held{buf: buf})
		return
	}
	packet := buf[Headroom:]
	// Most often it goes on where the one before it ended.
	before := c.newest(c.last)
	if before != nil && c.join(before, packet, vouched) {
		return
	}
	l, kind := parse(packet)
	p := held{buf: buf, layout: l, length: len(packet), vouched: vouched && kind == plain}
	if kind == fragment {
		// It may be of any flow between its addresses, and must not be
		// overtaken by what comes later.
		c.forget()
	}
	if kind != plain || !c.joinable(l.protocol) {
		c.held = append(c.held, p)
		return
	}
	p.hash = flowHash(packet, &l)
	slot, newest := c.find(&p)
	if newest != nil && newest != before && c.join(newest, packet, vouched) {
		c.last = c.slots[slot]
		return
	}
	// The flow's newest from now on, so that no later packet overtakes it.
	p.prepare()
	c.held = append(c.held, p)
	c.slots[slot] = uint16(len(c.held))
	c.last = c.slots[slot]
}

// newest gives one of held by its number plus 1, nil for 0.
func (c *Coalescer) newest(number uint16) *held {
	if number == 0 {
		return nil
	}
	return &c.held[number-1]
}

// forget makes that nothing more is joined to what is held.
func (c *Coalescer) forget() {
	clear(c.slots[:])
	c.last = 0
}

// joinable says whether the queue takes super-packets of a protocol.
func (c *Coalescer) joinable(protocol uint8) bool {
	if protocol == protocolTCP {
		return c.offloads.Has(OffloadTSO)
	}
	return c.offloads.Has(OffloadUSO)
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

// maxParts is how many payloads the kernel takes beside the first. Of UDP it
// refuses more than 128 datagrams (UDP_MAX_SEGMENTS).
func (h *held) maxParts() uint16 {
	if h.protocol == protocolUDP {
		return maxDatagrams - 1
	}
	return MaxPieces
}

// join adds a packet's payload to h, if it may follow.
func (c *Coalescer) join(h *held, packet []byte, vouched bool) bool {
	size := len(packet) - h.headers
	if !h.open || size <= 0 || size > h.size || h.length+size > MaxPacket || h.parts >= h.maxParts() ||
		!sameHeaders(h.packet(), packet, &h.layout) || !h.follows(packet) ||
		!h.checkSound() || !vouched && !checksumGood(packet, &h.layout) {
		return false
	}
	number := uint16(len(c.parts))
	c.parts = append(c.parts, part{bytes: packet[h.headers:]})
	if h.parts == 0 {
		h.first = number
	} else {
		c.parts[h.last].next = number
	}
	h.last = number
	h.parts++
	h.length += size
	h.seq += uint32(size)
	h.open = size == h.size
	if h.protocol == protocolTCP {
		push := packet[h.ip+tcpFlags] & flagPSH
		h.packet()[h.ip+tcpFlags] |= push
		h.open = h.open && push == 0
	}
	return true
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
	c.forget()
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
