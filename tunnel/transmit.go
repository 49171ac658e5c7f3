package tunnel

import (
	"sync/atomic"

	"kiloport/flowhash"
	"kiloport/portpool"
	"kiloport/queue"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/tun"
)

const (
	transmitBatch = 64 // packets between two looks at the TUN ring
	readBatch     = 64 // packets of one read
	drainBatches  = 16 // reads before something must be sent
)

// transmitter carries packets from the TUN device to the sockets. It is one
// goroutine and owns everything here; nothing is handed over.
type transmitter struct {
	device  *Device
	tun     tun.Device
	hasher  flowhash.Hasher
	queue   *queue.FQ[*packet]
	buffers buffers
	egress  *egress
	sealed  []*packet // their buffers are free again after the flush
	touched []*peer   // peers that got data in this batch
	batch   uint64    // number of this batch, to find each peer once
	now     int64
	packets atomic.Int64 // in the queue, for status
	bytes   atomic.Int64
	marked  atomic.Uint64

	read  [][]byte
	sizes []int
	flow  flowhash.Flow
}

func newTransmitter(d *Device) *transmitter {
	t := &transmitter{
		device: d, tun: d.tun, hasher: d.hasher,
		egress: newEgress(d.labels, transmitBatch),
		read:   make([][]byte, readBatch),
		sizes:  make([]int, readBatch),
	}
	t.queue = queue.New(d.queueConfig, t.queueDrop)
	// One slab: pages that no packet reaches cost nothing.
	slab := make([]byte, readBatch*maxDatagram)
	for i := range t.read {
		t.read[i] = slab[i*maxDatagram : (i+1)*maxDatagram : (i+1)*maxDatagram]
	}
	return t
}

// run ends when the TUN device does.
func (t *transmitter) run() error {
	for {
		if err := t.fill(); err != nil {
			return err
		}
		t.send()
	}
}

// fill moves what the TUN device has into the queue, so that it is the queue
// that overflows, flow by flow, and not the device's ring. It waits only when
// there is nothing to send.
func (t *transmitter) fill() error {
	n, err := t.readTUN(t.queue.Len() == 0)
	for i := 0; n > 0 && err == nil; i++ {
		t.now = t.device.clock.Now()
		for k := range n {
			t.enqueue(t.read[k][:t.sizes[k]])
		}
		if n < len(t.read) || i == drainBatches { // empty, or enough for now
			return nil
		}
		n, err = t.readTUN(false)
	}
	return err
}

func (t *transmitter) readTUN(wait bool) (int, error) {
	if wait {
		return t.tun.Read(t.read, t.sizes, 0)
	}
	return t.tun.TryRead(t.read, t.sizes, 0)
}

func (t *transmitter) enqueue(bytes []byte) {
	d := t.device
	if flowhash.Parse(bytes, &t.flow) != nil {
		d.drops.add(dropInvalid)
		return
	}
	to, _ := flowhash.Destination(bytes)
	p := d.routes.lookup(to)
	if p == nil {
		d.drops.add(dropNoPeer)
		return
	}
	pkt := t.buffers.take(t.flow.Length)
	copy(pkt.payload(), bytes)
	pkt.peer, pkt.hash = p, t.hasher.Hash(&t.flow.Key)
	t.queue.Enqueue(t.now, pkt.hash, pkt)
}

func (t *transmitter) queueDrop(pkt *packet, reason queue.DropReason) {
	drop := dropOverlimit
	if reason == queue.DropCoDel {
		drop = dropCoDel
	}
	pkt.peer.drops.add(drop)
	t.buffers.give(pkt)
}

// send takes one batch from the queue and sends it.
func (t *transmitter) send() {
	t.now = t.device.clock.Now()
	t.batch++
	socks := t.device.sockets.Load()
	for range transmitBatch {
		pkt, ok := t.queue.Dequeue(t.now)
		if !ok {
			break
		}
		t.sendPacket(socks, pkt)
	}
	t.egress.flush()
	t.finish()
}

