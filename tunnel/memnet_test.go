package tunnel

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"kiloport/portpool"
)

// memNet is an internet in memory: hosts with UDP sockets and, between them, a
// path that a test may make slow, lossy or worse. It works within synctest.
type memNet struct {
	mu    sync.Mutex
	ports map[netip.AddrPort]*memSocket
	next  uint16
	depth int // of the queue of a socket, datagrams
	// path says what happens to a datagram: it arrives once after each of the
	// delays, never if there are none. It may change the datagram.
	path func(d *memDatagram) []time.Duration
	// seen is every datagram that was sent, if keep is set.
	keep bool
	seen []memDatagram

	flight map[[2]netip.AddrPort][]memFlight
}

// memFlight is a datagram on its way. Those of one pair of addresses arrive in
// the order of their times, and of sending where these are equal.
type memFlight struct {
	memDatagram
	due time.Time
}

type memDatagram struct {
	from, to netip.AddrPort
	bytes    []byte
	class    uint8
	label    uint32
	hop      uint8 // at arrival, 0 = 64
}

func newMemNet() *memNet {
	return &memNet{ports: make(map[netip.AddrPort]*memSocket), next: 30000, depth: 1 << 15, flight: make(map[[2]netip.AddrPort][]memFlight)}
}

// opener gives a host's way to open sockets.
func (n *memNet) opener(host netip.Addr) func(portpool.SocketConfig) (portpool.Socket, error) {
	return func(c portpool.SocketConfig) (portpool.Socket, error) {
		return n.open(host, c.Port)
	}
}

func (n *memNet) open(host netip.Addr, port uint16) (*memSocket, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for any := port == 0; any && (port < 1024 || n.ports[netip.AddrPortFrom(host, port)] != nil); {
		n.next++
		port = n.next
	}
	at := netip.AddrPortFrom(host, port)
	if n.ports[at] != nil {
		return nil, fmt.Errorf("open %v: %w", at, syscall.EADDRINUSE)
	}
	s := &memSocket{net: n, at: at, queue: make(chan memDatagram, n.depth), first: make(chan memDatagram, 1), closed: make(chan struct{})}
	n.ports[at] = s
	return s, nil
}

// taken gives what was sent since the last call.
func (n *memNet) taken() []memDatagram {
	n.mu.Lock()
	defer n.mu.Unlock()
	seen := n.seen
	n.seen = nil
	return seen
}

func (n *memNet) send(d memDatagram) {
	n.mu.Lock()
	if n.keep {
		kept := d
		kept.bytes = slices.Clone(d.bytes)
		n.seen = append(n.seen, kept)
	}
	delays := []time.Duration{0}
	if n.path != nil {
		delays = n.path(&d)
	}
	n.mu.Unlock()
	for _, delay := range delays {
		if delay == 0 {
			n.arrive(d)
		} else {
			n.fly(d, delay)
		}
	}
}

func (n *memNet) fly(d memDatagram, delay time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	pair, due := [2]netip.AddrPort{d.from, d.to}, time.Now().Add(delay)
	queue := n.flight[pair]
	at := len(queue)
	for at > 0 && queue[at-1].due.After(due) {
		at--
	}
	n.flight[pair] = slices.Insert(queue, at, memFlight{d, due})
	time.AfterFunc(delay, func() { n.land(pair) })
}

func (n *memNet) land(pair [2]netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	queue := n.flight[pair]
	for len(queue) > 0 && !queue[0].due.After(time.Now()) {
		n.arriveLocked(queue[0].memDatagram)
		queue = queue[1:]
	}
	n.flight[pair] = queue
}

func (n *memNet) arrive(d memDatagram) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.arriveLocked(d)
}

func (n *memNet) arriveLocked(d memDatagram) {
	s := n.ports[d.to]
	if s == nil {
		return
	}
	select {
	case s.queue <- d:
	default:
	}
}

// memSocket is a portpool.Socket.
type memSocket struct {
	net    *memNet
	at     netip.AddrPort
	queue  chan memDatagram
	first  chan memDatagram // what Doze has seen
	once   sync.Once
	closed chan struct{}
}

func (s *memSocket) Port() uint16 { return s.at.Port() }

func (s *memSocket) Close() error {
	s.once.Do(func() {
		close(s.closed)
		s.net.mu.Lock()
		delete(s.net.ports, s.at)
		s.net.mu.Unlock()
	})
	return nil
}

func (s *memSocket) Send(ms []portpool.Message) (int, error) {
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	default:
	}
	for i := range ms {
		from := s.at
		if ms[i].Local.IsValid() {
			from = netip.AddrPortFrom(ms[i].Local, from.Port())
		}
		size := ms[i].SegmentSize
		if size == 0 {
			size = max(len(ms[i].Buf), 1)
		}
		for datagram := range slices.Chunk(ms[i].Buf, size) {
			s.net.send(memDatagram{from: from, to: ms[i].Addr, bytes: slices.Clone(datagram), class: ms[i].TrafficClass, label: ms[i].FlowLabel})
		}
		ms[i].N = len(ms[i].Buf)
	}
	return len(ms), nil
}

func (s *memSocket) Receive(ms []portpool.Message) (n int, err error) {
	if n, err = s.Poll(ms); n > 0 || err != nil {
		return n, err
	}
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	case d := <-s.queue:
		d.fill(&ms[0])
	}
	n, _ = s.Poll(ms[1:]) // that it is closed, the next call tells
	return n + 1, nil
}

// Poll implements portpool.Poller.
func (s *memSocket) Poll(ms []portpool.Message) (n int, err error) {
	select {
	case d := <-s.first:
		d.fill(&ms[0])
		n++
	default:
	}
	for ; n < len(ms); n++ {
		select {
		case d := <-s.queue:
			d.fill(&ms[n])
		case <-s.closed:
			if n == 0 {
				return 0, net.ErrClosed
			}
			return n, nil
		default:
			return n, nil
		}
	}
	return n, nil
}

// Doze implements portpool.Poller.
func (s *memSocket) Doze(d time.Duration) error {
	if !hold(s.first, s.queue, s.closed, d) {
		return net.ErrClosed
	}
	return nil
}

// ReceiveShared implements portpool.SharedReceiver.
func (s *memSocket) ReceiveShared(b *portpool.Buffers) (int, error) {
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	case d := <-s.queue:
		b.Mu.Lock()
		d.fill(&b.Messages[0])
		return 1, nil
	}
}

func (d *memDatagram) fill(m *portpool.Message) {
	buf := m.Buf
	*m = portpool.Message{
		Buf: buf, N: copy(buf, d.bytes), Addr: d.from, Local: d.to.Addr(), TrafficClass: d.class,
		HopLimit: cmp.Or(d.hop, 64), Time: time.Now().UnixNano(),
	}
}

// seeded is a source of randomness for a test, safe for several goroutines.
type seeded struct {
	mu sync.Mutex
	r  *rand.ChaCha8
}

func newSeeded(seed byte) *seeded { return &seeded{r: rand.NewChaCha8([32]byte{seed})} }

func (s *seeded) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.r.Read(b)
}

func (n *memNet) setPath(path func(d *memDatagram) []time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.path = path
}
