package queue

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// simSocket is a receiver in virtual time that reads a socket in batches and takes
// a while for each datagram.
type simSocket struct {
	admission *Admission // nil admits all
	room      int        // bytes that the socket holds
	work      int64      // for a datagram that is admitted
	refuse    int64      // for one that is dropped unread
	lanes     []*simLane

	now     int64
	full    bool
	waiting []simDatagram
	bytes   int
}

// simLane sends datagrams of one size, evenly.
type simLane struct {
	size   int
	every  float64 // nanoseconds
	reacts bool    // halves its rate when something is lost, as TCP does, and then raises it
	keep   bool

	next     float64
	changed  int64
	sent     int
	lost     int // in the socket
	dropped  int // by the admission
	received int
	waits    []int64
}

type simDatagram struct {
	lane int
	at   int64
}

func (l *simLane) signalled(now int64) {
	if l.reacts && now-l.changed > 20*ms { // a round trip
		l.every *= 1.5
		l.changed = now
	}
}

// arrive is until now.
func (s *simSocket) arrive() {
	for {
		first := s.lanes[0]
		at := 0
		for i, l := range s.lanes {
			if l.next < first.next {
				first, at = l, i
			}
		}
		if first.next > float64(s.now) {
			return
		}
		first.sent++
		if s.bytes+first.size > s.room {
			first.lost++
			s.full = true
			first.signalled(s.now)
		} else {
			s.bytes += first.size
			s.waiting = append(s.waiting, simDatagram{at, int64(first.next)})
		}
		if first.reacts {
			first.every /= 1 + first.every/float64(5000*ms) // 0.4 % in 20 ms
		}
		first.next += first.every
	}
}

func (s *simSocket) run(d time.Duration) {
	batch := make([]Arrival, 0, 128)
	for end := s.now + int64(d); s.now < end; {
		s.arrive()
		if len(s.waiting) == 0 {
			next := math.Inf(1)
			for _, l := range s.lanes {
				next = min(next, l.next)
			}
			s.now = int64(next) + 1
			continue
		}
		read := s.waiting[:min(128, len(s.waiting))]
		batch = batch[:0]
		for _, g := range read {
			l := s.lanes[g.lane]
			s.bytes -= l.size
			batch = append(batch, Arrival{Lane: laneHash(g.lane), Packets: 1, Bytes: l.size, Keep: l.keep})
		}
		if s.admission != nil {
			s.admission.Decide(s.now, s.now-read[0].at, s.full, batch)
			s.full = false
		}
		for i, g := range read {
			l := s.lanes[g.lane]
			if batch[i].Drop > 0 {
				s.now += s.refuse
				l.dropped++
				l.signalled(s.now)
				continue
			}
			s.now += s.work
			l.received++
			l.waits = append(l.waits, s.now-g.at)
		}
		s.waiting = slices.Delete(s.waiting, 0, len(read))
	}
}

// reset forgets what has been counted.
func (s *simSocket) reset() {
	for _, l := range s.lanes {
		l.sent, l.lost, l.dropped, l.received, l.waits = 0, 0, 0, 0, nil
	}
}

func (l *simLane) wait(share float64) time.Duration {
	slices.Sort(l.waits)
	if len(l.waits) == 0 {
		return never
	}
	return time.Duration(l.waits[int(share*float64(len(l.waits)-1))])
}

func laneHash(lane int) uint64 { return rand.New(rand.NewPCG(7, uint64(lane))).Uint64() }

// overloaded is a receiver that can take 100 000 datagrams a second, and what comes.
func overloaded(a *Admission, lanes ...*simLane) *simSocket {
	return &simSocket{admission: a, room: 4 << 20, work: 10_000, refuse: 500, lanes: lanes}
}

func flood(perSecond float64, size int) *simLane { return &simLane{size: size, every: 1e9 / perSecond} }

func jain(lanes []*simLane) float64 {
	var sum, squares float64
	for _, l := range lanes {
		x := float64(l.received)
		sum, squares = sum+x, squares+x*x
	}
	return sum * sum / squares / float64(len(lanes))
}

