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

// sleeper wakes up late.
type sleeper func(r *rand.Rand) int64

func onTime(*rand.Rand) int64       { return 0 }
func msLate(r *rand.Rand) int64     { return r.Int64N(ms) }
func twoMsLate(r *rand.Rand) int64  { return ms + r.Int64N(ms) }
func alwaysTwoMs(*rand.Rand) int64  { return 2 * ms }
func seldomLate(r *rand.Rand) int64 { return r.Int64N(20) / 19 * 2 * ms }
func timerSlack(r *rand.Rand) int64 { return 50_000 + r.Int64N(60_000) }

// saturate lets a shaper send packets for a time, from a queue that is never
// empty, and gives when each went.
func saturate(s *Shaper, from int64, d time.Duration, late sleeper, cost func() int) (sent []admitted, wakeups int) {
	r := rand.New(rand.NewPCG(1, 2))
	for now := from; now < from+int64(d); now = max(s.NextAt(), now+1) + late(r) {
		wakeups++
		for s.Ready(now) {
			c := cost()
			s.Admit(now, c)
			sent = append(sent, admitted{now, c})
		}
	}
	return sent, wakeups
}

type admitted struct {
	at   int64
	cost int
}

func total(sent []admitted) (bytes int) {
	for _, a := range sent {
		bytes += a.cost
	}
	return bytes
}

// standing is the longest queue, in nanoseconds of the link, that a link of the
// same rate behind the shaper has.
func standing(sent []admitted, rate int64) (worst int64) {
	var free float64
	for _, a := range sent {
		free = max(free, float64(a.at))
		worst = max(worst, int64(free)-a.at)
		free += float64(a.cost) * 8e9 / float64(rate)
	}
	return worst
}

var rates = []int64{1e6, 10e6, 20e6, 100e6, 500e6, 1e9, 2e9}

// TestShaperKeepsItsRate is the promise of 2 %, for timers as they are, and that
// no core burns: no more wake-ups than 4000 a second.
func TestShaperKeepsItsRate(t *testing.T) {
	for _, rate := range rates {
		for name, late := range map[string]sleeper{
			"on time": onTime, "timer slack": timerSlack, "up to 1 ms": msLate, "1 to 2 ms": twoMsLate, "2 ms": alwaysTwoMs, "seldom 2 ms": seldomLate,
		} {
			d := 4 * time.Second
			if rate > 1e8 {
				d = time.Second / 2
			}
			s := NewShaper(DefaultShaper(rate))
			sent, wakeups := saturate(s, ms, d, late, func() int { return 1500 })
			got := float64(total(sent)) * 8 / d.Seconds() / float64(rate)
			if got < 0.98 || got > 1.02 {
				t.Errorf("%d Mbit/s, wake-ups %s: %.4f of the rate", rate/1e6, name, got)
			}
			if perSecond := float64(wakeups) / d.Seconds(); perSecond > 4010 {
				t.Errorf("%d Mbit/s, wake-ups %s: %.0f a second", rate/1e6, name, perSecond)
			}
		}
	}
}

// The queue that a late wake-up makes behind the shaper is as long as it was late,
// and one packet or grain.
func TestShaperBurstsAreBounded(t *testing.T) {
	for _, rate := range rates {
		packet := 1500 * 8e9 / rate
		for name, test := range map[string]struct {
			late sleeper
			most int64
		}{"on time": {onTime, 250_000}, "2 ms": {alwaysTwoMs, 2*ms + 250_000}, "10 ms": {func(*rand.Rand) int64 { return 10 * ms }, 3 * ms}} {
			sent, _ := saturate(NewShaper(DefaultShaper(rate)), ms, time.Second/2, test.late, func() int { return 1500 })
			if worst := standing(sent, rate); worst > test.most+packet {
				t.Errorf("%d Mbit/s, wake-ups %s: a queue of %v behind the shaper", rate/1e6, name, time.Duration(worst))
			}
		}
	}
}

