package tunnel

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"kiloport/portpool"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/tun"
	"kiloport/tunnel/uapi"
)

// still is a device that nobody runs: the test moves each datagram itself, so
// that the packet path can be counted, timed and held at any point.
type still struct {
	*site
	sent   *wire
	clock  *handClock
	closed chan struct{}
}

// handClock stands still unless the test moves it. Its timers never fire.
type handClock struct {
	systemClock
	now atomic.Int64
}

func (c *handClock) Now() int64 { return c.now.Load() }

// wire keeps what a device sent until the test takes it. It does not allocate
// once it has grown.
type wire struct {
	messages []portpool.Message
	bytes    [][]byte
	n        int
}

func (w *wire) put(from netip.AddrPort, m *portpool.Message) {
	if w.n == len(w.messages) {
		w.messages = append(w.messages, portpool.Message{})
		w.bytes = append(w.bytes, make([]byte, maxDatagram))
	}
	buf := w.bytes[w.n]
	w.messages[w.n] = portpool.Message{
		Buf: buf, N: copy(buf, m.Buf), SegmentSize: m.SegmentSize, Addr: from, Local: m.Addr.Addr(), TrafficClass: m.TrafficClass, HopLimit: 64,
	}
	w.n++
}

type stillSocket struct {
	at     netip.AddrPort
	sent   *wire
	closed chan struct{}
}

func (s *stillSocket) Send(ms []portpool.Message) (int, error) {
	for i := range ms {
		s.sent.put(s.at, &ms[i])
		ms[i].N = len(ms[i].Buf)
	}
	return len(ms), nil
}
func (s *stillSocket) Receive([]portpool.Message) (int, error) { <-s.closed; return 0, net.ErrClosed }
func (s *stillSocket) Port() uint16                            { return s.at.Port() }
func (s *stillSocket) Close() error {
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	return nil
}

// countTUN counts what is written to it.
type countTUN struct {
	*memTUN
	packets, bytes int
}

func (c *countTUN) Queues() []tun.Queue { return []tun.Queue{c} }

func (c *countTUN) Write(_ tun.Header, buf []byte, more [][]byte) error {
	c.packets++
	c.bytes += len(buf) - tun.Headroom
	return nil
}

func newStill(t testing.TB, n byte, options ...siteOption) (*still, *countTUN) {
	t.Helper()
	s := &still{site: &site{t: t, tun: newMemTUN(1420)}, sent: new(wire), clock: new(handClock), closed: make(chan struct{})}
	s.clock.now.Store(1e9)
	s.addr = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: n})
	s.inside = netip.AddrFrom16([16]byte{0xfd, 0, 14: n, 15: 1})
	s.at = netip.AddrPortFrom(s.addr, 51820)
	random := newSeeded(n)
	s.key, _ = noise.NewPrivateKey(random)
	next := uint16(40000)
	counter := &countTUN{memTUN: s.tun}
	c := Config{
		TUN: counter, Options: DefaultOptions(), Rand: random, Clock: s.clock,
		OpenSocket: func(c portpool.SocketConfig) (portpool.Socket, error) {
			port := c.Port
			if port == 0 {
				next++
				port = next
			}
			return &stillSocket{at: netip.AddrPortFrom(s.addr, port), sent: s.sent, closed: make(chan struct{})}, nil
		},
	}
	for _, o := range options {
		o(&c)
	}
	var err error
	if s.device, err = New(c); err != nil {
		t.Fatal(err)
	}
	port := s.at.Port()
	if err := s.device.Configure(&uapi.SetRequest{PrivateKey: (*uapi.SecretKey)(&s.key), ListenPort: &port}); err != nil {
		t.Fatal(err)
	}
	s.device.linkEvent(tun.Up)
	t.Cleanup(s.device.Close)
	return s, counter
}

func (s *still) peer(other *still) *peer { return s.device.peer(other.key.Public()) }

