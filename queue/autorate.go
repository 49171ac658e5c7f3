package queue

import (
	"fmt"
	"math"
	"time"
)

// AutorateConfig bounds an [Autorate]. Start from [DefaultAutorate].
type AutorateConfig struct {
	// Min, Base and Max are rates, bit/s, in this order: the least that is ever
	// set, what is set at the start and returned to when there is no load, and
	// the most.
	Min, Base, Max int64
	// Delay is how much longer than at its best the way may take, above 0 to a
	// second: what is more is a queue that is to go. A path whose delay varies
	// by itself needs more, LTE and Starlink 20 to 30 ms.
	Delay time.Duration
	// Loss is which share of the packets may be lost, or marked, before that is
	// taken for a limit of the path that has no queue, above 0 to 1.
	Loss float64
}

// DefaultAutorate begins at the geometric mean of two rates, and allows a delay of
// 10 ms and a loss of 3 %.
func DefaultAutorate(least, most int64) AutorateConfig {
	base := int64(math.Sqrt(float64(least) * float64(most)))
	return AutorateConfig{Min: least, Base: base, Max: most, Delay: 10 * time.Millisecond, Loss: 0.03}
}

// Validate names the first field that is out of range, and the range.
func (c AutorateConfig) Validate() error {
	if c.Min < MinRate || c.Min > MaxRate {
		return fmt.Errorf("queue: the least rate is %d bit/s, use %d to %d", c.Min, MinRate, MaxRate)
	}
	if c.Max < c.Min || c.Max > MaxRate {
		return fmt.Errorf("queue: the most rate is %d bit/s, use the least, which is %d, to %d", c.Max, c.Min, MaxRate)
	}
	if c.Base < c.Min || c.Base > c.Max {
		return fmt.Errorf("queue: the base rate is %d bit/s, use %d to %d", c.Base, c.Min, c.Max)
	}
	if c.Delay <= 0 || c.Delay > time.Second {
		return fmt.Errorf("queue: the delay is %v, use more than 0 and at most 1s", c.Delay)
	}
	if c.Loss <= 0 || c.Loss > 1 {
		return fmt.Errorf("queue: the loss is %v, use more than 0 and at most 1", c.Loss)
	}
	return nil
}

// PathSample is what the peer's reports say of the way to it since the last
// sample. Reports should come every 200 ms at least; the delay after the path has
// become slower is over sooner the more often they come.
type PathSample struct {
	// Elapsed is the time that the counts are of, by the peer's clock.
	Elapsed time.Duration
	// Bytes arrived, counted as the shaper counts them ([Overhead.Cost]), in
	// Packets, of which CE were marked on the way; Lost did not arrive.
	Packets, Lost, CE, Bytes uint64
	// Delay is the least of the one-way delays in that time, above the minimum
	// of the path; below 0 if there was none. The least, because a delay that
	// goes away by itself is no standing queue.
	Delay time.Duration
	// Busy says that the shaper held packets back for most of the time.
	Busy bool
}

// RateReason says why an [Autorate] decided as it did.
type RateReason uint8

const (
	// RateStart: nothing is known yet.
	RateStart RateReason = iota
	// RateHold: it is as it should be, or too early to say.
	RateHold
	// RateUp: there is more to send, and no queue.
	RateUp
	// RateTrim: a queue begins to form.
	RateTrim
	// RateDrain: there is a queue, which is to drain.
	RateDrain
	// RateDrained: the queue is gone; the rate is nearly what arrived before.
	RateDrained
	// RateLoss: more than Loss is lost or marked, though there is no queue.
	RateLoss
	// RateIdle: there is little load, and the rate goes back to Base.
	RateIdle
	// RateSilent: no report has come for a long time.
	RateSilent
	// RateLonger: a delay does not go away by sending less, so it is the way's.
	RateLonger
	// RateReasons is how many there are.
	RateReasons = iota
)

var rateReasons = [RateReasons]string{
	"start", "steady", "load and no queue", "a queue forms", "queue on the path", "the queue has drained",
	"loss without a queue", "little load", "no reports", "the way has become longer",
}

// String gives the reason in words.
func (r RateReason) String() string {
	if int(r) >= len(rateReasons) {
		return "?"
	}
	return rateReasons[r]
}

// RateDecision is what an [Autorate] decided last, and on what grounds.
type RateDecision struct {
	At        int64 // when
	Rate, Was int64 // bit/s, the rate now and before
	Reason    RateReason
	// Achieved is at what rate bytes arrived, bit/s, Loss the share of packets
	// that were lost or marked, and Delay the delay, below 0 if not known.
	Achieved int64
	Loss     float64
	Delay    time.Duration
}

