package traffic

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestTrackerAgainstOracle compares the tracker with counting by hand.
func TestTrackerAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		numbers := rapid.SliceOf(rapid.Uint64Range(0, 300)).Draw(t, "numbers")
		var tr tracker
		want := Direction{Sent: 301}
		var seen []uint64
		for _, n := range numbers {
			tr.add(n, 100)
			if slices.Contains(seen, n) {
				want.Duplicated++
				continue
			}
			want.Received++
			want.Bytes += 100
			if len(seen) > 0 && n < slices.Max(seen) {
				want.Reordered++
			}
			seen = append(seen, n)
		}
		want.Lost = want.Sent - want.Received
		for slices.Contains(seen, want.FirstMissing) {
			want.FirstMissing++
		}
		if diff := cmp.Diff(want, tr.direction(want.Sent)); diff != "" {
			t.Fatal(diff)
		}
	})
}

// A relay passes datagrams between clients and a server, and maltreats those
// from the client that are counted: of each flow, number 3 gets lost, number 5
// comes twice, number 7 comes after number 8, and number 9 arrives damaged.
type relay struct {
	front  *net.UDPConn
	server netip.AddrPort

	backs map[netip.AddrPort]*net.UDPConn
	held  map[uint32][]byte
}

func startRelay(t *testing.T, server netip.AddrPort) netip.AddrPort {
	t.Helper()
	front, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(server.Addr(), 0)))
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{front: front, server: server, backs: map[netip.AddrPort]*net.UDPConn{}, held: map[uint32][]byte{}}
	done := make(chan struct{})
	go func() { defer close(done); r.forth(t) }()
	t.Cleanup(func() {
		front.Close()
		<-done
		for _, b := range r.backs {
			b.Close()
		}
	})
	return front.LocalAddr().(*net.UDPAddr).AddrPort()
}

func (r *relay) forth(t *testing.T) {
	buf := make([]byte, 2048)
	for {
		n, from, err := r.front.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		back := r.backs[from]
		if back == nil {
			if back, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(r.server)); err != nil {
				t.Error(err)
				return
			}
			r.backs[from] = back
			go r.answers(back, from)
		}
		for _, b := range r.maltreat(buf[:n]) {
			if _, err := back.Write(b); err != nil {
				t.Error(err)
			}
		}
	}
}

func (r *relay) answers(back *net.UDPConn, to netip.AddrPort) {
	buf := make([]byte, 2048)
	for {
		n, err := back.Read(buf)
		if err != nil {
			return
		}
		r.front.WriteToUDPAddrPort(buf[:n], to)
	}
}

func (r *relay) maltreat(b []byte) [][]byte {
	var h header
	if !h.parse(b, true) || h.kind == typeReflect {
		return [][]byte{b}
	}
	switch h.number {
	case 3:
		return nil
	case 5:
		return [][]byte{b, b}
	case 7:
		r.held[h.flow] = slices.Clone(b)
		return nil
	case 8:
		return [][]byte{b, r.held[h.flow]}
	case 9:
		b[len(b)-1] ^= 1
	}
	return [][]byte{b}
}

func TestEveryMisfortuneIsCounted(t *testing.T) {
	loopback := netip.MustParseAddr("127.0.0.1")
	s, err := listen(serverConfig{Addrs: []netip.Addr{loopback}, Port: 0})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	front := startRelay(t, s.udp[0].LocalAddr().(*net.UDPAddr).AddrPort())
	const flows = 4
	plan := Plan{
		Port: front.Port(), Duration: 100 * time.Millisecond, Linger: 300 * time.Millisecond,
		Groups: []Group{
			{Kind: UDPEcho, Count: flows, To: loopback, Interval: 5 * time.Millisecond},
			{Kind: UDPStream, Count: flows, To: loopback, Interval: 5 * time.Millisecond},
		},
	}
	if err := plan.complete(); err != nil {
		t.Fatal(err)
	}
	r, err := newClient(plan).run()
	if err != nil {
		t.Fatal(err)
	}
	report := s.report()
	r.merge(&plan, &report)
	for _, f := range r.Flows {
		if f.Error != "" {
			t.Errorf("flow %d: %s", f.ID, f.Error)
		}
		if f.Up.Sent < 10 {
			t.Fatalf("flow %d sent %d datagrams, too few for the test", f.ID, f.Up.Sent)
		}
		want := Direction{Sent: f.Up.Sent, Received: f.Up.Sent - 2, Lost: 2, FirstMissing: 3, Duplicated: 1, Reordered: 1, Corrupted: 1, Bytes: 200 * (f.Up.Sent - 2)}
		if diff := cmp.Diff(want, f.Up); diff != "" {
			t.Errorf("flow %d, %s: %s", f.ID, f.Kind, diff)
		}
		// The server answers each copy that reaches it.
		answers := f.Up.Sent - 1
		if f.Kind == UDPStream {
			answers = 0
		}
		if f.Down.Sent != answers || f.Down.Received != answers {
			t.Errorf("flow %d, %s: answers %+v, want %d", f.ID, f.Kind, f.Down, answers)
		}
	}
	if r.Check() == nil {
		t.Error("Check has no objection")
	}
}

