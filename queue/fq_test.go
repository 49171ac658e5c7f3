package queue

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// testPacket is a packet of a flow, numbered within it.
type testPacket struct {
	flow   uint64
	number int
	size   int
	ect    bool
	marked bool
	sent   int64
}

func (p *testPacket) Len() int { return p.size }

func (p *testPacket) MarkCE() bool {
	p.marked = p.marked || p.ect
	return p.ect
}

// spread puts flow numbers into different buckets.
func spread(flow uint64) uint64 { return flow<<54 | flow }

const ms = int64(time.Millisecond)

// link drives an FQ in virtual time: sources add packets, a link takes one
// whenever the last has left.
type link struct {
	q       *FQ[*testPacket]
	now     int64
	rate    int64 // bytes per second
	drops   map[DropReason]int
	dropped []*testPacket
}

func newLink(c Config, rate int64) *link {
	l := &link{rate: rate, now: ms, drops: make(map[DropReason]int)}
	l.q = New(c, func(p *testPacket, r DropReason) { l.drops[r]++; l.dropped = append(l.dropped, p) })
	return l
}

// source sends packets of one size at a rate; its start is its phase.
type source struct {
	flow    uint64
	size    int
	every   int64
	ect     bool
	next    int64
	number  int
	sojourn []int64
	bytes   int
	marked  int
}

func (l *link) run(d time.Duration, sources ...*source) {
	byFlow := make(map[uint64]*source)
	for _, s := range sources {
		byFlow[s.flow] = s
		if s.next == 0 {
			s.next = l.now
		}
	}
	end, free := l.now+int64(d), l.now
	for l.now < end {
		at := free
		if l.q.Len() == 0 {
			at = math.MaxInt64
		}
		var due *source
		for _, s := range sources {
			if s.next < at || due == nil && at == math.MaxInt64 {
				at, due = s.next, s
			}
		}
		l.now = max(l.now, at)
		if due != nil {
			due.number++
			l.q.Enqueue(l.now, spread(due.flow), &testPacket{flow: due.flow, number: due.number, size: due.size, ect: due.ect, sent: l.now})
			due.next += due.every
			continue
		}
		p, ok := l.q.Dequeue(l.now)
		if !ok {
			continue
		}
		s := byFlow[p.flow]
		s.sojourn = append(s.sojourn, l.now-p.sent)
		s.bytes += p.size
		if p.marked {
			s.marked++
		}
		free = l.now + int64(p.size)*1e9/l.rate
	}
}

func worst(sojourns []int64) (most int64) {
	for _, s := range sojourns {
		most = max(most, s)
	}
	return most
}

const mbit = int64(1e6 / 8)

// A flow that sends less often than a round through all flows takes waits for
// nothing but the packet on the wire: RFC 8290's whole point. (Here a
// round is a packet of each of the 8 bulk flows, 9.6 ms.)
func TestSparseFlowDoesNotWaitForBulk(t *testing.T) {
	l := newLink(Default(), 10*mbit)
	var all []*source
	for i := range uint64(8) {
		all = append(all, &source{flow: 1 + i, size: 1500, every: ms, ect: i%2 == 0}) // 12 Mbit/s each
	}
	sparse := &source{flow: 100, size: 100, every: 20 * ms, next: 1000 * ms} // when the others are new no more
	l.run(20*time.Second, append(all, sparse)...)
	onePacket := int64(1500) * 1e9 / l.rate
	if w := worst(sparse.sojourn); w > onePacket+ms/10 {
		t.Errorf("a sparse packet waited %v, more than the one packet of %v on the wire", time.Duration(w), time.Duration(onePacket))
	}
	if lost := sparse.number - len(sparse.sojourn); lost > 1 {
		t.Errorf("%d sparse packets were lost", lost)
	}
}

