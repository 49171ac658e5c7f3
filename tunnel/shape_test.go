package tunnel

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kiloport/queue"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/tuntest"
)

// A bulk flow and a sparse one share a link of 10 Mbit/s: the one gets the rate,
// to within 2 %, and the other waits for no more than two packets of the first.
func TestBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, size = 10_000_000, 1420
		a, b := pair(t, newMemNet(), func(c *Config) { c.Options.Bandwidth = rate })
		defer b.stop()
		defer a.stop()
		a.tun.in <- a.udp(b, 1, 0, 100)
		time.Sleep(time.Second) // handshake, HELLO, probes
		b.tun.received()
		const bulk = 60 // less than CoDel minds
		began := time.Now()
		for n := range uint64(bulk) {
			a.tun.in <- a.udp(b, 1000, n, size)
		}
		time.Sleep(10 * time.Millisecond)
		a.tun.in <- a.udp(b, 2000, 0, 100)
		asked, sparse, last, arrived := time.Now(), time.Duration(-1), time.Duration(0), 0
		for range 4000 {
			time.Sleep(50 * time.Microsecond)
			for _, p := range b.tun.received() {
				if port, _ := parseUDP(p); port == 2000 {
					sparse = time.Since(asked)
					continue
				}
				arrived++
				last = time.Since(began)
			}
		}
		if arrived != bulk {
			t.Fatalf("%d packets of %d arrived; drops %v", arrived, bulk, a.peerStatus().Drops)
		}
		// Padding does not make full packets longer. The first leaves at once.
		outer := float64(size + 32 + 8 + 40)
		if got := (bulk - 1) * outer * 8 / last.Seconds(); got < 0.98*rate || got > 1.02*rate {
			t.Errorf("sent at %.3f Mbit/s, want %.3f", got/1e6, float64(rate)/1e6)
		}
		if two := time.Duration(2 * outer * 8 / rate * 1e9); sparse < 0 || sparse > two {
			t.Errorf("the sparse packet took %v, want at most %v", sparse, two)
		}
	})
}

func TestBandwidthWords(t *testing.T) {
	for text, want := range map[string][2]int64{
		"20mbit": {20e6, 0}, "off": {0, 0}, "1.5gbit": {1.5e9, 0}, "5mbit/20mbit": {5e6, 20e6}, "off/20mbit": {0, 20e6}, "20mbit/off": {20e6, 0},
		"20Mbit/s": {20e6, 0}, "5mbit/s/20mbit/s": {5e6, 20e6}, "5mbit / 20mbit": {5e6, 20e6},
	} {
		send, receive, err := ParseBandwidth(text)
		if err != nil || send != want[0] || receive != want[1] {
			t.Errorf("%q is read as %d/%d, %v", text, send, receive, err)
		}
		if s, r, err := ParseBandwidth(FormatBandwidth(send, receive)); err != nil || s != send || r != receive {
			t.Errorf("%q is written as %s", text, FormatBandwidth(send, receive))
		}
	}
	for _, text := range []string{"", "/", "20mbit/", "/20mbit", "1mbit/2mbit/3mbit", "20", "20mbit/5000tbit", "fast", "on"} {
		if send, receive, err := ParseBandwidth(text); err == nil {
			t.Errorf("%q was taken for %d/%d", text, send, receive)
		}
	}
}

func TestAutorateWords(t *testing.T) {
	for text, want := range map[string]RateRange{"off": {}, "5mbit-50mbit": {5e6, 50e6}, "5-50mbit": {5e6, 50e6}} {
		r, err := ParseAutorate(text)
		if err != nil || r != want {
			t.Errorf("%q is read as %v, %v", text, r, err)
		}
		if again, err := ParseAutorate(r.String()); err != nil || again != r {
			t.Errorf("%q is written as %v", text, r)
		}
	}
	for _, text := range []string{"", "20mbit", "50mbit-5mbit", "on"} {
		if r, err := ParseAutorate(text); err == nil {
			t.Errorf("%q was taken for %v", text, r)
		}
	}
}

