package tunnel

import (
	"sync/atomic"

	"kiloport/queue"
)

// downlink is the line on which a peer receives, which has asked us, in HELLO, to
// send it no more than that takes, so that packets wait in our FQ-CoDel and not in a
// FIFO before the peer. Packets to the peer wait here first and then, with all
// others, for our own line, if that has a rate too.
//
// Each transmitter has a queue of its own for it, because nothing is handed over
// between them, and a part of the rate by how many flows it has there.
type downlink struct {
	asked atomic.Pointer[ask]     // nil: none, or no longer
	lines atomic.Pointer[[]*line] // by transmitter, nil until the peer asks
}

// ask is what a peer asks for.
type ask struct {
	rate     int64 // bit/s
	overhead queue.Overhead
}

// rate is what the peer asked for, 0 for no limit.
func (d *downlink) rate() int64 {
	if a := d.asked.Load(); a != nil {
		return a.rate
	}
	return 0
}

// line is one transmitter's part of a downlink. But for the atomics it is the
// transmitter's, behind its watch.
type line struct {
	down   *downlink
	queue  *queue.FQ[*packet]
	shaper *queue.Shaper
	listed bool // among the transmitter's lines: something waits

	active         atomic.Int32 // flows of which something waits
	packets, bytes atomic.Int64 // that wait, for status
}

const (
	// lineFlows bounds the queues of a line: of one peer's flows fewer are busy
	// than of all, and there may be thousands of peers. It is 18 kB a line.
	lineFlows = 256
	// maxDownlinks is how many peers may ask: with two transmitters, 150 MB.
	maxDownlinks = 4096
	lineBatch    = 64 // packets of one line at a time
)

// ask is told what the peer has said in HELLO. The caller holds mu.
func (p *peer) ask(theirs *hello) {
	if theirs.ReceiveRate == 0 {
		p.downlink.asked.Store(nil)
		return
	}
	a := &ask{rate: theirs.ReceiveRate, overhead: theirs.ReceiveOverhead}
	if queue.DefaultShaper(a.rate).Validate() != nil || a.overhead.Validate() != nil {
		p.drops.add(dropControl)
		return
	}
	d := p.device
	if p.downlink.lines.Load() == nil {
		if d.downlinks.Add(1) > maxDownlinks {
			d.downlinks.Add(-1)
			d.limited.warn("more peers ask for a rate than there is memory for: this one gets what it gets", "peer", p.name(), "most", maxDownlinks)
			return
		}
		lines := make([]*line, d.workers)
		for i := range lines {
			lines[i] = &line{down: &p.downlink}
		}
		p.downlink.lines.Store(&lines)
	}
	if old := p.downlink.asked.Swap(a); old == nil || *old != *a {
		d.log.Info("the peer asks for no more than it can receive", "peer", p.name(), "bandwidth", formatRate(a.rate))
	}
}

// forgetDownlink is for a peer that is removed.
func (p *peer) forgetDownlink() {
	p.downlink.asked.Store(nil)
	if p.downlink.lines.Load() != nil {
		p.device.downlinks.Add(-1)
	}
}

// lineTo gives the line on which packets to a peer wait, nil if there is none. One
// that the peer no longer asks for is left when it is empty, so that flows keep
// their order.
func (t *transmitter) lineTo(p *peer) *line {
	lines := p.downlink.lines.Load()
	if lines == nil {
		return nil
	}
	l := (*lines)[t.worker]
	if l.listed {
		return l
	}
	a := p.downlink.asked.Load()
	if a == nil || t.slower(a) {
		return nil
	}
	if l.queue == nil {
		c := t.device.queueConfig
		c.Flows, c.Burst, c.Quantum = min(c.Flows, lineFlows), 0, t.device.quantum(a.rate)
		l.queue = queue.New(c, t.queueDrop)
		l.shaper = queue.NewShaper(queue.DefaultShaper(a.rate))
	}
	l.listed = true
	t.lines = append(t.lines, l)
	return l
}

// slower tells whether our own line is no faster than what a peer asks for, so that
// nothing need wait for both: a sparse packet would wait twice.
func (t *transmitter) slower(a *ask) bool {
	own := t.device.uplink.rate.Load()
	return own != 0 && own <= a.rate && a.overhead == t.device.options.Overhead
}

// share is the part of a rate that this line may send at now.
func (l *line) share(rate int64) int64 {
	own := int32(max(l.queue.Active(), 1))
	l.active.Store(own)
	if rate == 0 {
		return 0
	}
	all := int32(0)
	for _, each := range *l.down.lines.Load() {
		all += each.active.Load()
	}
	return max(rate*int64(own)/int64(max(all, own)), 1)
}

// moveLines queues for our own line what the peers' lines take now.
func (t *transmitter) moveLines() {
	if len(t.lines) == 0 {
		return
	}
	t.watch.mu.Lock()
	defer t.watch.mu.Unlock()
	kept := t.lines[:0]
	for _, l := range t.lines {
		t.moveLine(l)
		if l.listed = l.queue.Len() > 0; l.listed {
			kept = append(kept, l)
			continue
		}
		l.shaper.Idle()
		l.active.Store(0)
	}
	clear(t.lines[len(kept):])
	t.lines = kept
}

func (t *transmitter) moveLine(l *line) {
	a := l.down.asked.Load()
	if a == nil {
		a = new(ask)
	}
	share := l.share(a.rate)
	l.shaper.SetRate(t.now, share)
	l.queue.SetQuantum(t.device.quantum(share))
	for n := 0; n < lineBatch && l.shaper.Ready(t.now); n++ {
		pkt, ok := l.queue.Dequeue(t.now)
		if !ok {
			break
		}
		l.shaper.Admit(t.now, t.cost(a.overhead, pkt))
		t.queue.Enqueue(t.now, pkt.hash, pkt)
	}
	l.packets.Store(int64(l.queue.Len()))
	l.bytes.Store(int64(l.queue.Bytes()))
}

// AskStatus is what a peer asks us to send it at most, and what waits for that.
type AskStatus struct {
	Bandwidth string `json:"bandwidth"` // as `--bandwidth` has it
	BitS      int64  `json:"bit_s"`
	Overhead  string `json:"overhead"`
	Packets   int    `json:"packets"`
	Bytes     int    `json:"bytes"`
}

// status gives nil if the peer asks for nothing.
func (d *downlink) status() *AskStatus {
	a := d.asked.Load()
	if a == nil {
		return nil
	}
	s := &AskStatus{Bandwidth: formatRate(a.rate), BitS: a.rate, Overhead: a.overhead.String()}
	for _, l := range *d.lines.Load() {
		s.Packets += int(l.packets.Load())
		s.Bytes += int(l.bytes.Load())
	}
	return s
}
