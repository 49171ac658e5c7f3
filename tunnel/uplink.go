package tunnel

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kiloport/queue"
)

// uplink is the line by which everything leaves, if it has a rate: a fixed one, or
// one that is found by what peers report.
//
// Whoever reports holds the peer's mutex; mu comes after it, and nothing is locked
// under mu. The transmitter reads and writes the atomics alone.
type uplink struct {
	device   *Device
	rate     atomic.Int64 // bit/s, 0 for none
	unshaped atomic.Int64 // what was sent past the shaper, and is to be made up for: bytes of the line
	held     atomic.Int64 // for how long packets were held back, ns in all
	heldTo   atomic.Int64 // until when they will be

	mu      sync.Mutex
	auto    *queue.Autorate // nil: the rate is fixed
	parts   []pathPart
	decided int64 // when it was by reports
	busyAt  int64 // held then
	tickAt  int64 // held at the last tick
	counts  [queue.RateReasons]uint64
	tick    Timer
	up      bool
}

// pathPart is what one peer's last report says.
type pathPart struct {
	peer   *peer
	at     int64 // when it came
	sample pathSample
}

// pathSample is what arrived at a peer in some time, by its reports.
type pathSample struct {
	elapsed                  time.Duration // by the peer's clock
	packets, lost, ce, bytes uint64
	delay                    time.Duration // below 0: not known
	headers                  int           // outer ones of a packet, bytes
}

const (
	quickReport  = int64(200 * time.Millisecond) // how often a peer that finds its rate gets reports
	decideAfter  = int64(150 * time.Millisecond) // of several peers, reports are put together for so long
	partFor      = int64(500 * time.Millisecond) // a peer's report counts for so long
	tickEvery    = time.Second
	probeMost    = int64(50 * time.Millisecond) // between probes of the line, where it has the room,
	probeLeast   = int64(time.Second)           // and at least
	probeShare   = 100                          // of the rate, they get one part in so many
	probeBits    = 8 * 144                      // of a probe, outside
	autorateIdle = int64(time.Second)           // no probes after this long without data
)

func (u *uplink) init(d *Device) {
	o := &d.options
	u.device = d
	u.rate.Store(o.Bandwidth)
	if (o.Autorate == RateRange{}) {
		return
	}
	c := o.autorate()
	u.auto = queue.NewAutorate(c)
	u.rate.Store(u.auto.Rate())
}

// autorate is the rate's bounds, and where it begins: at the bandwidth, if there is
// one.
func (o *Options) autorate() queue.AutorateConfig {
	c := queue.DefaultAutorate(o.Autorate.Min, o.Autorate.Max)
	if o.Bandwidth != 0 {
		c.Base = o.Bandwidth
	}
	return c
}

// start lets time pass, while the link is up.
func (u *uplink) start() {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch u.up = true; {
	case u.auto == nil:
	case u.tick == nil:
		u.tick = u.device.clock.AfterFunc(tickEvery, u.onTick)
	default:
		u.tick.Reset(tickEvery)
	}
}

func (u *uplink) stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.up = false
	if u.tick != nil {
		u.tick.Stop()
	}
}

// hold notes that packets wait for the line from now on. The transmitter calls it.
func (u *uplink) hold(now int64, wait time.Duration) {
	if u.auto == nil {
		return
	}
	from, to := max(now, u.heldTo.Load()), now+int64(wait)
	if to > from {
		u.held.Add(to - from)
		u.heldTo.Store(to)
	}
}

// past notes what is sent on the line without waiting for it.
func (u *uplink) past(p *peer, n int) {
	if u.rate.Load() != 0 {
		u.unshaped.Add(int64(u.device.options.Overhead.Cost(n + p.outerHeaders())))
	}
}

// adapts tells whether the rate is found.
func (u *uplink) adapts() bool { return u.auto != nil }

// probeEvery is the time between two probes of the line.
func (u *uplink) probeEvery() int64 {
	return min(max(probeBits*probeShare*int64(time.Second)/max(u.rate.Load(), 1), probeMost), probeLeast)
}

