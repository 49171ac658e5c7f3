package queue

import (
	"testing"
	"time"
)

func TestSlowQuantum(t *testing.T) {
	for _, c := range []struct {
		rate       int64
		full, want int
	}{
		{MinRate, 1420, 300}, {1e6, 1420, 300}, {19_200_000, 1420, 300}, {20e6, 1420, 312}, {88e6, 1420, 1375},
		{100e6, 1420, 1420}, {100e6, 1500, 1500}, {1e9, 8920, 8920}, {MaxRate, 1420, 1420}, {100e6, 68, 300},
	} {
		if got := SlowQuantum(c.rate, c.full); got != c.want {
			t.Errorf("at %d bit/s with packets of %d bytes it is %d, want %d", c.rate, c.full, got, c.want)
		}
	}
}

// begun is how many packets leave before one of a sparse flow, if three flows with
// two packets of a size have begun just before it.
func begun(q *FQ[*testPacket], size int) int {
	for i := range uint64(6) {
		q.Enqueue(1, spread(i/2), &testPacket{flow: i / 2, size: size})
	}
	q.Enqueue(1, spread(9), &testPacket{flow: 9, size: 100})
	for n := 0; ; n++ {
		if p, ok := q.Dequeue(1); !ok || p.flow == 9 {
			return n
		}
	}
}

// A quantum of a few bytes more than a full packet lets a flow that begins send two.
func TestFlowsThatBeginSendOnePacketEach(t *testing.T) {
	for name, c := range map[string]struct{ quantum, size, want int }{
		"the RFC's, of Ethernet, with full frames":         {1514, 1514, 3},
		"the RFC's, with packets of a tunnel":              {1514, 1420, 6},
		"of a fast line, with packets of a tunnel":         {SlowQuantum(100e6, 1420), 1420, 3},
		"of a slow line, with packets of a tunnel":         {SlowQuantum(20e6, 1420), 1420, 3},
		"of a slow line, with packets of half that length": {SlowQuantum(20e6, 1420), 710, 3},
		"of a very slow line, with packets of a tunnel":    {SlowQuantum(1e6, 1420), 1420, 3},
	} {
		config := Default()
		config.Quantum = c.quantum
		if got := begun(New(config, func(*testPacket, DropReason) {}), c.size); got != c.want {
			t.Errorf("a quantum %s: %d packets before the sparse flow's, want %d", name, got, c.want)
		}
		q := New(Default(), func(*testPacket, DropReason) {})
		begun(q, c.size)
		for _, ok := q.Dequeue(1); ok; _, ok = q.Dequeue(1) {
			continue
		}
		q.SetQuantum(c.quantum)
		if got := begun(q, c.size); got != c.want {
			t.Errorf("a quantum %s, set later: %d packets before the sparse flow's, want %d", name, got, c.want)
		}
	}
}

// Flows share bytes and not packets, also where a packet takes several turns.
func TestASmallQuantumSharesBytes(t *testing.T) {
	c := Default()
	c.Quantum, c.Target, c.Interval = SlowQuantum(1e6, 1420), time.Second, time.Minute
	q := New(c, func(*testPacket, DropReason) {})
	sizes := [...]int{1420, 1000, 299, 90}
	var sent [len(sizes)]int
	for flow, size := range sizes {
		for range 300_000 / size {
			q.Enqueue(1, spread(uint64(flow)), &testPacket{flow: uint64(flow), size: size})
		}
	}
	for sent[0] < 250_000 {
		p, _ := q.Dequeue(1)
		sent[p.flow] += p.size
	}
	for flow, bytes := range sent {
		if bytes < 245_000 || bytes > 255_000 {
			t.Errorf("with packets of %d bytes a flow has %d, that with the largest %d", sizes[flow], bytes, sent[0])
		}
	}
}
