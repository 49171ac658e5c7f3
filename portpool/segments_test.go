package portpool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// numbered makes datagram number i: its number, then bytes that follow from it.
// Its traffic class follows from it too, so that marks change within bursts.
func numbered(i, size int) []byte {
	b := make([]byte, max(size, 8))
	fillNumbered(b, uint64(i))
	return b
}

func fillNumbered(b []byte, i uint64) {
	for j := range b {
		b[j] = byte(int(i) + j)
	}
	binary.BigEndian.PutUint64(b, i)
}

func classOf(i int) uint8 { return uint8(i / 7 * 37) }

// bursts makes messages of all kinds: runs of one size, shorter ends, sizes that
// change, super-datagrams with and without a shorter end.
func bursts(r *rand.Rand, c *crossing, first, n int) (ms []Message) {
	for i := first; i < first+n; {
		v6 := r.IntN(2) == 0
		size, run := 8+r.IntN(1440), 1+r.IntN(60)
		run = min(run, first+n-i)
		if r.IntN(3) > 0 {
			for range run {
				m := c.to(v6, numbered(i, size-r.IntN(2)*r.IntN(2)*r.IntN(20)))
				m.TrafficClass = classOf(i)
				ms = append(ms, m)
				i++
			}
			continue
		}
		m := c.to(v6, nil)
		m.SegmentSize, m.TrafficClass = max(size, 8), classOf(i)
		for m.TrafficClass == classOf(i) && run > 0 {
			m.Buf = append(m.Buf, numbered(i, size)...)
			i++
			run--
		}
		if classOf(i) == m.TrafficClass && i < first+n {
			m.Buf = append(m.Buf, numbered(i, r.IntN(size))[:]...)
			if len(m.Buf)%m.SegmentSize != 0 {
				i++
			} else if size > 8 {
				m.Buf = m.Buf[:len(m.Buf)-len(m.Buf)%m.SegmentSize]
			} else {
				i++
			}
		}
		ms = append(ms, m)
	}
	return ms
}

// offloaded says what the kernel and the link do for us.
type offloaded struct {
	gso, gro Mode
	link     bool // the link takes super-datagrams and computes checksums
}

// 100 000 datagrams with contents, classes and order, on links with and without
// offloads, with ours on and off.
func TestDatagramsSurviveOffloads(t *testing.T) {
	const total, burst = 100_000, 300
	for _, on := range []offloaded{{Auto, Auto, true}, {Auto, Auto, false}, {Auto, Off, true}, {Auto, Off, false}, {Off, Auto, true}, {Off, Off, false}} {
		t.Run(fmt.Sprintf("gso=%v gro=%v link=%v", on.gso, on.gro, on.link), func(t *testing.T) {
			c := newCrossing(t, SharedConfig{GSO: on.gso}, 1)
			if !on.link {
				c.offloadsOff(t)
			}
			sink := c.far.open(t, SocketConfig{GRO: true, ReceiveBuffer: 16 << 20, Shared: NewShared(SharedConfig{GRO: on.gro})})
			c.sink = sink
			s := c.socket(t, 1)
			r := rand.New(rand.NewPCG(1, 2))
			in := newSlab(64)
			joined := 0
			for first := 0; first < total; first += burst {
				ms := bursts(r, c, first, min(burst, total-first))
				mustSend(t, s, ms...)
				joined += checkNumbered(t, sink, in, ms)
			}
			if (joined > 0) != (on.gro == Auto && (on.gso == Auto || !on.link)) {
				t.Errorf("%d datagrams came joined", joined)
			}
			if not := c.shared.Capabilities().NotSegmented; len(not) > 0 || strings.Contains(c.log.String(), "gso") {
				t.Errorf("not segmented: %v; log: %s", not, c.log.String())
			}
		})
	}
}

func newSlab(n int) []Message {
	ms := make([]Message, n)
	slab := make([]byte, n<<16)
	for i := range ms {
		ms[i].Buf = slab[i<<16 : (i+1)<<16]
	}
	return ms
}

