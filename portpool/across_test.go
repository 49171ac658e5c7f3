package portpool

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// crossing is a pool in one namespace and a socket in another, with a link
// between them.
type crossing struct {
	near, far *namespace
	pool      *Pool
	shared    *Shared
	sink      *UDPSocket
	log       bytes.Buffer
}

func newCrossing(t testing.TB, cfg SharedConfig, ports int) *crossing {
	t.Helper()
	c := &crossing{near: newNamespace(t), far: newNamespace(t)}
	c.near.veth(t, "near", "far", c.far)
	for _, a := range []string{"10.9.0.1/24", "fd09::1/64"} {
		c.near.addr(t, "near", a)
	}
	for _, a := range []string{"10.9.0.2/24", "fd09::2/64"} {
		c.far.addr(t, "far", a)
	}
	cfg.Log = slog.New(slog.NewTextHandler(&c.log, nil))
	c.shared = NewShared(cfg)
	c.near.do(t, func() (err error) {
		c.pool, err = NewPool(PoolConfig{Ports: ports, Shared: c.shared})
		return err
	})
	t.Cleanup(func() { c.pool.Close() })
	c.sink = c.far.open(t, SocketConfig{ReceiveBuffer: 8 << 20})
	return c
}

func (c *crossing) socket(t testing.TB, lane int) (s Socket) {
	t.Helper()
	c.near.do(t, func() (err error) {
		s, err = c.pool.Socket(0, uint16(lane))
		return err
	})
	return s
}

// to is a message to the sink.
func (c *crossing) to(v6 bool, buf []byte) Message {
	near, far := "10.9.0.1", "10.9.0.2"
	if v6 {
		near, far = "fd09::1", "fd09::2"
	}
	return Message{Buf: buf, Addr: addrPort(far, c.sink.Port()), Local: netip.MustParseAddr(near), FlowLabel: 7}
}

// The lone messages, those of a socket with several, and those that no raw
// socket can carry: all come from their lane's port.
func TestSendAcross(t *testing.T) {
	const lanes = 150
	for _, mode := range []Mode{Auto, Off} {
		t.Run(mode.String(), func(t *testing.T) {
			c := newCrossing(t, SharedConfig{Raw: mode}, lanes)
			var from []Socket
			var ms []Message
			for lane := 1; lane <= lanes; lane++ {
				s := c.socket(t, lane)
				for k := range 1 + lane%5/4 {
					m := c.to(lane%3 == 0, bytes.Repeat([]byte{byte(lane), byte(k), 3}, lane*9/3)[:lane*9-lane%7])
					m.TrafficClass = uint8(lane)
					if lane%11 == 0 {
						m.Local = netip.Addr{}
					}
					if lane%13 == 0 {
						m.FlowLabel = 0
					}
					from, ms = append(from, s), append(ms, m)
				}
			}
			if n := c.pool.SendAcross(from, ms); n != len(ms) {
				t.Errorf("sent %d of %d messages", n, len(ms))
			}
			checkArrivals(t, c, from, ms)
			if on := c.shared.Capabilities().Raw.On; on != (mode == Auto) {
				t.Errorf("raw socket in use: %v", c.shared.Capabilities().Raw)
			}
		})
	}
}

