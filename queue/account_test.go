package queue

import (
	"testing"
	"time"
)

func flowOf(t *testing.T, q *FQ[*testPacket], now int64, flow uint64) (found Flow[*testPacket]) {
	t.Helper()
	for f := range q.Flows(now) {
		if f.Hash == spread(flow) {
			if found.Hash != 0 {
				t.Fatalf("flow %d is there twice", flow)
			}
			found = f
		}
	}
	return found
}

// What `top` shows of a sparse flow beside two that flood the link, one of which
// can be marked.
func TestFlowsAreSeen(t *testing.T) {
	l := newLink(Default(), 10*mbit)
	dropped := &source{flow: 1, size: 1500, every: ms}
	marked := &source{flow: 2, size: 1500, every: ms, ect: true}
	sparse := &source{flow: 3, size: 125, every: 20 * ms}
	l.run(10*time.Second, dropped, marked, sparse)
	a, b, c := flowOf(t, l.q, l.now, 1), flowOf(t, l.q, l.now, 2), flowOf(t, l.q, l.now, 3)
	for name, f := range map[string]Flow[*testPacket]{"dropped": a, "marked": b} {
		if !f.Bulk || f.Packets == 0 || f.Bytes != f.Packets*1500 || f.Rate < 4.7e6 || f.Rate > 5.3e6 || f.Sojourn < 5*time.Millisecond || f.Head == nil {
			t.Errorf("%s: %+v, want half of 10 Mbit/s and a queue", name, f)
		}
	}
	if a.Head.flow != 1 || int64(a.Sojourn) != l.now-a.Head.sent {
		t.Errorf("the head of flow 1 is %+v, and has waited %v", a.Head, a.Sojourn)
	}
	if a.Dropped == 0 || a.Marked != 0 || b.Marked == 0 || int(b.Marked) != marked.marked || int(a.Sent) != dropped.bytes || int(b.Sent) != marked.bytes {
		t.Errorf("%+v and %+v", a, b)
	}
	if int(a.Dropped+b.Dropped) != l.drops[DropCoDel]+l.drops[DropOverlimit] {
		t.Errorf("%d and %d dropped, %v in all", a.Dropped, b.Dropped, l.drops)
	}
	if c.Bulk || c.Rate < 45e3 || c.Rate > 55e3 || c.Sojourn > 2*time.Millisecond {
		t.Errorf("sparse: %+v, want 50 kbit/s", c)
	}
	if n := l.q.Active(); n < 2 || n > 3 {
		t.Errorf("%d flows are active", n)
	}
	if n := l.q.Sojourn().Count(); n != l.q.Stats().Dequeued {
		t.Errorf("%d sojourns of %d packets", n, l.q.Stats().Dequeued)
	}
	for l.q.Len() > 0 {
		l.q.Dequeue(l.now)
	}
	l.q.Dequeue(l.now)
	if n := l.q.Active(); n != 0 {
		t.Errorf("%d flows of an empty queue are active", n)
	}
	l.q.Enqueue(l.now, spread(1), &testPacket{flow: 1, size: 100})
	if f := flowOf(t, l.q, l.now, 1); f.Bulk || f.Sent < a.Sent {
		t.Errorf("a flow that begins again: %+v", f)
	}
	l.q.Dequeue(l.now)
	if f := flowOf(t, l.q, l.now+int64(2*time.Second), 1); f.Hash != 0 {
		t.Errorf("a flow that ended is there: %+v", f)
	}
	for range l.q.Flows(l.now) {
		break
	}
}

func TestSojournIsCounted(t *testing.T) {
	q := New(Default(), func(*testPacket, DropReason) {})
	for i := range int64(100) {
		q.Enqueue(i*10*ms, spread(1), &testPacket{size: 100})
		q.Dequeue(i*10*ms + i*ms/10)
	}
	if got := q.Sojourn().Quantile(0.5); got < 5*time.Millisecond || got > 6*time.Millisecond {
		t.Errorf("the median is %v, want 5ms", got)
	}
}

func TestMeter(t *testing.T) {
	var m meter
	const start = int64(1e12)
	check := func(when string, now, least, most int64) {
		t.Helper()
		if got := m.rate(now); got < least || got > most {
			t.Errorf("%s: %d bit/s, want %d to %d", when, got, least, most)
		}
	}
	check("before", start, 0, 0)
	now := start
	for ; now < start+int64(3*time.Second); now += ms {
		m.add(now, 1000) // 8 Mbit/s
		if now > start+int64(time.Second) {
			check("steady", now, 7.9e6, 8.1e6)
		}
	}
	check("a quarter of a second later", now+250*ms, 3.9e6, 4.1e6)
	check("later", now+1000*ms, 0, 0)
	check("much later", now+int64(time.Hour), 0, 0)
	m.add(now+int64(time.Hour), 1000)
	check("again", now+int64(time.Hour), 16e3, 16e3)
}