// checkNumbered receives what was sent and compares. IPv4 and IPv6 may overtake
// each other.
func checkNumbered(t *testing.T, sink *UDPSocket, in, sent []Message) (joined int) {
	t.Helper()
	var want [2][][]byte
	all := 0
	for _, m := range sent {
		if m.N != len(m.Buf) || m.Err != 0 {
			t.Fatalf("message of %d bytes: %d sent, %v", len(m.Buf), m.N, m.Err)
		}
		for d := range m.Datagrams {
			v := m.Addr.Addr().BitLen() / 128
			want[v] = append(want[v], d)
			all++
		}
	}
	for all > 0 {
		n, err := sink.Receive(in)
		if err != nil {
			t.Fatal(err)
		}
		for i := range in[:n] {
			m := &in[i]
			if m.SegmentSize > 0 {
				joined += m.N / m.SegmentSize
			}
			v := m.Addr.Addr().BitLen() / 128
			for d := range m.Datagrams {
				all--
				if len(want[v]) == 0 || !bytes.Equal(d, want[v][0]) {
					t.Fatalf("%d bytes %.20x…, want %d bytes %.20x…", len(d), d, len(want[v][0]), want[v][0])
				}
				want[v] = want[v][1:]
				if i := int(binary.BigEndian.Uint64(d)); m.TrafficClass != classOf(i) || m.HopLimit != 64 || m.Time == 0 {
					t.Fatalf("datagram %d: class %#x, want %#x; hop limit %d, time %d", i, m.TrafficClass, classOf(i), m.HopLimit, m.Time)
				}
			}
		}
	}
	return joined
}

// offloadsOff makes the link one that only takes single datagrams with their
// checksums, and joins what arrives, as many a real one does.
func (c *crossing) offloadsOff(t testing.TB) {
	t.Helper()
	const stxcsum, sgro = 0x17, 0x2c // ETHTOOL_STXCSUM, ETHTOOL_SGRO
	off := func(ns *namespace, name string) {
		ns.do(t, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return errors.Join(ethtool(fd, name, stxcsum, 0), ethtool(fd, name, sgro, 1))
		})
	}
	off(c.near, "near")
	off(c.far, "far")
}

// packets is how many the namespace's UDP sockets have sent; several datagrams
// handed over as one count as one.
func (ns *namespace) packets(t testing.TB) int {
	t.Helper()
	var four, six int
	ns.do(t, func() error {
		snmp, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		snmp6, err := os.ReadFile("/proc/thread-self/net/snmp6")
		if err != nil {
			return err
		}
		_, values, _ := strings.Cut(string(snmp), "\nUdp: In") // the names
		_, values, _ = strings.Cut(values, "\nUdp: ")
		_, err4 := fmt.Sscan(values, new(int), new(int), new(int), &four) // in, no port, errors, out
		_, values, _ = strings.Cut(string(snmp6), "\nUdp6OutDatagrams")
		_, err6 := fmt.Sscan(values, &six)
		return errors.Join(err4, err6)
	})
	return four + six
}

