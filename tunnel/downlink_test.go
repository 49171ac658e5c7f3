package tunnel

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"kiloport/queue"
	"kiloport/tunnel/tun"
	"kiloport/tunnel/uapi"
)

// twoQueues is a TUN device for two transmitters.
type twoQueues struct {
	*memTUN
	second *memTUN
}

func (t twoQueues) Queues() []tun.Queue { return []tun.Queue{t.memTUN, t.second} }

func (t twoQueues) Close() error {
	t.second.Close()
	return t.memTUN.Close()
}

func withReceiveBandwidth(rate int64) siteOption {
	return func(c *Config) { c.Options.ReceiveBandwidth = rate }
}

// knowsAlone makes other one of several peers, with its own address alone: knows gives
// all the same.
func (s *site) knowsAlone(other *site) {
	s.t.Helper()
	s.configure(&uapi.SetRequest{Peers: []uapi.PeerChange{{
		PublicKey: uapi.PublicKey(other.key.Public()), Endpoint: &other.at,
		AllowedIPs: []uapi.AllowedIPChange{{Prefix: netip.PrefixFrom(other.inside, 128)}},
	}}})
}

// arrivedIn counts the bytes outside of packets that arrive in a time, and tells the
// source port of each.
func (s *site) arrivedIn(d time.Duration, each func(port uint16)) (bytes int) {
	for over := time.Now().Add(d); time.Now().Before(over); time.Sleep(time.Millisecond) {
		for _, p := range s.tun.received() {
			bytes += len(p) + 32 + 8 + 40
			port, _ := parseUDP(p)
			each(port)
		}
	}
	return bytes
}

// A site that says what it can receive is sent that much by a peer with two
// transmitters, flow by flow the same, and a sparse flow waits for hardly anything.
// What the peer sends to others it does not slow down.
func TestReceiveBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, size = 10_000_000, 1408 // which needs no padding
		network := newMemNet()
		both := twoQueues{second: newMemTUN(1420)}
		hub := newSite(t, network, 1, func(c *Config) {
			both.memTUN = c.TUN.(*memTUN)
			c.TUN = both
		})
		slow := newSite(t, network, 2, withReceiveBandwidth(rate))
		fast := newSite(t, network, 3)
		for _, s := range []*site{slow, fast} {
			hub.knowsAlone(s)
			s.knows(hub, hub.at)
			defer s.stop()
		}
		defer hub.stop()
		synctest.Wait()
		for _, s := range []*site{slow, fast} {
			hub.tun.in <- hub.udp(s, 1, 0, 100)
		}
		time.Sleep(time.Second)
		asks := hub.device.Status().Peers
		at := slices.IndexFunc(asks, func(p PeerStatus) bool { return p.Asks != nil })
		if at < 0 || asks[at].PublicKey != slow.key.Public().String() || asks[at].Asks.BitS != rate || asks[1-at].Asks != nil {
			t.Fatalf("%+v", asks)
		}
		slow.tun.received()
		fast.tun.received()

		over := make(chan struct{})
		flood := func(queue *memTUN, to *site, ports ...uint16) {
			for number := uint64(0); ; number++ {
				select {
				case <-over:
					return
				case <-time.After(4 * time.Millisecond):
				}
				for _, port := range ports {
					for range 8 {
						queue.in <- hub.udp(to, port, number, size)
					}
				}
			}
		}
		go flood(both.memTUN, slow, 1000)
		go flood(both.second, slow, 2000, 2001, 2002)
		go flood(both.second, fast, 3000)
		time.Sleep(2 * time.Second) // CoDel has settled
		slow.tun.received()
		fast.tun.received()
		packets := make(map[uint16]int)
		const seconds = 4
		bytes := slow.arrivedIn(seconds*time.Second, func(port uint16) { packets[port]++ })
		if got := float64(bytes) * 8 / seconds / rate; got < 0.98 || got > 1.02 {
			t.Errorf("%.3f of the rate that was asked for", got)
		}
		all := packets[1000] + packets[2000] + packets[2001] + packets[2002]
		for port, n := range packets {
			if n < all/4*93/100 || n > all/4*107/100 {
				t.Errorf("flow %d has %d packets of %d", port, n, all)
			}
		}
		others := 0
		for range fast.tun.received() {
			others++
		}
		if want := seconds * 250 * 8; others < want*99/100 {
			t.Errorf("a peer that asked for nothing got %d packets of %d", others, want)
		}

		asked, sparse := time.Now(), time.Duration(-1)
		both.second.in <- hub.udp(slow, 4000, 0, 100)
		slow.arrivedIn(20*time.Millisecond, func(port uint16) {
			if port == 4000 {
				sparse = time.Since(asked)
			}
		})
		if sparse < 0 || sparse > 5*time.Millisecond { // each of two transmitters may just have begun a packet
			t.Errorf("a sparse packet took %v", sparse)
		}
		close(over)
	})
}