// String is the decision in a line for a log.
func (d RateDecision) String() string {
	delay := "unknown"
	if d.Delay >= 0 {
		delay = d.Delay.Round(100 * time.Microsecond).String()
	}
	return fmt.Sprintf("%.2f → %.2f Mbit/s: %v (delay %s, %.2f Mbit/s arrived, %.1f %% lost or marked)",
		float64(d.Was)/1e6, float64(d.Rate)/1e6, d.Reason, delay, float64(d.Achieved)/1e6, 100*d.Loss)
}

// How fast rates change. Times are in seconds.
const (
	growFast   = 0.20  // a second, where nothing is known of a limit
	growSlow   = 0.015 // a second, near the rate at which the last queue formed
	near       = 1.05  // times that rate
	decay      = 0.05  // a second, towards Base
	trimTo     = 0.97  // of what arrived
	drainedTo  = 0.95  // of what arrived while there was a queue
	drainMost  = 0.90  // of what arrives, while a queue is to drain,
	drainLeast = 0.10  // and at least
	drainTime  = 1.0   // in which a queue is to drain
	highLoad   = 0.75  // of the rate
	unsent     = 0.75  // of the rate that a queue leaves which is not ours
	leastOurs  = 0.10  // of the rate must arrive for a queue to be ours

	refractory = int64(300 * time.Millisecond) // between steps down for a queue that is not ours
	patience   = int64(2 * time.Second)        // and twice the delay: until draining must show
	idleAfter  = int64(time.Second)
	lately     = int64(600 * time.Millisecond) // load counts for so long: some reports
	silence    = int64(3 * time.Second)
	mostStep   = int64(time.Second) // that counts between two samples
)

// Autorate finds the rate of a path whose rate varies, as LTE, Starlink and cable
// do, from what the peer reports. It knows its users' cake-autorate: the rate goes
// up only under load, comes down at once when there is a queue on the path, and
// goes to a base when there is no load.
//
// While a queue stands before the path's bottleneck, the rate at which packets
// arrive is the bottleneck's. So it need not guess how far to go down: it goes to
// a part of that until the queue has drained, and then to nearly all of it.
type Autorate struct {
	config  AutorateConfig
	rate    float64
	last    RateDecision
	at      int64         // of the last sample, 0 = none
	ceiling float64       // the rate at which the last queue formed, 0 = not known
	foreign int64         // when the rate went down last for a queue that is not ours
	loaded  int64         // when there was load last, or it began
	busy    int64         // when there was load last, 0 = never
	bad     int           // samples in a row with a queue
	lossy   int           // samples in a row with loss
	longer  time.Duration // delay that is the way's and not a queue's
	drain   drain
	ticked  int64 // when Tick changed the rate last
}

// drain is a queue that is being got rid of.
type drain struct {
	active bool
	since  int64
	delay  time.Duration // at its begin
	before float64       // the rate then
	rate   float64       // of the bottleneck
}

// NewAutorate begins at Base. The configuration must be valid.
func NewAutorate(c AutorateConfig) *Autorate {
	return &Autorate{config: c, rate: float64(c.Base), last: RateDecision{Rate: c.Base, Was: c.Base, Delay: -1}}
}

// Rate is the rate to shape to, bit/s.
func (a *Autorate) Rate() int64 { return a.last.Rate }

// Last is the last decision, for a status.
func (a *Autorate) Last() RateDecision { return a.last }

// Report takes a sample and decides.
func (a *Autorate) Report(now int64, s PathSample) RateDecision {
	step := min(now-a.at, mostStep)
	if a.at == 0 {
		step, a.loaded = 0, now
	}
	a.at = now
	m := a.measure(s)
	if m.load {
		a.loaded, a.busy = now, now
	}
	reason := a.decide(now, float64(step)/1e9, &m)
	return a.set(now, reason, &m)
}

// measure is what a sample comes to.
type measure struct {
	achieved float64 // bit/s, 0 if not known
	loss     float64
	delay    time.Duration // above what is the way's, below 0 if not known
	load     bool
}

func (a *Autorate) measure(s PathSample) (m measure) {
	m.delay = -1
	if s.Elapsed > 0 {
		m.achieved = float64(s.Bytes) * 8 / s.Elapsed.Seconds()
	}
	if all := s.Packets + s.Lost; all > 0 {
		m.loss = float64(s.Lost+min(s.CE, s.Packets)) / float64(all)
	}
	if s.Delay >= 0 {
		a.longer = min(a.longer, s.Delay)
		m.delay = s.Delay - a.longer
	}
	m.load = s.Busy || m.achieved >= highLoad*a.rate
	return m
}

// decide changes the rate and says why.
func (a *Autorate) decide(now int64, step float64, m *measure) RateReason {
	a.bad = ternary(m.delay > a.config.Delay, a.bad+1, 0)
	a.lossy = ternary(m.loss > a.config.Loss && m.load, a.lossy+1, 0)
	switch {
	case a.drain.active:
		return a.draining(now, m)
	case a.bad >= 2 || m.delay > 3*a.config.Delay:
		return a.bloat(now, m)
	case a.lossy >= 2:
		a.cut(trimTo * m.achieved)
		return RateLoss
	case m.delay > a.config.Delay/2 && m.load:
		a.cut(trimTo * m.achieved)
		return RateTrim
	case m.load:
		return a.grow(step, m)
	case now-a.loaded >= idleAfter:
		return a.idle(step)
	}
	return RateHold
}

