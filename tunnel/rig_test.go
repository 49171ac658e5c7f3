package tunnel

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kiloport/tunnel/noise"
	"kiloport/tunnel/tun"
	"kiloport/tunnel/uapi"
)

// memTUN is a TUN device, and its one queue, whose kernel side is the test.
type memTUN struct {
	mtu    int
	in     chan []byte // the kernel's packets into the tunnel
	first  chan []byte // the one of them that Await has seen
	out    chan []byte // the tunnel's packets to the kernel
	events chan tun.Event
	once   sync.Once
	closed chan struct{}

	// endless, if not nil, gives one packet after the other, as of flows of which
	// each waits for its acknowledgement: there always is one, and never two.
	endless atomic.Pointer[func() []byte]
	given   bool
}

func newMemTUN(mtu int) *memTUN {
	m := &memTUN{mtu: mtu, in: make(chan []byte, 1<<16), first: make(chan []byte, 1), out: make(chan []byte, 1<<20), events: make(chan tun.Event, 8), closed: make(chan struct{})}
	m.events <- tun.Up
	return m
}

func (m *memTUN) Queues() []tun.Queue            { return []tun.Queue{m} }
func (m *memTUN) Capabilities() tun.Capabilities { return tun.Capabilities{Queues: 1} }

func (m *memTUN) Read(buf []byte) (tun.Header, int, error) {
	if h, n, err := m.TryRead(buf); n > 0 {
		return h, n, err
	}
	select {
	case <-m.closed:
		return tun.Header{}, 0, os.ErrClosed
	case p := <-m.in:
		return tun.Header{}, copy(buf[tun.Headroom:], p), nil
	}
}

func (m *memTUN) Await(d time.Duration) error {
	if !hold(m.first, m.in, m.closed, d) {
		return os.ErrClosed
	}
	return nil
}

// hold waits for d, or less if something comes, which is kept in first, whose capacity
// is one. It is false if that ends because of closed.
func hold[T any](first, in chan T, closed <-chan struct{}, d time.Duration) (open bool) {
	if len(first) > 0 {
		return true
	}
	select {
	case <-closed:
		return false
	case x := <-in:
		first <- x
	case <-time.After(d):
	}
	return true
}

func (m *memTUN) Doze(d time.Duration) error { return m.Await(d) }

func (m *memTUN) TryRead(buf []byte) (tun.Header, int, error) {
	if next := m.endless.Load(); next != nil {
		if m.given = !m.given; m.given {
			return tun.Header{}, copy(buf[tun.Headroom:], (*next)()), nil
		}
		return tun.Header{}, 0, nil
	}
	select {
	case p := <-m.first:
		return tun.Header{}, copy(buf[tun.Headroom:], p), nil
	default:
	}
	select {
	case <-m.closed:
		return tun.Header{}, 0, os.ErrClosed
	case p := <-m.in:
		return tun.Header{}, copy(buf[tun.Headroom:], p), nil
	default:
		return tun.Header{}, 0, nil
	}
}

func (m *memTUN) Write(h tun.Header, buf []byte, more [][]byte) error {
	select {
	case m.out <- slices.Concat(append([][]byte{buf[tun.Headroom:]}, more...)...):
		return nil
	case <-m.closed:
		return os.ErrClosed
	}
}

func (m *memTUN) Name() string             { return "mem0" }
func (m *memTUN) MTU() int                 { return m.mtu }
func (m *memTUN) Events() <-chan tun.Event { return m.events }
func (m *memTUN) File() *os.File           { return nil }
func (m *memTUN) Close() error             { m.once.Do(func() { close(m.closed) }); return nil }

// received takes what the tunnel has delivered so far.
func (m *memTUN) received() (packets [][]byte) {
	for {
		select {
		case p := <-m.out:
			packets = append(packets, p)
		default:
			return packets
		}
	}
}

// site is a Device with its fake TUN device, at an address of a memNet.
type site struct {
	t       testing.TB
	device  *Device
	tun     *memTUN
	key     noise.PrivateKey
	addr    netip.Addr     // outside
	inside  netip.Addr     // inside
	at      netip.AddrPort // outside, with the listen port
	stopped chan error
}

// siteOption changes a Config before the device is made.
type siteOption func(*Config)

func withConstants(k noise.Constants) siteOption {
	return func(c *Config) { c.Constants = &k }
}

