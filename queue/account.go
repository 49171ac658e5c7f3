package queue

import (
	"iter"
	"time"
)

// account is what is known of a flow beyond what its packets need.
type account struct {
	hash    uint64 // of the newest packet
	sent    uint64 // bytes
	sojourn int64  // of the last packet that left
	marked  uint32
	dropped uint32
	meter   meter
}

// meterWindow is how far back a rate looks.
const meterWindow = int64(500 * time.Millisecond)

// meter is the rate of the last meterWindow, about: the bytes of the window under
// way, and of the one before it that part which is not yet so long ago.
type meter struct {
	since        int64 // when the window under way began
	bytes, early uint32
}

func (m *meter) add(now int64, n int) {
	if age := now - m.since; age >= meterWindow {
		m.turn(now, age)
	}
	m.bytes += uint32(n)
}

// turn begins a window.
func (m *meter) turn(now, age int64) {
	if age < 2*meterWindow {
		m.since, m.early = m.since+meterWindow, m.bytes
	} else {
		m.since, m.early = now, 0
	}
	m.bytes = 0
}

// rate is in bit/s.
func (m meter) rate(now int64) int64 {
	age := now - m.since
	if age >= meterWindow {
		m.turn(now, age)
		age = now - m.since
	}
	early := float64(m.early) * float64(meterWindow-age) / float64(meterWindow)
	return int64((float64(m.bytes) + early) * 8 / time.Duration(meterWindow).Seconds())
}

// Flow is how one flow stands.
type Flow[P Packet] struct {
	// Hash is that of the newest packet, and Head the packet that leaves next,
	// if Packets is not 0.
	Hash uint64
	Head P
	// Packets and Bytes wait.
	Packets, Bytes int
	// Sojourn is how long the packet at the head has waited, or if none waits,
	// the last one that left.
	Sojourn time.Duration
	// Rate is what was sent in the last half second, bit/s.
	Rate int64
	// Sent is how many bytes have left, Marked and Dropped how many packets
	// were marked and dropped, since the flow has its queue.
	Sent            uint64
	Marked, Dropped uint32
	// Bulk says that it sends more than its turn in each round, and so waits
	// for the others; if not, it is sparse and goes before them.
	Bulk bool
}

// Flows yields the flows of which something waits, and those that have sent in the
// last half second, in no order. It looks at all queues.
func (q *FQ[P]) Flows(now int64) iter.Seq[Flow[P]] {
	return func(yield func(Flow[P]) bool) {
		for i := range q.flows {
			f := &q.flows[i]
			rate := f.account.meter.rate(now)
			if f.packets == 0 && rate == 0 {
				continue
			}
			if !yield(q.view(now, f, rate)) {
				return
			}
		}
	}
}

func (q *FQ[P]) view(now int64, f *flow, rate int64) Flow[P] {
	a := &f.account
	v := Flow[P]{
		Hash: a.hash, Packets: int(f.packets), Bytes: f.bytes, Rate: rate, Sojourn: time.Duration(a.sojourn),
		Sent: a.sent, Marked: a.marked, Dropped: a.dropped, Bulk: f.bulk,
	}
	if f.head != none {
		head := &q.nodes[f.head]
		v.Head, v.Sojourn = head.packet, time.Duration(now-head.since)
	}
	return v
}

// Active is how many flows are in the round: by it a rate can be shared between
// several FQs so that all flows get the same.
func (q *FQ[P]) Active() int { return q.active }