// Neighbours of one size and kind, and only these, go as one.
func TestWhatGoesAsOne(t *testing.T) {
	c := newCrossing(t, SharedConfig{}, 1)
	s := c.socket(t, 1)
	mustSend(t, s, c.to(false, []byte("neighbour")), c.to(true, []byte("neighbour")))
	receive(t, c.sink, 2)
	of := func(sizes ...int) (ms []Message) {
		for _, n := range sizes {
			ms = append(ms, c.to(false, make([]byte, n)))
		}
		return ms
	}
	super := func(size, total int) []Message {
		m := c.to(false, make([]byte, total))
		m.SegmentSize = size
		return []Message{m}
	}
	differing := func(change func(*Message)) []Message {
		ms := of(100, 100)
		change(&ms[1])
		return ms
	}
	labelled := []Message{c.to(true, make([]byte, 100)), c.to(true, make([]byte, 100)), c.to(true, make([]byte, 100))}
	labelled[2].FlowLabel++
	for _, tt := range []struct {
		name    string
		ms      []Message
		packets int
	}{
		{"alike", of(100, 100, 100), 1},
		{"a shorter end", of(100, 100, 99), 1},
		{"after a shorter end", of(100, 99, 99, 100), 3},
		{"a longer end", of(100, 100, 101), 2},
		{"empty ones", of(0, 0, 100, 0), 4},
		{"64", of(slicesOf(64, 10)...), 1},
		{"65", of(slicesOf(65, 10)...), 2},
		{"64 KiB", of(slicesOf(60, 1400)...), 2},
		{"another class", differing(func(m *Message) { m.TrafficClass = 1 }), 2},
		{"another source", differing(func(m *Message) { m.Local = netip.Addr{} }), 2},
		{"another destination", differing(func(m *Message) { m.Addr = netip.AddrPortFrom(m.Addr.Addr(), 9) }), 2},
		{"another interface", differing(func(m *Message) { m.IfIndex = c.near.index(t, "near") }), 2},
		{"another label", labelled, 2},
		{"super", super(100, 500), 1},
		{"super with a shorter end", super(100, 501), 1},
		{"super of one", super(100, 100), 1},
		{"super of less than one", super(100, 50), 1},
		{"super of 65", super(10, 650), 2},
		{"super of 130 and an end", super(10, 1305), 3},
		{"super of more than 64 KiB", super(1400, 140_000), 3},
		{"two supers", append(super(100, 500), super(100, 500)...), 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := c.near.packets(t)
			mustSend(t, s, tt.ms...)
			for _, m := range tt.ms {
				if m.N != len(m.Buf) {
					t.Errorf("%d of %d bytes sent", m.N, len(m.Buf))
				}
			}
			if n := c.near.packets(t) - before; n != tt.packets {
				t.Errorf("%d packets, want %d", n, tt.packets)
			}
		})
	}
}

func slicesOf(n, size int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = size
	}
	return s
}

// The largest that is handed over as one passes, whatever the segments.
func TestLargestSuper(t *testing.T) {
	c := newCrossing(t, SharedConfig{GSO: On}, 1)
	sink := c.far.open(t, SocketConfig{GRO: true, ReceiveBuffer: 8 << 20})
	c.sink = sink
	s, in := c.socket(t, 1), newSlab(8)
	for _, v6 := range []bool{false, true} {
		for size := 1025; size <= 1452; size += 7 {
			if !v6 && size > 1472 {
				continue
			}
			m := c.to(v6, make([]byte, maxSuper))
			m.SegmentSize = size
			ms := []Message{m}
			mustSend(t, s, ms...)
			got := 0
			for got < maxSuper {
				n, err := sink.Receive(in)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range in[:n] {
					got += m.N
				}
			}
		}
	}
	if not := c.shared.Capabilities().NotSegmented; len(not) > 0 {
		t.Errorf("refused on the way to %v", not)
	}
}

// Where the kernel takes no super-datagrams, single ones go instead, and from
// then on to that destination at once. A socket that is to leave out checksums
// is such a case (EINVAL), for IPv4.
func TestGSORefused(t *testing.T) {
	c := newCrossing(t, SharedConfig{}, 1)
	s := c.socket(t, 1).(*UDPSocket)
	if err := onDescriptor(s.raw, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1)
	}); err != nil {
		t.Fatal(err)
	}
	gone := c.to(false, []byte("gone"))
	gone.Local = netip.MustParseAddr("10.99.99.99")
	for range 3 {
		var ms []Message
		for i := range 100 {
			m := c.to(false, numbered(i, 100))
			m.TrafficClass = classOf(i)
			ms = append(ms, m)
		}
		super := c.to(false, append(numbered(100, 100), append(numbered(101, 100), numbered(102, 50)...)...))
		super.SegmentSize, super.TrafficClass = 100, classOf(100)
		if classOf(100) != classOf(102) {
			t.Fatal("bad test")
		}
		ms = append(ms, super)
		mustSend(t, s, ms...)
		checkNumbered(t, c.sink, newSlab(8), ms)
		mustSend(t, s, gone, gone)
		receive(t, c.sink, 2)
	}
	want := []netip.Addr{netip.MustParseAddr("10.9.0.2")}
	if not := c.shared.Capabilities().NotSegmented; !cmp.Equal(not, want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
		t.Errorf("not segmented: %v", not)
	}
	if n := strings.Count(c.log.String(), "segmentation"); n != 1 {
		t.Errorf("%d warnings: %s", n, c.log.String())
	}
	if errs := c.shared.SendErrors(); len(errs) > 0 {
		t.Errorf("errors were counted: %v", errs)
	}
	if n := c.shared.segments(netip.MustParseAddr("10.9.0.3")); n != oldSegments {
		t.Errorf("%d datagrams as one to another destination", n)
	}
}