// However long the link was idle, all that comes at once is what it sends in a
// grain, and a packet.
func TestShaperHasNoBurstAfterIdleness(t *testing.T) {
	for _, rate := range rates {
		s := NewShaper(DefaultShaper(rate))
		for _, idle := range []int64{ms, 100 * ms, 1e9, 3600e9} {
			now := 10e9 + idle
			s.Idle()
			bytes := 0
			for int64(bytes)*8e9/rate < 1e9 && s.Ready(int64(now)) {
				s.Admit(int64(now), 1500)
				bytes += 1500
			}
			if most := 1500 + int(rate/8*250/1e6) + 1; bytes > most {
				t.Errorf("%d Mbit/s: after %v of nothing to send %d bytes at once, want at most %d", rate/1e6, time.Duration(idle), bytes, most)
			}
		}
	}
}

// A shaper's first packet goes at once, and one more only when that has gone.
func TestShaperIsAVirtualClock(t *testing.T) {
	s := NewShaper(ShaperConfig{Rate: 12e6, Slack: time.Millisecond}) // a packet in 1 ms
	s.Idle()
	if !s.Ready(0) {
		t.Fatal("a new link is not free")
	}
	for i := range int64(100) {
		now := i * ms
		if i > 0 && (s.Ready(now-1) || s.NextAt() != now) {
			t.Fatalf("packet %d may go at %d, want %d", i, s.NextAt(), now)
		}
		if !s.Ready(now) {
			t.Fatalf("packet %d may not go", i)
		}
		s.Admit(now, 1500)
	}
}

// Rates that do not divide a packet into whole nanoseconds lose nothing by it.
func TestShaperLosesNoPartOfANanosecond(t *testing.T) {
	const rate = 1e9*7 + 3
	s := NewShaper(ShaperConfig{Rate: rate})
	s.Admit(0, 1)
	for range 7_000_000 {
		s.Admit(0, 125)
	}
	exact := (7_000_000*125.0 + 1) * 8e9 / rate
	if d := float64(s.NextAt()) - exact; math.Abs(d) > 1 {
		t.Errorf("7 million packets end %v ns from where they should", d)
	}
}

func TestShaperChangesItsRateInFlight(t *testing.T) {
	s := NewShaper(DefaultShaper(1e6))
	s.Idle()
	s.Admit(0, 12500) // 100 ms, less a grain
	s.SetRate(50*ms, 10e6)
	if got, want := s.NextAt(), 50*ms+(50*ms-50_000)/10; got < want-10 || got > want+10 {
		t.Errorf("half of the packet at a tenth of the time ends at %v, want %v", time.Duration(got), time.Duration(want))
	}
	s.SetRate(50*ms, 0)
	if !s.Ready(50*ms) || s.NextAt() > 50*ms || s.Rate() != 0 {
		t.Error("without a limit it is not ready")
	}
	s.Admit(50*ms, 1e6)
	s.SetRate(51*ms, 1e6)
	if !s.Ready(51 * ms) {
		t.Error("what was sent before there was no limit counts")
	}
	// Every second another rate; what is sent is their mean.
	rng := rand.New(rand.NewPCG(3, 4))
	bytes, want := 0, 0.0
	now := int64(1e9)
	for range 100 {
		rate := int64(1e6 * math.Exp(rng.Float64()*5))
		s.SetRate(now, rate)
		sent, _ := saturate(s, now, time.Second, timerSlack, func() int { return 1500 })
		bytes += total(sent)
		want += float64(rate) / 8
		now += 1e9
	}
	if got := float64(bytes) / want; got < 0.98 || got > 1.02 {
		t.Errorf("%.4f of the rates", got)
	}
}