// Flows get equal bytes, whatever the size of their packets.
func TestFlowsShareBytesEqually(t *testing.T) {
	l := newLink(Default(), 10*mbit)
	all := []*source{
		{flow: 1, size: 1500, every: ms / 2}, {flow: 2, size: 700, every: ms / 4}, {flow: 3, size: 90, every: ms / 20}, {flow: 4, size: 1500, every: ms / 2, ect: true},
	}
	l.run(10*time.Second, all...)
	total := 0
	for _, s := range all {
		total += s.bytes
	}
	for _, s := range all {
		if share := float64(s.bytes) / float64(total); math.Abs(share-0.25) > 0.01 {
			t.Errorf("flow of %d-byte packets got %.3f of the link, want a quarter", s.size, share)
		}
	}
}

// lawOracle gives the times at which CoDel signals under a constant overload
// that began at 0, written from RFC 8289 section 4.2 alone: one interval after
// the delay passed the target, then after interval/sqrt(n).
func lawOracle(interval int64, n int) (times []int64) {
	at := int64(0)
	for i := range n {
		times = append(times, at)
		at += int64(float64(interval) / math.Sqrt(float64(i+1)))
	}
	return times
}

func TestControlLaw(t *testing.T) {
	l := law{target: 5 * ms, interval: 100 * ms}
	var c codel
	var got []int64
	for now := ms; len(got) < 50; now += ms / 20 {
		if c.decide(l, now, 6*ms, 1<<20, 1514) == signal {
			got = append(got, now)
		}
	}
	if got[0] < 100*ms+ms || got[0] > 101*ms+ms/10 {
		t.Errorf("first signal at %v, want one interval after the delay passed the target", time.Duration(got[0]))
	}
	for i, want := range lawOracle(l.interval, len(got)) {
		if d := got[i] - got[0] - want; d < -ms/10 || d > ms/10 {
			t.Errorf("signal %d at %v after the first, want %v", i, time.Duration(got[i]-got[0]), time.Duration(want))
		}
	}
}

func TestControlLawLeavesAGoodQueueAlone(t *testing.T) {
	l := law{target: 5 * ms, interval: 100 * ms}
	for name, sojourn := range map[string]func(now int64) (int64, int){
		"below the target":            func(int64) (int64, int) { return 5*ms - 1, 1 << 20 },
		"one packet behind":           func(int64) (int64, int) { return 50 * ms, 1514 },
		"a burst shorter than 100 ms": func(now int64) (int64, int) { return now % (95 * ms), 1 << 20 },
		"touches the target each 99ms": func(now int64) (int64, int) {
			return map[bool]int64{true: ms, false: 50 * ms}[now%(99*ms) < ms], 1 << 20
		},
	} {
		var c codel
		for now := ms; now < 5000*ms; now += ms / 2 {
			s, backlog := sojourn(now)
			if c.decide(l, now, s, backlog, 1514) == signal {
				t.Errorf("%s: signal at %v", name, time.Duration(now))
				break
			}
		}
	}
}

// After a pause shorter than 16 intervals dropping goes on near its last rate;
// after a longer one it begins anew (RFC 8289 section 5.4).
func TestControlLawRemembersItsRate(t *testing.T) {
	l := law{target: 5 * ms, interval: 100 * ms}
	for _, x := range []struct {
		pause time.Duration
		fast  bool
	}{{time.Second, true}, {1500 * time.Millisecond, true}, {1800 * time.Millisecond, false}, {time.Minute, false}} {
		var c codel
		now := ms
		for ; now < 3000*ms; now += ms / 2 {
			c.decide(l, now, 10*ms, 1<<20, 1514)
		}
		before := c.count
		for end := now + int64(x.pause) - 100*ms; now < end; now += ms / 2 {
			c.decide(l, now, ms, 1<<20, 1514)
		}
		for !c.dropping {
			c.decide(l, now, 10*ms, 1<<20, 1514)
			now += ms / 2
		}
		if fast := c.count > 2; fast != x.fast || fast && c.count > before {
			t.Errorf("after a pause of %v the count is %d, it was %d before", x.pause, c.count, before)
		}
	}
}

