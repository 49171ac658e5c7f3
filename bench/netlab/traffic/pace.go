package traffic

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// A pacer keeps the beat of a sender: it catches up after having been late, so
// that the number of sends does not depend on how busy the machine is.
type pacer struct {
	next     time.Time
	interval time.Duration
}

// wait sleeps until the next beat; false means that the end comes before it.
func (p *pacer) wait(end time.Time) bool {
	if !p.next.Before(end) || !time.Now().Before(end) {
		return false
	}
	time.Sleep(time.Until(p.next))
	p.next = p.next.Add(p.interval)
	return true
}

// A jitterer is a pacer that sends a random time after each beat, and exactly then.
type jitterer struct {
	pacer
	alarm  *alarm
	random *rand.Rand
	jitter time.Duration // most that the random time may be
}

func newJitterer(p pacer, g *Group, seed, flow uint64) (*jitterer, error) {
	a, err := newAlarm()
	if err != nil {
		return nil, err
	}
	return &jitterer{p, a, rand.New(rand.NewPCG(seed, flow)), g.Jitter}, nil
}

// wait sleeps until the next moment; false means that the end comes before it.
func (j *jitterer) wait(end time.Time) (bool, error) {
	at := j.moment()
	if !at.Before(end) || !time.Now().Before(end) {
		return false, nil
	}
	return true, j.alarm.sleep(time.Until(at))
}

// moment is a random one after the next beat, and goes on to the beat after that.
func (j *jitterer) moment() time.Time {
	at := j.next.Add(time.Duration(j.random.Int64N(int64(j.jitter))))
	j.next = j.next.Add(j.interval)
	return at
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Times of a question and its answer: when a datagram's question is repeated
// (TCP repeats by itself), and how long one waits for an answer in all.
const (
	askAgain          = 300 * time.Millisecond
	roundTripPatience = 3 * time.Second
)

// An asker asks one question at a time and waits for the answer with its number.
type asker struct {
	number  uint64
	again   time.Duration
	answers chan answer
}

type answer struct {
	number uint64
	rtt    time.Duration
}

func newAsker(again time.Duration) asker { return asker{again: again, answers: make(chan answer, 8)} }

// answer hands over an answer; one that nobody waits for is dropped.
func (a *asker) answer(number uint64, rtt time.Duration) {
	select {
	case a.answers <- answer{number, rtt}:
	default:
	}
}

// ask sends a question, again if it gets no answer, and returns the round-trip
// time of the one that got it.
func (a *asker) ask(ctx context.Context, send func(number uint64) error) (time.Duration, error) {
	first := a.number + 1
	for ctx.Err() == nil {
		a.number++
		if err := send(a.number); err != nil {
			return 0, err
		}
		again := time.NewTimer(a.again)
		for waiting := true; waiting; {
			select {
			case got := <-a.answers:
				if got.number >= first {
					again.Stop()
					return got.rtt, nil
				}
			case <-again.C:
				waiting = false
			case <-ctx.Done():
				waiting = false
			}
		}
		again.Stop()
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return 0, fmt.Errorf("no answer to %d questions", a.number+1-first)
	}
	return 0, ctx.Err()
}
