package portpool

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// fakeHost is a kernel with ports that others hold and a limit of descriptors.
type fakeHost struct {
	mu    sync.Mutex
	open  map[uint16]*fakeSocket
	taken map[uint16]bool
	files int // may be open at one time
	next  uint16
	tries []uint16
}

type fakeSocket struct {
	host   *fakeHost
	port   uint16
	mark   uint32
	closed bool
}

func newFakeHost(files int, taken ...uint16) *fakeHost {
	h := &fakeHost{open: map[uint16]*fakeSocket{}, taken: map[uint16]bool{}, files: files, next: 30000}
	for _, port := range taken {
		h.taken[port] = true
	}
	return h
}

func (h *fakeHost) Open(port uint16) (Socket, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if port == 0 {
		for port = h.next; h.taken[port] || h.open[port] != nil; port++ {
		}
		h.next = port + 1
	}
	h.tries = append(h.tries, port)
	if h.taken[port] || h.open[port] != nil {
		return nil, fmt.Errorf("open: %w", syscall.EADDRINUSE)
	}
	if len(h.open) >= h.files {
		return nil, fmt.Errorf("open: %w", syscall.EMFILE)
	}
	s := &fakeSocket{host: h, port: port}
	h.open[port] = s
	return s, nil
}

func (s *fakeSocket) Send([]Message) (int, error)    { return 0, nil }
func (s *fakeSocket) Receive([]Message) (int, error) { return 0, nil }
func (s *fakeSocket) Port() uint16                   { return s.port }
func (s *fakeSocket) SetMark(m uint32) error         { s.mark = m; return nil }

func (s *fakeSocket) Close() error {
	s.host.mu.Lock()
	defer s.host.mu.Unlock()
	if s.closed {
		panic("closed twice")
	}
	s.closed = true
	delete(s.host.open, s.port)
	return nil
}

