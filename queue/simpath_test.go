package queue

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// simPath is a tunnel over a path in virtual time: a source, an Autorate and a
// Shaper, a bottleneck with a FIFO, the way, and a peer that reports. Rates are in
// bit/s, times in nanoseconds. The fields up to rng can be changed before it runs.
type simPath struct {
	capacity func(now int64) float64 // of the bottleneck
	fifo     int                     // packets
	way      func(now int64) int64   // one way, without a queue
	far      int64                   // more of it, both ways
	loss     float64                 // of packets, by chance
	report   int64                   // every so often
	deaf     func(now int64) bool    // reports do not come through
	load     func(now int64) float64 // what the source sends, if it can
	rng      *rand.Rand

	auto    *Autorate
	shaper  *Shaper
	free    float64 // when the bottleneck is free
	wants   float64 // packets that the source has
	away    []simPacket
	reports []simReport
	period  simPeriod
	course  []simMoment
	reasons map[RateReason]int
}

// simPacket is on its way, or lost.
type simPacket struct {
	arrives int64
	lost    bool
	probe   int64 // one-way delay that it tells, 0 if it is none
}

// simReport is on its way back.
type simReport struct {
	arrives int64
	sample  PathSample
}

// simPeriod is what has been since the last report.
type simPeriod struct {
	packets, lost uint64
	least, busy   int64
}

// simMoment is one millisecond.
type simMoment struct {
	rate, capacity float64
	delay          int64 // in the FIFO
	sent           float64
}

const (
	simSize = 1500
	simWay  = 15 * ms
)

func newSimPath(c AutorateConfig, capacity func(now int64) float64) *simPath {
	return &simPath{
		capacity: capacity, fifo: 1000, report: 200 * ms,
		way:  func(int64) int64 { return simWay },
		deaf: func(int64) bool { return false },
		load: func(int64) float64 { return 1e9 },
		rng:  rand.New(rand.NewPCG(1, 1)),
		auto: NewAutorate(c), shaper: NewShaper(DefaultShaper(c.Base)),
		period: simPeriod{least: math.MaxInt64}, reasons: make(map[RateReason]int),
	}
}

// run goes on for a time, in steps of a millisecond.
func (p *simPath) run(t *testing.T, d time.Duration) {
	t.Helper()
	for range d.Milliseconds() {
		now := int64(len(p.course)+1) * ms
		p.course = append(p.course, simMoment{rate: float64(p.auto.Rate()), capacity: p.capacity(now)})
		m := &p.course[len(p.course)-1]
		p.send(now, m)
		m.delay = max(int64(p.free)-now, 0)
		if now%(50*ms) == 0 {
			delay := m.delay + p.way(now)
			p.away = append(p.away, simPacket{arrives: now + p.far + delay, probe: delay})
		}
		p.arrive(now)
		if now%p.report == 0 {
			p.tell(now)
		}
		p.hear(t, now)
	}
}

func (p *simPath) send(now int64, m *simMoment) {
	p.shaper.SetRate(now, p.auto.Rate())
	p.wants = min(p.wants+p.load(now)/8000/simSize, 200)
	for p.wants >= 1 && p.shaper.Ready(now) {
		p.wants--
		p.shaper.Admit(now, simSize)
		p.free = max(p.free, float64(now))
		full := (p.free-float64(now))/1e9*m.capacity > float64(p.fifo*simSize*8)
		packet := simPacket{lost: full || p.rng.Float64() < p.loss}
		if !full {
			p.free += simSize * 8e9 / m.capacity
			m.sent += simSize * 8
		}
		packet.arrives = int64(p.free) + p.way(now) + p.far
		p.away = append(p.away, packet)
	}
	if p.wants >= 1 {
		p.period.busy += ms
	}
}

// arrive is at the peer.
func (p *simPath) arrive(now int64) {
	p.away = slices.DeleteFunc(p.away, func(a simPacket) bool {
		switch {
		case a.arrives > now:
			return false
		case a.probe > 0:
			p.period.least = min(p.period.least, a.probe)
		case a.lost:
			p.period.lost++
		default:
			p.period.packets++
		}
		return true
	})
}

// tell sends a report.
func (p *simPath) tell(now int64) {
	s := PathSample{
		Elapsed: time.Duration(p.report), Packets: p.period.packets, Lost: p.period.lost, Bytes: p.period.packets * simSize,
		Delay: -1, Busy: p.period.busy > p.report/2,
	}
	if p.period.least < math.MaxInt64 {
		s.Delay = time.Duration(p.period.least - simWay)
	}
	p.reports = append(p.reports, simReport{now + simWay + p.far, s})
	p.period = simPeriod{least: math.MaxInt64}
}

// hear takes the reports that have come.
func (p *simPath) hear(t *testing.T, now int64) {
	for len(p.reports) > 0 && p.reports[0].arrives <= now {
		if !p.deaf(now) {
			p.decided(t, now, p.auto.Report(now, p.reports[0].sample))
		}
		p.reports = p.reports[1:]
	}
	if now%1e9 == 0 {
		if d := p.auto.Tick(now, p.wants >= 1); d.At == now && d.Reason == RateSilent {
			p.decided(t, now, d)
		}
	}
}

func (p *simPath) decided(t *testing.T, now int64, d RateDecision) {
	p.reasons[d.Reason]++
	if testing.Verbose() {
		t.Logf("%7.2f s, path %.1f Mbit/s: %v", float64(now)/1e9, p.capacity(now)/1e6, d)
	}
}

// span is the course from a second to another.
func (p *simPath) span(from, to float64) []simMoment {
	return p.course[int(from*1000):int(to*1000)]
}

// used is how much of the path was used.
func used(course []simMoment) float64 {
	var sent, could float64
	for _, m := range course {
		sent += m.sent
		could += m.capacity / 1000
	}
	return sent / could
}

// delayQuantile is the delay in the FIFO that a share of the time did not exceed.
func delayQuantile(course []simMoment, share float64) time.Duration {
	var delays []int64
	for _, m := range course {
		delays = append(delays, m.delay)
	}
	slices.Sort(delays)
	return time.Duration(delays[int(share*float64(len(delays)-1))])
}

// settled is how long from a second on the delay is above a limit, before it is
// below for a second.
func (p *simPath) settled(from float64, limit time.Duration) time.Duration {
	good := 0
	for i, m := range p.course[int(from*1000):] {
		if good++; m.delay >= int64(limit) {
			good = 0
		}
		if good == 1000 {
			return time.Duration(i-999) * time.Millisecond
		}
	}
	return never
}

// reached is how long from a second on less than a share of the path is used, in
// any second.
func (p *simPath) reached(from, share float64) time.Duration {
	for i := int(from * 1000); i+1000 <= len(p.course); i += 10 {
		if used(p.course[i:i+1000]) >= share {
			return time.Duration(i-int(from*1000)) * time.Millisecond
		}
	}
	return never
}

// never is longer than anything takes.
const never = time.Duration(math.MaxInt64)
