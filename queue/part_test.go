package queue

import (
	"math"
	"testing"
	"time"
)

// superPacket is one of so many segments of 1500 bytes.
func superPacket(flow uint64, segments int) *testPacket {
	return &testPacket{flow: flow, size: segments * 1500, segment: 1500}
}

func TestPartsOfASuperPacket(t *testing.T) {
	q := New(Default(), func(*testPacket, DropReason) {})
	q.Enqueue(ms, spread(1), superPacket(1, 5))
	for i, want := range []Part[*testPacket]{{Size: 3000}, {Size: 3000}, {Size: 1500, Last: true}} {
		got, ok := DequeuePart(q, 2*ms, 3100)
		if !ok || got.Size != want.Size || got.Last != want.Last || got.Packet.flow != 1 {
			t.Errorf("part %d is %+v, want %+v", i, got, want)
		}
		if bytes := 7500 - got.Packet.gone; q.Bytes() != bytes || q.Len() != map[bool]int{true: 0, false: 1}[got.Last] {
			t.Errorf("after part %d %d packets and %d bytes wait, want %d", i, q.Len(), q.Bytes(), bytes)
		}
	}
	if _, ok := DequeuePart(q, 2*ms, 3100); ok {
		t.Error("a part of nothing")
	}
	if s := q.Stats(); s.Dequeued != 1 || q.Sojourn().Count() != 1 {
		t.Errorf("%+v", s)
	}
}

// What is no longer than may leave at once is not asked to split.
func TestWholePacketsAreNotSplit(t *testing.T) {
	q := New(Default(), func(*testPacket, DropReason) {})
	for _, most := range []int{1500 * 3, math.MaxInt} {
		q.Enqueue(ms, spread(1), superPacket(1, 3))
		if got, ok := DequeuePart(q, ms, most); !ok || !got.Last || got.Size != 4500 || got.Packet.gone != 0 {
			t.Errorf("%+v", got)
		}
	}
}

// Dequeue takes all that is left.
func TestDequeueTakesTheRest(t *testing.T) {
	q := New(Default(), func(*testPacket, DropReason) {})
	q.Enqueue(ms, spread(1), superPacket(1, 5))
	DequeuePart(q, ms, 1500)
	if p, ok := q.Dequeue(ms); !ok || p.gone != 1500 || q.Bytes() != 0 || q.Len() != 0 {
		t.Errorf("%+v, %v, %d bytes wait", p, ok, q.Bytes())
	}
}

// A packet that says something else of itself than Len did does not confuse the
// account.
func TestPartsThatDoNotAddUp(t *testing.T) {
	for _, size := range []int{-1, 0, 10, 7499, 7500, 1 << 40} {
		q := New(Default(), func(*liar, DropReason) {})
		q.Enqueue(ms, spread(1), &liar{size: size, parts: 5})
		for i := 0; i < 5; i++ {
			part, ok := DequeuePart(q, ms, 1500)
			if !ok || part.Last != (i == 4) || q.Bytes() < 0 || q.Bytes() > 7500 || (q.Bytes() == 0) != part.Last {
				t.Errorf("part %d of %d bytes: %+v, %v, %d wait", i, size, part, ok, q.Bytes())
			}
		}
	}
}

type liar struct{ size, parts int }

func (l *liar) Len() int                        { return 7500 }
func (l *liar) MarkCE() bool                    { return false }
func (l *liar) Split(int) (size int, more bool) { l.parts--; return l.size, l.parts > 0 }

// Super-packets get their flow no more than single packets do, and a sparse flow
// waits for one segment only.
func TestPartsKeepFairnessAndDelay(t *testing.T) {
	const rate, segments = 20 * mbit, 43
	q := New(Default(), func(*testPacket, DropReason) {})
	bytes := make(map[uint64]int)
	var worst int64
	now, next := ms, 500*ms
	for end := now + int64(10*time.Second); now < end; {
		for q.Bytes() < 1<<20 {
			q.Enqueue(now, spread(1), superPacket(1, segments))
			for range segments {
				q.Enqueue(now, spread(2), &testPacket{flow: 2, size: 1500})
			}
		}
		if now >= next {
			next = now + 20*ms
			q.Enqueue(now, spread(3), &testPacket{flow: 3, size: 100, sent: now})
		}
		part, _ := DequeuePart(q, now, SplitAbove(rate*8, time.Millisecond))
		bytes[part.Packet.flow] += part.Size
		if part.Packet.flow == 3 {
			worst = max(worst, now-part.Packet.sent)
		}
		now += int64(part.Size) * 1e9 / rate
	}
	if share := float64(bytes[1]) / float64(bytes[1]+bytes[2]); share < 0.49 || share > 0.51 {
		t.Errorf("super-packets got %.3f of the link, want half", share)
	}
	if worst > 1500*1e9/rate {
		t.Errorf("a sparse packet waited %v", time.Duration(worst))
	}
}

// CoDel looks at a packet once: what is left of one that it let pass, passes.
func TestAPacketIsJudgedOnce(t *testing.T) {
	c := Default()
	q := New(c, func(*testPacket, DropReason) {})
	for range 40 {
		q.Enqueue(ms, spread(1), &testPacket{flow: 1, size: 15000, segment: 1500, ect: true})
	}
	marked := make(map[*testPacket]int)
	for now := ms; q.Len() > 0; now += 20 * ms {
		before := q.Stats().Marked
		part, _ := DequeuePart(q, now, 1500)
		if q.Stats().Marked > before {
			if part.Packet.gone != 1500 {
				t.Fatalf("marked after %d bytes had left", part.Packet.gone)
			}
			marked[part.Packet]++
		}
	}
	if len(marked) < 10 {
		t.Errorf("%d packets were marked", len(marked))
	}
}

// What is left of a packet can be dropped for a limit, and is accounted for.
func TestTheRestOfAPacketCanBeShed(t *testing.T) {
	c := Default()
	c.Limit, c.DropBatch = 3, 1
	var dropped []*testPacket
	q := New(c, func(p *testPacket, _ DropReason) { dropped = append(dropped, p) })
	first := superPacket(1, 10)
	q.Enqueue(ms, spread(1), first)
	DequeuePart(q, ms, 1500)
	for range 3 {
		q.Enqueue(ms, spread(1), superPacket(1, 1))
	}
	if len(dropped) != 1 || dropped[0] != first || q.Bytes() != 4500 {
		t.Fatalf("dropped %v, %d bytes wait", dropped, q.Bytes())
	}
	if part, ok := DequeuePart(q, ms, 1000); !ok || !part.Last || part.Size != 1500 {
		t.Errorf("what came next is %+v", part)
	}
}

func TestPartsDoNotAllocate(t *testing.T) {
	q := New(Default(), func(*testPacket, DropReason) {})
	packets := make([]*testPacket, 64)
	for i := range packets {
		packets[i] = superPacket(uint64(i%10), 10)
	}
	round := func() {
		for _, p := range packets {
			p.gone = 0
			q.Enqueue(1, spread(p.flow), p)
		}
		for ok := true; ok; {
			_, ok = DequeuePart(q, 1, 3000)
		}
	}
	round()
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkParts(b *testing.B) {
	q := New(Default(), func(*testPacket, DropReason) {})
	for i := range uint64(8) {
		q.Enqueue(1, spread(i), superPacket(i, 10))
	}
	b.ReportAllocs()
	for b.Loop() {
		part, _ := DequeuePart(q, 1, 1500)
		if part.Last {
			part.Packet.gone = 0
			q.Enqueue(1, spread(part.Packet.flow), part.Packet)
		}
	}
}