// A flow that reacts to signals is held near the target: one that lowers its
// rate by half at each, and raises it slowly, as TCP does.
func TestDelayConvergesToTheTarget(t *testing.T) {
	for _, ect := range []bool{false, true} {
		l := newLink(Default(), 10*mbit)
		s := &source{flow: 1, size: 1500, every: ms, ect: ect}
		rate, signals := 20.0, 0 // packets in 10 ms
		var late []int64
		for round := range 3000 {
			s.every = int64(10 * float64(ms) / rate)
			l.run(10*time.Millisecond, s)
			if n := l.drops[DropCoDel] + s.marked; n > signals {
				signals = n
				rate = max(rate*0.7, 1)
			} else {
				rate += 0.02
			}
			if round > 1000 {
				late = append(late, s.sojourn...)
			}
			s.sojourn = s.sojourn[:0]
		}
		var sum int64
		for _, d := range late {
			sum += d
		}
		if mean := time.Duration(sum / int64(len(late))); mean > 25*time.Millisecond {
			t.Errorf("ect %v: the mean delay is %v", ect, mean)
		}
		if ect && l.drops[DropCoDel] > 0 {
			t.Errorf("%d packets dropped that could have been marked", l.drops[DropCoDel])
		}
		if l.drops[DropOverlimit] > 0 {
			t.Errorf("ect %v: the limit was reached", ect)
		}
		if used := float64(s.bytes) / 30 / float64(l.rate); used < 0.8 {
			t.Errorf("ect %v: only %.2f of the link was used", ect, used)
		}
	}
}

func TestCEThreshold(t *testing.T) {
	c := Default()
	c.CEThreshold = time.Millisecond
	q := New(c, func(*testPacket, DropReason) {})
	for i := range 3 {
		q.Enqueue(ms, spread(1), &testPacket{flow: 1, number: i, size: 100, ect: i != 1})
	}
	a, _ := q.Dequeue(2 * ms)
	b, _ := q.Dequeue(2*ms + 1)
	d, _ := q.Dequeue(2*ms + 1)
	if a.marked || b.marked || !d.marked || q.Stats().MarkedThreshold != 1 {
		t.Errorf("marked %v %v %v, want the last alone", a.marked, b.marked, d.marked)
	}
}

// A flood cannot push out others: the fattest flow pays.
func TestOverlimitDropsFromTheFattest(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"packets": func(c *Config) { c.Limit = 100 },
		"bytes":   func(c *Config) { c.MemoryLimit = 100_000 },
	} {
		c := Default()
		change(&c)
		var dropped []*testPacket
		q := New(c, func(p *testPacket, r DropReason) {
			if r != DropOverlimit {
				t.Errorf("%s: dropped as %v", name, r)
			}
			dropped = append(dropped, p)
		})
		for i := range 5 {
			q.Enqueue(1, spread(2), &testPacket{flow: 2, number: i, size: 1000})
		}
		for i := range 1000 {
			q.Enqueue(1, spread(1), &testPacket{flow: 1, number: i, size: 1000})
			if q.Len() > c.Limit || q.Bytes() > c.MemoryLimit {
				t.Fatalf("%s: %d packets, %d bytes wait", name, q.Len(), q.Bytes())
			}
		}
		last := -1
		for _, p := range dropped {
			if p.flow != 1 || p.number <= last {
				t.Fatalf("%s: packet %d of flow %d dropped after %d: want the heads of flow 1", name, p.number, p.flow, last)
			}
			last = p.number
		}
		if len(dropped) < 800 {
			t.Errorf("%s: %d dropped", name, len(dropped))
		}
	}
}