// While a packet to a slow peer takes its time, what others are sent does not wait.
func TestSlowPeerHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		hub := newSite(t, network, 1)
		slow := newSite(t, network, 2, withReceiveBandwidth(200_000)) // 59 ms a packet
		fast := newSite(t, network, 3)
		defer hub.stop()
		for _, s := range []*site{slow, fast} {
			hub.knowsAlone(s)
			s.knows(hub, hub.at)
			defer s.stop()
		}
		synctest.Wait()
		for _, s := range []*site{slow, fast} {
			hub.tun.in <- hub.udp(s, 1, 0, 100)
		}
		time.Sleep(time.Second)
		fast.tun.received()
		for n := range uint64(50) {
			hub.tun.in <- hub.udp(slow, 1000, n, 1408)
		}
		for n := range uint64(30) {
			time.Sleep(7 * time.Millisecond)
			hub.tun.in <- hub.udp(fast, 2000, n, 100)
			synctest.Wait()
			if got := len(fast.tun.received()); got != 1 {
				t.Fatalf("packet %d: %d arrived at once", n, got)
			}
		}
	})
}

// Both ends have a rate, and it is the lower one that counts, with all that comes
// with it.
func TestBothRates(t *testing.T) {
	for name, rates := range map[string][2]int64{"sender's": {5e6, 20e6}, "receiver's": {20e6, 5e6}, "the same": {5e6, 5e6}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size = 1408
				network := newMemNet()
				a := newSite(t, network, 1, func(c *Config) { c.Options.Bandwidth = rates[0] })
				b := newSite(t, network, 2, withReceiveBandwidth(rates[1]))
				a.knows(b, b.at)
				b.knows(a, a.at)
				defer b.stop()
				defer a.stop()
				synctest.Wait()
				a.tun.in <- a.udp(b, 1, 0, 100)
				time.Sleep(time.Second)
				b.tun.received()
				for n := range uint64(4000) {
					a.tun.in <- a.udp(b, 1000+uint16(n%4), n, size)
				}
				time.Sleep(time.Second)
				b.tun.received()
				const rate = 5e6
				bytes := b.arrivedIn(time.Second, func(uint16) {})
				if got := float64(bytes) * 8 / rate; got < 0.97 || got > 1.02 {
					t.Errorf("%.3f of the rate", got)
				}
			})
		})
	}
}

// A rate that a peer asks for is bounded, and is gone with what asked for it.
func TestAsksAreBounded(t *testing.T) {
	a, b, _ := stillPair(t)
	p := a.peer(b)
	ask := func(h hello) *AskStatus {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ask(&h)
		return p.downlink.status()
	}
	for _, h := range []hello{
		{ReceiveRate: -1}, {ReceiveRate: queue.MinRate - 1}, {ReceiveRate: queue.MaxRate + 1},
		{ReceiveRate: 1e6, ReceiveOverhead: queue.Overhead{Bytes: 1000}}, {ReceiveRate: 1e6, ReceiveOverhead: queue.Overhead{Cells: 9}},
	} {
		if s := ask(h); s != nil || a.device.downlinks.Load() != 0 {
			t.Errorf("%+v became %+v", h, s)
		}
	}
	if n := p.drops[dropControl].Load(); n != 5 {
		t.Errorf("%d were counted as malformed", n)
	}
	if s := ask(hello{ReceiveRate: 1e6}); s == nil || s.BitS != 1e6 || a.device.downlinks.Load() != 1 {
		t.Errorf("%+v", s)
	}
	if s := ask(hello{}); s != nil {
		t.Errorf("no longer asked for, and %+v", s)
	}
	a.device.downlinks.Store(maxDownlinks)
	q := b.peer(a)
	b.device.downlinks.Store(maxDownlinks)
	q.ask(&hello{ReceiveRate: 1e6})
	if q.downlink.status() != nil || b.device.downlinks.Load() != maxDownlinks {
		t.Error("one more than there is memory for")
	}
	p.remove()
	if a.device.downlinks.Load() != maxDownlinks-1 {
		t.Error("a peer that was removed still counts")
	}
}

// A peer that changed its mind while packets wait gets them in order.
func TestDownlinkThatEnds(t *testing.T) {
	a, b, _ := stillPair(t)
	x, p := a.device.transmit[0], a.peer(b)
	p.ask(&hello{ReceiveRate: 1e6})
	a.forward(0)
	for n := range uint64(20) {
		x.offer(a.udp(b.site, 1000, n, 1000))
	}
	x.moveLines()
	if waits := x.lines[0].queue.Len(); waits < 10 || x.queue.Len() > 5 {
		t.Fatalf("%d packets wait for the peer's line, %d for ours", waits, x.queue.Len())
	}
	p.ask(&hello{})
	for n := range uint64(5) {
		x.offer(a.udp(b.site, 1000, 20+n, 1000))
	}
	x.moveLines()
	if len(x.lines) != 0 || x.queue.Len() != 25 {
		t.Errorf("%d lines, %d packets wait", len(x.lines), x.queue.Len())
	}
	for want := range uint64(25) {
		pkt, ok := x.queue.Dequeue(x.now)
		if !ok {
			t.Fatal("packets are gone")
		}
		if _, number := parseUDP(pkt.payload()); number != want {
			t.Fatalf("packet %d where %d was to be", number, want)
		}
	}
}

func TestDownlinkDoesNotAllocate(t *testing.T) {
	a, b, _ := stillPair(t)
	x := a.device.transmit[0]
	a.peer(b).ask(&hello{ReceiveRate: 1e9})
	packet := a.udp(b.site, 1000, 0, 1000)
	now := time.Duration(0)
	use := func() {
		now += time.Millisecond
		a.forward(now)
		for range 20 {
			x.offer(packet)
		}
		x.moveLines()
		for x.queue.Len() > 0 {
			x.send()
		}
		a.sent.n = 0
	}
	for range 20 {
		use()
	}
	if n := testing.AllocsPerRun(50, use); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