// What must hold whatever is done: over any time the link is ahead by no more than
// slack and what was put on it without asking, and one packet.
func TestShaperModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Int64Range(MinRate, 3e9).Draw(t, "rate")
		c := DefaultShaper(rate)
		s := NewShaper(c)
		type event struct{ at, bits int64 }
		var events []event
		now, largest := int64(1), int64(0)
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now += rapid.Int64Range(0, rapid.SampledFrom([]int64{1000, ms, 100 * ms}).Draw(t, "scale")).Draw(t, "wait")
			if rapid.IntRange(0, 3).Draw(t, "do") == 0 {
				s.Idle()
				continue
			}
			for n := 0; n < 100 && s.Ready(now); n++ {
				cost := rapid.IntRange(1, 65536).Draw(t, "cost")
				s.Admit(now, cost)
				events = append(events, event{now, int64(cost) * 8})
				largest = max(largest, int64(cost)*8)
			}
		}
		for i := range events {
			sum := int64(0)
			for _, e := range events[i:] {
				sum += e.bits
				allowed := float64(e.at-events[i].at+int64(c.Slack))/1e9*float64(rate) + float64(largest) + 1
				if float64(sum) > allowed {
					t.Fatalf("%d bits in %v at %d bit/s, want at most %.0f", sum, time.Duration(e.at-events[i].at), rate, allowed)
				}
			}
		}
	})
}

func TestShaperConfigIsValidated(t *testing.T) {
	for want, c := range map[string]ShaperConfig{
		"":                          DefaultShaper(MinRate),
		"the rate is 7999 bit/s":    DefaultShaper(7999),
		"the rate is -1 bit/s":      DefaultShaper(-1),
		"the grain is 11ms":         {Grain: 11 * time.Millisecond, Slack: 20 * time.Millisecond},
		"the grain is -1ns":         {Grain: -1},
		"the slack is 1ms":          {Grain: 2 * time.Millisecond, Slack: time.Millisecond},
		"the slack is 101ms":        {Slack: 101 * time.Millisecond},
		"the rate is 1000000000001": DefaultShaper(MaxRate + 1),
	} {
		err := c.Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
}

func BenchmarkShaper(b *testing.B) {
	s := NewShaper(DefaultShaper(1e9))
	for now := int64(0); b.Loop(); now += 12_000 {
		if s.Ready(now) {
			s.Admit(now, 1500)
		}
	}
}

// The tunnel's own queue in front of a gateway with a FIFO of 1000 packets, both at
// 20 Mbit/s: eight flows that fill it, and what a sparse flow waits in both.
func TestShaperBeforeADumbFIFO(t *testing.T) {
	const rate = int64(20e6)
	o := Overhead{Bytes: 14}
	for name, test := range map[string]struct {
		late          sleeper
		median, worst time.Duration
	}{
		"timer slack": {timerSlack, time.Millisecond, 3 * time.Millisecond},
		"up to 1 ms":  {msLate, 2 * time.Millisecond, 4 * time.Millisecond},
	} {
		q := New(Default(), func(*testPacket, DropReason) {})
		s := NewShaper(DefaultShaper(rate))
		r := rand.New(rand.NewPCG(1, 2))
		var free float64 // when the gateway's link is
		var waits []int64
		bytes, number := 0, 0
		const seconds = 10
		for now, sparse := ms, 100*ms; now < seconds*1e9; now = max(s.NextAt(), now+1) + test.late(r) {
			for q.Len() < 400 {
				number++
				q.Enqueue(now, spread(uint64(number%8)), &testPacket{flow: uint64(number % 8), size: 1500, ect: number%2 == 0})
			}
			for ; sparse <= now; sparse += 20*ms + r.Int64N(ms) {
				q.Enqueue(sparse, spread(100), &testPacket{flow: 100, size: 100, sent: sparse})
			}
			for s.Ready(now) {
				p, _ := q.Dequeue(now)
				cost := o.Cost(p.size)
				s.Admit(now, cost)
				free = max(free, float64(now))
				if p.flow == 100 {
					waits = append(waits, int64(free)-p.sent)
				}
				free += float64(cost) * 8e9 / float64(rate)
				bytes += cost
			}
		}
		slices.Sort(waits)
		median, worst := time.Duration(waits[len(waits)/2]), time.Duration(waits[len(waits)-1])
		goodput := float64(bytes) * 8 / seconds / float64(rate)
		t.Logf("wake-ups late by %s: median %v, worst %v, %.3f of the rate", name, median, worst, goodput)
		if median > test.median || worst > test.worst || goodput < 0.95 {
			t.Errorf("wake-ups late by %s: median %v, worst %v, %.3f of the rate", name, median, worst, goodput)
		}
	}
}