func newTestPool(t testing.TB, cfg PoolConfig) *Pool {
	t.Helper()
	p, err := NewPool(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func logTo(b *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func TestPoolConfigErrors(t *testing.T) {
	tests := []struct {
		cfg  PoolConfig
		want string
	}{
		{PoolConfig{Ports: -1}, "pool: -1 ports are out of range: choose 1 to 16383"},
		{PoolConfig{Ports: 16384}, "pool: 16384 ports are out of range: choose 1 to 16383"},
		{PoolConfig{Idle: -time.Second}, "pool: idle time -1s is negative: choose how long a lane may be unused, such as 60s"},
		{PoolConfig{Low: 5}, "pool: port range 5-0 is no range: give the lower port first, both 1 to 65535, or 0-0 for the kernel's choice"},
		{PoolConfig{High: 5}, "pool: port range 0-5 is no range: give the lower port first, both 1 to 65535, or 0-0 for the kernel's choice"},
		{PoolConfig{Low: 9, High: 8}, "pool: port range 9-8 is no range: give the lower port first, both 1 to 65535, or 0-0 for the kernel's choice"},
		{PoolConfig{Low: 40000, High: 41022}, "pool: port range 40000-41022 has 1023 ports, fewer than the 1024 ports asked for: widen the range or ask for at most 1023"},
		{PoolConfig{Ports: 2, Low: 40000, High: 40001, Open: newFakeHost(9, 40000, 40001).Open},
			"pool: none of the ports 40000-40001 can be had, all are in use or forbidden: choose another range"},
	}
	for _, tt := range tests {
		if p, err := NewPool(tt.cfg); err == nil || err.Error() != tt.want || p != nil {
			t.Errorf("got  %v, %v\nwant %s", p, err, tt.want)
		}
	}
	for _, cfg := range []PoolConfig{{Ports: 1}, {Ports: MaxPorts}, {Ports: 1, Low: 65535, High: 65535}, {Low: 40000, High: 41023}, {Ports: 2, Low: 1, High: 65535}} {
		cfg.Open = newFakeHost(1 << 20).Open
		newTestPool(t, cfg)
	}
}

func TestPoolOpensWhenNeededClosesWhenIdle(t *testing.T) {
	h := newFakeHost(1000)
	p := newTestPool(t, PoolConfig{Ports: 10, Open: h.Open, Idle: 32 * time.Second})
	if p.Open() != 0 || p.Limit() != 10 {
		t.Fatalf("%d open, limit %d", p.Open(), p.Limit())
	}
	a, err := p.Socket(1*sec, 3)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := p.Socket(2*sec, 3); b != a || err != nil {
		t.Errorf("another socket for the same lane: %v", err)
	}
	if b, _ := p.Socket(2*sec, 10); b == a {
		t.Error("two lanes have one socket")
	}
	p.Socket(9*sec, 3)
	want := []PortState{{3, 30000, 9 * sec}, {10, 30001, 2 * sec}}
	if diff := cmp.Diff(want, p.Ports()); diff != "" {
		t.Error(diff)
	}
	for _, s := range []struct {
		at           int64
		closed, open int
	}{{34, 0, 2}, {35, 1, 1}, {41, 0, 1}, {42, 1, 0}, {43, 0, 0}} {
		if n := p.Expire(s.at * sec); n != s.closed || p.Open() != s.open || len(h.open) != s.open {
			t.Errorf("at %d s: closed %d, %d open", s.at, n, p.Open())
		}
	}
	for _, lane := range []uint16{0, 11, 65535} {
		if _, err := p.Socket(50*sec, lane); err != ErrNoLane {
			t.Errorf("lane %d: %v", lane, err)
		}
	}
	if s, err := p.Socket(50*sec, 3); err != nil || s == a {
		t.Errorf("lane 3 again: %v", err)
	}
}

func TestPoolBusyPorts(t *testing.T) {
	var log bytes.Buffer
	h := newFakeHost(1000, 40001, 40003, 40004, 40005, 40006, 40007, 40009)
	p := newTestPool(t, PoolConfig{Ports: 5, Low: 40000, High: 40011, Open: h.Open, Log: logTo(&log), Rand: rand.NewPCG(1, 1)})
	if p.Limit() != 5 || p.Open() != 0 || len(h.open) != 0 {
		t.Errorf("limit %d, %d open", p.Limit(), p.Open())
	}
	var got []uint16
	for lane := range uint16(5) {
		s, err := p.Socket(1, lane+1)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, s.Port())
	}
	slices.Sort(got)
	if diff := cmp.Diff([]uint16{40000, 40002, 40008, 40010, 40011}, got); diff != "" {
		t.Error(diff)
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 1 || !strings.Contains(lines[0], "busy=") || !strings.Contains(lines[0], "range=40000-40011") || !strings.Contains(lines[0], "lanes=5 asked=5") {
		t.Errorf("log:\n%s", log.String())
	}
}

func TestPoolFewerThanAsked(t *testing.T) {
	var log bytes.Buffer
	h := newFakeHost(1000, 40001, 40003)
	p := newTestPool(t, PoolConfig{Ports: 5, Low: 40000, High: 40004, Open: h.Open, Log: logTo(&log)})
	if p.Limit() != 3 {
		t.Errorf("limit %d, want 3", p.Limit())
	}
	if !strings.Contains(log.String(), "fewer lanes than asked for") || strings.Count(log.String(), "\n") != 1 ||
		!strings.Contains(log.String(), "busy=2") || !strings.Contains(log.String(), "lanes=3 asked=5") {
		t.Errorf("log:\n%s", log.String())
	}
	if _, err := p.Socket(1, 4); err != ErrNoLane {
		t.Errorf("lane 4: %v", err)
	}
	// Later the ports are free again.
	clear(h.taken)
	p.Expire(1)
	p.Expire(retryAfter)
	if p.Limit() != 3 {
		t.Errorf("limit %d before ten minutes are over", p.Limit())
	}
	p.Expire(retryAfter + 1)
	for lane := range uint16(5) {
		if _, err := p.Socket(retryAfter+2, lane+1); err != nil {
			t.Errorf("lane %d: %v", lane+1, err)
		}
	}
}

// Descriptors run out while high lanes are open: the limit falls to what is
// open, and lanes below it get the sockets of those above.
func TestPoolRunsOut(t *testing.T) {
	var log bytes.Buffer
	h := newFakeHost(3)
	p := newTestPool(t, PoolConfig{Ports: 100, Open: h.Open, Log: logTo(&log)})
	for _, lane := range []uint16{1, 50, 90} {
		if _, err := p.Socket(1, lane); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := p.Socket(2, 2); err != nil || s.Port() != 30002 {
		t.Errorf("lane 2 did not take over lane 90's socket: %v", err)
	}
	if p.Limit() != 3 || p.Open() != 3 {
		t.Errorf("limit %d, %d open", p.Limit(), p.Open())
	}
	if _, err := p.Socket(2, 50); err != ErrNoLane {
		t.Errorf("lane 50: %v", err)
	}
	if s, err := p.Socket(2, 3); err != nil || s.Port() != 30001 {
		t.Errorf("lane 3 did not take over lane 50's socket: %v", err)
	}
	want := []PortState{{1, 30000, 1}, {2, 30002, 2}, {3, 30001, 2}}
	if diff := cmp.Diff(want, p.Ports()); diff != "" {
		t.Error(diff)
	}
	for at := int64(1); at <= 4; at++ { // does not repeat itself
		p.Expire(at * retryAfter)
		for lane := range uint16(4) {
			p.Socket(at*retryAfter+1, lane+1)
		}
		if p.Limit() > 4 || at > 1 && p.Limit() != 3 {
			t.Errorf("limit %d", p.Limit())
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "too many open files") {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}

func TestPoolNothingToBeHad(t *testing.T) {
	h := newFakeHost(0)
	p := newTestPool(t, PoolConfig{Ports: 10, Open: h.Open})
	if _, err := p.Socket(1, 1); err != ErrNoLane || p.Limit() != 0 {
		t.Errorf("limit %d, %v", p.Limit(), err)
	}
	tries := len(h.tries)
	for range 100 {
		p.Socket(2, 1)
	}
	if len(h.tries) != tries {
		t.Error("each packet tries to open a socket")
	}
	h.files = 10
	p.Expire(1 + retryAfter)
	if _, err := p.Socket(1+retryAfter, 10); err != nil {
		t.Errorf("after ten minutes: %v", err)
	}
}

func TestPoolPortsInRandomOrder(t *testing.T) {
	order := func(seed uint64) (ports []uint16) {
		h := newFakeHost(1000)
		p := newTestPool(t, PoolConfig{Ports: 200, Low: 50000, High: 50999, Open: h.Open, Rand: rand.NewPCG(seed, 0)})
		for lane := range uint16(200) {
			s, err := p.Socket(1, lane+1)
			if err != nil {
				t.Fatal(err)
			}
			ports = append(ports, s.Port())
		}
		return ports
	}
	a := order(1)
	if diff := cmp.Diff(a, order(1)); diff != "" {
		t.Errorf("the same source gave another order:\n%s", diff)
	}
	if slices.Equal(a, order(2)) {
		t.Error("another source gave the same order")
	}
	high := 0
	for _, port := range a {
		if port >= 50500 {
			high++
		}
	}
	if slices.IsSorted(a) || high < 60 || high > 140 {
		t.Errorf("%d of 200 ports are in the upper half: %v", high, a)
	}
}

func TestPoolMark(t *testing.T) {
	h := newFakeHost(10)
	p := newTestPool(t, PoolConfig{Ports: 5, Open: h.Open, FwMark: 7})
	a, _ := p.Socket(1, 1)
	if err := p.SetMark(8); err != nil {
		t.Error(err)
	}
	b, _ := p.Socket(1, 2)
	if err := p.SetMark(0); err != nil {
		t.Error(err)
	}
	c, _ := p.Socket(1, 3)
	for i, s := range []Socket{a, b, c} {
		if m := s.(*fakeSocket).mark; m != 0 {
			t.Errorf("socket %d has mark %d", i, m)
		}
	}
	p.SetMark(9)
	if m := a.(*fakeSocket).mark; m != 9 {
		t.Errorf("mark %d", m)
	}
}

func TestPoolClosed(t *testing.T) {
	h := newFakeHost(10)
	p := newTestPool(t, PoolConfig{Ports: 5, Open: h.Open})
	p.Socket(1, 1)
	if err := p.Close(); err != nil || len(h.open) != 0 || p.Open() != 0 {
		t.Errorf("close: %v, %d open", err, len(h.open))
	}
	for _, lane := range []uint16{1, 2} {
		if _, err := p.Socket(1, lane); err != net.ErrClosed {
			t.Errorf("lane %d: %v", lane, err)
		}
	}
	if n := p.Expire(1 << 60); n != 0 || len(p.Ports()) != 0 || p.Close() != nil {
		t.Error("a closed pool is not empty")
	}
}

// Any order of events leaves each open lane with a socket of its own, inside
// the range, and nothing open that the pool does not know.
func TestPoolInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lanes := uint16(rapid.IntRange(1, 12).Draw(t, "lanes"))
		h := newFakeHost(1000)
		cfg := PoolConfig{Ports: int(lanes), Open: h.Open, Idle: time.Second, Rand: rand.NewPCG(1, 1)}
		if rapid.Bool().Draw(t, "range") {
			cfg.Low, cfg.High = 100, 99+lanes+uint16(rapid.IntRange(0, 8).Draw(t, "spare"))
		}
		p, err := NewPool(cfg)
		if err != nil {
			t.Fatal(err)
		}
		now := int64(1)
		t.Repeat(map[string]func(*rapid.T){
			"use": func(t *rapid.T) {
				lane := rapid.Uint16Range(0, lanes+1).Draw(t, "lane")
				s, err := p.Socket(now, lane)
				if (err == nil) != (s != nil) || err != nil && int(lane) <= p.Limit() && lane > 0 {
					t.Fatalf("lane %d of %d: %v", lane, p.Limit(), err)
				}
				if s != nil && s.(*fakeSocket).closed {
					t.Fatal("the socket is closed")
				}
			},
			"wait":   func(t *rapid.T) { now += rapid.Int64Range(0, 2*sec).Draw(t, "ns") },
			"long":   func(t *rapid.T) { now += retryAfter },
			"expire": func(t *rapid.T) { p.Expire(now) },
			"files":  func(t *rapid.T) { h.files = rapid.IntRange(0, 14).Draw(t, "files") },
			"others": func(t *rapid.T) {
				port := rapid.Uint16Range(100, 119).Draw(t, "port")
				h.taken[port] = !h.taken[port]
			},
			"": func(t *rapid.T) {
				states := p.Ports()
				seen := map[uint16]bool{}
				for _, s := range states {
					if seen[s.Port] || h.open[s.Port] == nil || cfg.Low != 0 && (s.Port < cfg.Low || s.Port > cfg.High) {
						t.Fatalf("ports %v", states)
					}
					seen[s.Port] = true
				}
				if len(states) != p.Open() || len(h.open) != p.Open() || p.Limit() > int(lanes) {
					t.Fatalf("%d listed, %d counted, %d open, limit %d", len(states), p.Open(), len(h.open), p.Limit())
				}
				if n := len(p.ports.free) + len(p.ports.busy) + p.Open(); cfg.Low != 0 && n != int(cfg.High-cfg.Low)+1 {
					t.Fatalf("%d ports are known of %d-%d", n, cfg.Low, cfg.High)
				}
			},
		})
		p.Close()
		if len(h.open) != 0 {
			t.Fatalf("%d sockets are open after Close", len(h.open))
		}
	})
}

// A lane is wanted again between Expire's decision to close it and the closing.
func TestPoolUsedWhileBeingClosed(t *testing.T) {
	h := newFakeHost(10)
	p := newTestPool(t, PoolConfig{Ports: 5, Open: h.Open})
	a, _ := p.Socket(1, 1)
	e := p.slots[0].Load()
	e.used.Store(closing)
	if len(p.Ports()) != 0 {
		t.Error("a socket that is being closed is listed")
	}
	b, err := p.Socket(100*sec, 1)
	if b != a || err != nil || p.closeLane(0, e) != 0 || p.Open() != 1 || a.(*fakeSocket).closed {
		t.Errorf("got another socket or a closed one: %v", err)
	}
}

// Workers use lanes while these are closed for being idle.
func TestPoolConcurrently(t *testing.T) {
	h := newFakeHost(40)
	p := newTestPool(t, PoolConfig{Ports: 50, Open: h.Open, Idle: 32})
	var now atomic.Int64
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 0))
			for range 20_000 {
				lane := uint16(1 + r.IntN(50))
				if s, err := p.Socket(now.Add(1), lane); err == nil && s == nil {
					t.Error("neither socket nor error")
				}
				if r.IntN(50) == 0 {
					p.Expire(now.Load())
					p.Ports()
				}
			}
		})
	}
	wg.Wait()
	if len(h.open) != p.Open() || len(p.Ports()) != p.Open() {
		t.Errorf("%d open, pool counts %d and lists %d", len(h.open), p.Open(), len(p.Ports()))
	}
}

