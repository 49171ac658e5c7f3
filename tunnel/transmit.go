package tunnel

import (
	"sync/atomic"

	"kiloport/flowhash"
	"kiloport/queue"
	"kiloport/tunnel/tun"
)

const (
	transmitBatch = 64        // packets of one batch,
	transmitBytes = 128 << 10 // and bytes, of which the last packet may be beyond
	// bulkBurst is how many bytes of a bulk flow follow each other, so that one
	// system call takes them: less than a super-packet has.
	bulkBurst    = 32 << 10
	drainPackets = 1024      // read before something must be sent,
	drainBytes   = 512 << 10 // and bytes
)

// transmitter carries packets from a queue of the TUN device to the sockets. It
// is one goroutine and owns everything here; nothing is handed over.
type transmitter struct {
	device  *Device
	worker  int
	tun     tun.Queue
	hasher  flowhash.Hasher
	queue   *queue.FQ[*packet]
	shaper  *queue.Shaper
	idle    bool    // nothing waited for it when the last batch had been sent
	lines   []*line // of peers, on which something waits
	segment tun.Segmenter
	buffers buffers
	next    *packet // what the next packet is read into
	egress  *egress
	taken   []*packet // of this batch: free again after the flush
	touched []*peer   // peers that got data in this batch
	batch   uint64    // number of this batch, to find each peer once
	now     int64
	packets atomic.Int64 // in the queue, for status
	bytes   atomic.Int64
	marked  atomic.Uint64
	watch   watch
	marks   uint64 // packets that our CoDel marked

	flow   flowhash.Flow
	narrow narrow

	priority priority
}

func newTransmitter(d *Device, worker int) *transmitter {
	t := &transmitter{
		device: d, worker: worker, tun: d.tun.Queues()[worker], hasher: d.hasher,
		egress: newEgress(d.labels, transmitBatch),
	}
	rate, c := d.uplink.rate.Load(), d.queueConfig
	c.Quantum = d.quantum(rate)
	t.queue = queue.New(c, t.queueDrop)
	t.shaper = queue.NewShaper(queue.DefaultShaper(rate))
	t.watch.flows.sparse = d.queueConfig.Quantum
	t.priority.urgency = &d.urgency
	return t
}

// run ends when the TUN device does.
func (t *transmitter) run() error {
	for {
		if err := t.fill(); err != nil {
			if t.device.handing.Load() {
				t.drain()
			}
			return err
		}
		t.moveLines()
		t.send()
		t.pace()
	}
}

// fill moves what the TUN device has into the queue, so that it is the queue
// that overflows, flow by flow, and not the device's ring. It waits only when
// there is nothing to send.
func (t *transmitter) fill() error {
	header, size, err := t.first()
	if err != nil || size == 0 {
		return err
	}
	t.watch.mu.Lock()
	defer t.watch.mu.Unlock()
	for n, bytes := 0, 0; ; {
		if n%transmitBatch == 0 {
			t.now = t.device.clock.Now()
		}
		t.next.header, t.next.n = header, size
		t.next = t.enqueue(t.next)
		n, bytes = n+1, bytes+size
		if n == drainPackets || bytes >= drainBytes {
			return nil
		}
		if header, size, err = t.read(false); err != nil || size == 0 {
			return err
		}
	}
}

// first reads the first packet of a round, and waits for it if there is nothing else
// to do: resting, where it is urgent.
func (t *transmitter) first() (tun.Header, int, error) {
	urgent := t.priority.urgent()
	// Also if nothing waits: flows that wait for their acknowledgements may always
	// have a few packets here, so that there is never none.
	t.priority.breathe(t.now)
	if t.waiting() {
		return t.read(false)
	}
	for vain := false; urgent; urgent, vain = t.priority.urgent(), true {
		if header, size, err := t.read(false); size > 0 || err != nil {
			return header, size, err
		}
		t.priority.rest(vain, t.tun)
	}
	return t.read(true)
}

// read reads into next.
func (t *transmitter) read(wait bool) (tun.Header, int, error) {
	if t.next == nil {
		t.next = t.buffers.take(tun.MaxPacket)
	}
	if wait {
		return t.tun.Read(t.next.buf)
	}
	return t.tun.TryRead(t.next.buf)
}

// enqueue puts a packet into the queue, and gives back the buffer if it was not
// used for that.
func (t *transmitter) enqueue(pkt *packet) (unused *packet) {
	d := t.device
	if flowhash.Parse(pkt.payload(), &t.flow) != nil {
		d.drops.add(dropInvalid)
		return pkt
	}
	to, _ := flowhash.Destination(pkt.payload())
	p := d.routes.lookup(to)
	if p == nil {
		d.drops.add(dropNoPeer)
		return pkt
	}
	if p.loops(to, pkt.payload()) {
		p.drops.add(dropLoop)
		return pkt
	}
	pkt.n = t.flow.Length
	pkt.peer, pkt.hash = p, t.hasher.Hash(&t.flow.Key)
	if most := p.clamp(); most != 0 {
		clampMSS(pkt.payload(), most, pkt.header.Flags&tun.NeedsChecksum == 0)
	}
	if !t.fits(p, pkt) {
		return pkt
	}
	if t.cuts(pkt) {
		t.cut(pkt)
		return pkt
	}
	t.put(t.buffers.fit(pkt))
	return nil
}

