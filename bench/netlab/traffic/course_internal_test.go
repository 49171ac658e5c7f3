package traffic

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestProbeLog(t *testing.T) {
	p := probeLog{on: true, patience: 100}
	for _, at := range []int64{1000, 1020, 1020, 1040, 1060} {
		p.send(at)
	}
	p.answer(1000, 30)
	p.answer(1000, 40) // a second copy
	p.answer(1020, 100)
	p.answer(1020, 7)
	p.answer(1040, 101) // too late
	p.answer(1050, 1)   // never asked
	want := &Series{Probes: []Sample{
		{At: 0, RTT: 30}, {At: 20, RTT: 100}, {At: 20, RTT: 7}, {At: 40, Lost: true}, {At: 60, Lost: true},
	}}
	if diff := cmp.Diff(want, p.series(1000)); diff != "" {
		t.Error(diff)
	}
	off := probeLog{patience: 100}
	off.send(1)
	off.answer(1, 1)
	if got := off.series(0); got != nil {
		t.Errorf("a log that nobody wanted: %+v", got)
	}
}

func TestMeter(t *testing.T) {
	origin := time.Now()
	at := func(ms int) time.Time { return origin.Add(time.Duration(ms) * time.Millisecond) }
	var m meter
	m.add(at(0), 9)
	if bins, total, cut := m.read(); bins != nil || total != 0 || cut {
		t.Errorf("before the start: %v, %d, %v", bins, total, cut)
	}
	m.start(origin, at(70), 20*time.Millisecond)
	for ms, n := range map[int]int{-5: 1, 0: 2, 19: 4, 20: 8, 69: 16, 70: 32, 500: 64} {
		m.add(at(ms), n)
	}
	bins, total, cut := m.read()
	if diff := cmp.Diff([]uint64{7, 8, 0, 16}, bins); diff != "" || total != 31 || !cut {
		t.Errorf("%d bytes, cut %v: %s", total, cut, diff)
	}
	m.start(origin, time.Time{}, 20*time.Millisecond)
	m.add(origin.Add(time.Hour), 1)
	m.add(origin.Add(1000*time.Hour), 2)
	if bins, _, _ := m.read(); len(bins) != maxBins || bins[maxBins-1] != 3 {
		t.Errorf("%d bins for far away times", len(bins))
	}
}

// TestStagger has bulk flows begin at moments that the seed decides, all within
// the stagger, and the others as ever.
func TestStagger(t *testing.T) {
	const ms = time.Millisecond
	to := netip.MustParseAddr("192.0.2.1")
	plan := Plan{Duration: time.Second, Stagger: 500 * ms, Groups: []Group{
		{Kind: UDPEcho, Count: 2, To: to, Interval: 20 * ms},
		{Kind: TCPBulk, Count: 3, To: to, Start: 100 * ms},
		{Kind: TCPBulk, Count: 2, To: to, Start: 200 * ms, Down: true},
	}}
	if err := plan.complete(); err != nil {
		t.Fatal(err)
	}
	begins := func(seed uint64) (all []time.Duration) {
		plan.Seed = seed
		c := newClient(plan)
		for _, f := range c.flows {
			all = append(all, c.window(f, c.epoch).start.Sub(c.epoch))
		}
		return all
	}
	got := begins(7)
	if diff := cmp.Diff(got, begins(7)); diff != "" {
		t.Errorf("the same seed twice: %s", diff)
	}
	if diff := cmp.Diff([]time.Duration{0, 10 * ms}, got[:2]); diff != "" {
		t.Errorf("flows that are not bulk: %s", diff)
	}
	other := begins(8)
	for i, from := range []time.Duration{100 * ms, 100 * ms, 100 * ms, 200 * ms, 200 * ms} {
		bulk := 2 + i
		if got[bulk] < from || got[bulk] >= from+500*ms {
			t.Errorf("flow %d begins after %v, not within %v of %v", bulk, got[bulk], plan.Stagger, from)
		}
		if got[bulk] == other[bulk] {
			t.Errorf("flow %d begins after %v with another seed, too", bulk, got[bulk])
		}
	}
	for _, stagger := range []time.Duration{-1, 801 * ms} {
		plan.Stagger = stagger
		if err := plan.complete(); err == nil || !strings.Contains(err.Error(), "do not fit into a load from ") {
			t.Errorf("a stagger of %v: error %v", stagger, err)
		}
	}
}

