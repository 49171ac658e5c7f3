package tunnel

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Scheduler is what makes threads go before others, such as realtime.System.
type Scheduler interface {
	// First puts all threads before those of other programs, on condition that n
	// goroutines wait in Nap only, or in another system call that the Go scheduler
	// is not told of, until Last. It is called again and again.
	First(n int) error
	Last() error
	// Nap sleeps for d at most.
	Nap(d time.Duration)
	// Usage is for how long all threads together have run, and have waited for
	// a processor.
	Usage() (ran, waited time.Duration, err error)
}

const (
	// urgencyEvery is how often it is asked how long threads have waited.
	urgencyEvery = 25 * time.Millisecond
	// contended is the part of the time that the threads together must have
	// waited, and contendedRun that of the time that they ran, for processors
	// to be short: one fifth, and one third. An idle machine with a busy
	// daemon has a twentieth.
	contended, contendedRun = 5, 3
	// idle is the part of one processor that a daemon takes which has little to
	// do: one quarter.
	idle = 4
	// sparseFor is how long after a packet of a flow that is not bulk somebody
	// is thought to wait for another.
	sparseFor = time.Second
	// losingFor is in how many periods in a row packets are lost before that is no
	// mere beginning: of a flood, or of TCP flows that try how much they may send. A
	// flood of 256 flows that is lost only then runs 20 % faster if its receiver does
	// not go first, as then the sender keeps a processor.
	losingFor = 3

	// leastHold is for how long processors are thought to be short, as a
	// thread that goes first cannot see when that is over; and mostHold, if
	// they were short again soon each time.
	leastHold = 10 * time.Second
	mostHold  = 2 * time.Minute

	// napFor is how long a worker that goes first sleeps when it has nothing more to
	// do. Of the four workers that a round trip meets those that are busy add half of
	// it each; with less, fewer packets share a wake-up and a system call.
	napFor = 500 * time.Microsecond
	// longestDoze is for how long a worker that has napped in vain waits for something
	// to come before it looks whether it is still urgent.
	longestDoze = 5 * time.Millisecond
	// longestRun is for how long a worker that goes first works before it naps although
	// there is more to do: a quarter of a processor is left to others.
	longestRun = 1500 * time.Microsecond
)

// A need is the decision whether workers are to go before ordinary threads: they
// are while processors are short and somebody waits for packets who does not send
// more than the tunnel carries, or packets are lost because a worker did not come to
// take them. What is only bulk, and slows down, is carried fastest by a daemon that
// waits for its turn, and then finds more to do. What does not slow down takes the
// time from those who are to carry it: of a flood of one flow, from end to end on two
// processors, a third to two thirds were lost, most of it after it had been sealed and
// sent. If both daemons go first 2 % are, and half as much again arrives.
type need struct {
	urgent      bool
	since       int64         // when urgent changed
	hold        time.Duration // for which it stays
	at          int64         // when decided last
	ran, waited time.Duration // up to then
	shortFrom   int64         // since when processors are short, but for a moment at times,
	shortAt     int64         // and when they last were
	losing      int           // periods in a row in which packets were lost
}

// decide is told how long threads have run and waited up to now, when a packet of a
// sparse flow came last, and when one was lost, 0 for never. What came before processors
// were short, has not waited for one.
func (n *need) decide(now int64, ran, waited time.Duration, seen, lost int64) (urgent bool) {
	elapsed := time.Duration(now - n.at)
	r, w := ran-n.ran, waited-n.waited // less than 0 if a thread has ended
	short := n.at != 0 && w*contended >= elapsed && w*contendedRun >= r
	if short && (n.shortAt == 0 || now-n.shortAt > int64(sparseFor)) {
		n.shortFrom = n.at
	}
	if short {
		n.shortAt = now
	}
	if n.losing++; lost <= n.at {
		n.losing = 0
	}
	if n.losing >= losingFor {
		seen = max(seen, lost)
	}
	awaited := seen != 0 && now-seen < int64(sparseFor)
	short = short && seen >= n.shortFrom
	n.at, n.ran, n.waited = now, ran, waited
	lasted := time.Duration(now - n.since)
	switch {
	case !n.urgent && short && awaited:
		if n.since != 0 && lasted < n.hold {
			n.hold = min(2*n.hold, mostHold)
		} else {
			n.hold = leastHold
		}
		n.urgent, n.since = true, now
	case n.urgent && short && awaited:
		n.since = now
	case n.urgent && lasted >= n.hold && (r*idle < elapsed || !awaited):
		n.urgent, n.since = false, now
	}
	return n.urgent
}