func (t *transmitter) queueDrop(pkt *packet, reason queue.DropReason) {
	drop := dropOverlimit
	if reason == queue.DropCoDel {
		drop = dropCoDel
	} else {
		t.device.urgency.lost(t.now)
	}
	pkt.peer.drops.add(drop)
	t.droppedFromQueue(pkt)
	t.buffers.give(pkt)
}

// send takes one batch from the queue and sends it.
func (t *transmitter) send() {
	t.now = t.device.clock.Now()
	t.batch++
	socks := t.device.sockets.Load()
	t.takeBatch(socks)
	t.egress.flush(socks, t.device.mtu())
	t.finish()
}

// takeBatch takes packets from the queue and chooses their way.
func (t *transmitter) takeBatch(socks *sockets) {
	t.watch.mu.Lock()
	defer t.watch.mu.Unlock()
	t.shape()
	for n, bytes := 0, 0; n < transmitBatch && bytes < transmitBytes && t.shaper.Ready(t.now); n++ {
		pkt, ok := t.queue.Dequeue(t.now)
		if !ok {
			break
		}
		bytes += pkt.n
		t.dequeued(pkt)
		if t.shaper.Rate() != 0 {
			t.shaper.Admit(t.now, t.cost(t.device.options.Overhead, pkt))
		}
		t.sendPacket(socks, pkt)
	}
}

// sendPacket adds a packet to the batch. One that finds no session waits for it
// at its peer.
func (t *transmitter) sendPacket(socks *sockets, pkt *packet) {
	p := pkt.peer
	s := p.sending.Load()
	if s == nil || s.expired(t.now) {
		if s = p.stage(t.now, pkt); s == nil {
			return
		}
	}
	t.taken = append(t.taken, pkt)
	if !p.push(t.now, t.egress, socks, s, pkt) {
		return
	}
	t.onLane(pkt, t.egress.last().lane)
	if p.sentBatch[t.worker] != t.batch {
		p.sentBatch[t.worker] = t.batch
		t.touched = append(t.touched, p)
	}
}

// status may be called by others than the owner.
func (t *transmitter) status() QueueStatus {
	return QueueStatus{Packets: int(t.packets.Load()), Bytes: int(t.bytes.Load()), Marked: t.marked.Load()}
}

// finish does once a batch what need not be done for each packet.
func (t *transmitter) finish() {
	for i, pkt := range t.taken {
		t.buffers.give(pkt)
		t.taken[i] = nil
	}
	t.taken = t.taken[:0]
	for i, p := range t.touched {
		p.dataSent(t.now)
		t.touched[i] = nil
	}
	t.touched = t.touched[:0]
	packets, bytes := t.queue.Len(), t.queue.Bytes()
	for _, l := range t.lines {
		packets += l.queue.Len()
		bytes += l.queue.Bytes()
	}
	t.device.urgency.packets()
	t.packets.Store(int64(packets))
	t.bytes.Store(int64(bytes))
	t.marked.Store(t.marks)
}

// push chooses a packet's way and adds it to a batch; false means that it was
// dropped. It may be called by one goroutine at a time for each session that is
// not yet published, and by the transmitters.
func (p *peer) push(now int64, e *egress, socks *sockets, s *session, pkt *packet) bool {
	to := p.endpoint.Load()
	if socks == nil || to == nil {
		p.drops.add(ternary(socks == nil, dropLinkDown, dropNoEndpoint))
		return false
	}
	class := p.encapsulate(s, pkt.payload())
	o := outgoing{packet: pkt, session: s, to: to, socket: socks.listen, class: class}
	p.chooseLane(now, socks, &o, laneFlow(pkt.hash, class))
	s.lane(o.counter).used(now, class)
	e.add(o)
	return true
}

// chooseLane gives a packet the flow's lane, the lane that counts it, which is
// another only to a kernel's WireGuard, its socket and where that leads. Where the
// peer or the path takes no lanes, or none is to be had, it stays on lane 0.
func (p *peer) chooseLane(now int64, socks *sockets, o *outgoing, flow uint64) {
	agreed, via, counted := int(o.session.limit.Load()), spreadMode(p.via.Load()), true
	if agreed == 0 || !via.spreads() {
		agreed, via, counted = int(p.kernelLanes.Load()), spreadDirect, false
	}
	if agreed == 0 {
		return
	}
	p.lanesMu.Lock()
	defer p.lanesMu.Unlock()
	if counted { // it may have changed, with the lanes
		if via = spreadMode(p.via.Load()); !via.spreads() {
			return
		}
	}
	for {
		if via.pooled() {
			agreed = min(agreed, socks.pool.Limit())
		}
		p.limitLanes(agreed)
		lane, fresh := p.lanes.Assign(now, flow)
		if lane == 0 {
			return
		}
		if socket, to, ok := p.wayOf(now, socks, lane, via); ok {
			o.lane, o.socket, o.to = lane, socket, to
			if counted {
				o.counter = lane
			}
			if counted && fresh {
				p.opened = append(p.opened, lane)
			}
			return
		}
		if !via.pooled() || int(lane) <= socks.pool.Limit() { // it was not for want of ports
			return
		}
	}
}

func ternary[T any](condition bool, yes, no T) T {
	if condition {
		return yes
	}
	return no
}