func checkArrivals(t *testing.T, c *crossing, from []Socket, ms []Message) {
	t.Helper()
	type datagram struct {
		port  uint16
		class uint8
		text  string
	}
	want, got := map[datagram]int{}, map[datagram]int{}
	for i, m := range ms {
		if m.Err != 0 || m.N != len(m.Buf) {
			t.Errorf("message %d: %d bytes went, %v", i, m.N, m.Err)
		}
		want[datagram{from[i].Port(), m.TrafficClass, string(m.Buf)}]++
	}
	for n := 0; n < len(ms); {
		in := make([]Message, 100)
		for i := range in {
			in[i].Buf = make([]byte, 1500)
		}
		k, err := c.sink.Receive(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range in[:k] {
			got[datagram{m.Addr.Port(), m.TrafficClass, string(m.Buf[:m.N])}]++
		}
		n += k
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(datagram{})); diff != "" {
		t.Errorf("(-sent +received):\n%s", diff)
	}
}

// What a raw socket sends looks on the wire just as what a UDP socket sends.
func TestRawOnTheWire(t *testing.T) {
	c := newCrossing(t, SharedConfig{}, 2)
	next := c.far.capture(t, "far")
	s, other := c.socket(t, 1), c.socket(t, 2)
	for _, v6 := range []bool{false, true} {
		m := c.to(v6, []byte("hello"))
		m.TrafficClass, m.FlowLabel = 0xb9, 0xabcde
		mustSend(t, s, m)
		own := next(s.Port())
		if n := c.pool.SendAcross([]Socket{s, other}, []Message{m, m}); n != 2 {
			t.Fatalf("sent %d", n)
		}
		raw := next(s.Port())
		if sum := udpChecksum(raw); sum != 0 {
			t.Errorf("the checksum of what the raw socket sent is wrong, or not its own: %#x", sum)
		}
		// What is free to differ: IPv4's identification and header checksum,
		// and the UDP checksum, which the UDP socket leaves to the interface.
		for _, p := range [][]byte{own, raw} {
			if !v6 {
				clear(p[4:6])
				clear(p[10:12])
			}
			clear(p[len(p)-len(m.Buf)-2:][:2])
		}
		if !bytes.Equal(own, raw) {
			t.Errorf("udp socket: % x\nraw socket: % x", own, raw)
		}
		next(other.Port())
	}
}

// udpChecksum sums a packet as its receiver does, word by word: 0 is right.
func udpChecksum(p []byte) uint16 {
	addrs, udp := p[12:20], p[20:]
	if p[0]>>4 == 6 {
		addrs, udp = p[8:40], p[40:]
	}
	pseudo := append(bytes.Clone(addrs), 0, unix.IPPROTO_UDP, byte(len(udp)>>8), byte(len(udp)))
	all := append(append(pseudo, udp...), 0)
	sum := uint32(0)
	for i := 0; i+1 < len(all); i += 2 {
		sum += uint32(all[i])<<8 | uint32(all[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Without a label of ours the kernel makes one of the ports, which it only sees
// where it writes them.
func TestLanesHaveLabels(t *testing.T) {
	c := newCrossing(t, SharedConfig{}, 2)
	next := c.far.capture(t, "far")
	from := []Socket{c.socket(t, 1), c.socket(t, 2)}
	m := c.to(true, []byte("hello"))
	m.FlowLabel = 0
	if n := c.pool.SendAcross(from, []Message{m, m}); n != 2 {
		t.Fatalf("sent %d", n)
	}
	one, other := next(from[0].Port()), next(from[1].Port())
	if bytes.Equal(one[1:4], other[1:4]) {
		t.Errorf("both lanes have label % x", one[1:4])
	}
}

func TestRawFollowsThePool(t *testing.T) {
	c := newCrossing(t, SharedConfig{}, 2)
	if err := c.pool.SetMark(0x77); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*rawSocket{c.pool.lone.v4, c.pool.lone.v6} {
		if err := onDescriptor(s.raw, func(fd int) error {
			mark, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
			if mark != 0x77 {
				t.Errorf("mark %#x", mark)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	}
	from := []Socket{c.socket(t, 1), c.socket(t, 2)}
	m := c.to(true, []byte("to all that listen"))
	m.Addr, m.Local = addrPort(rawBound6, from[1].Port()), netip.Addr{}
	mustSend(t, from[0], m)
	if n := unread(t, c.pool.lone.v6.raw); n != 0 {
		t.Errorf("%d bytes wait in a raw socket that nobody reads", n)
	}
	c.pool.Close()
	if err := c.pool.lone.v6.raw.Control(func(uintptr) {}); err == nil {
		t.Error("a raw socket outlives its pool")
	}
	ms := []Message{c.to(false, []byte("a")), c.to(true, []byte("b"))}
	if n := c.pool.SendAcross(from, ms); n != 0 || ms[0].Err != unix.EBADF || ms[1].Err != unix.EBADF {
		t.Errorf("a closed pool sent %d: %v, %v", n, ms[0].Err, ms[1].Err)
	}
	if err := c.pool.SetMark(1); err != nil {
		t.Errorf("mark of a closed pool: %v", err)
	}
}

func TestRawMissing(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func() error
		want   Capability
	}{
		{"no capability", dropNetRaw, Capability{Reason: "open a raw socket: operation not permitted (does the process have CAP_NET_RAW?)"}},
		{"multipath", func() error { return writeSysctl("net/ipv4/fib_multipath_hash_policy", "1") },
			Capability{On: true, Reason: "not for ipv4: " + errMultipath.Error()}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := newNamespace(t)
			sh := NewShared(SharedConfig{})
			missing := false
			ns.do(t, func() error {
				if err := tt.before(); err != nil {
					missing = errors.Is(err, os.ErrNotExist)
					if missing {
						return nil
					}
					return err
				}
				p, err := NewPool(PoolConfig{Shared: sh})
				if err == nil {
					err = p.Close()
				}
				return err
			})
			if missing {
				t.Skip("the kernel has no such setting")
			}
			if raw := sh.Capabilities().Raw; raw != tt.want {
				t.Errorf("%+v, want %+v", raw, tt.want)
			}
		})
	}
}

// dropNetRaw takes CAP_NET_RAW from the thread.
func dropNetRaw() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_NET_RAW
	return unix.Capset(&head, &data[0])
}

// A message that the raw socket refuses goes from its own socket, which finds
// out why.
func TestSendAcrossRefused(t *testing.T) {
	c := newCrossing(t, SharedConfig{}, 4)
	c.near.refuse(t, "10.7.0.0/16", unix.RTN_PROHIBIT)
	gone, nowhere := c.to(false, []byte("a")), c.to(false, []byte("b"))
	gone.Local = netip.MustParseAddr("10.99.99.99")
	nowhere.Addr = addrPort("10.7.0.1", 9)
	from := []Socket{c.socket(t, 1), c.socket(t, 2), c.socket(t, 3), c.socket(t, 4)}
	from[3].Close()
	ms := []Message{gone, nowhere, c.to(false, []byte("c")), c.to(false, []byte("d"))}
	if n := c.pool.SendAcross(from, ms); n != 2 {
		t.Errorf("sent %d", n)
	}
	if ms[0].Err != 0 || ms[0].Local.IsValid() || ms[1].Err != unix.EACCES || ms[2].Err != 0 || ms[3].Err != unix.EBADF {
		t.Errorf("gone %v (from %v), nowhere %v, good %v, closed %v", ms[0].Err, ms[0].Local, ms[1].Err, ms[2].Err, ms[3].Err)
	}
	if !c.shared.Capabilities().Raw.On {
		t.Error("raw socket given up for an unreachable peer")
	}
}

// A firewall that lets only UDP sockets through costs the raw socket once.
func TestRawForbidden(t *testing.T) {
	c := newCrossing(t, SharedConfig{}, 2)
	// The kernel demands SO_BROADCAST, which all of Go's sockets have.
	if err := onDescriptor(c.pool.lone.v4.raw, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 0)
	}); err != nil {
		t.Fatal(err)
	}
	from := []Socket{c.socket(t, 1), c.socket(t, 2)}
	m := c.to(false, []byte("a"))
	m.Addr = netip.AddrPortFrom(netip.MustParseAddr("10.9.0.255"), m.Addr.Port())
	for range 3 {
		if n := c.pool.SendAcross(from, []Message{m, m}); n != 2 {
			t.Errorf("sent %d", n)
		}
	}
	if raw := c.shared.Capabilities().Raw; raw.On || raw.Reason == "" {
		t.Errorf("%+v", raw)
	}
	if n := strings.Count(c.log.String(), "raw socket"); n != 2 { // in message and reason
		t.Errorf("%d warnings: %s", n, c.log.String())
	}
}

func TestSendAcrossDoesNotAllocate(t *testing.T) {
	c := newCrossing(t, SharedConfig{}, 100)
	var from []Socket
	var ms []Message
	for lane := 1; lane <= 100; lane++ {
		m := c.to(lane%2 == 0, make([]byte, 100))
		from, ms = append(from, c.socket(t, lane)), append(ms, m)
	}
	from, ms = append(from, from[99]), append(ms, ms[99])
	if n := testing.AllocsPerRun(100, func() {
		if n := c.pool.SendAcross(from, ms); n != len(ms) {
			t.Fatalf("sent %d", n)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestChecksum(t *testing.T) {
	// Over IPv6 the kernel checks it; here against a sum word by word.
	src, dst := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.254")
	for size := range 200 {
		payload := make([]byte, size)
		for i := range payload {
			payload[i] = byte(255 - i*7*size)
		}
		h := make([]byte, udpHeaderSize)
		putUDPHeader(h, 51820, 65535, size)
		putChecksum4(h, src, dst, payload)
		packet := append(append(append(src.AsSlice(), dst.AsSlice()...), 0, 17, h[4], h[5]), h...)
		packet = append(packet, payload...)
		if size%2 == 1 {
			packet = append(packet, 0)
		}
		sum := 0
		for i := 0; i < len(packet); i += 2 {
			sum += int(packet[i])<<8 | int(packet[i+1])
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		if sum != 0xffff {
			t.Errorf("%d bytes: sum %#x", size, sum)
		}
	}
}

// BenchmarkAcross is one message for each of many lanes. The link's other end
// has no such address, so the kernel drops them there.
func BenchmarkAcross(b *testing.B) {
	for _, size := range []int{100, 1420} {
		for _, ip := range []string{"ip4", "ip6"} {
			for _, way := range []string{"one socket", "each socket", "across"} {
				b.Run(fmt.Sprintf("size=%d/%s/%s", size, ip, way), func(b *testing.B) {
					benchmarkAcross(b, ip == "ip6", way, size)
				})
			}
		}
	}
}

func benchmarkAcross(b *testing.B, v6 bool, way string, size int) {
	const lanes, burst = 1000, 64
	if err := RaiseFileLimit(lanes + 100); err != nil {
		b.Fatal(err)
	}
	mode := Auto
	if way == "each socket" {
		mode = Off
	}
	c := newCrossing(b, SharedConfig{Raw: mode, GSO: Off}, lanes)
	c.near.neighbour(b, "near", "10.9.0.3")
	c.near.neighbour(b, "near", "fd09::3")
	socks := make([]Socket, lanes)
	for i := range socks {
		socks[i] = c.socket(b, i+1)
		if way == "one socket" {
			socks[i] = socks[0]
		}
	}
	m := c.to(v6, make([]byte, size))
	m.Addr = addrPort(map[bool]string{false: "10.9.0.3", true: "fd09::3"}[v6], 9)
	ms := make([]Message, burst)
	sent, lane := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		for i := range ms {
			ms[i] = m
		}
		if lane+burst > lanes {
			lane = 0
		}
		sent += c.pool.SendAcross(socks[lane:lane+burst], ms)
		lane += burst
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(sent), "ns/datagram")
}

// BenchmarkBurst is 64 datagrams of 1420 bytes over several lanes with all that
// helps. With link=off, the link takes no super-datagrams and the kernel has to
// divide them, and computes no checksums.
func BenchmarkBurst(b *testing.B) {
	for _, link := range []string{"on", "off"} {
		for _, lanes := range []int{1, 2, 4, 8, 16, 32, 64} {
			b.Run(fmt.Sprintf("link=%s/lanes=%d", link, lanes), func(b *testing.B) {
				benchmarkBurst(b, link == "on", lanes)
			})
		}
	}
}

func benchmarkBurst(b *testing.B, link bool, lanes int) {
	const burst = 64
	c := newCrossing(b, SharedConfig{}, lanes)
	c.near.neighbour(b, "near", "fd09::3")
	if !link {
		c.offloadsOff(b)
	}
	m := c.to(true, make([]byte, 1420))
	m.Addr = addrPort("fd09::3", 9)
	var from []Socket
	ms := make([]Message, burst)
	for i := range burst {
		from = append(from, c.socket(b, 1+i*lanes/burst))
		ms[i] = m
	}
	sent := 0
	b.ReportAllocs()
	for b.Loop() {
		sent += c.pool.SendAcross(from, ms)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(sent), "ns/datagram")
}
