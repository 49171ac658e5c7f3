package tunnel

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fifo is a line with a queue that nobody manages: what is sent over it in one
// direction waits until all before it has left.
type fifo struct {
	mu     sync.Mutex
	rate   float64 // bit/s
	free   time.Time
	limit  time.Duration // longest queue
	passed float64       // bits
}

func (f *fifo) set(rate float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if left := time.Until(f.free); left > 0 {
		f.free = time.Now().Add(time.Duration(float64(left) * f.rate / rate))
	}
	f.rate = rate
}

// queue is how long what is sent now would wait.
func (f *fifo) queue() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(time.Until(f.free), 0)
}

// take gives the time at which a datagram has passed, false if it is dropped.
func (f *fifo) take(bytes int) (time.Duration, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.free.Before(now) {
		f.free = now
	}
	if f.free.Sub(now) > f.limit {
		return 0, false
	}
	bits := float64(bytes+8+40) * 8
	f.free = f.free.Add(time.Duration(bits / f.rate * 1e9))
	f.passed += bits
	return f.free.Sub(now), true
}

// lineTest is two sites with a fifo between them, from a to b.
type lineTest struct {
	a, b *site
	line *fifo
	over chan struct{}
}

func newLineTest(t *testing.T, rate float64, options ...siteOption) *lineTest {
	const way = 10 * time.Millisecond
	network := newMemNet()
	l := &lineTest{line: &fifo{rate: rate, limit: time.Second}, over: make(chan struct{})}
	l.a, l.b = newSite(t, network, 1, options...), newSite(t, network, 2)
	network.setPath(func(d *memDatagram) []time.Duration {
		if d.from.Addr() != l.a.addr {
			return []time.Duration{way}
		}
		wait, ok := l.line.take(len(d.bytes))
		if !ok {
			return nil
		}
		return []time.Duration{way + wait}
	})
	l.a.knows(l.b, l.b.at)
	l.b.knows(l.a, l.a.at)
	synctest.Wait()
	return l
}

// load sends from a as much as the tunnel takes, until stopped.
func (l *lineTest) load(perMs int) {
	for n := uint64(0); ; n++ {
		select {
		case <-l.over:
			return
		case <-time.After(time.Millisecond):
		}
		for i := range perMs {
			l.a.tun.in <- l.a.udp(l.b, 1000+uint16(i%4), n, 1408)
		}
		l.b.tun.received()
	}
}

func (l *lineTest) stop() {
	close(l.over)
	synctest.Wait()
	l.a.stop()
	l.b.stop()
}

// settled is how long it takes until the queue stays below a limit for a second.
func (l *lineTest) settled(limit, patience time.Duration) time.Duration {
	began, good := time.Now(), time.Now()
	for time.Since(began) < patience {
		time.Sleep(5 * time.Millisecond)
		if l.line.queue() >= limit {
			good = time.Now()
		}
		if time.Since(good) >= time.Second {
			return good.Sub(began)
		}
	}
	return patience
}

// reached is how long it takes until a share of the line is used in a second.
func (l *lineTest) reached(share float64, patience time.Duration) time.Duration {
	began := time.Now()
	for time.Since(began) < patience {
		if l.used(time.Second) >= share {
			return time.Since(began) - time.Second
		}
	}
	return patience
}

// used is the share of the line that is used in a time.
func (l *lineTest) used(d time.Duration) float64 {
	l.line.mu.Lock()
	before := l.line.passed
	l.line.mu.Unlock()
	time.Sleep(d)
	l.line.mu.Lock()
	defer l.line.mu.Unlock()
	return (l.line.passed - before) / l.line.rate / d.Seconds()
}

func withAutorate(least, most int64) siteOption {
	return func(c *Config) { c.Options.Autorate = RateRange{least, most} }
}

// Two whole daemons over a line whose rate goes from 50 to 10 to 30 Mbit/s.
func TestAutorateFollowsTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLineTest(t, 50e6, withAutorate(2e6, 100e6))
		go l.load(8) // 93 Mbit/s
		if took := l.reached(0.85, 20*time.Second); took > 15*time.Second {
			t.Errorf("0.85 of the first rate is used after %v: %+v", took, l.a.device.Status().Autorate)
		}
		time.Sleep(5 * time.Second)
		l.line.set(10e6)
		if took := l.settled(10*time.Millisecond, 8*time.Second); took > 3*time.Second {
			t.Errorf("after the step down the delay is below 10 ms after %v: %+v", took, l.a.device.Status().Autorate)
		}
		if used := l.used(5 * time.Second); used < 0.85 || used > 1.05 {
			t.Errorf("%.2f of 10 Mbit/s are used: %+v", used, l.a.device.Status().Autorate)
		}
		l.line.set(30e6)
		if took := l.reached(0.85, 20*time.Second); took > 15*time.Second {
			t.Errorf("0.85 of the rate is used %v after the step up: %+v", took, l.a.device.Status().Autorate)
		}
		s := l.a.device.Status()
		if s.Autorate == nil || s.Autorate.Rate < 25e6 || s.Autorate.Rate > 33e6 || s.Bandwidth != formatRate(s.Autorate.Rate) ||
			s.Autorate.Decisions["load and no queue"] == 0 || s.Autorate.DelayMs == nil {
			t.Errorf("%+v", s.Autorate)
		}
		if s := l.b.device.Status(); s.Autorate != nil || s.Bandwidth != "off" {
			t.Errorf("the other end: %+v", s.Autorate)
		}
		l.stop()
	})
}