func TestRatesThatDoNotGoTogether(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"base rate is 60000000":         func(o *Options) { o.Bandwidth, o.Autorate = 60e6, RateRange{5e6, 50e6} },
		"bandwidth: queue: the rate":    func(o *Options) { o.ReceiveBandwidth = 7 },
		"least rate is 1 bit/s":         func(o *Options) { o.Autorate = RateRange{1, 50e6} },
		"target is 200ms, use more":     func(o *Options) { o.Queue.Target = 200 * time.Millisecond },
		"memory limit is 100, use":      func(o *Options) { o.Queue.MemoryLimit = 100 },
		"overhead: queue: the overhead": func(o *Options) { o.Overhead.Bytes = 1000 },
	} {
		o := DefaultOptions()
		change(&o)
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// superTo is a super-packet to another site of a TCP stream or of datagrams.
func (s *site) superTo(other *site, udp bool, size int) (tun.Header, []byte) {
	return tuntest.Inner{
		From: netip.AddrPortFrom(s.inside, 1000), To: netip.AddrPortFrom(other.inside, 2000), UDP: udp, Class: 2,
		Payload: slices.Repeat([]byte("some payload that is cut "), 400),
	}.Super(size)
}

func (t *transmitter) offerSuper(h tun.Header, packet []byte) {
	t.offer(packet[:1]) // makes the buffer
	t.next.header, t.next.n = h, copy(t.next.buf[tun.Headroom:], packet)
	t.next = t.enqueue(t.next)
}

// On a slow line, our own or the peer's, super-packets are queued as the packets
// that they stand for; on a fast one as they are, and their cost is the same.
func TestSuperPacketsAreCutForSlowLines(t *testing.T) {
	for name, c := range map[string]struct {
		own, peers int64
		cut        bool
	}{
		"no line": {}, "our slow line": {own: 999e6, cut: true}, "our fast line": {own: 1e9},
		"the peer's slow line": {peers: 20e6, cut: true}, "two fast lines": {own: 2e9, peers: 1e9}, "a fast and a slow line": {own: 2e9, peers: 20e6, cut: true},
	} {
		for _, udp := range []bool{false, true} {
			a, b, _ := stillPair(t, func(c2 *Config) { c2.Options.Bandwidth = c.own })
			x, p := a.device.transmit[0], a.peer(b)
			p.ask(&hello{ReceiveRate: c.peers})
			h, super := a.superTo(b.site, udp, 1300)
			want, err := tuntest.Segment(h, super)
			if err != nil {
				t.Fatal(err)
			}
			whole := x.cost(queue.Overhead{Bytes: 38, MPU: 84}, &packet{buf: append(make([]byte, tun.Headroom), super...), n: len(super), header: h, peer: p})
			sum := 0
			for _, segment := range want {
				sum += 38 + 40 + 8 + 32 + noise.PaddedSize(len(segment), a.device.mtu())
			}
			if whole != sum {
				t.Errorf("%s, udp %v: a super-packet costs %d, its packets %d", name, udp, whole, sum)
			}
			x.offerSuper(h, super)
			for i := range 200 {
				a.forward(time.Duration(i) * time.Millisecond / 4)
				x.moveLines()
				if x.queue.Len() == len(want) || len(x.lines) == 0 {
					break
				}
			}
			if !c.cut {
				if x.queue.Len() != 1 {
					t.Errorf("%s, udp %v: %d packets", name, udp, x.queue.Len())
				}
				continue
			}
			for i := range want {
				pkt, ok := x.queue.Dequeue(x.now)
				if !ok || !bytes.Equal(pkt.payload(), want[i]) || pkt.header != (tun.Header{}) || pkt.peer != p {
					t.Fatalf("%s, udp %v: packet %d of %d is another one, or is not there: %v", name, udp, i, len(want), ok)
				}
			}
		}
	}
}

func TestCuttingDoesNotAllocate(t *testing.T) {
	a, b, _ := stillPair(t, func(c *Config) { c.Options.Bandwidth = 900e6 })
	x := a.device.transmit[0]
	h, super := a.superTo(b.site, false, 1300)
	now := time.Duration(0)
	use := func() {
		x.offerSuper(h, super)
		for x.queue.Len() > 0 {
			now += time.Millisecond
			a.forward(now)
			a.clock.now.Add(int64(time.Millisecond))
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

// What cannot be cut is dropped, and counted.
func TestMalformedSuperPacketsAreDropped(t *testing.T) {
	a, b, _ := stillPair(t, func(c *Config) { c.Options.Bandwidth = 20e6 })
	x := a.device.transmit[0]
	h, super := a.superTo(b.site, false, 1300)
	h.ChecksumStart = 7
	x.offerSuper(h, super)
	if n := a.peer(b).drops[dropInvalid].Load(); n != 1 || x.queue.Len() != 0 {
		t.Errorf("%d dropped, %d queued", n, x.queue.Len())
	}
}

// The limits of FQ-CoDel are for all workers, of which each has enough.
func TestLimitsOfOneWorker(t *testing.T) {
	for _, c := range []struct{ workers, limit, memory, wantLimit, wantMemory int }{
		{1, 10240, 32 << 20, 10240, 32 << 20}, {4, 10240, 32 << 20, 2560, 8 << 20}, {64, 10240, 32 << 20, 1024, 2 << 20},
		{4, 100, 1 << 20, 100, 1 << 20},
	} {
		config := queue.Default()
		config.Limit, config.MemoryLimit = c.limit, c.memory
		got := ofOneWorker(config, c.workers)
		if got.Limit != c.wantLimit || got.MemoryLimit != c.wantMemory || got.Validate() != nil {
			t.Errorf("%+v: %d packets, %d bytes, %v", c, got.Limit, got.MemoryLimit, got.Validate())
		}
	}
}

// Where a packet takes long, flows that begin send one full packet each before a sparse
// flow's, in the queue for our line and in that for a peer's.
func TestFlowsThatBeginOnALine(t *testing.T) {
	for name, c := range map[string]struct {
		own, peers    int64
		fixed         bool
		quantum, want int
	}{
		"no line": {quantum: 1514, want: 8}, "our slow line": {own: 20e6, quantum: 312, want: 4}, "our fast line": {own: 2e9, quantum: 1420, want: 4},
		"the peer's slow line": {peers: 20e6, quantum: 1514, want: 4}, "a line faster than the peer's": {own: 100e6, peers: 20e6, quantum: 1420, want: 4},
		"our slow line, by the RFC": {own: 20e6, fixed: true, quantum: 1514, want: 8}, "the peer's, by the RFC": {peers: 20e6, fixed: true, quantum: 1514, want: 8},
	} {
		a, b, _ := stillPair(t, func(config *Config) { config.Options.Bandwidth, config.Options.FixedQuantum = c.own, c.fixed })
		x := a.device.transmit[0]
		a.peer(b).ask(&hello{ReceiveRate: c.peers})
		for i := range uint64(8) {
			x.offer(a.udp(b.site, uint16(1000+i/2), i, 1420))
		}
		x.offer(a.udp(b.site, 2000, 0, 100))
		q := x.queue
		if c.peers != 0 {
			q = x.lines[0].queue
		}
		before := 0
		for pkt, ok := q.Dequeue(x.now); ok && pkt.n == 1420; pkt, ok = q.Dequeue(x.now) {
			before++
		}
		if got := a.device.Status().Queue.Parameters.Quantum; before != c.want || got != c.quantum {
			t.Errorf("%s: %d packets before the sparse flow's, want %d; our quantum is %d, want %d", name, before, c.want, got, c.quantum)
		}
	}
}

// beginAt offers four packets of 400 bytes of each of two flows to another site, and
// tells how many of the first leave the queue before the second begins.
func (s *still) beginAt(other *still, q func() *queue.FQ[*packet], first uint16) (before int) {
	x := s.device.transmit[0]
	for i := range uint64(8) {
		x.offer(s.udp(other.site, first+uint16(i/4), i, 400))
	}
	others := false
	for pkt, ok := q().Dequeue(x.now); ok; pkt, ok = q().Dequeue(x.now) {
		port, _ := parseUDP(pkt.payload())
		if others = others || port != first; !others {
			before++
		}
	}
	return before
}

// A rate that changes, ours or a peer's, has another quantum.
func TestTheQuantumFollowsTheRate(t *testing.T) {
	for name, of := range map[string]struct {
		option siteOption
		change func(a, b *still, rate int64)
		queue  func(*transmitter) *queue.FQ[*packet]
	}{
		"ours": {
			withAutorate(1e6, 100e6),
			func(a, _ *still, rate int64) { a.device.uplink.rate.Store(rate); a.device.transmit[0].send() },
			func(x *transmitter) *queue.FQ[*packet] { return x.queue },
		},
		"the peer's": {
			func(*Config) {},
			func(a, b *still, rate int64) {
				a.peer(b).ask(&hello{ReceiveRate: rate})
				a.device.transmit[0].offer(a.udp(b.site, 1, 0, 100))
				a.device.transmit[0].moveLines()
			},
			func(x *transmitter) *queue.FQ[*packet] { return x.lines[0].queue },
		},
	} {
		a, b, _ := stillPair(t, of.option)
		x := a.device.transmit[0]
		for i, c := range []struct {
			rate int64
			want int
		}{{100e6, 4}, {1e6, 1}, {40e6, 2}, {100e6, 4}} {
			of.change(a, b, c.rate)
			if got := a.beginAt(b, func() *queue.FQ[*packet] { return of.queue(x) }, uint16(1000*(i+1))); got != c.want {
				t.Errorf("%s, at %d bit/s: a flow that begins sends %d packets of 400 bytes, want %d", name, c.rate, got, c.want)
			}
			a.clock.now.Add(1e9)
			x.now = a.clock.Now()
		}
	}
}