// sendPacket seals a packet and adds it to the batch. One that finds no session
// waits for it at its peer.
func (t *transmitter) sendPacket(socks *sockets, pkt *packet) {
	p := pkt.peer
	s := p.sending.Load()
	if s == nil || s.expired(t.now) {
		if s = p.stage(t.now, pkt); s == nil {
			return
		}
	}
	if p.push(t.now, t.egress, socks, s, pkt) && p.touched != t.batch {
		p.touched = t.batch
		t.touched = append(t.touched, p)
	}
	t.sealed = append(t.sealed, pkt)
}

// status may be called by others than the owner.
func (t *transmitter) status() QueueStatus {
	return QueueStatus{Packets: int(t.packets.Load()), Bytes: int(t.bytes.Load()), Marked: t.marked.Load()}
}

// finish does once a batch what need not be done for each packet.
func (t *transmitter) finish() {
	for i, pkt := range t.sealed {
		t.buffers.give(pkt)
		t.sealed[i] = nil
	}
	t.sealed = t.sealed[:0]
	for i, p := range t.touched {
		p.dataSent(t.now)
		t.touched[i] = nil
	}
	t.touched = t.touched[:0]
	t.packets.Store(int64(t.queue.Len()))
	t.bytes.Store(int64(t.queue.Bytes()))
	t.marked.Store(t.queue.Stats().Marked)
}

// push seals a packet and adds it to a batch; false means that it was dropped.
// It may be called by one goroutine at a time for each session that is not yet
// published, and by the transmitter.
func (p *peer) push(now int64, e *egress, socks *sockets, s *session, pkt *packet) bool {
	to := p.endpoint.Load()
	if socks == nil || to == nil {
		p.drops.add(ternary(socks == nil, dropLinkDown, dropNoEndpoint))
		return false
	}
	class := p.encapsulate(s, pkt.payload())
	lane, socket := p.chooseLane(now, socks, s, laneFlow(pkt.hash, class))
	n := noise.PaddedSize(pkt.n, p.device.mtu())
	clear(pkt.buf[headerSize+pkt.n : headerSize+n])
	datagram, ok := s.seal(pkt.buf, n, lane)
	if !ok {
		p.drops.add(dropExpired)
		return false
	}
	s.lane(lane).last.Store(now)
	e.add(outbound{peer: p, to: to, socket: socket, buf: datagram, lane: lane, class: class})
	return true
}

// chooseLane gives the flow's lane and its socket: lane 0 where the peer or the
// path takes no others, or no port is to be had.
func (p *peer) chooseLane(now int64, socks *sockets, s *session, flow uint64) (uint16, portpool.Socket) {
	agreed := int(s.limit.Load())
	if agreed == 0 || !p.spreading.Load() {
		return 0, socks.listen
	}
	p.lanesMu.Lock()
	defer p.lanesMu.Unlock()
	p.limitLanes(min(agreed, socks.pool.Limit()))
	for {
		lane, fresh := p.lanes.Assign(now, flow)
		if lane == 0 {
			return 0, socks.listen
		}
		socket, err := socks.pool.Socket(now, lane)
		if err == nil {
			if fresh {
				p.opened = append(p.opened, lane)
			}
			return lane, socket
		}
		if int(lane) <= socks.pool.Limit() { // it was not for want of ports
			return 0, socks.listen
		}
		p.limitLanes(socks.pool.Limit())
	}
}

// limitLanes changes the number of lanes if it is another one. The caller holds
// lanesMu.
func (p *peer) limitLanes(n int) {
	if p.lanes == nil {
		p.lanes = portpool.NewLanes(portpool.LanesConfig{Limit: n})
		p.lanesLimit = n
	}
	if p.lanesLimit != n {
		p.lanes.SetLimit(n)
		p.lanesLimit = n
	}
}

func ternary[T any](condition bool, yes, no T) T {
	if condition {
		return yes
	}
	return no
}