// Datagrams that the interface cannot carry are no reason to doubt GSO, and a
// message that has many of them is one error.
func TestSegmentsTooLong(t *testing.T) {
	for _, mode := range []Mode{Auto, Off} {
		c := newCrossing(t, SharedConfig{GSO: mode}, 1)
		s := c.socket(t, 1)
		super := c.to(false, make([]byte, 200_000))
		super.SegmentSize = 1500
		ms := []Message{c.to(false, make([]byte, 1473)), c.to(false, make([]byte, 1473)), c.to(false, make([]byte, 9)), super, c.to(false, make([]byte, 10))}
		n, err := s.Send(ms)
		if n != 2 || !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("gso %v: sent %d: %v", mode, n, err)
		}
		for i, want := range []struct {
			e error
			n int
		}{{unix.EMSGSIZE, 0}, {unix.EMSGSIZE, 0}, {unix.Errno(0), 9}, {unix.EMSGSIZE, 0}, {unix.Errno(0), 10}} {
			if ms[i].Err != want.e || ms[i].N != want.n {
				t.Errorf("gso %v: message %d: %v, %d bytes", mode, i, ms[i].Err, ms[i].N)
			}
		}
		if not := c.shared.Capabilities().NotSegmented; len(not) > 0 {
			t.Errorf("gso %v: not segmented: %v", mode, not)
		}
		if diff := cmp.Diff([]ErrnoCount{{unix.EMSGSIZE, Path, 3}}, c.shared.SendErrors()); diff != "" {
			t.Errorf("gso %v: errors (-want +got):\n%s", mode, diff)
		}
	}
}

// A source that has gone is forgotten by all that went without it as one.
func TestSourceOfSegmentsGone(t *testing.T) {
	c := newCrossing(t, SharedConfig{}, 1)
	var ms []Message
	for range 3 {
		ms = append(ms, c.to(false, make([]byte, 10)))
		ms[len(ms)-1].Local = netip.MustParseAddr("10.99.99.99")
	}
	super := c.to(false, make([]byte, 1000))
	super.SegmentSize, super.Local = 9, ms[0].Local
	ms = append(ms, super)
	mustSend(t, c.socket(t, 1), ms...)
	receive(t, c.sink, 3+112)
	for i, m := range ms {
		if m.Local.IsValid() {
			t.Errorf("message %d still wants to come from %v", i, m.Local)
		}
	}
	if not := c.shared.Capabilities().NotSegmented; len(not) > 0 {
		t.Errorf("not segmented: %v", not)
	}
}

// A full buffer leaves a message that is begun with what has gone.
func TestBufferFullWithinSuper(t *testing.T) {
	ns := newNamespace(t)
	ns.veth(t, "near", "far", ns)
	ns.addr(t, "near", "10.9.0.1/24")
	s := ns.open(t, SocketConfig{SendBuffer: 40_000}) // its neighbour is asked for meanwhile
	ms := []Message{{Buf: make([]byte, 300_000), SegmentSize: 1000, Addr: addrPort("10.9.0.2", 9)}, {Buf: []byte("x"), Addr: addrPort("10.9.0.2", 9)}}
	n, err := s.Send(ms)
	if n != 0 || err != ErrFull || ms[0].Err != unix.EAGAIN || ms[0].N == 0 || ms[0].N == 300_000 || ms[0].N%1000 != 0 || ms[1].N != 0 || ms[1].Err != unix.EAGAIN {
		t.Errorf("sent %d: %v; %d bytes of the first, %v; %d of the second, %v", n, err, ms[0].N, ms[0].Err, ms[1].N, ms[1].Err)
	}
}