// A flood of twice what the receiver can take, beside lanes that do their share and
// sparse ones: only the flood loses, and nobody waits for long.
func TestAdmissionRefusesTheFlood(t *testing.T) {
	lanes := func() []*simLane {
		return []*simLane{flood(200_000, 1000), flood(9_000, 1000), flood(9_000, 500), flood(50, 120), flood(10, 1400)}
	}
	without := overloaded(nil, lanes()...)
	without.run(3 * time.Second)
	if l := without.lanes[3]; l.wait(0.5) < 30*time.Millisecond || l.lost < l.sent/10 {
		t.Errorf("without admission a sparse lane waits %v and loses %d of %d: the test tests nothing", l.wait(0.5), l.lost, l.sent)
	}
	s := overloaded(NewAdmission(DefaultAdmission()), lanes()...)
	s.run(2 * time.Second)
	s.reset()
	s.run(3 * time.Second)
	for i, l := range s.lanes {
		t.Logf("lane %d: %d sent, %d lost, %d dropped, wait %v", i, l.sent, l.lost, l.dropped, l.wait(0.5))
		if l.lost > 0 || i > 0 && l.dropped > 0 {
			t.Errorf("lane %d: of %d datagrams %d are lost, %d dropped", i, l.sent, l.lost, l.dropped)
		}
		if w := l.wait(0.99); w > 50*time.Millisecond {
			t.Errorf("lane %d waits %v", i, w)
		}
	}
	if l := s.lanes[0]; l.received < 220_000 {
		t.Errorf("of the flood only %d datagrams a second are admitted, there is time for 80 000", l.received/3)
	}
}

// A socket of the kernel's usual size is full before anything has waited for long:
// then it is the kernel that drops, half of everything here, unless the flood is
// cut because the socket was full.
func TestAdmissionWithASmallSocket(t *testing.T) {
	s := overloaded(NewAdmission(DefaultAdmission()), flood(200_000, 1000), flood(9_000, 1000), flood(50, 120))
	s.room = 300_000
	s.run(2 * time.Second)
	s.reset()
	s.run(3 * time.Second)
	for i, l := range s.lanes[1:] {
		if l.lost > l.sent/5 || l.dropped > 0 {
			t.Errorf("lane %d: of %d datagrams %d are lost, %d dropped", i+1, l.sent, l.lost, l.dropped)
		}
	}
	if l := s.lanes[0]; l.received < 200_000 {
		t.Errorf("of the flood only %d datagrams a second are admitted", l.received/3)
	}
}

// When a flood ends, what it was cut by ends too.
func TestAdmissionForgetsAFlood(t *testing.T) {
	s := overloaded(NewAdmission(DefaultAdmission()), flood(200_000, 1000), flood(30_000, 1000))
	s.run(2 * time.Second)
	s.lanes[0].next = 1e18
	s.run(100 * time.Millisecond)
	s.reset()
	s.run(2 * time.Second)
	if l := s.lanes[1]; l.dropped+l.lost > 0 {
		t.Errorf("after the flood %d datagrams are dropped, %d lost", l.dropped, l.lost)
	}
	for range 5 {
		s.now += 20 * ms // somebody else had the processor
		s.run(300 * time.Millisecond)
	}
	if l := s.lanes[1]; l.dropped+l.lost > 0 {
		t.Errorf("in a burst after the flood %d datagrams are dropped, %d lost", l.dropped, l.lost)
	}
}

// Floods of unequal rates get equal shares.
func TestAdmissionIsFair(t *testing.T) {
	var lanes []*simLane
	for i := range 16 {
		lanes = append(lanes, flood(10_000*(1+float64(i)), 1000))
	}
	s := overloaded(NewAdmission(DefaultAdmission()), lanes...)
	s.run(time.Second)
	s.reset()
	s.run(2 * time.Second)
	if index := jain(s.lanes); index < 0.98 {
		t.Errorf("Jain's index is %.3f", index)
	}
}

// Lanes that react are kept at a short wait by few drops.
func TestAdmissionSignalsThoseThatReact(t *testing.T) {
	var lanes []*simLane
	for i := range 8 {
		lanes = append(lanes, &simLane{size: 1400, every: 1e9 / 20_000, reacts: true, next: float64(i) * 1000})
	}
	s := overloaded(NewAdmission(DefaultAdmission()), append(lanes, flood(50, 120))...)
	s.run(3 * time.Second)
	s.reset()
	before := s.admission.Stats()
	s.run(5 * time.Second)
	after := s.admission.Stats()
	t.Logf("%+v, before that %+v", after, before)
	if index := jain(lanes); index < 0.98 {
		t.Errorf("Jain's index is %.3f", index)
	}
	if w := lanes[0].wait(0.5); w > 20*time.Millisecond {
		t.Errorf("the wait is %v", w)
	}
	if after.CoDel == before.CoDel || after.Shed-before.Shed > 2000 || s.lanes[8].dropped+s.lanes[8].lost > 0 {
		t.Errorf("%+v, %d of a sparse lane dropped", after, s.lanes[8].dropped)
	}
	received := 0
	for _, l := range lanes {
		received += l.received
	}
	if received < 425_000 {
		t.Errorf("%d datagrams a second, there is time for 100 000", received/5)
	}
}

