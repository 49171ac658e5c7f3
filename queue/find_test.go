package queue

import (
	"math/rand/v2"
	"testing"
)

// Equal flows get equal shares only if each has a queue: of 64 flows in a plain
// table of 1024 queues four share one, on the average, and get half.
func TestFlowsHaveQueuesOfTheirOwn(t *testing.T) {
	for _, test := range []struct{ flows, most int }{{64, 0}, {256, 1}, {512, 10}, {1024, 160}} {
		r := rand.New(rand.NewPCG(1, uint64(test.flows)))
		shared := 0
		for range 20 {
			q := New(Default(), func(*testPacket, DropReason) {})
			for i := range test.flows {
				q.Enqueue(1, r.Uint64(), &testPacket{flow: uint64(i), size: 1000})
			}
			shared += int(q.Stats().Shared)
		}
		if shared > 20*test.most {
			t.Errorf("of %d flows %d share a queue, on the average, want at most %d", test.flows, shared/20, test.most)
		}
	}
}

// colliding gives the hash of a flow of one set.
func colliding(tag uint64) uint64 { return 1<<60 | tag }

// A ninth flow of a set goes into the queue that its hash names, and stays there
// for as long as that is busy, though others be idle: else its packets would
// overtake each other.
func TestFlowStaysInASharedQueue(t *testing.T) {
	q := New(Default(), func(*testPacket, DropReason) {})
	put := func(flow uint64, number int) {
		q.Enqueue(1, colliding(flow), &testPacket{flow: flow, number: number, size: 1000})
	}
	for flow := range uint64(8) {
		put(flow, 1)
	}
	put(1, 2)
	put(1, 3) // the others will be idle while this one is still busy
	put(9, 1) // its home is that of flow 1
	if got := q.Stats().Shared; got != 1 {
		t.Fatalf("%d packets in queues of others, want 1", got)
	}
	last := make(map[uint64]int)
	for i := 0; q.Len() > 0; i++ {
		p, _ := q.Dequeue(1)
		if p.number <= last[p.flow] {
			t.Fatalf("flow %d: packet %d after %d", p.flow, p.number, last[p.flow])
		}
		last[p.flow] = p.number
		if i == 9 { // all but the shared one are idle
			put(9, 2)
		}
	}
	if got := q.Stats().Shared; got != 2 {
		t.Errorf("%d packets in queues of others, want 2", got)
	}
	for range 2 {
		q.Dequeue(1)
	}
	put(9, 3)
	if got := q.Stats().Shared; got != 2 {
		t.Error("it shares a queue though all are idle")
	}
	put(17, 1)
	if got := q.Stats().Shared; got != 2 {
		t.Error("it shares a queue that others had shared before")
	}
}

// A flow that gets the queue of another one does not inherit how fast that was
// dropping.
func TestFlowBeginsWithoutAPast(t *testing.T) {
	q := New(Default(), func(*testPacket, DropReason) {})
	flood := func(flow uint64) (drops uint64) {
		before := q.Stats().DroppedCoDel
		for i := range int64(4000) {
			now := 1e9*int64(flow) + i*ms/4
			q.Enqueue(now, colliding(flow*8), &testPacket{flow: flow, size: 1000}) // all have the same home
			if i%2 == 0 && i > 200 {
				q.Dequeue(now)
			}
		}
		for q.Len() > 0 {
			q.Dequeue(1e9*int64(flow) + 1e9)
		}
		q.Dequeue(1e9*int64(flow) + 1e9)
		return q.Stats().DroppedCoDel - before
	}
	const flows = 8
	first := flood(flows)
	for flow := uint64(1); flow < flows; flow++ {
		if next := flood(flows + flow); next > first+first/20 {
			t.Fatalf("flow %d had %d drops, the first one %d", flow, next, first)
		}
	}
}
