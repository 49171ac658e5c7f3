package portpool

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

var messageOpts = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}),
	cmpopts.IgnoreFields(Message{}, "Buf", "Time"),
}

func receive(t testing.TB, s Socket, want int) []Message {
	t.Helper()
	var all []Message
	for len(all) < want {
		ms := make([]Message, want-len(all))
		for i := range ms {
			ms[i].Buf = make([]byte, 100)
		}
		n, err := s.Receive(ms)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ms[:n]...)
	}
	return all
}

func mustSend(t testing.TB, s Socket, ms ...Message) {
	t.Helper()
	if n, err := s.Send(ms); n != len(ms) || err != nil {
		t.Fatalf("sent %d of %d messages: %v", n, len(ms), err)
	}
}

func TestLoopback(t *testing.T) {
	ns := newNamespace(t)
	tests := []struct{ network, to, from string }{
		{"udp6", "127.0.0.1", "127.0.0.1"},
		{"udp6", "::1", "::1"},
		{"udp6", "::ffff:127.0.0.1", "127.0.0.1"},
		{"udp4", "127.0.0.1", "127.0.0.1"},
	}
	for _, tt := range tests {
		t.Run(tt.network+" "+tt.to, func(t *testing.T) {
			var a, b *UDPSocket
			ns.do(t, func() (err error) {
				if a, err = openNetwork(SocketConfig{}, tt.network); err != nil {
					return err
				}
				b, err = openNetwork(SocketConfig{}, tt.network)
				return err
			})
			defer a.Close()
			defer b.Close()
			before := time.Now().UnixNano()
			mustSend(t, a, Message{Buf: []byte("hello"), Addr: addrPort(tt.to, b.Port()), TrafficClass: 46<<2 | 1},
				Message{Buf: nil, Addr: addrPort(tt.to, b.Port()), TrafficClass: 3},
				Message{Buf: make([]byte, 150), Addr: addrPort(tt.to, b.Port())})
			got := receive(t, b, 3)
			from := netip.AddrPortFrom(netip.MustParseAddr(tt.from), a.Port())
			base := Message{Addr: from, Local: from.Addr(), IfIndex: 1, HopLimit: 64}
			want := []Message{base, base, base}
			want[0].N, want[0].TrafficClass = 5, 46<<2|1
			want[1].TrafficClass = 3
			want[2].N, want[2].Truncated = 100, true
			if diff := cmp.Diff(want, got, messageOpts); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if string(got[0].Buf[:got[0].N]) != "hello" {
				t.Errorf("got %q", got[0].Buf[:got[0].N])
			}
			if at := got[0].Time; at < before || at > time.Now().UnixNano() {
				t.Errorf("time of arrival %d is not between sending and now", at)
			}
		})
	}
}