// grow raises the rate, slowly where the last queue formed, fast beyond it.
func (a *Autorate) grow(step float64, m *measure) RateReason {
	if m.delay > a.config.Delay/4 || m.loss > a.config.Loss {
		return RateHold
	}
	speed := growFast
	if a.ceiling > 0 && a.rate > a.ceiling/near/near {
		speed = growSlow
	}
	a.rate *= math.Exp(speed * step)
	if a.rate > a.ceiling*near {
		a.ceiling = 0
	}
	return RateUp
}

// cut lowers the rate to one at which packets arrived, if that is lower.
func (a *Autorate) cut(rate float64) {
	a.ceiling = a.rate
	if rate == 0 {
		rate = a.rate * unsent
	}
	a.rate = min(a.rate, rate)
}

// bloat begins to drain a queue. One that we did not fill, because we send little,
// says nothing of the bottleneck's rate. But when a path becomes slower, what is on
// its way waits there at once, and flows that send by their acknowledgements send
// little to us from that moment: then it counts that there was load before.
func (a *Autorate) bloat(now int64, m *measure) RateReason {
	ours := m.load || a.busy > 0 && now-a.busy < lately && m.achieved >= leastOurs*a.rate
	if !ours {
		if now-a.foreign >= refractory {
			a.rate = max(a.rate*unsent, m.achieved)
			a.foreign = now
		}
		return RateDrain
	}
	a.drain = drain{active: true, since: now, delay: m.delay, before: a.rate, rate: a.rate}
	return a.draining(now, m)
}

// draining keeps the rate below what arrives until the queue is gone. What arrives
// is the bottleneck's rate for as long as there is a queue.
func (a *Autorate) draining(now int64, m *measure) RateReason {
	d := &a.drain
	switch {
	case m.delay < 0:
		return RateDrain
	case m.delay <= a.config.Delay/2:
		return a.drained(RateDrained)
	case now-d.since > patience+2*int64(d.delay):
		if m.achieved > trimTo*a.rate && m.delay > d.delay/2 {
			a.longer += m.delay
			d.rate = d.before
			return a.drained(RateLonger)
		}
		d.since, d.delay = now, m.delay
	}
	if m.achieved > 0 {
		d.rate = min(d.rate, m.achieved)
	}
	part := 1 - m.delay.Seconds()/drainTime
	a.rate = min(a.rate, d.rate*min(max(part, drainLeast), drainMost))
	return RateDrain
}

// drained goes on at nearly the rate of the bottleneck.
func (a *Autorate) drained(why RateReason) RateReason {
	a.rate = max(a.rate, drainedTo*a.drain.rate)
	a.ceiling = a.drain.rate
	a.drain = drain{}
	a.bad = 0
	return why
}

// idle goes towards Base.
func (a *Autorate) idle(step float64) RateReason {
	base := float64(a.config.Base)
	if a.rate < base {
		a.rate = min(a.rate*math.Exp(decay*step), base)
	} else {
		a.rate = max(a.rate*math.Exp(-decay*step), base)
	}
	return ternary(a.rate == base, RateHold, RateIdle)
}

// Tick is to be called every second or so, reports or not. If there is something
// to send, and no report has come for three seconds, the rate goes down by half in
// every further second: whatever the path is now, it is not what it was. If there
// is nothing to send, of which a peer reports nothing, it goes towards Base.
func (a *Autorate) Tick(now int64, busy bool) RateDecision {
	since := max(a.at, a.ticked)
	if a.at == 0 || now-since < int64(time.Second) {
		return a.last
	}
	switch step := min(now-since, mostStep); {
	case busy && now-a.at >= silence:
		a.ticked = now
		a.rate /= 2
		return a.set(now, RateSilent, &measure{delay: -1})
	case !busy && now-a.loaded >= idleAfter:
		a.ticked = now
		a.drain = drain{}
		return a.set(now, a.idle(float64(step)/1e9), &measure{delay: -1})
	}
	return a.last
}

// set keeps the rate within its bounds and notes the decision.
func (a *Autorate) set(now int64, why RateReason, m *measure) RateDecision {
	a.rate = min(max(a.rate, float64(a.config.Min)), float64(a.config.Max))
	a.last = RateDecision{
		At: now, Was: a.last.Rate, Rate: int64(a.rate), Reason: why,
		Achieved: int64(m.achieved), Loss: m.loss, Delay: m.delay,
	}
	return a.last
}

func ternary[T any](condition bool, yes, no T) T {
	if condition {
		return yes
	}
	return no
}