// reported takes what a peer has told of the last moments.
func (u *uplink) reported(now int64, p *peer, s pathSample) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.parts = slices.DeleteFunc(u.parts, func(part pathPart) bool { return part.peer == p || now-part.at > partFor })
	u.parts = append(u.parts, pathPart{p, now, s})
	if now-u.decided < decideAfter {
		return
	}
	held := u.held.Load()
	all := u.sum(s.elapsed)
	all.Busy = held-u.busyAt > (now-u.decided)/2
	u.decided, u.busyAt = now, held
	u.apply(u.auto.Report(now, all))
}

// sum puts the peers' parts together as what arrived in a time. The line's delay is
// the least: what only some peers feel is in their part of the way.
func (u *uplink) sum(elapsed time.Duration) queue.PathSample {
	all := queue.PathSample{Elapsed: elapsed, Delay: -1}
	for i := range u.parts {
		s := &u.parts[i].sample
		if s.elapsed <= 0 {
			continue
		}
		part := float64(elapsed) / float64(s.elapsed)
		scaled := func(n uint64) uint64 { return uint64(float64(n) * part) }
		all.Packets += scaled(s.packets)
		all.Lost += scaled(s.lost)
		all.CE += scaled(s.ce)
		all.Bytes += scaled(u.onLine(s))
		if s.delay >= 0 && (all.Delay < 0 || s.delay < all.Delay) {
			all.Delay = s.delay
		}
	}
	return all
}

// onLine is what a sample's packets took of the line, counted as the shaper does,
// were they all of their mean size.
func (u *uplink) onLine(s *pathSample) uint64 {
	if s.packets == 0 {
		return 0
	}
	mean := int(s.bytes/s.packets) + s.headers
	return s.packets * uint64(u.device.options.Overhead.Cost(mean))
}

// onTick goes on without reports.
func (u *uplink) onTick() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.up {
		return
	}
	now := u.device.clock.Now()
	held := u.held.Load()
	busy := held > u.tickAt
	u.tickAt = held
	if d := u.auto.Tick(now, busy); d.At == now {
		u.apply(d)
	}
	u.tick.Reset(tickEvery)
}

// apply makes a decision true, and tells of it.
func (u *uplink) apply(d queue.RateDecision) {
	u.rate.Store(d.Rate)
	u.counts[d.Reason]++
	u.device.log.Debug("autorate", "decision", d)
}

// AutorateStatus is how the rate is found at which packets leave.
type AutorateStatus struct {
	// Min, Base and Max are the bounds and where the rate goes without load,
	// Rate and Was what it is and what it was before, bit/s.
	Min  int64 `json:"min_bit_s"`
	Base int64 `json:"base_bit_s"`
	Max  int64 `json:"max_bit_s"`
	Rate int64 `json:"rate_bit_s"`
	Was  int64 `json:"was_bit_s"`
	// Reason is why, in words, and AgoMs when that was decided.
	Reason string  `json:"reason"`
	AgoMs  float64 `json:"ago_ms"`
	// Achieved is at what rate packets arrived, bit/s, counted as the rate is;
	// LossPercent how many of 100 did not, or were marked on the way; DelayMs
	// how much longer than at best they took.
	Achieved    int64    `json:"achieved_bit_s"`
	LossPercent float64  `json:"loss_percent"`
	DelayMs     *float64 `json:"delay_ms,omitempty"`
	// Decisions counts by reason, the same rate again included.
	Decisions map[string]uint64 `json:"decisions"`
}

// status gives nil if the rate is not found.
func (u *uplink) status() *AutorateStatus {
	if !u.adapts() {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	d, c := u.auto.Last(), u.device.options.autorate()
	s := &AutorateStatus{
		Min: c.Min, Base: c.Base, Max: c.Max, Rate: d.Rate, Was: d.Was, Reason: d.Reason.String(),
		Achieved: d.Achieved, LossPercent: 100 * d.Loss, Decisions: make(map[string]uint64),
	}
	if d.At != 0 {
		s.AgoMs = *milliseconds(u.device.clock.Now() - d.At)
	}
	if d.Delay >= 0 {
		s.DelayMs = milliseconds(int64(d.Delay))
	}
	for reason, n := range u.counts {
		s.Decisions[queue.RateReason(reason).String()] = n
	}
	return s
}