// Poll takes what has arrived and waits for nothing, closed or not.
func TestPoll(t *testing.T) {
	ns := newNamespace(t)
	a, b := ns.open(t, SocketConfig{}), ns.open(t, SocketConfig{})
	ms := make([]Message, 8)
	for i := range ms {
		ms[i].Buf = make([]byte, 100)
	}
	if n, err := b.Poll(ms); n != 0 || err != nil {
		t.Errorf("of nothing: %d, %v", n, err)
	}
	mustSend(t, a, Message{Buf: []byte("one"), Addr: addrPort("::1", b.Port())}, Message{Buf: []byte("three"), Addr: addrPort("::1", b.Port())})
	if n, err := b.Poll(ms); n != 2 || err != nil || string(ms[1].Buf[:ms[1].N]) != "three" {
		t.Errorf("of two: %d, %v, the second %q", n, err, ms[1].Buf[:ms[1].N])
	}
	if n, err := b.Poll(ms); n != 0 || err != nil {
		t.Errorf("when they have been taken: %d, %v", n, err)
	}
	sender := ns.open(t, SocketConfig{SendOnly: true})
	if n, err := sender.Poll(ms); n != 0 || err != ErrSendOnly {
		t.Errorf("of a socket to send on: %d, %v", n, err)
	}
	b.Close()
	if n, err := b.Poll(ms); n != 0 || err != net.ErrClosed {
		t.Errorf("closed: %d, %v", n, err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = a.Poll(ms) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Doze waits for what arrives, and no longer than it was told to.
func TestDoze(t *testing.T) {
	ns := newNamespace(t)
	a, b := ns.open(t, SocketConfig{}), ns.open(t, SocketConfig{})
	ms := []Message{{Buf: make([]byte, 100)}}
	if err := b.Doze(time.Millisecond); err != nil {
		t.Errorf("for nothing: %v", err)
	}
	arrived := make(chan error)
	go func() {
		for {
			err := b.Doze(time.Hour)
			if n, _ := b.Poll(ms); n > 0 || err != nil { // it may end sooner, by a signal
				arrived <- err
				return
			}
		}
	}()
	mustSend(t, a, Message{Buf: []byte("one"), Addr: addrPort("::1", b.Port())})
	if err := <-arrived; err != nil {
		t.Errorf("for one: %v", err)
	}
	if err := ns.open(t, SocketConfig{SendOnly: true}).Doze(time.Hour); err != ErrSendOnly {
		t.Errorf("for a socket to send on: %v", err)
	}
	b.Close()
	if err := b.Doze(time.Hour); err != net.ErrClosed {
		t.Errorf("closed: %v", err)
	}
	if n := testing.AllocsPerRun(100, func() { _ = a.Doze(time.Microsecond) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestOpenWhereIPv6IsDisabled(t *testing.T) {
	ns := newNamespace(t)
	ns.do(t, func() error { return writeSysctl("net/ipv6/conf/all/disable_ipv6", "1") })
	a, b := ns.open(t, SocketConfig{}), ns.open(t, SocketConfig{})
	mustSend(t, a, Message{Buf: []byte("x"), Addr: addrPort("127.0.0.1", b.Port())})
	receive(t, b, 1)
	_, err := a.Send([]Message{{Buf: []byte("x"), Addr: addrPort("2001:db8::1", 9)}})
	if !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("send over ipv6: %v", err)
	}
}

func TestIPv4Only(t *testing.T) {
	s, err := openNetwork(SocketConfig{}, "udp4")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ms := []Message{{Buf: []byte("x"), Addr: addrPort("::1", 9), TrafficClass: 4, FlowLabel: 7}}
	if _, err := s.Send(ms); !errors.Is(err, unix.EAFNOSUPPORT) || !strings.Contains(err.Error(), "ipv6 is off") {
		t.Errorf("send over ipv6: %v", err)
	}
	if !s.shared.FlowLabels() {
		t.Error("a message that could not go at all turned flow labels off")
	}
}

// What is on the wire is what the gateways see: class, label, and that they
// may not fragment it.
func TestOnTheWire(t *testing.T) {
	ns := newNamespace(t)
	ns.veth(t, "near", "far", ns)
	ns.addr(t, "near", "10.9.0.1/24")
	ns.addr(t, "near", "fd09::1/64")
	ns.neighbour(t, "near", "10.9.0.2")
	ns.neighbour(t, "near", "fd09::2")
	next := ns.capture(t, "far")
	s := ns.open(t, SocketConfig{SendOnly: true})

	var ms []Message
	for i := range 40 {
		ms = append(ms, Message{Buf: []byte{1}, Addr: addrPort("10.9.0.2", 9), TrafficClass: uint8(i * 7), FlowLabel: 5},
			Message{Buf: []byte{2}, Addr: addrPort("fd09::2", 9), TrafficClass: uint8(i * 7), FlowLabel: 0xfffff - uint32(i)})
	}
	mustSend(t, s, ms...)
	for i := range 40 {
		class := uint8(i * 7)
		p4, p6 := next(s.Port()), next(s.Port())
		if p4[0]>>4 != 4 || p4[1] != class || p4[6]&0x40 == 0 {
			t.Errorf("ipv4 header % x: want class %#x and the bit that forbids fragments", p4[:20], class)
		}
		head := uint32(p6[0])<<24 | uint32(p6[1])<<16 | uint32(p6[2])<<8 | uint32(p6[3])
		if want := 6<<28 | uint32(class)<<20 | (0xfffff - uint32(i)); head != want {
			t.Errorf("ipv6 header begins %#x, want %#x", head, want)
		}
	}

	mustSend(t, s, Message{Buf: []byte{3}, Addr: addrPort("fd09::2", 9)})
	if p := next(s.Port()); p[1]&0xf == 0 && p[2] == 0 && p[3] == 0 {
		t.Error("the kernel chose flow label 0")
	}
	if !s.shared.FlowLabels() {
		t.Error("flow labels were refused")
	}
}

func TestNeverFragments(t *testing.T) {
	ns := newNamespace(t)
	ns.veth(t, "near", "far", ns)
	ns.addr(t, "near", "10.9.0.1/24")
	ns.addr(t, "near", "fd09::1/64")
	s := ns.open(t, SocketConfig{})
	for to, most := range map[string]int{"10.9.0.2": 1472, "fd09::2": 1452} {
		ms := []Message{{Buf: make([]byte, most), Addr: addrPort(to, 9)}, {Buf: make([]byte, most+1), Addr: addrPort(to, 9)}}
		n, err := s.Send(ms)
		if n != 1 || !errors.Is(err, unix.EMSGSIZE) || ms[0].Err != 0 || ms[1].Err != unix.EMSGSIZE {
			t.Errorf("to %s: sent %d: %v; messages: %v, %v", to, n, err, ms[0].Err, ms[1].Err)
		}
	}
}

// Linux allows only labels that were asked for in a namespace where any socket
// holds one for itself alone.
func TestExclusiveLabels(t *testing.T) {
	ns := newNamespace(t)
	var fd int
	ns.do(t, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return exclusiveLabel(fd, 0x12345)
	})
	defer unix.Close(fd)

	var log bytes.Buffer
	shared := NewShared(SharedConfig{Log: slog.New(slog.NewTextHandler(&log, nil))})
	s := ns.open(t, SocketConfig{Shared: shared})
	to := addrPort("::1", s.Port())
	gone := netip.MustParseAddr("2001:db8::bad")
	ms := []Message{
		{Buf: []byte("a"), Addr: to},
		{Buf: []byte("b"), Addr: to, FlowLabel: 3, Local: gone},
		{Buf: []byte("c"), Addr: to, FlowLabel: 4},
		{Buf: []byte("d"), Addr: addrPort("127.0.0.1", s.Port()), FlowLabel: 4},
	}
	mustSend(t, s, ms...)
	mustSend(t, s, ms...)
	if got := receive(t, s, 8); len(got) != 8 {
		t.Errorf("%d messages came through", len(got))
	}
	if shared.FlowLabels() || ms[1].Local.IsValid() {
		t.Errorf("labels still on: %v; source still set: %v", shared.FlowLabels(), ms[1].Local)
	}
	if n := strings.Count(log.String(), "flow labels"); n != 1 {
		t.Errorf("warned %d times:\n%s", n, log.String())
	}
	if diff := cmp.Diff([]ErrnoCount(nil), shared.SendErrors()); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

// exclusiveLabel is IPV6_FLOWLABEL_MGR with struct in6_flowlabel_req: the
// destination, label, action 0 (get), share 1 (IPV6_FL_S_EXCL), flags 1
// (create), expiry, linger.
func exclusiveLabel(fd int, label uint32) error {
	req := make([]byte, 32)
	req[15] = 1 // ::1
	req[17], req[18], req[19] = byte(label>>16), byte(label>>8), byte(label)
	req[21] = 1
	req[22] = 1
	return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, 32, string(req))
}

func TestZones(t *testing.T) {
	a, b := newNamespace(t), newNamespace(t)
	// Another link first, so that the two ends have different numbers.
	a.veth(t, "dummy0", "dummy1", a)
	a.veth(t, "east", "west", b)
	a.addr(t, "east", "fe80::a/64")
	b.addr(t, "west", "fe80::b/64")
	sa, sb := a.open(t, SocketConfig{}), b.open(t, SocketConfig{})
	number := fmt.Sprint(a.index(t, "east"))
	ms := []Message{
		{Buf: []byte("name"), Addr: addrPort("fe80::b%east", sb.Port()), Local: netip.MustParseAddr("fe80::a")},
		{Buf: []byte("number"), Addr: addrPort("fe80::b%"+number, sb.Port()), Local: netip.MustParseAddr("fe80::a")},
	}
	mustSend(t, sa, ms...)
	got := receive(t, sb, 2)
	for _, m := range got {
		if m.Addr != addrPort("fe80::a%west", sa.Port()) || m.Local != netip.MustParseAddr("fe80::b") || m.IfIndex != b.index(t, "west") {
			t.Errorf("from %v to %v at %d", m.Addr, m.Local, m.IfIndex)
		}
	}
	// The answer goes to exactly what was received.
	mustSend(t, sb, Message{Buf: []byte("back"), Addr: got[0].Addr, Local: got[0].Local, IfIndex: got[0].IfIndex})
	receive(t, sa, 1)

	bad := []Message{{Buf: []byte("x"), Addr: addrPort("fe80::b%nowhere", 9)}, {Buf: []byte("x"), Addr: addrPort("fe80::b%0", 9)}}
	if n, err := sa.Send(bad); n != 0 || err == nil || bad[0].Err == 0 || bad[1].Err == 0 {
		t.Errorf("without interface: sent %d, %v; messages: %v, %v", n, err, bad[0].Err, bad[1].Err)
	}
	buf := make([]byte, 100)
	back := []Message{{Buf: buf}}
	if n := testing.AllocsPerRun(100, func() {
		sa.Send(ms[:1])
		if _, err := sb.Receive(back); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("a link-local datagram allocates %v times", n)
	}
}

// A link that was made anew has another number.
func TestZoneMadeAnew(t *testing.T) {
	a, b := newNamespace(t), newNamespace(t)
	sa, sb := a.open(t, SocketConfig{}), b.open(t, SocketConfig{})
	for i := range 2 {
		a.veth(t, "east", "west", b)
		a.addr(t, "east", "fe80::a/64")
		b.addr(t, "west", "fe80::b/64")
		m := []Message{{Buf: []byte("x"), Addr: addrPort("fe80::b%east", sb.Port())}}
		if i > 0 {
			sa.Send(m) // finds out
		}
		mustSend(t, sa, m...)
		receive(t, sb, 1)
		a.del(t, "east")
	}
}

func TestSource(t *testing.T) {
	ns := newNamespace(t)
	ns.addr(t, "lo", "fd09::1/128")
	ns.addr(t, "lo", "fd09::2/128")
	s := ns.open(t, SocketConfig{})
	tests := []struct {
		to, local string
		ifIndex   uint32
		from      string
	}{
		{"127.0.0.1", "127.0.0.7", 0, "127.0.0.7"},
		{"127.0.0.1", "127.0.0.7", 1, "127.0.0.7"},
		{"fd09::1", "fd09::2", 0, "fd09::2"},
		{"fd09::1", "fd09::2", 1, "fd09::2"},
		{"127.0.0.1", "10.99.99.99", 0, ""}, // no longer ours: the kernel chooses
		{"127.0.0.1", "10.99.99.99", 77, ""},
		{"fd09::1", "fd09::99", 0, ""},
		{"fd09::1", "fd09::2", 77, ""},
		{"fd09::1", "127.0.0.1", 0, "fd09::1"}, // of the other family: ignored
	}
	for _, tt := range tests {
		m := []Message{{Buf: []byte("x"), Addr: addrPort(tt.to, s.Port()), Local: netip.MustParseAddr(tt.local), IfIndex: tt.ifIndex}}
		if n, err := s.Send(m); n != 1 || err != nil {
			t.Errorf("to %s from %s at %d: %v", tt.to, tt.local, tt.ifIndex, err)
			continue
		}
		got := receive(t, s, 1)[0]
		if refused := tt.from == ""; refused == m[0].Local.IsValid() {
			t.Errorf("to %s from %s at %d: Local is %v afterwards", tt.to, tt.local, tt.ifIndex, m[0].Local)
		} else if !refused && got.Addr.Addr() != netip.MustParseAddr(tt.from) {
			t.Errorf("to %s from %s: came from %v", tt.to, tt.local, got.Addr)
		}
	}
}

func TestSkipsWhatIsRefused(t *testing.T) {
	ns := newNamespace(t)
	ns.refuse(t, "10.1.0.0/16", unix.RTN_PROHIBIT)
	ns.refuse(t, "10.2.0.0/16", unix.RTN_BLACKHOLE)
	ns.refuse(t, "10.3.0.0/16", unix.RTN_UNREACHABLE)
	ns.refuse(t, "fd01::/16", unix.RTN_PROHIBIT)
	shared := NewShared(SharedConfig{})
	s := ns.open(t, SocketConfig{Shared: shared, ReceiveBuffer: 1 << 20})
	good := addrPort("127.0.0.1", s.Port())
	refused := []struct {
		to netip.AddrPort
		e  syscall.Errno
	}{
		{addrPort("10.1.0.1", 9), unix.EACCES},
		{addrPort("10.2.0.1", 9), unix.EINVAL},
		{addrPort("10.3.0.1", 9), unix.EHOSTUNREACH},
		{addrPort("192.0.2.1", 9), unix.ENETUNREACH},
		{addrPort("fd01::1", 9), unix.EACCES},
		{addrPort("127.0.0.1", 0), unix.EINVAL},
		{netip.AddrPort{}, unix.EDESTADDRREQ},
	}
	var ms []Message
	for _, r := range refused {
		ms = append(ms, Message{Buf: []byte("x"), Addr: r.to, FlowLabel: 9, Local: netip.MustParseAddr("127.0.0.1")})
		for range 20 { // so that they are in several batches
			ms = append(ms, Message{Buf: []byte("x"), Addr: good, Err: unix.EIO})
		}
	}
	n, err := s.Send(ms)
	var se *SendError
	if n != 7*20 || !errors.As(err, &se) || se.Class != Path || se.Errno != unix.EACCES {
		t.Errorf("sent %d, want %d; error %v", n, 7*20, err)
	}
	for i, m := range ms {
		want := syscall.Errno(0)
		if i%21 == 0 {
			want = refused[i/21].e
		}
		if m.Err != want {
			t.Errorf("message %d to %v: %v, want %v", i, m.Addr, m.Err, want)
		}
	}
	receive(t, s, 7*20)
	want := []ErrnoCount{
		{unix.EACCES, Path, 2}, {unix.EINVAL, Path, 2}, {unix.EDESTADDRREQ, Path, 1},
		{unix.ENETUNREACH, Path, 1}, {unix.EHOSTUNREACH, Path, 1},
	}
	if diff := cmp.Diff(want, shared.SendErrors()); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if !shared.FlowLabels() {
		t.Error("a refused destination turned flow labels off")
	}
	if n := testing.AllocsPerRun(20, func() { s.Send(ms[:1]) }); n != 0 {
		t.Errorf("a refused message allocates %v times", n)
	}
}

// Datagrams wait in the send buffer while their neighbour is being asked for.
func TestBufferFull(t *testing.T) {
	ns := newNamespace(t)
	ns.veth(t, "near", "far", ns)
	ns.addr(t, "near", "10.9.0.1/24")
	s := ns.open(t, SocketConfig{SendBuffer: 20_000})
	ms := make([]Message, 3*batchSize)
	for i := range ms {
		ms[i] = Message{Buf: make([]byte, 1400), Addr: addrPort("10.9.0.2", 9)}
	}
	n, err := s.Send(ms)
	// The last one that fits into the buffer may be 46 datagrams in one.
	if err != ErrFull || n < 5 || n > 100 {
		t.Fatalf("sent %d: %v", n, err)
	}
	for i, m := range ms {
		if (m.Err == 0) != (i < n) || i >= n && m.Err != unix.EAGAIN {
			t.Errorf("message %d of %d sent: %v", i, n, m.Err)
		}
	}
	if diff := cmp.Diff([]ErrnoCount{{unix.EAGAIN, Transient, 1}}, s.shared.SendErrors()); diff != "" {
		t.Error(diff)
	}
}

func TestSendOnly(t *testing.T) {
	if _, err := dropProgram(); err != nil {
		t.Errorf("load the filter that all sockets share: %v", err)
	}
	open := func(cfg SocketConfig) *UDPSocket {
		s, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	shared, classic, plain := open(SocketConfig{SendOnly: true}), open(SocketConfig{}), open(SocketConfig{})
	if err := onDescriptor(classic.raw, dropAllClassic); err != nil {
		t.Fatal(err)
	}
	for s, want := range map[*UDPSocket]int{shared: 0, classic: 0, plain: 3} {
		for _, ip := range []string{"127.0.0.1", "::1"} {
			mustSend(t, shared, Message{Buf: []byte("xyz"), Addr: addrPort(ip, s.Port())})
		}
		if n := waiting(t, s); n != want {
			t.Errorf("%d bytes wait in a socket, want %d", n, want)
		}
	}
	if _, err := shared.Receive(make([]Message, 1)); err != ErrSendOnly {
		t.Errorf("receive: %v", err)
	}
}

func waiting(t *testing.T, s *UDPSocket) (n int) {
	t.Helper()
	return unread(t, s.raw)
}

// unread is the size of what a socket would give next.
func unread(t *testing.T, c syscall.RawConn) (n int) {
	t.Helper()
	err := onDescriptor(c, func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.SIOCINQ)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCloseEndsReceive(t *testing.T) {
	for range 20 {
		s, err := Open(SocketConfig{})
		if err != nil {
			t.Fatal(err)
		}
		ends := make(chan error)
		for range 2 {
			go func() {
				_, err := s.Receive([]Message{{Buf: make([]byte, 10)}})
				ends <- err
			}()
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := <-ends; err != net.ErrClosed {
				t.Errorf("receive: %v", err)
			}
		}
		if _, err := s.Send(make([]Message, 1)); err != net.ErrClosed {
			t.Errorf("send: %v", err)
		}
		if err := s.Close(); err != net.ErrClosed {
			t.Errorf("second close: %v", err)
		}
		if err := s.SetMark(1); err != net.ErrClosed {
			t.Errorf("set mark: %v", err)
		}
	}
}

func TestManySenders(t *testing.T) {
	const senders, each = 4, 500
	a, err := Open(SocketConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := Open(SocketConfig{ReceiveBuffer: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for j := range each {
				ms := []Message{{Buf: []byte{byte(i), byte(j >> 8), byte(j)}, Addr: addrPort("127.0.0.1", b.Port()), TrafficClass: uint8(i << 2)}}
				for { // loopback of a busy machine may be full for a moment
					if _, err := a.Send(ms); err == nil {
						break
					} else if !errors.Is(err, ErrFull) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	next := [senders]int{}
	for _, m := range receive(t, b, senders*each) {
		i, j := int(m.Buf[0]), int(m.Buf[1])<<8|int(m.Buf[2])
		if m.N != 3 || next[i] != j || m.TrafficClass != uint8(i<<2) {
			t.Fatalf("sender %d: message %d with class %#x, expected %d", i, j, m.TrafficClass, next[i])
		}
		next[i]++
	}
	wg.Wait()
}

func TestReceiveTakesWhatIsThere(t *testing.T) {
	s, err := Open(SocketConfig{ReceiveBuffer: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ms := make([]Message, 1000)
	bufs := make([]byte, len(ms))
	for i := range ms {
		ms[i].Buf = bufs[i : i+1]
	}
	for _, n := range []int{1, batchSize, 2*batchSize + 10} {
		for i := range n {
			mustSend(t, s, Message{Buf: []byte{byte(i)}, Addr: addrPort("127.0.0.1", s.Port())})
		}
		got, err := s.Receive(ms)
		if got != n || err != nil {
			t.Fatalf("%d of %d datagrams in one call: %v", got, n, err)
		}
		for i := range n {
			if ms[i].Buf[0] != byte(i) {
				t.Fatalf("datagram %d is %d", i, ms[i].Buf[0])
			}
		}
	}
	if got, err := s.Receive(nil); got != 0 || err != nil {
		t.Errorf("receive of nothing: %d, %v", got, err)
	}
}

// TestRefused: what a socket had no room for is told by what comes after.
func TestRefused(t *testing.T) {
	s, err := Open(SocketConfig{ReceiveBuffer: 8 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const sent = 200
	send := func(n int) {
		for range n {
			mustSend(t, s, Message{Buf: make([]byte, 1000), Addr: addrPort("127.0.0.1", s.Port())})
		}
	}
	send(sent)
	ms := make([]Message, sent)
	for i := range ms {
		ms[i].Buf = make([]byte, 1000)
	}
	got, err := s.Receive(ms)
	if err != nil || got == sent {
		t.Fatalf("%d of %d datagrams in a small socket: %v", got, sent, err)
	}
	if ms[0].Refused != 0 {
		t.Errorf("%d refused before the first", ms[0].Refused)
	}
	send(1)
	if _, err := s.Receive(ms); err != nil {
		t.Fatal(err)
	}
	if n := int(ms[0].Refused); n != sent-got {
		t.Errorf("%d refused, want %d", n, sent-got)
	}
	none := func(when string, s *UDPSocket) {
		t.Helper()
		send(1)
		if _, err := s.Receive(ms[:1]); err != nil {
			t.Fatal(err)
		}
		if n := ms[0].Refused; n != 0 {
			t.Errorf("%d refused %s", n, when)
		}
	}
	none("since the message before", s)
	f, err := s.File()
	if err != nil {
		t.Fatal(err)
	}
	heir, err := Inherit(f, SocketConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer heir.Close()
	none("since another process has it", heir)
}

func TestSendReceiveDoNotAllocate(t *testing.T) {
	s, err := Open(SocketConfig{ReceiveBuffer: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, ip := range []string{"127.0.0.1", "::1"} {
		out, in := make([]Message, 2*batchSize), make([]Message, 2*batchSize)
		for i := range out {
			out[i] = Message{Buf: make([]byte, 100), Addr: addrPort(ip, s.Port()), Local: netip.MustParseAddr(ip), TrafficClass: 1, FlowLabel: 5}
			in[i].Buf = make([]byte, 100)
		}
		if n := testing.AllocsPerRun(100, func() {
			if n, err := s.Send(out); n != len(out) || err != nil {
				t.Fatalf("sent %d: %v", n, err)
			}
			if n, err := s.Receive(in); n != len(in) || err != nil {
				t.Fatalf("received %d: %v", n, err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", ip, n)
		}
	}
}

// A Receive that has to wait does not allocate either.
func TestWaitingReceiveDoesNotAllocate(t *testing.T) {
	s, err := Open(SocketConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ask, got := make(chan bool), make(chan bool)
	defer close(ask)
	go func() {
		ms := []Message{{Buf: make([]byte, 10)}}
		for range ask {
			s.Receive(ms)
			got <- true
		}
	}()
	ms := []Message{{Buf: []byte("x"), Addr: addrPort("127.0.0.1", s.Port())}}
	if n := testing.AllocsPerRun(100, func() {
		ask <- true
		time.Sleep(100 * time.Microsecond) // let it park; not a condition of the test
		s.Send(ms)
		<-got
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestMarkAndBuffers(t *testing.T) {
	ns := newNamespace(t)
	s := ns.open(t, SocketConfig{FwMark: 0xca6c, SendBuffer: 5 << 20, ReceiveBuffer: 6 << 20})
	mark := func() (m int) {
		if err := onDescriptor(s.raw, func(fd int) (err error) {
			m, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return m
	}
	if m := mark(); m != 0xca6c {
		t.Errorf("mark %#x", m)
	}
	for _, m := range []uint32{0xffffffff, 0} {
		if err := s.SetMark(m); err != nil || uint32(mark()) != m {
			t.Errorf("set mark %#x: got %#x, %v", m, mark(), err)
		}
	}
	send, receive, err := s.Buffers()
	if send != 10<<20 || receive != 12<<20 || err != nil {
		t.Errorf("buffers %d and %d, want 10 and 12 MiB (twice what was asked): %v", send, receive, err)
	}
}

func TestOpenErrors(t *testing.T) {
	s, err := Open(SocketConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = Open(SocketConfig{Port: s.Port()})
	want := fmt.Sprintf("open udp socket on port %d: address already in use (another program has it, or no port is left: choose another port)", s.Port())
	if err == nil || err.Error() != want || !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	a, err := Open(SocketConfig{ReusePort: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := Open(SocketConfig{ReusePort: true, Port: a.Port()})
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
}

func TestClassify(t *testing.T) {
	want := map[Class][]syscall.Errno{
		None:      {0},
		Transient: {unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.ECONNREFUSED, unix.ECONNRESET, unix.EPROTO},
		Path: {unix.EPERM, unix.EACCES, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.EHOSTDOWN, unix.ENONET,
			unix.EMSGSIZE, unix.ENODEV, unix.ENXIO, unix.EADDRNOTAVAIL, unix.EINVAL, unix.EAFNOSUPPORT, unix.EDESTADDRREQ, 5000},
		Fatal: {unix.EBADF, unix.ENOTSOCK, unix.EFAULT, unix.EOPNOTSUPP, unix.ENOSYS},
	}
	for class, errnos := range want {
		for _, e := range errnos {
			if got := Classify(e); got != class {
				t.Errorf("%v: %v, want %v", e, got, class)
			}
			if err := sendError(e); e != 0 && !errors.Is(err, e) {
				t.Errorf("%v is not found in %v", e, err)
			}
		}
	}
}

func BenchmarkSend(b *testing.B) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		for _, n := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("to=%s/batch=%d", ip, n), func(b *testing.B) {
				benchmarkSend(b, ip, n)
			})
		}
	}
}

func benchmarkSend(b *testing.B, ip string, n int) {
	s, err := Open(SocketConfig{SendOnly: true})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	sink, err := Open(SocketConfig{SendOnly: true})
	if err != nil {
		b.Fatal(err)
	}
	defer sink.Close()
	ms := make([]Message, n)
	for i := range ms {
		ms[i] = Message{Buf: make([]byte, 1420), Addr: addrPort(ip, sink.Port()), TrafficClass: 2, FlowLabel: 7}
	}
	b.SetBytes(int64(n * 1420))
	b.ReportAllocs()
	sent := 0
	for b.Loop() {
		k, err := s.Send(ms)
		if err != nil {
			b.Fatal(err)
		}
		sent += k
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(sent), "ns/datagram")
}

func BenchmarkOpen(b *testing.B) {
	for name, cfg := range map[string]SocketConfig{"both ways": {}, "send only": {SendOnly: true}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				s, err := Open(cfg)
				if err != nil {
					b.Fatal(err)
				}
				s.Close()
			}
		})
	}
}
