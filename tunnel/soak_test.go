//go:build !race

// The race detector itself fails in tests of millions of goroutines.

package tunnel

import (
	"flag"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// soak is how much virtual time TestSoak takes: 24h are some minutes.
var soak = flag.Duration("soak", 2*time.Hour, "virtual `time` that TestSoak lasts")

// soaked is two sites whose path and endpoints change all the time, and flows between
// them that come and go.
type soaked struct {
	t       *testing.T
	random  *rand.Rand
	network *memNet
	sites   [2]*site
	flows   []soakFlow
	next    uint32 // number of the next flow
	began   time.Time

	// Of the path; behind network.mu.
	outside [2]netip.Addr // where the sites are now
	shift   [2]uint16     // what a NAT adds to their ports
	delay   time.Duration
	cut     bool

	goodFrom time.Time // since then every packet has to arrive
	numbers  uint64
	pending  map[uint64]uint32 // numbers of packets on their way, and their flows
	sent     int
	late     int           // packets that were sent before that, and lost
	slowest  time.Duration // until everything arrived again
	roams    int
	cuts     int
	restarts int
	log      lastLines
}

// lastLines are those of a log that were written last: all of them would count as a
// leak.
type lastLines struct {
	mu    sync.Mutex
	lines [30]string
	n     int
}

func (l *lastLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines[l.n%len(l.lines)] = string(b)
	l.n++
	return len(b), nil
}

func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.n % len(l.lines)
	return strings.Join(l.lines[at:], "") + strings.Join(l.lines[:at], "")
}

// soakFlow sends from one site to the other, and its answers come back.
type soakFlow struct {
	number   uint32
	from     int
	at, ends time.Time // when it sends next, and is over
}

const (
	soakFlows  = 200
	soakTick   = 250 * time.Millisecond
	soakWithin = 2 * time.Second
)

func newSoaked(t *testing.T) *soaked {
	s := &soaked{t: t, random: rand.New(rand.NewPCG(7, 24)), network: newMemNet(), began: time.Now(), pending: make(map[uint64]uint32), delay: 10 * time.Millisecond}
	s.network.depth = 1 << 10
	logged := func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&s.log, nil)) }
	a, b := newSite(t, s.network, 1, logged), newSite(t, s.network, 2, logged)
	s.sites, s.outside = [2]*site{a, b}, [2]netip.Addr{a.addr, b.addr}
	s.network.setPath(s.path)
	a.knows(b, b.at)
	b.knows(a, a.at)
	synctest.Wait()
	return s
}

// path has each site at an address, and with ports, that are its own for a while only.
func (s *soaked) path(d *memDatagram) []time.Duration {
	if s.cut {
		return nil
	}
	for i, site := range s.sites {
		if d.from.Addr() == site.addr {
			d.from = netip.AddrPortFrom(s.outside[i], d.from.Port()+s.shift[i])
			continue
		}
		if d.to.Addr() != s.outside[i] {
			return nil // it was there once
		}
		d.to = netip.AddrPortFrom(site.addr, d.to.Port()-s.shift[i])
	}
	return []time.Duration{s.delay}
}

// change changes the path.
func (s *soaked) change(do func()) {
	s.network.mu.Lock()
	do()
	s.network.mu.Unlock()
}

// roam takes a site elsewhere.
func (s *soaked) roam() {
	i := s.random.IntN(2)
	s.roams++
	s.change(func() {
		s.delay = time.Duration(1+s.random.IntN(40)) * time.Millisecond
		if s.random.IntN(3) == 0 {
			s.shift[i] = uint16(s.random.IntN(1000)) // a NAT that has forgotten its mappings
			return
		}
		s.outside[i] = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 8: byte(i), 12: byte(s.random.Uint32()), 13: byte(s.roams >> 8), 14: byte(s.roams), 15: 9})
	})
	s.settle()
}