// What is to be kept is, be it the fattest.
func TestAdmissionKeepsWhatItMust(t *testing.T) {
	kept := flood(50_000, 1000)
	kept.keep = true
	s := overloaded(NewAdmission(DefaultAdmission()), kept, flood(100_000, 1000))
	s.run(3 * time.Second)
	if kept.dropped > 0 || s.lanes[1].dropped == 0 {
		t.Errorf("%d dropped of the lane to keep, %d of the other", kept.dropped, s.lanes[1].dropped)
	}
}

// Without overload nothing is dropped, in bursts as large as the socket takes.
func TestAdmissionLeavesBurstsAlone(t *testing.T) {
	s := overloaded(NewAdmission(DefaultAdmission()), flood(50_000, 1000))
	for range 20 {
		s.run(200 * time.Millisecond)
		s.now += 15 * ms // somebody else had the processor
	}
	if st := s.admission.Stats(); st.CoDel+st.Shed > 0 || st.Admitted == 0 {
		t.Errorf("%+v", st)
	}
}

// CoDel's law is that of the FQ: the first signal after an interval, the next ones
// closer and closer, one datagram for each.
func TestAdmissionFollowsTheLaw(t *testing.T) {
	c := DefaultAdmission()
	c.Sparse = 0
	a := NewAdmission(c)
	var at []int64
	for now := ms; len(at) < 20; now += ms / 10 {
		batch := []Arrival{{Lane: 1 << 40, Packets: 3, Bytes: 3000}, {Lane: 2, Packets: 5, Bytes: 500}}
		if n := a.Decide(now, 6*ms, false, batch); n > 0 {
			if n != 1 || batch[0].Drop != 1 || batch[1].Drop != 0 {
				t.Fatalf("%d dropped: %+v", n, batch)
			}
			at = append(at, now)
		}
	}
	if at[0] < 100*ms || at[0] > 102*ms {
		t.Errorf("the first signal is after %v", time.Duration(at[0]))
	}
	for i, want := range lawOracle(100*ms, len(at)) {
		if d := at[i] - at[0] - want; d < -ms || d > ms {
			t.Errorf("signal %d comes %v after the first, want %v", i, time.Duration(at[i]-at[0]), time.Duration(want))
		}
	}
}

// A second overload is met like the first one, gently.
func TestAdmissionBeginsAnew(t *testing.T) {
	a := NewAdmission(DefaultAdmission())
	now := ms
	decide := func(d, sojourn int64) (dropped int) {
		for end := now + d; now < end; now += 10 * ms {
			dropped = a.Decide(now, sojourn, false, []Arrival{{Lane: 1, Packets: 1000, Bytes: 1_000_000}})
		}
		return dropped
	}
	if n := decide(2000*ms, 30*ms); n < 900 {
		t.Errorf("of 1000 datagrams %d are dropped at last", n)
	}
	decide(100*ms, ms)
	if n := decide(230*ms, 11*ms); n < 10 || n > 100 {
		t.Errorf("of 1000 datagrams %d are dropped at first, want few", n)
	}
}

// Sparse lanes lose nothing, even if there are no others; nor do those that share a
// place in one of the tables with a flood.
func TestAdmissionSparesSparseLanes(t *testing.T) {
	a := NewAdmission(DefaultAdmission())
	for now := ms; now < 3000*ms; now += 20 * ms {
		batch := []Arrival{{Lane: 5<<32 | 5, Packets: 1, Bytes: 500}, {Lane: 6<<32 | 6, Packets: 1, Bytes: 500}}
		if n := a.Decide(now, 30*ms, false, batch); n > 0 {
			t.Fatalf("%+v", batch)
		}
	}
	for now := 3000 * ms; now < 6000*ms; now += 20 * ms {
		batch := []Arrival{{Lane: 5<<32 | 8, Packets: 1, Bytes: 500}, {Lane: 7<<32 | 8, Packets: 100, Bytes: 100000}, {Lane: 7<<32 | 6, Packets: 1, Bytes: 500}}
		a.Decide(now, 30*ms, false, batch)
		if batch[0].Drop+batch[2].Drop > 0 || now > 3500*ms && batch[1].Drop == 0 {
			t.Fatalf("%+v", batch)
		}
	}
}

