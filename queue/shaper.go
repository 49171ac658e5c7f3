package queue

import (
	"fmt"
	"math"
	"time"
)

// ShaperConfig says how a [Shaper] paces. Start from [DefaultShaper].
type ShaperConfig struct {
	// Rate is that of the link, bit/s, [MinRate] to [MaxRate]; 0 is no limit.
	Rate int64
	// Grain is the shortest sleep between two packets, 0 to 10 ms: the most
	// bursts in a second are 1/Grain, however high the rate, and a burst is
	// what the link sends in a Grain.
	Grain time.Duration
	// Slack is how late a sleeper may wake up without loss of rate, Grain to
	// 100 ms, and the most that a late one sends at once.
	Slack time.Duration
}

// The rates that can be shaped to, bit/s.
const (
	MinRate = int64(8_000)
	MaxRate = int64(1_000_000_000_000)
)

// DefaultShaper gives a grain of 250 µs, 4000 wake-ups a second, and makes up
// for wake-ups that are 3 ms late. On a slow line, which full packets wake up for
// less often, the grain is 50 µs: else a packet would wait for longer than an
// acknowledgement before it takes.
func DefaultShaper(rate int64) ShaperConfig {
	c := ShaperConfig{Rate: rate, Grain: 250 * time.Microsecond, Slack: 3 * time.Millisecond}
	if rate != 0 && rate <= slowLine {
		c.Grain = 50 * time.Microsecond
	}
	return c
}

// slowLine is a rate, bit/s, at which there are fewer than 4000 full packets a
// second.
const slowLine = 40_000_000

// Validate names the first field that is out of range, and the range.
func (c ShaperConfig) Validate() error {
	if c.Rate != 0 && (c.Rate < MinRate || c.Rate > MaxRate) {
		return fmt.Errorf("queue: the rate is %d bit/s, use %d to %d, or 0 for no limit", c.Rate, MinRate, MaxRate)
	}
	if c.Grain < 0 || c.Grain > 10*time.Millisecond {
		return fmt.Errorf("queue: the grain is %v, use 0 to 10ms", c.Grain)
	}
	if c.Slack < c.Grain || c.Slack > 100*time.Millisecond {
		return fmt.Errorf("queue: the slack is %v, use the grain, which is %v, to 100ms", c.Slack, c.Grain)
	}
	return nil
}

// Shaper is a link that exists in numbers only: it says when the link would have
// sent what it was given, and so would take the next packet. There is no bucket
// of tokens that an idle link fills, and so no burst that a queue behind it would
// have to hold: what is ever ahead of the rate is Slack after a late wake-up,
// Grain after the queue was empty, and in either case one packet.
//
// While [Shaper.Ready], take a packet from the queue and [Shaper.Admit] it; when
// it is not, sleep until [Shaper.NextAt]. When the queue is empty, say so with
// [Shaper.Idle].
type Shaper struct {
	rate         int64 // bit/s, 0 = no limit
	grain, slack int64
	next         int64 // when all that was admitted has left the link
	part         int64 // what next lacks, nanoseconds times the rate
	last         int64 // when something was admitted last
	idle         bool  // nothing was waiting since
}

// NewShaper makes a link that is free. The configuration must be valid.
func NewShaper(c ShaperConfig) *Shaper {
	return &Shaper{rate: c.Rate, grain: int64(c.Grain), slack: int64(c.Slack), next: math.MinInt64 / 2, last: math.MinInt64 / 2, idle: true}
}

// Rate is the rate, bit/s, 0 for none.
func (s *Shaper) Rate() int64 { return s.rate }

// SetRate makes the link another one. What is on it goes on at the new rate. The
// rate must be valid.
func (s *Shaper) SetRate(now, rate int64) {
	if rate == s.rate {
		return
	}
	switch left := s.next - now; {
	case rate == 0 || s.rate == 0:
		s.next = min(s.next, now)
	case left > 0:
		s.next = now + int64(float64(left)*float64(s.rate)/float64(rate))
	}
	s.rate, s.part = rate, 0
}

// Ready reports whether the link takes a packet now.
func (s *Shaper) Ready(now int64) bool { return s.rate == 0 || now >= s.next }

// NextAt is when to look at the queue again: when the link is free, and not
// before a grain has passed since the last packet, so that there is something to
// do. It is in the past if there is nothing to wait for.
func (s *Shaper) NextAt() int64 {
	if s.rate == 0 {
		return math.MinInt64 / 2
	}
	return max(s.next, s.last+s.grain)
}

// Admit puts a packet on the link that costs so many bytes ([Overhead.Cost]),
// up to 1<<24. Ready need not be true: what cannot wait, such as control
// messages, is admitted at once, and what follows waits for it.
func (s *Shaper) Admit(now int64, cost int) {
	if s.rate == 0 {
		return
	}
	credit := s.slack
	if s.idle {
		credit, s.idle = s.grain, false
	}
	if s.next < now-credit {
		s.next, s.part = now-credit, 0
	}
	bits := int64(cost)*8*int64(time.Second) + s.part
	s.next += bits / s.rate
	s.part = bits % s.rate
	s.last = now
}

// Idle says that nothing waits. Time in which the link could have sent, but had
// nothing to, is not made up for.
func (s *Shaper) Idle() { s.idle = true }