func TestPoolRealSockets(t *testing.T) {
	if err := RaiseFileLimit(1200); err != nil {
		t.Fatal(err)
	}
	ns := newNamespace(t)
	ns.do(t, func() error {
		p, err := NewPool(PoolConfig{})
		if err != nil {
			return err
		}
		defer p.Close()
		ports := map[uint16]bool{}
		for lane := range uint16(1024) {
			s, err := p.Socket(1, lane+1)
			if err != nil {
				return err
			}
			ports[s.Port()] = true
		}
		if len(ports) != 1024 || p.Open() != 1024 {
			return fmt.Errorf("%d ports, %d open", len(ports), p.Open())
		}
		if n := p.Expire(62 * sec); n != 1024 || p.Open() != 0 {
			return fmt.Errorf("closed %d, %d open", n, p.Open())
		}
		return nil
	})
}

// To try a port finds it busy exactly when to open it would.
func TestTryPort(t *testing.T) {
	ns := newNamespace(t)
	port := ns.open(t, SocketConfig{}).Port()
	ns.do(t, func() error {
		only4, err := openNetwork(SocketConfig{}, "udp4")
		if err != nil {
			return err
		}
		defer only4.Close()
		for _, taken := range []uint16{port, only4.Port()} {
			_, openErr := Open(SocketConfig{Port: taken})
			if err := tryPort(taken); !errors.Is(openErr, unix.EADDRINUSE) || err != unix.EADDRINUSE {
				return fmt.Errorf("a taken port: %v, open says %v", err, openErr)
			}
		}
		for range 3 {
			if err := tryPort(45678); err != nil {
				return err
			}
		}
		return tryBind(unix.AF_INET, &unix.SockaddrInet4{Port: 45678})
	})
}