func TestSamples(t *testing.T) {
	var s samples
	const count = 10 * maxSamples
	for i := range count {
		s.add(time.Duration(count - i))
	}
	if len(s.kept) >= maxSamples {
		t.Errorf("%d samples kept, at most %d may be", len(s.kept), maxSamples)
	}
	r := summarize(&s, &samples{})
	if r.Count != count || r.Min != 1 || r.Worst != count {
		t.Errorf("%+v", r)
	}
	if off := r.Median - count/2; max(off, -off) > count/100 {
		t.Errorf("median %d of 1 to %d", r.Median, count)
	}
	if off := r.P99 - count*99/100; max(off, -off) > count/100 {
		t.Errorf("99th percentile %d of 1 to %d", r.P99, count)
	}
	few := samples{}
	few.add(5)
	if got, want := summarize(&few), (RTT{Count: 1, Min: 5, Median: 5, P99: 5, Worst: 5}); got != want {
		t.Errorf("one sample: %+v, want %+v", got, want)
	}
	if got := summarize(); got != (RTT{}) {
		t.Errorf("nothing: %+v", got)
	}
}

func FuzzHeader(f *testing.F) {
	good := make([]byte, 100)
	h := header{kind: typeEcho, run: 1, flow: 2, number: 3, time: 4}
	h.put(good)
	f.Add(good)
	f.Add(good[:headerSize])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var h header
		if !h.parse(b, true) {
			return
		}
		if h.length != len(b) || h.flow >= maxFlows || h.number >= maxNumber {
			t.Fatalf("accepted %+v of %d bytes", h, len(b))
		}
		again := slices.Clone(b)
		h.put(again)
		var second header
		if !second.parse(again, true) || second != h {
			t.Fatalf("%+v came back as %+v", h, second)
		}
	})
}

// TestFloodCarrierEnds: whoever receives learns that it is closed, whether it waits then
// or has something else to do.
func TestFloodCarrierEnds(t *testing.T) {
	peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	f, err := dialFlood(t.Context(), peer.LocalAddr().(*net.UDPAddr).AddrPort(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := peer.WriteToUDPAddrPort([]byte("answer"), f.src); err != nil {
		t.Fatal(err)
	}
	if b, err := f.receive(); err != nil || string(b) != "answer" {
		t.Errorf("received %q, error %v", b, err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := f.receive()
		ended <- err
	}()
	time.Sleep(10 * time.Millisecond) // as a rule it waits by then
	if err := f.close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != net.ErrClosed {
		t.Errorf("waiting ended with %v", err)
	}
	if _, err := f.receive(); err != net.ErrClosed {
		t.Errorf("receiving ended with %v", err)
	}
}

// TestFloodRota: flows have one turn each before any has another, also after one of them
// has ended, and those that are over end the rota.
func TestFloodRota(t *testing.T) {
	a, b, c := new(floodTurn), new(floodTurn), new(floodTurn)
	r := &floodRota{turns: []*floodTurn{a, b, c}}
	counts := func(n int) map[*floodTurn]int {
		had := make(map[*floodTurn]int)
		for range n {
			had[r.next()]++
		}
		return had
	}
	if had := counts(6); had[a] != 2 || had[b] != 2 || had[c] != 2 {
		t.Errorf("turns of three flows: %d, %d, %d, want 2 each", had[a], had[b], had[c])
	}
	r.remove(b)
	if had := counts(6); had[a] != 3 || had[c] != 3 {
		t.Errorf("turns of two flows: %d, %d, want 3 each", had[a], had[c])
	}
	r.remove(a)
	r.remove(c)
	if r.next() != nil {
		t.Error("there is a turn without flows")
	}
}

// TestFloodEnds: each flow of a flood goes on until its own end, be that a number or a
// time, and says so.
func TestFloodEnds(t *testing.T) {
	peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	start := time.Now()
	rota, ended := new(floodRota), make(chan error, 3)
	for i := range cap(ended) {
		u, err := dialFlood(t.Context(), peer.LocalAddr().(*net.UDPAddr).AddrPort(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		defer u.close()
		f := &datagramFlow{floods: rota, clock: func() int64 { return int64(time.Since(start)) }}
		w := window{start: start, end: start.Add(time.Hour)}
		f.sent = maxNumber - uint64(i+2)*floodBatch
		if i == 0 {
			f.sent, w.end = 0, start.Add(20*time.Millisecond)
		}
		go func() {
			err := f.flood(u, header{}, w)
			if i > 0 && f.sent < maxNumber-floodBatch {
				err = errors.Join(err, fmt.Errorf("flow %d ended after datagram %d", i, f.sent))
			}
			ended <- err
		}()
	}
	for range cap(ended) {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if rota.next() != nil {
		t.Error("a flow that has ended still has turns")
	}
}