func TestDefaultIsValidAndWrongValuesAreNamed(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"flows": func(c *Config) { c.Flows = 0 }, "burst": func(c *Config) { c.Burst = -1 }, "mtu": func(c *Config) { c.MTU = 10 }, "quantum": func(c *Config) { c.Quantum = 10 }, "limit": func(c *Config) { c.Limit = 0 },
		"memory limit": func(c *Config) { c.MemoryLimit = 100 }, "drop batch": func(c *Config) { c.DropBatch = 0 },
		"interval": func(c *Config) { c.Interval = 0 }, "target": func(c *Config) { c.Target = c.Interval }, "ce threshold": func(c *Config) { c.CEThreshold = -1 },
	} {
		c := Default()
		change(&c)
		if err := c.Validate(); err == nil || !contains(err.Error(), name+" is") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func contains(s, part string) bool {
	for i := 0; i+len(part) <= len(s); i++ {
		if s[i:i+len(part)] == part {
			return true
		}
	}
	return false
}

// TestModel does anything in any order and checks what must hold always: each
// flow in order, every packet accounted for once, bytes and packets exact.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Config{
			Flows: rapid.IntRange(1, 8).Draw(t, "flows"), Quantum: rapid.IntRange(64, 3000).Draw(t, "quantum"), MTU: 1514,
			Target: 5 * time.Millisecond, Interval: 100 * time.Millisecond,
			Limit: rapid.IntRange(1, 60).Draw(t, "limit"), MemoryLimit: rapid.IntRange(3000, 60000).Draw(t, "memory"),
			ECN: rapid.Bool().Draw(t, "ecn"), DropBatch: rapid.IntRange(1, 64).Draw(t, "batch"),
		}
		in := make(map[*testPacket]bool)
		last := make(map[uint64]int)
		bytes := 0
		leave := func(p *testPacket) {
			if !in[p] {
				t.Fatalf("packet %d of flow %d left twice", p.number, p.flow)
			}
			delete(in, p)
			bytes -= p.size
			if p.number <= last[p.flow] {
				t.Fatalf("flow %d: packet %d after %d", p.flow, p.number, last[p.flow])
			}
			last[p.flow] = p.number
		}
		q := New(c, func(p *testPacket, _ DropReason) { leave(p) })
		now, number := int64(1), 0
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			now += rapid.Int64Range(0, 50*ms).Draw(t, "wait")
			if rapid.IntRange(0, 2).Draw(t, "do") > 0 {
				number++
				p := &testPacket{flow: rapid.Uint64Range(0, 5).Draw(t, "flow"), number: number, size: rapid.IntRange(1, 3000).Draw(t, "size"), ect: rapid.Bool().Draw(t, "ect")}
				in[p] = true
				bytes += p.size
				q.Enqueue(now, spread(p.flow), p)
			} else if p, ok := q.Dequeue(now); ok {
				leave(p)
			} else if len(in) > 0 {
				t.Fatalf("nothing came although %d packets wait", len(in))
			}
			if q.Len() != len(in) || q.Bytes() != bytes || q.Len() > c.Limit || q.Bytes() > c.MemoryLimit {
				t.Fatalf("says %d packets, %d bytes; %d and %d wait; limits %d and %d", q.Len(), q.Bytes(), len(in), bytes, c.Limit, c.MemoryLimit)
			}
			if s := q.Stats(); s.Enqueued != s.Dequeued+s.DroppedCoDel+s.DroppedOverlimit+uint64(q.Len()) {
				t.Fatalf("not all accounted for: %+v, %d wait", s, q.Len())
			}
		}
	})
}