// A range of real ports, of which some are busy.
func TestPoolRealRange(t *testing.T) {
	ns := newNamespace(t)
	for _, port := range []uint16{40003, 40005} {
		ns.open(t, SocketConfig{Port: port})
	}
	ns.do(t, func() error {
		var log bytes.Buffer
		p, err := NewPool(PoolConfig{Ports: 10, Low: 40000, High: 40009, Receive: true, FwMark: 5, Log: logTo(&log)})
		if err != nil {
			return err
		}
		defer p.Close()
		for lane := range uint16(8) {
			s, err := p.Socket(1, lane+1)
			if err != nil {
				return err
			}
			send, receive, err := s.(*UDPSocket).Buffers()
			if send != 2<<20 || receive != 2<<20 || err != nil {
				return fmt.Errorf("buffers %d, %d: %w", send, receive, err)
			}
		}
		if p.Limit() != 8 || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "busy=2") {
			return fmt.Errorf("limit %d, log:\n%s", p.Limit(), log.String())
		}
		return p.SetMark(6)
	})
}

// All ports that the kernel may choose are taken.
func TestPoolEphemeralPortsRunOut(t *testing.T) {
	ns := newNamespace(t)
	ns.do(t, func() error {
		if err := writeSysctl("net/ipv4/ip_local_port_range", "40000 40049"); err != nil {
			return err
		}
		var log bytes.Buffer
		p, err := NewPool(PoolConfig{Ports: 100, Log: logTo(&log)})
		if err != nil {
			return err
		}
		defer p.Close()
		for lane := uint16(1); int(lane) <= p.Limit(); lane++ {
			if _, err := p.Socket(1, lane); err != nil && err != ErrNoLane {
				return err
			}
		}
		if p.Limit() != 50 || p.Open() != 50 || strings.Count(log.String(), "\n") != 1 {
			return fmt.Errorf("limit %d, %d open, log:\n%s", p.Limit(), p.Open(), log.String())
		}
		return nil
	})
}