// lose cuts the path, for seconds or minutes.
func (s *soaked) lose() {
	s.cuts++
	s.change(func() { s.cut = true })
	s.run(time.Duration(1+s.random.IntN(4)) * time.Second << s.random.IntN(6))
	s.change(func() { s.cut = false })
	s.settle()
}

// settle has everything arrive again within two seconds, by all lanes.
func (s *soaked) settle() {
	start := time.Now()
	for {
		clear(s.pending)
		for i := range s.flows {
			s.send(&s.flows[i])
		}
		s.drain()
		if len(s.pending) == 0 {
			break
		}
		s.late += len(s.pending)
		if time.Since(start) > soakWithin {
			s.t.Fatalf("after %v, and %v after the path is back, %d of %d packets do not arrive: %+v, %+v",
				time.Since(s.began), time.Since(start), len(s.pending), 2*len(s.flows), s.sites[0].peerStatus(), s.sites[1].peerStatus())
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.slowest = max(s.slowest, time.Since(start))
	time.Sleep(max(soakWithin-time.Since(start), 0))
	for i := range s.flows {
		s.send(&s.flows[i])
	}
	s.drain()
	s.lost()
	for _, site := range s.sites {
		if p := site.peerStatus(); !p.spreads() || p.Lanes.InUse < len(s.flows)*95/100 || p.Lanes.Shared > 0 {
			s.t.Errorf("after %v, %v after the path is back: %s (%s), %+v with %d flows", time.Since(s.began), soakWithin, p.Mode, p.Reason, p.Lanes, len(s.flows))
		}
	}
	s.goodFrom = time.Now()
}

func (p *PeerStatus) spreads() bool { return p.Mode == "direct" || p.Mode == "return" }

// restart hands a site over.
func (s *soaked) restart() {
	i := s.random.IntN(2)
	s.restarts++
	s.drain()
	if err := s.sites[i].successor(s.network, s.sites[1-i], asItIs); err != nil {
		s.t.Error(err)
	}
}

// send sends a flow's packet; take answers it when it has come.
func (s *soaked) send(f *soakFlow) {
	s.numbers++
	s.sent++
	s.pending[s.numbers] = f.number
	from, to := s.sites[f.from], s.sites[1-f.from]
	from.tun.in <- from.udp(to, f.port(), s.numbers, 100)
}

func (f *soakFlow) port() uint16 { return uint16(1024 + f.number%60000) }

// drain waits for what is on its way, and for its answers.
func (s *soaked) drain() {
	for range 2 {
		time.Sleep(s.delay + 10*time.Millisecond)
		synctest.Wait()
		s.take()
	}
}

// take takes what has arrived, and answers it.
func (s *soaked) take() {
	for i, site := range s.sites {
		for _, p := range site.tun.received() {
			port, number := parseUDP(p)
			if _, ok := s.pending[number]; !ok {
				continue
			}
			if p[udpHeader+8] == 1 {
				delete(s.pending, number) // its answer
				continue
			}
			answer := site.udp(s.sites[1-i], port, number, 100)
			answer[udpHeader+8] = 1
			site.tun.in <- answer
		}
	}
}

// lost wants that nothing is missing.
func (s *soaked) lost() {
	if len(s.pending) > 0 {
		s.t.Errorf("after %v, %d packets or answers are lost: %+v, %+v", time.Since(s.began), len(s.pending), s.sites[0].peerStatus(), s.sites[1].peerStatus())
		clear(s.pending)
	}
}

// run lets flows come and go.
func (s *soaked) run(d time.Duration) {
	for start := time.Now(); time.Since(start) < d; time.Sleep(soakTick) {
		now := time.Now()
		s.take()
		s.flows = slices.DeleteFunc(s.flows, func(f soakFlow) bool { return now.After(f.ends) })
		for len(s.flows) < soakFlows {
			s.next++
			s.flows = append(s.flows, soakFlow{
				number: s.next, from: s.random.IntN(2), at: now,
				ends: now.Add(time.Duration(1 + s.random.ExpFloat64()*float64(10*time.Minute))),
			})
		}
		for i := range s.flows {
			if f := &s.flows[i]; !now.Before(f.at) {
				f.at = now.Add(4*time.Second + time.Duration(s.random.Int64N(int64(8*time.Second))))
				s.send(f)
			}
		}
	}
	s.drain()
}

// usage is what might leak.
type usage struct {
	Heap                                     uint64
	Goroutines, Sockets, Lanes, Indexes, Own int
}

func (s *soaked) usage() (u usage) {
	synctest.Wait()
	for range 2 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.Heap, u.Goroutines = m.HeapAlloc, runtime.NumGoroutine()
	s.network.mu.Lock()
	u.Sockets = len(s.network.ports)
	for pair, queue := range s.network.flight {
		if len(queue) == 0 {
			delete(s.network.flight, pair)
		}
	}
	s.network.mu.Unlock()
	for _, site := range s.sites {
		u.Lanes += site.peerStatus().Lanes.InUse
		u.Indexes += len(site.device.indexes.entries)
		p := site.device.order[0]
		p.mu.Lock()
		u.Own += len(p.spread.pending) + len(p.spread.urgent) + len(p.spread.watch.suspects) + len(p.staged) + len(p.opened)
		p.mu.Unlock()
	}
	return u
}

// TestSoak is a day in the life of two sites: rekeys, roaming, loss of the path,
// restarts, and 200 flows at a time that come and go. Nothing leaks, nothing is lost
// while there is a path, and everything arrives by its lane again within two seconds
// after there is one again. By default it is two hours of it; with -soak 24h it is the day.
func TestSoak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSoaked(t)
		defer func() { s.sites[1].stop(); s.sites[0].stop() }()
		base := s.usage()
		s.run(10 * time.Second)
		s.settle()
		var hour usage
		hours := 0
		for time.Since(s.began) < *soak {
			s.run(time.Duration(30+s.random.IntN(240)) * time.Second)
			s.lost()
			switch s.random.IntN(5) {
			case 0:
				s.lose()
			case 1:
				s.restart()
			default:
				s.roam()
			}
			if n := int(time.Since(s.began) / time.Hour); n > hours {
				hours = n
				s.hourly(&hour, hours)
			}
			if t.Failed() {
				break
			}
		}
		s.ended(base)
		if t.Failed() {
			t.Logf("the last that was logged:\n%s", &s.log)
		}
		t.Logf("%v: %d packets of %d flows, roamed %d times, lost the path %d times, restarted %d times; back after %v at most, with %d packets lost meanwhile",
			time.Since(s.began), 2*s.sent, s.next, s.roams, s.cuts, s.restarts, s.slowest, s.late)
	})
}

// hourly compares what is in use with what was after the first hour.
func (s *soaked) hourly(first *usage, n int) {
	u := s.usage()
	s.t.Logf("hour %d: %+v", n, u)
	if n == 1 {
		*first = u
		return
	}
	if u.Heap > first.Heap+first.Heap/4+8<<20 || u.Goroutines > 2*first.Goroutines+50 || u.Sockets > 2*first.Sockets+50 || u.Indexes > 6 || u.Own > 200 {
		s.t.Errorf("after %d hours %+v are in use, after the first %+v", n, u, *first)
	}
}

// ended wants all to be as it was in the beginning, when the flows have ended.
func (s *soaked) ended(base usage) {
	s.flows = nil
	clear(s.pending)
	time.Sleep(5 * time.Minute)
	u := s.usage()
	s.t.Logf("in the beginning %+v, after the flows %+v", base, u)
	if u.Heap > base.Heap+8<<20 || u.Goroutines > base.Goroutines+2 || u.Sockets > base.Sockets || u.Lanes > 0 || u.Indexes > 6 || u.Own > 0 {
		s.t.Errorf("after the flows %+v are in use, before them %+v", u, base)
	}
}