// With nothing to send, the rate goes back to where it began, and nothing is sent
// for it; with the peer gone, it goes down.
func TestAutorateWithoutTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLineTest(t, 90e6, withAutorate(5e6, 80e6))
		go l.load(8)
		time.Sleep(20 * time.Second)
		rate := func() int64 { return l.a.device.Status().Autorate.Rate }
		if rate() < 60e6 {
			t.Fatalf("under load the rate is %d", rate())
		}
		close(l.over)
		time.Sleep(10 * time.Second)
		before := l.a.peerStatus().Sent.Packets
		time.Sleep(60 * time.Second)
		if rate() != 20e6 {
			t.Errorf("a minute later it is %d", rate())
		}
		if n := l.a.peerStatus().Sent.Packets - before; n > 20 {
			t.Errorf("%d packets were sent in a minute with nothing to send", n)
		}
		l.over = make(chan struct{})
		go l.load(8)
		time.Sleep(5 * time.Second)
		l.line.mu.Lock()
		l.line.limit = -1 // all is lost
		l.line.mu.Unlock()
		time.Sleep(12 * time.Second)
		if rate() != 5e6 {
			t.Errorf("without reports it is %d", rate())
		}
		l.stop()
	})
}

// Reports are no more frequent for a peer that does not ask for them, and no lanes
// are told more than once a second for one that does.
func TestReportsAreAsOftenAsAskedFor(t *testing.T) {
	for name, c := range map[string]struct {
		options     []siteOption
		least, most uint64
	}{
		"fixed": {nil, 8, 12}, "found": {[]siteOption{withAutorate(5e6, 80e6)}, 45, 52},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLineTest(t, 90e6, c.options...)
				go l.load(1)
				time.Sleep(5 * time.Second)
				count := func() uint64 {
					p := l.b.device.peer(l.a.key.Public())
					p.mu.Lock()
					defer p.mu.Unlock()
					return uint64(p.reporter.number)
				}
				before := count()
				time.Sleep(10 * time.Second)
				if n := count() - before; n < c.least || n > c.most {
					t.Errorf("%d reports in 10 s, want %d to %d", n, c.least, c.most)
				}
				l.stop()
			})
		})
	}
}

// A line is shared by what goes to several peers.
func TestSamplesOfSeveralPeers(t *testing.T) {
	u := &uplink{device: &Device{}}
	one, two := new(peer), new(peer)
	u.parts = []pathPart{
		{one, 1, pathSample{elapsed: 200 * time.Millisecond, packets: 100, lost: 1, ce: 2, bytes: 100_000, delay: 30 * time.Millisecond, headers: 48}},
		{two, 1, pathSample{elapsed: 400 * time.Millisecond, packets: 50, lost: 4, bytes: 20_000, delay: 5 * time.Millisecond, headers: 28}},
		{two, 1, pathSample{}},
	}
	s := u.sum(200 * time.Millisecond)
	if s.Packets != 125 || s.Lost != 3 || s.CE != 2 || s.Bytes != 100*1048+50*428/2 || s.Delay != 5*time.Millisecond || s.Elapsed != 200*time.Millisecond {
		t.Errorf("%+v", s)
	}
	u.parts = nil
	if s := u.sum(time.Second); s.Delay >= 0 || s.Bytes != 0 {
		t.Errorf("of nothing: %+v", s)
	}
}

func TestProbesTakeLittleOfTheRate(t *testing.T) {
	for rate, want := range map[int64]time.Duration{100e6: 50 * time.Millisecond, 1_152_000: 100 * time.Millisecond, 8000: time.Second} {
		u := new(uplink)
		u.rate.Store(rate)
		if got := time.Duration(u.probeEvery()); got != want {
			t.Errorf("at %d bit/s a probe every %v, want %v", rate, got, want)
		}
	}
}