func TestPoolSocketDoesNotAllocate(t *testing.T) {
	p := newTestPool(t, PoolConfig{Ports: 1024, Open: newFakeHost(2000).Open})
	now := int64(1)
	use := func() {
		for lane := range uint16(1024) {
			now += 1e6
			p.Socket(now, lane+1)
		}
	}
	if n := testing.AllocsPerRun(20, use); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPoolSocket(b *testing.B) {
	p := newTestPool(b, PoolConfig{Ports: 1024, Open: newFakeHost(2000).Open})
	b.ReportAllocs()
	i := int64(0)
	for b.Loop() {
		i++
		p.Socket(i*1000, uint16(1+i&1023))
	}
}

const nobody = 65534

// The limits are those of a process, so each case runs in one of its own.
func TestRaiseFileLimit(t *testing.T) {
	if limits := os.Getenv("PORTPOOL_TEST_LIMITS"); limits != "" {
		lowerLimits(limits)
		return
	}
	asRoot := []string{"from 100 to 300", "limit=100/100"}
	if mayRaiseHardLimit(t) {
		asRoot = []string{"err=<nil> limit=300/300"}
	}
	tests := []struct {
		name       string
		user       int // to become first
		soft, hard uint64
		need       int
		want       []string // in the output
	}{
		{"enough already", nobody, 200, 200, 150, []string{"err=<nil> limit=200/200"}},
		{"soft limit only", nobody, 100, 500, 300, []string{"err=<nil> limit=300/500"}},
		{"hard limit as root", 0, 100, 100, 300, asRoot},
		{"hard limit as a user", nobody, 100, 100, 300, []string{
			"from 100 to 300", "LimitNOFILE=300", "ulimit -n 300", "fewer ports", "limit=100/100"}},
		{"as far as it goes", nobody, 100, 200, 300, []string{"from 200 to 300", "LimitNOFILE=300", "limit=200/200"}},
		{"a pool goes on with what it gets", nobody, 64, 64, 0, []string{"pool: asked 1024, has 5", "too many open files"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestRaiseFileLimit$", "-test.v")
			cmd.Env = append(os.Environ(), fmt.Sprintf("PORTPOOL_TEST_LIMITS=%d %d %d %d", tt.user, tt.soft, tt.hard, tt.need))
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, want := range tt.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("no %q in:\n%s", want, out)
				}
			}
		})
	}
}

// mayRaiseHardLimit looks for CAP_SYS_RESOURCE, which root lacks in some
// containers.
func mayRaiseHardLimit(t *testing.T) bool {
	t.Helper()
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&head, &caps[0]); err != nil {
		t.Fatal(err)
	}
	return caps[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

func lowerLimits(text string) {
	var soft, hard uint64
	var user, need int
	fmt.Sscan(text, &user, &soft, &hard, &need)
	if err := syscall.Setuid(user); err != nil { // of all threads, with all capabilities
		fmt.Println(err)
		os.Exit(1)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: soft, Max: hard}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if need == 0 {
		poolOnLowLimit()
		return
	}
	err := RaiseFileLimit(need)
	var lim unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &lim)
	fmt.Printf("err=%v limit=%d/%d\n", err, lim.Cur, lim.Max)
}

func poolOnLowLimit() {
	p, err := NewPool(PoolConfig{Log: slog.New(slog.NewTextHandler(os.Stdout, nil))})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	defer p.Close()
	for lane := uint16(1); int(lane) <= p.Limit(); lane++ {
		if _, err := p.Socket(1, lane); err != nil && !errors.Is(err, ErrNoLane) {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Printf("pool: asked 1024, has %d\n", p.Limit())
}