// No message loses more than it holds, however many signals are due.
func TestAdmissionDropsNoMoreThanThereIs(t *testing.T) {
	c := DefaultAdmission()
	c.Sparse = 0
	a := NewAdmission(c)
	now, most := ms, 0
	for range 20 {
		now += 10_000 * ms
		for range 3 {
			now += 150 * ms
			batch := []Arrival{{Lane: 1<<40 | 1, Packets: 2, Bytes: 3000}, {Lane: 2, Packets: 3, Bytes: 400}}
			n := a.Decide(now, 6*ms, false, batch)
			if batch[0].Drop > 2 || batch[1].Drop > 3 || batch[1].Drop > 0 && batch[0].Drop < 2 || n != batch[0].Drop+batch[1].Drop {
				t.Fatalf("%+v", batch)
			}
			most = max(most, n)
		}
	}
	if most != 5 {
		t.Errorf("%d of 5 datagrams dropped at once at most: the test tests nothing", most)
	}
}

func TestAdmissionModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := NewAdmission(DefaultAdmission())
		now, all := int64(1), uint64(0)
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			now += rapid.Int64Range(0, 200*ms).Draw(t, "wait")
			batch := make([]Arrival, rapid.IntRange(0, 20).Draw(t, "messages"))
			for i := range batch {
				batch[i] = Arrival{
					Lane: laneHash(rapid.IntRange(0, 5).Draw(t, "lane")), Packets: rapid.IntRange(1, 64).Draw(t, "packets"),
					Bytes: rapid.IntRange(1, 65536).Draw(t, "bytes"), Keep: rapid.Bool().Draw(t, "keep"), Drop: 7,
				}
			}
			n, sum := a.Decide(now, rapid.Int64Range(-ms, 500*ms).Draw(t, "sojourn"), rapid.Bool().Draw(t, "full"), batch), 0
			for _, m := range batch {
				if m.Drop < 0 || m.Drop > m.Packets || m.Keep && m.Drop > 0 {
					t.Fatalf("%+v", m)
				}
				sum += m.Drop
				all += uint64(m.Packets)
			}
			if s := a.Stats(); n != sum || s.Admitted+s.CoDel+s.Shed != all {
				t.Fatalf("%d dropped of which %d are told, %+v of %d", sum, n, s, all)
			}
		}
	})
}

func TestAdmissionDoesNotAllocate(t *testing.T) {
	a := NewAdmission(DefaultAdmission())
	batch := manyArrivals()
	now := ms
	if n := testing.AllocsPerRun(100, func() {
		now += 10 * ms
		a.Decide(now, 40*ms, false, batch)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if s := a.Stats(); s.Shed == 0 || s.CoDel == 0 {
		t.Errorf("%+v: the test is to make both happen", s)
	}
}

func TestAdmissionConfigIsValidated(t *testing.T) {
	if err := DefaultAdmission().Validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*AdmissionConfig){
		"interval": func(c *AdmissionConfig) { c.Interval = 0 }, "target": func(c *AdmissionConfig) { c.Target = c.Interval },
		"shed": func(c *AdmissionConfig) { c.Shed = c.Target }, "sparse": func(c *AdmissionConfig) { c.Sparse = -1 },
	} {
		c := DefaultAdmission()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), name+" is") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func manyArrivals() []Arrival {
	batch := make([]Arrival, 128)
	for i := range batch {
		batch[i] = Arrival{Lane: laneHash(i % 40), Packets: 10, Bytes: 14000 + i}
	}
	return batch
}

func benchmarkAdmission(b *testing.B, sojourn int64) {
	a := NewAdmission(DefaultAdmission())
	batch := manyArrivals()
	b.ReportAllocs()
	for now := int64(1); b.Loop(); now += ms {
		a.Decide(now, sojourn, false, batch)
	}
}

func BenchmarkAdmissionIdle(b *testing.B)     { benchmarkAdmission(b, ms) }
func BenchmarkAdmissionBusy(b *testing.B)     { benchmarkAdmission(b, 4*ms) }
func BenchmarkAdmissionOverload(b *testing.B) { benchmarkAdmission(b, 50*ms) }