func TestFreedPlacesHoldNoPacket(t *testing.T) {
	q := New(Default(), func(*testPacket, DropReason) {})
	for i := range 100 {
		q.Enqueue(1, spread(uint64(i)), &testPacket{size: 100})
	}
	for q.Len() > 0 {
		q.Dequeue(1)
	}
	for i := range q.nodes {
		if q.nodes[i].packet != nil {
			t.Fatalf("place %d keeps a packet that has left", i)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	q := New(Default(), func(*testPacket, DropReason) {})
	packets := make([]*testPacket, 256)
	for i := range packets {
		packets[i] = &testPacket{flow: uint64(i % 50), size: 1000}
	}
	now := ms
	round := func() {
		for _, p := range packets {
			q.Enqueue(now, spread(p.flow), p)
		}
		for range packets {
			now += ms / 100
			q.Dequeue(now)
		}
	}
	round()
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func benchmark(b *testing.B, flows int, waiting int) {
	q := New(Default(), func(*testPacket, DropReason) {})
	r := rand.New(rand.NewPCG(1, 2))
	packets := make([]*testPacket, waiting+1)
	for i := range packets {
		packets[i] = &testPacket{flow: r.Uint64N(uint64(flows)), size: 1420, ect: true}
	}
	for _, p := range packets[1:] {
		q.Enqueue(1, spread(p.flow), p)
	}
	next := packets[0]
	b.ReportAllocs()
	for now := int64(1); b.Loop(); now += 1000 {
		q.Enqueue(now, spread(next.flow), next)
		next, _ = q.Dequeue(now)
	}
}

func BenchmarkOneFlow(b *testing.B)       { benchmark(b, 1, 64) }
func BenchmarkThousandFlows(b *testing.B) { benchmark(b, 1000, 2000) }

// BenchmarkOverlimit is a flood: every packet makes one be dropped.
func BenchmarkOverlimit(b *testing.B) {
	c := Default()
	c.Limit = 1024
	q := New(c, func(*testPacket, DropReason) {})
	p := &testPacket{size: 1420}
	for i := int64(0); b.Loop(); i++ {
		q.Enqueue(i, spread(uint64(i%100)), p)
	}
}

// Two flows that take turns at being empty are new each time, and yet must not
// go before a third that always waits.
func TestFlowsThatEmptyDoNotStarveOthers(t *testing.T) {
	q := New(Default(), func(*testPacket, DropReason) {})
	for range 2000 {
		q.Enqueue(1, spread(9), &testPacket{flow: 9, size: 1500})
	}
	got := make(map[uint64]int)
	q.Enqueue(1, spread(1), &testPacket{flow: 1, size: 1500})
	for range 1000 {
		p, _ := q.Dequeue(1)
		got[p.flow]++
		if p.flow != 9 {
			q.Enqueue(1, spread(3-p.flow), &testPacket{flow: 3 - p.flow, size: 1500})
		}
	}
	if got[9] < 300 {
		t.Errorf("of 1000 packets %d were the flow's that always waits, want at least a third", got[9])
	}
}

// A turn is a quantum, and at most one packet more.
func TestATurnIsAQuantum(t *testing.T) {
	q := New(Default(), func(*testPacket, DropReason) {})
	for i := range 300 {
		q.Enqueue(1, spread(uint64(i%3)), &testPacket{flow: uint64(i % 3), size: 1000})
	}
	last, turn := uint64(9), 0
	for p, ok := q.Dequeue(1); ok; p, ok = q.Dequeue(1) {
		if p.flow != last {
			last, turn = p.flow, 0
		}
		if turn += p.size; turn > 1514+1000 && q.Len() > 10 {
			t.Fatalf("flow %d sent %d bytes in one turn", p.flow, turn)
		}
	}
}

// A burst is for bulk flows, and no longer than it may be; shares stay equal, and
// a new flow breaks in.
func TestABurstIsPaidBack(t *testing.T) {
	c := Default()
	c.Burst = 8000
	q := New(c, func(*testPacket, DropReason) {})
	for i := range 3000 {
		q.Enqueue(1, spread(uint64(i%3)), &testPacket{flow: uint64(i % 3), size: 1000})
	}
	var order []uint64
	sent := map[uint64]int{}
	for range 900 {
		p, _ := q.Dequeue(1)
		order = append(order, p.flow)
		sent[p.flow]++
	}
	if first := order[:6]; first[0] == first[2] || first[2] == first[4] {
		t.Errorf("flows that are new burst: %v", first)
	}
	for flow, n := range sent {
		if n < 290 || n > 310 {
			t.Errorf("flow %d sent %d of 900 packets, want a third", flow, n)
		}
	}
	longest, run := 0, 1
	for i := 1; i < len(order); i++ {
		if run++; order[i] != order[i-1] {
			run = 1
		}
		longest = max(longest, run)
	}
	if longest < 8 || longest > 10 {
		t.Errorf("the longest burst is of %d packets of 1000 bytes, want 8000 bytes past the turn", longest)
	}
	for range 5 {
		q.Dequeue(1)
	}
	q.Enqueue(1, spread(77), &testPacket{flow: 77, size: 100})
	if p, _ := q.Dequeue(1); p.flow != 77 {
		t.Errorf("flow %d went on with its burst before a new flow", p.flow)
	}
}

// A flow that empties in its burst is not new before its debt is paid, else it would
// come back with the priority of a sparse one.
func TestABurstIsPaidBackByAFlowThatEmpties(t *testing.T) {
	c := Default()
	c.Burst = 16000
	q := New(c, func(*testPacket, DropReason) {})
	add := func(flow uint64, n int) {
		for range n {
			q.Enqueue(1, spread(flow), &testPacket{flow: flow, size: 1000})
		}
	}
	add(1, 10)
	add(2, 1000)
	left := 10
	for left > 0 {
		if p, _ := q.Dequeue(1); p.flow == 1 {
			left--
		}
	}
	for i := range 5 {
		if p, _ := q.Dequeue(1); p.flow != 2 {
			t.Fatalf("packet %d after the burst is of flow %d again", i, p.flow)
		}
		if i == 0 {
			add(1, 1)
		}
	}
	if began := q.Stats().NewFlows; began != 2 {
		t.Errorf("%d flows were new, want 2", began)
	}
}

func TestSheddingLeavesHalf(t *testing.T) {
	c := Default()
	c.Limit, c.DropBatch = 100, 1000
	q := New(c, func(*testPacket, DropReason) {})
	for range 101 {
		q.Enqueue(1, spread(1), &testPacket{size: 1000})
	}
	if q.Len() < 49 || q.Len() > 51 {
		t.Errorf("%d of 101 packets left, want half", q.Len())
	}
}

func TestWithoutECNNothingIsMarked(t *testing.T) {
	c := Default()
	c.ECN = false
	l := newLink(c, 10*mbit)
	s := &source{flow: 1, size: 1500, every: ms, ect: true}
	l.run(5*time.Second, s)
	if s.marked > 0 || l.drops[DropCoDel] == 0 {
		t.Errorf("%d marked, %d dropped", s.marked, l.drops[DropCoDel])
	}
}

// One full packet behind the one that leaves is no standing queue, however long it
// waits, and whatever the quantum is; two are (RFC 8289 section 5.1).
func TestOneFullPacketIsNoStandingQueue(t *testing.T) {
	for behind, want := range map[int]bool{1: false, 2: true} {
		c := Default()
		c.Quantum = 300
		q := New(c, func(*testPacket, DropReason) {})
		for range behind {
			q.Enqueue(ms, spread(1), &testPacket{flow: 1, size: 1500})
		}
		for now := 2 * ms; now < 2000*ms; now += 20 * ms {
			q.Enqueue(now, spread(1), &testPacket{flow: 1, size: 1500})
			q.Dequeue(now)
		}
		if got := q.Stats().DroppedCoDel > 0; got != want {
			t.Errorf("with %d full packets behind: dropped %v, want %v", behind, got, want)
		}
	}
}

// A flow that lost packets to the limit has been signalled: CoDel goes on from
// there, and does not begin with one drop in 100 ms.
func TestOverlimitCountsForCoDel(t *testing.T) {
	c := Default()
	c.Limit = 400
	q := New(c, func(*testPacket, DropReason) {})
	for i := range 2000 {
		q.Enqueue(ms+int64(i), spread(1), &testPacket{flow: 1, size: 1500})
	}
	for now := 100 * ms; now < 300*ms; now += ms {
		q.Dequeue(now)
	}
	if got := q.Stats().DroppedCoDel; got < 20 {
		t.Errorf("CoDel dropped %d in its first 100 ms, want more than the 2 of a flow that is new to it", got)
	}
}
