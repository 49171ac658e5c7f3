package tunnel

import (
	"sync"

	"kiloport/tunnel/tun"
)

// watch is what a transmitter notes of the packets that pass, for people to look
// at. Whoever reads or writes holds mu: the transmitter takes it twice a batch,
// once to fill the queue and once to empty it; the reader has it for as long as a
// copy takes, microseconds, and once for each transmitter. The transmitter takes a
// peer's locks while it has it, never the other way round.
type watch struct {
	mu      sync.Mutex
	sojourn histogram
	flows   flowTable
}

// note is what a packet takes through the queue for the watch: how it was when it
// came, whatever becomes of it there.
type note struct {
	since   int64  // when it came into the queue
	bytes   int32  // how long it was,
	packets uint16 // and how many datagrams
	slot    uint16 // of its flow
	marked  bool   // by our CoDel
}

// enqueued notes a packet on its way into the queue.
func (t *transmitter) enqueued(pkt *packet) {
	pkt.note = note{since: t.now, bytes: int32(pkt.n), packets: pkt.datagrams()}
	t.watch.flows.enqueued(t.now, pkt, &t.flow.Key)
}

// dequeued notes a packet that has left the queue to be sent. It is told each once.
func (t *transmitter) dequeued(pkt *packet) {
	sojourn := max(t.now-pkt.note.since, 0)
	t.watch.sojourn.observe(sojourn)
	if h := pkt.peer.sojourn.Load(); h != nil {
		(*h)[t.worker].observe(sojourn)
	}
	if pkt.note.marked {
		t.marks++
	}
	t.watch.flows.dequeued(t.now, sojourn, pkt)
}

// droppedFromQueue notes a packet that the queue has dropped.
func (t *transmitter) droppedFromQueue(pkt *packet) { t.watch.flows.dropped(pkt) }

// onLane notes which lane a packet that was dequeued has got.
func (t *transmitter) onLane(pkt *packet, lane uint16) { t.watch.flows.onLane(pkt, lane) }

// datagrams is about how many packets a super-packet is cut into: the kernel's
// word on the length of its headers may be too high.
func (p *packet) datagrams() uint16 {
	if p.header.GSO == tun.GSONone || p.header.SegmentSize == 0 {
		return 1
	}
	payload, size := max(p.n-int(p.header.HeaderLen), 1), int(p.header.SegmentSize)
	return uint16((payload + size - 1) / size)
}

// sojournNow sums up how long packets waited, over all transmitters.
func (d *Device) sojournNow() *HistogramStatus {
	var all histogram
	for _, t := range d.transmit {
		t.watch.mu.Lock()
		all.add(&t.watch.sojourn)
		t.watch.mu.Unlock()
	}
	return all.status()
}

// keepSojourn makes room for how long a peer's packets wait. It is called before
// data is sent to it, so that the packet path need not allocate.
func (p *peer) keepSojourn() {
	if p.sojourn.Load() == nil {
		all := make([]sharedHistogram, p.device.workers)
		p.sojourn.CompareAndSwap(nil, &all)
	}
}

// sojournNow is that of one peer. It takes no lock: there may be ten thousand.
func (p *peer) sojournNow() *HistogramStatus {
	each := p.sojourn.Load()
	if each == nil {
		return nil
	}
	var all histogram
	for i := range *each {
		(*each)[i].addTo(&all)
	}
	return all.status()
}