// stillPair is two devices with a session, HELLO exchanged and lanes validated.
func stillPair(t testing.TB, options ...siteOption) (a, b *still, fromA *countTUN) {
	t.Helper()
	a, _ = newStill(t, 1, options...)
	b, fromA = newStill(t, 2, options...)
	for _, s := range [][2]*still{{a, b}, {b, a}} {
		at := s[1].at
		err := s[0].device.Configure(&uapi.SetRequest{Peers: []uapi.PeerChange{{
			PublicKey: uapi.PublicKey(s[1].key.Public()), Endpoint: &at,
			AllowedIPs: []uapi.AllowedIPChange{{Prefix: netip.PrefixFrom(s[1].inside, 112).Masked()}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	a.peer(b).initiate()
	for range 6 {
		exchange(a, b)
		exchange(b, a)
		a.peer(b).fire()
		b.peer(a).fire()
	}
	if mode := a.device.Status().Peers[0]; mode.Mode != "direct" {
		t.Fatalf("mode %s (%s), drops %v", mode.Mode, mode.Reason, mode.Drops)
	}
	return a, b, fromA
}

// offer puts a packet into the queue as if it had been read.
func (t *transmitter) offer(bytes []byte) {
	if t.next == nil {
		t.next = t.buffers.take(tun.MaxPacket)
	}
	t.next.header, t.next.n = tun.Header{}, copy(t.next.buf[tun.Headroom:], bytes)
	t.next = t.enqueue(t.next)
}

// exchange carries what a has sent to b, which handles all of it.
func exchange(a, b *still) {
	messages := a.sent.messages[:a.sent.n]
	a.sent.n = 0
	for len(messages) > 0 {
		n := min(len(messages), receiveBatch)
		b.device.receive[0].receive(messages[:n])
		messages = messages[n:]
	}
	h := b.device.handshakes
	for {
		select {
		case in := <-h.inbound:
			h.consume(&in)
		case in := <-h.answers:
			h.consume(&in)
		case in := <-h.proven:
			h.consume(&in)
		default:
			return
		}
	}
}

// TestPacketPathDoesNotAllocate carries batches of new and old packets of many
// flows from one device's TUN to the other's.
func TestPacketPathDoesNotAllocate(t *testing.T) {
	a, b, out := stillPair(t)
	const flows = 64
	packets := make([][]byte, flows)
	for i := range packets {
		packets[i] = a.udp(b.site, uint16(2000+i), 1, 100+20*i)
	}
	round := func() {
		a.clock.now.Add(1e6)
		b.clock.now.Add(1e6)
		a.device.transmit[0].now = a.clock.Now()
		for _, p := range packets {
			a.device.transmit[0].offer(p)
		}
		for a.device.transmit[0].queue.Len() > 0 {
			a.device.transmit[0].send()
		}
		exchange(a, b)
	}
	for range 20 {
		round()
	}
	before := out.packets
	// Less than one per batch of 64: now and then a probe is sent.
	if n := testing.AllocsPerRun(200, round); n >= 1 {
		t.Errorf("%v allocations for %d packets", n, flows)
	}
	if got := out.packets - before; got != 201*flows {
		t.Fatalf("%d packets delivered, want %d", got, 201*flows)
	}
}

func benchmarkPath(b *testing.B, size, flows int) {
	x, y, out := stillPair(b)
	packets := make([][]byte, 64)
	for i := range packets {
		packets[i] = x.udp(y.site, uint16(2000+i%flows), 1, size)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for sent := 0; b.Loop(); sent++ {
		x.device.transmit[0].offer(packets[sent%len(packets)])
		if sent%len(packets) == len(packets)-1 {
			for x.device.transmit[0].queue.Len() > 0 {
				x.device.transmit[0].send()
			}
			exchange(x, y)
		}
	}
	if out.packets == 0 {
		b.Fatal("nothing arrived")
	}
}

// BenchmarkPath is both directions of the data path without the kernel: TUN to
// socket in one device and socket to TUN in another, per packet.
func BenchmarkPath(b *testing.B) {
	for _, flows := range []int{1, 64} {
		for _, size := range []int{100, 1420} {
			b.Run(map[int]string{1: "one flow", 64: "64 flows"}[flows]+"/"+map[int]string{100: "100 B", 1420: "1420 B"}[size], func(b *testing.B) {
				benchmarkPath(b, size, flows)
			})
		}
	}
}

func (c *handClock) AfterFunc(time.Duration, func()) Timer { return noTimer{} }

type noTimer struct{}

func (noTimer) Reset(time.Duration) bool { return false }
func (noTimer) Stop() bool               { return false }