func TestStreamInVirtualTimeHasAnInterval(t *testing.T) {
	for _, virtual := range []bool{false, true} {
		p := Plan{Virtual: virtual, Groups: []Group{{Kind: UDPStream, Count: 1, To: netip.IPv6Loopback()}}}
		if err := p.complete(); err != nil {
			t.Fatal(err)
		}
		if got := p.Groups[0].Interval; (got > 0) != virtual {
			t.Errorf("virtual %v: interval %v", virtual, got)
		}
	}
}

var loopback4 = netip.MustParseAddr("127.0.0.1")

// deafServer answers what opens a flow and then reads nothing more until the
// test ends.
func deafServer(t *testing.T) (port uint16) {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(loopback4, 0)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); close(done) })
	go func() {
		for {
			conn, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				s := newStream(conn)
				if h, _, err := s.read(); err == nil && h.kind == typeReflect && s.write(h, h.length) == nil {
					<-done
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func TestNobodyReads(t *testing.T) {
	plan := Plan{
		Port: deafServer(t), Series: true, Abandon: true, Duration: 200 * time.Millisecond, Linger: 100 * time.Millisecond,
		Groups: []Group{
			{Kind: TCPBulk, Count: 2, To: loopback4},
			{Kind: TCPBurst, Count: 2, To: loopback4, Interval: 20 * time.Millisecond},
		},
	}
	if err := plan.complete(); err != nil {
		t.Fatal(err)
	}
	r, err := newClient(plan).run()
	if err != nil {
		t.Fatal(err)
	}
	r.merge(&plan, &serverReport{})
	for _, f := range r.Flows {
		if f.Error != "" {
			t.Errorf("flow %d: %s", f.ID, f.Error)
		}
		switch f.Kind {
		case TCPBulk: // cut off in the middle of a write
			if f.TCP == nil || f.Up != (Direction{}) {
				t.Errorf("flow %d: %+v", f.ID, f)
			}
		case TCPBurst:
			for i, p := range f.Series.Probes {
				if !p.Lost {
					t.Errorf("burst %d: %+v", i, p)
				}
			}
			if f.Up.Sent == 0 || len(f.Series.Probes) != int(f.Up.Sent) || f.Down.Received != 0 || f.RTT.Count != 0 {
				t.Errorf("flow %d: %+v", f.ID, f)
			}
		}
	}
}

func startServer(t *testing.T, c serverConfig) (*server, *Group, uint16) {
	t.Helper()
	c.Addrs = []netip.Addr{loopback4}
	s, err := listen(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s, &Group{Kind: TCPBulk, Count: 1, To: loopback4, Size: 200}, s.tcp[0].Addr().(*net.TCPAddr).AddrPort().Port()
}

func TestServerIsCutOffWhileItSends(t *testing.T) {
	s, g, port := startServer(t, serverConfig{})
	c, err := dialStream(t.Context(), g, port)
	if err != nil {
		t.Fatal(err)
	}
	const lasts = 100 * time.Millisecond
	if err := c.writeMark(header{run: 1}, mark{cut: lasts}); err != nil {
		t.Fatal(err)
	}
	if err := c.write(header{run: 1, kind: typePull, time: int64(lasts)}, headerSize); err != nil {
		t.Fatal(err)
	}
	var got serverFlow
	for range 1000 { // far longer than it takes
		if got = s.report().Flows[0]; got.TCP != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := c.cut(); err != nil {
		t.Error(err)
	}
	if got.TCP == nil || got.Sent == 0 || got.Error != "" || got.Bins != nil {
		t.Errorf("%+v", got)
	}
}

// TestSeriesOfWholeTransfers counts all that the receiver got: the frames and, at
// their end, the sum.
func TestSeriesOfWholeTransfers(t *testing.T) {
	s, g, port := startServer(t, serverConfig{})
	down := *g
	down.Down = true
	plan := Plan{Port: port, Duration: 50 * time.Millisecond, Linger: time.Minute, Series: true, Bin: 10 * time.Millisecond, Groups: []Group{*g, down}}
	if err := plan.complete(); err != nil {
		t.Fatal(err)
	}
	r, err := newClient(plan).run()
	if err != nil {
		t.Fatal(err)
	}
	report := s.report()
	r.merge(&plan, &report)
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	for _, f := range r.Flows {
		var sum uint64
		for _, n := range f.Series.Bytes {
			sum += n
		}
		if want := f.Up.Bytes + f.Down.Bytes + sumSize; sum != want || len(f.Series.Bytes) < 5 {
			t.Errorf("flow %d: %d bytes in %d bins, want %d", f.ID, sum, len(f.Series.Bytes), want)
		}
	}
}

func TestBurstsHaveNoOrder(t *testing.T) {
	plan := &Plan{}
	for _, kind := range []Kind{TCPBurst, UDPEcho} {
		f := Flow{Kind: kind, Up: Direction{Sent: 2}, Down: Direction{Received: 2, Reordered: 1}}
		f.merge(plan, serverFlow{Sent: 2, Received: Direction{Received: 2, Reordered: 1}})
		if ordered := f.Up.Reordered == 1 && f.Down.Reordered == 1; ordered != (kind == UDPEcho) {
			t.Errorf("%s: %+v, %+v", kind, f.Up, f.Down)
		}
	}
}

func TestSetupThatTheServerCannotDo(t *testing.T) {
	_, g, port := startServer(t, serverConfig{})
	c, err := dialStream(t.Context(), g, port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.conn.Close()
	if err := c.writeSetup(header{run: 1}, &Group{Congestion: "carrier-pigeon"}); err != nil {
		t.Fatal(err)
	}
	const want = "set up the server's socket: set congestion control carrier-pigeon: the kernel does not have it; " +
		"choose one of net.ipv4.tcp_available_congestion_control"
	if err := c.readSetup(); err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
}

// TestListenerWithItsOwnCongestionControl wants the connections to have the
// ordinary one all the same.
func TestListenerWithItsOwnCongestionControl(t *testing.T) {
	name := func(conn *net.TCPListener) (name string) {
		if err := control(conn, func(fd int) (err error) { name, err = congestion(fd); return err }); err != nil {
			t.Fatal(err)
		}
		return name
	}
	plain, g, port := startServer(t, serverConfig{})
	ordinary := name(plain.tcp[0])
	special, _, specialPort := startServer(t, serverConfig{Congestion: "reno"})
	if got := name(special.tcp[0]); got != "reno" {
		t.Errorf("the listener has %s", got)
	}
	g.Down = true
	for _, port := range []uint16{port, specialPort} {
		plan := Plan{Port: port, Duration: 20 * time.Millisecond, Groups: []Group{*g}}
		if err := plan.complete(); err != nil {
			t.Fatal(err)
		}
		r, err := newClient(plan).run()
		if err != nil {
			t.Fatal(err)
		}
		server := plain
		if port == specialPort {
			server = special
		}
		report := server.report()
		r.merge(&plan, &report)
		if err := r.Check(); err != nil {
			t.Error(err)
		}
		if tcp := r.Flows[0].TCP; tcp == nil || tcp.Congestion != ordinary {
			t.Errorf("a connection has %+v, want %s", tcp, ordinary)
		}
	}
}

func TestBurstIsExactlyAsLongAsAsked(t *testing.T) {
	for _, size := range []int{headerSize, minSize, bulkFrameSize, bulkFrameSize + 1, bulkFrameSize + headerSize, 3*bulkFrameSize - 1} {
		s, g, port := startServer(t, serverConfig{})
		g.Kind, g.Size = TCPBurst, size
		plan := &Plan{Linger: time.Minute, Series: true}
		f := newBurstFlow(plan, g, header{run: 1}, func() int64 { return 5 })
		if err := f.open(t.Context(), port); err != nil {
			t.Fatal(err)
		}
		f.burst(t.Context(), header{run: 1, kind: typeGet})
		if f.down.bytes != uint64(size) {
			t.Errorf("%d bytes of %d", f.down.bytes, size)
		}
		if got := s.report().Flows[0]; got.Received.Received != 1 || got.Error != "" {
			t.Errorf("size %d: %+v", size, got)
		}
	}
}