// newSite makes and runs a device on host number n of a network. The caller
// stops it, inside the bubble if there is one.
func newSite(t *testing.T, network *memNet, n byte, options ...siteOption) *site {
	t.Helper()
	s := &site{
		t: t, tun: newMemTUN(1420), stopped: make(chan error, 1),
		addr:   netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: n}),
		inside: netip.AddrFrom16([16]byte{0xfd, 0, 14: n, 15: 1}),
	}
	s.at = netip.AddrPortFrom(s.addr, 51820)
	random := newSeeded(n)
	s.key, _ = noise.NewPrivateKey(random)
	c := Config{
		TUN: s.tun, Options: DefaultOptions(), Rand: random, OpenSocket: network.opener(s.addr),
		Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)).With("site", n),
	}
	for _, o := range options {
		o(&c)
	}
	var err error
	if s.device, err = New(c); err != nil {
		t.Fatal(err)
	}
	port := s.at.Port()
	s.configure(&uapi.SetRequest{PrivateKey: (*uapi.SecretKey)(&s.key), ListenPort: &port})
	go func() { s.stopped <- s.device.Run(context.Background()) }()
	return s
}

func (s *site) configure(r *uapi.SetRequest) {
	s.t.Helper()
	if err := s.device.Configure(r); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) stop() {
	s.t.Helper()
	s.device.Close()
	if err := <-s.stopped; err != nil {
		s.t.Errorf("run ended with %v", err)
	}
}

// knows makes other a peer of s; with its endpoint if at is valid.
func (s *site) knows(other *site, at netip.AddrPort) {
	s.t.Helper()
	c := uapi.PeerChange{
		PublicKey:  uapi.PublicKey(other.key.Public()),
		AllowedIPs: []uapi.AllowedIPChange{{Prefix: netip.PrefixFrom(other.inside, 112).Masked()}},
	}
	if at.IsValid() {
		c.Endpoint = &at
	}
	s.configure(&uapi.SetRequest{Peers: []uapi.PeerChange{c}})
}

// pair makes two sites that know each other, within a synctest bubble.
func pair(t *testing.T, network *memNet, options ...siteOption) (a, b *site) {
	t.Helper()
	a, b = newSite(t, network, 1, options...), newSite(t, network, 2, options...)
	a.knows(b, b.at)
	b.knows(a, a.at)
	synctest.Wait() // the links are up
	return a, b
}

// peerStatus is what a says about its only peer.
func (s *site) peerStatus() PeerStatus {
	s.t.Helper()
	peers := s.device.Status().Peers
	if len(peers) != 1 {
		s.t.Fatalf("%d peers, want 1", len(peers))
	}
	return peers[0]
}

const udpHeader = 40 + 8

// udp makes an inner datagram from a port of s to the same port of other, with a
// number in it and size bytes in all.
func (s *site) udp(other *site, port uint16, number uint64, size int) []byte {
	p := make([]byte, max(size, udpHeader+8))
	p[0] = 6 << 4
	binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
	p[6], p[7] = 17, 64
	from, to := s.inside.As16(), other.inside.As16()
	copy(p[8:], from[:])
	copy(p[24:], to[:])
	binary.BigEndian.PutUint16(p[40:], port)
	binary.BigEndian.PutUint16(p[42:], port)
	binary.BigEndian.PutUint16(p[44:], uint16(len(p)-40))
	binary.BigEndian.PutUint64(p[udpHeader:], number)
	return p
}

// parseUDP gives what udp put in.
func parseUDP(p []byte) (port uint16, number uint64) {
	return binary.BigEndian.Uint16(p[40:]), binary.BigEndian.Uint64(p[udpHeader:])
}

// order checks that the numbers of each flow ascend, and counts them.
type order struct {
	t    *testing.T
	last map[uint16]uint64
	got  map[uint16]int
}

func newOrder(t *testing.T) *order {
	return &order{t: t, last: make(map[uint16]uint64), got: make(map[uint16]int)}
}

func (o *order) check(packets [][]byte) {
	o.t.Helper()
	for _, p := range packets {
		port, number := parseUDP(p)
		if last, seen := o.last[port]; seen && number <= last {
			o.t.Errorf("flow %d: packet %d after %d", port, number, last)
		}
		o.last[port] = number
		o.got[port]++
	}
}

// testWriter gives log lines to the test, unless it is over.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}