// urgency decides while packets pass, and tells the workers.
type urgency struct {
	device    *Device
	scheduler Scheduler // nil: never urgent

	now    atomic.Bool  // workers are to go before others
	passed atomic.Bool  // packets, since the last decision
	asleep atomic.Bool  // nothing decides, as nothing passes
	lostAt atomic.Int64 // when a packet was lost last, as a worker came too late for it

	mu     sync.Mutex
	need   need
	timer  Timer
	since  time.Time // when it became urgent
	why    string    // why it never will be, "" if it may
	closed bool
	left   bool // urgency has just ended
}

func (u *urgency) init(d *Device, s Scheduler) {
	u.device, u.scheduler = d, s
	u.asleep.Store(s != nil)
	if s == nil {
		u.why = "off"
	}
}

// packets is told of every batch.
func (u *urgency) packets() {
	if !u.passed.Load() {
		u.passed.Store(true)
	}
	if u.asleep.Load() && u.asleep.CompareAndSwap(true, false) {
		u.start()
	}
}

// lost is told that a queue or a socket was full.
func (u *urgency) lost(now int64) { u.lostAt.Store(now) }

func (u *urgency) start() {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.closed:
	case u.timer == nil:
		u.timer = u.device.clock.AfterFunc(urgencyEvery, u.decide)
	default:
		u.timer.Reset(urgencyEvery)
	}
}

// decide is what the timer calls.
func (u *urgency) decide() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || u.why != "" {
		return
	}
	ran, waited, err := u.scheduler.Usage()
	if err != nil {
		u.never(err)
		return
	}
	passed := u.passed.Swap(false)
	now := u.device.clock.Now()
	before := u.need.urgent
	urgent := u.need.decide(now, ran, waited, u.device.sparseSeen(), u.lostAt.Load())
	if urgent != before {
		u.since = u.device.clock.Wall()
	}
	u.now.Store(urgent)
	switch {
	case urgent:
		// Again and again, as a thread that started a program does not pass it on (realtime.Run).
		err = u.scheduler.First(len(u.device.transmit) + len(u.device.receive))
	case before || u.left:
		err = u.scheduler.Last() // twice: nobody is to be forgotten
	}
	u.left = before && !urgent
	if err != nil {
		u.never(err)
		return
	}
	if passed || urgent || u.left {
		u.timer.Reset(urgencyEvery)
		return
	}
	u.asleep.Store(true)
}

// never gives up. The caller holds mu.
func (u *urgency) never(err error) {
	u.why = err.Error()
	u.end()
	u.device.log.Info("packets wait for a processor like any program's", "reason", err)
}

// end lets nothing be urgent any more. The caller holds mu.
func (u *urgency) end() {
	u.now.Store(false)
	if u.need.urgent || u.left {
		u.need.urgent, u.left = false, false
		_ = u.scheduler.Last() // as far as that is possible
	}
}

// close ends deciding: what waits from now on waits as it ends.
func (u *urgency) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	u.end()
	if u.timer != nil {
		u.timer.Stop()
	}
}

// status tells it in words.
func (u *urgency) status() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.why != "":
		return u.why
	case u.need.urgent:
		return fmt.Sprintf("in use since %s: processors are short", u.since.Format(time.TimeOnly))
	case u.since.IsZero():
		return "not needed yet"
	default:
		return fmt.Sprintf("not needed since %s", u.since.Format(time.TimeOnly))
	}
}

// sparseSeen is when a packet of a flow came last that is not bulk, 0 = never.
func (d *Device) sparseSeen() (at int64) {
	for _, t := range d.transmit {
		t.watch.mu.Lock()
		at = max(at, t.watch.flows.sparseSeen)
		t.watch.mu.Unlock()
	}
	return at
}

// A priority is how one worker keeps to what is urgent. It is the worker's own.
type priority struct {
	urgency *urgency
	napping bool  // rather than waiting
	rested  int64 // when it last napped
}

// urgent tells whether the worker is to nap rather than to wait.
func (p *priority) urgent() bool {
	if now := p.urgency.now.Load(); now != p.napping {
		p.napping, p.rested = now, p.urgency.device.clock.Now()
	}
	return p.napping
}

// nap sleeps for a moment, or for d if that is less.
func (p *priority) nap(d time.Duration) {
	p.urgency.scheduler.Nap(min(d, napFor))
	p.rested = p.urgency.device.clock.Now()
}

// A dozer is what a worker waits for, such as a portpool.Poller or a tun.Queue.
type dozer interface {
	Doze(d time.Duration) error
}

// rest is what a worker does that has found nothing to do: it naps, so that more
// gathers; in vain if it still finds nothing, and then it dozes until something comes.
func (p *priority) rest(vain bool, d dozer) {
	if !vain {
		p.nap(napFor)
		return
	}
	_ = d.Doze(longestDoze) // what is wrong, the next look tells
	p.rested = p.urgency.device.clock.Now()
}

// breathe naps if the worker has worked for long.
func (p *priority) breathe(now int64) {
	if p.napping && now-p.rested > int64(longestRun) {
		p.nap(napFor)
	}
}