func TestGSOLost(t *testing.T) {
	c := newCrossing(t, SharedConfig{}, 1)
	s := c.socket(t, 1)
	c.shared.LoseGSO("they do not arrive")
	c.shared.LoseGSO("again")
	mustSend(t, s, c.to(false, make([]byte, 9)))
	before := c.near.packets(t)
	mustSend(t, s, c.to(false, make([]byte, 9)), c.to(false, make([]byte, 9)))
	if n := c.near.packets(t) - before; n != 2 {
		t.Errorf("%d packets", n)
	}
	if gso := c.shared.Capabilities().GSO; gso.On || gso.Reason != "they do not arrive" || strings.Count(c.log.String(), "not arrive") != 1 {
		t.Errorf("%+v; %s", gso, c.log.String())
	}
}

func TestTooManyNotSegmented(t *testing.T) {
	sh := NewShared(SharedConfig{})
	a := netip.MustParseAddr("2001:db8::")
	for range maxNotSegmented + 10 {
		a = a.Next()
		sh.refuseSegments(a, unix.EIO)
		sh.refuseSegments(a, unix.EIO)
		if sh.segments(a) != 1 {
			t.Fatal(a)
		}
	}
	if c := sh.Capabilities(); c.GSO.On || sh.segments(netip.MustParseAddr("192.0.2.1")) != 1 || len(c.NotSegmented) != maxNotSegmented {
		t.Errorf("%v, %d destinations", c.GSO, len(c.NotSegmented))
	}
}

func TestTruncatedSuper(t *testing.T) {
	c := newCrossing(t, SharedConfig{}, 1)
	sink := c.far.open(t, SocketConfig{GRO: true})
	c.sink = sink
	s := c.socket(t, 1)
	for room, whole := range map[int]int{1500: 3, 1501: 3, 1499: 2, 400: 0, 500: 1, 2000: 3, 3000: 4} {
		super := c.to(false, make([]byte, 1900))
		super.SegmentSize = 500
		mustSend(t, s, super)
		in := []Message{{Buf: make([]byte, room)}}
		if _, err := sink.Receive(in); err != nil {
			t.Fatal(err)
		}
		n := 0
		for d := range in[0].Datagrams {
			if n++; len(d) != 500 && !(n == 4 && len(d) == 400) {
				t.Errorf("room for %d: datagram %d has %d bytes", room, n, len(d))
			}
		}
		if in[0].Truncated != (room < 1900) {
			t.Errorf("room for %d: truncated %v", room, in[0].Truncated)
		}
		if want := map[bool]int{true: whole, false: 4}[room < 1900]; n != want {
			t.Errorf("room for %d: %d datagrams, want %d", room, n, want)
		}
	}
}

func TestDatagrams(t *testing.T) {
	for _, tt := range []struct {
		n, size int
		cut     bool
		want    []int
	}{
		{10, 0, false, []int{10}},
		{0, 0, false, []int{0}},
		{10, 10, false, []int{10}},
		{10, 11, false, []int{10}},
		{10, 4, false, []int{4, 4, 2}},
		{8, 4, false, []int{4, 4}},
		{10, 0, true, nil},
		{10, 10, true, []int{10}},
		{10, 11, true, nil},
		{10, 4, true, []int{4, 4}},
		{8, 4, true, []int{4, 4}},
		{10, -1, false, []int{10}},
	} {
		m := Message{Buf: make([]byte, 20), N: tt.n, SegmentSize: tt.size, Truncated: tt.cut}
		var got []int
		for d := range m.Datagrams {
			got = append(got, len(d))
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%+v: %s", tt, diff)
		}
		for range m.Datagrams {
			break
		}
	}
}

func TestSupersDoNotAllocate(t *testing.T) {
	c := newCrossing(t, SharedConfig{}, 1)
	sink := c.far.open(t, SocketConfig{GRO: true, ReceiveBuffer: 8 << 20})
	c.sink = sink
	s, in := c.socket(t, 1), newSlab(8)
	super := c.to(true, make([]byte, 100_000))
	super.SegmentSize = 1200
	ms := []Message{super}
	for range 100 {
		ms = append(ms, c.to(true, make([]byte, 1000)))
	}
	bytes := 0
	if n := testing.AllocsPerRun(50, func() {
		mustSend(t, s, ms...)
		for want := 200_000; want > 0; {
			n, err := sink.Receive(in)
			if err != nil {
				t.Fatal(err)
			}
			for i := range in[:n] {
				for d := range in[i].Datagrams {
					want -= len(d)
					bytes += len(d)
				}
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
