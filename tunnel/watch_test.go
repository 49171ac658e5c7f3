package tunnel

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kiloport/flowhash"
	"kiloport/tunnel/ecn"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/tun"
	"kiloport/tunnel/uapi"
)

// send lets a still device send everything that is in its queue.
func (s *still) send() {
	for s.device.transmit[0].queue.Len() > 0 {
		s.device.transmit[0].send()
	}
}

// forward moves the clock and the transmitter's idea of it.
func (s *still) forward(d time.Duration) {
	s.device.transmit[0].now = s.clock.now.Add(int64(d))
}

// flowsByPort gives the flows of a status by their source port.
func (s *still) flowsByPort() map[uint16]FlowDetail {
	m := make(map[uint16]FlowDetail)
	for _, f := range s.device.Status().Flows {
		m[netip.MustParseAddrPort(f.Source).Port()] = f
	}
	return m
}

func TestFlowsAreShown(t *testing.T) {
	a, b, _ := stillPair(t)
	x := a.device.transmit[0]
	a.forward(0)
	for range 10 {
		x.offer(a.udp(b.site, 2001, 1, 1000))
	}
	x.offer(a.udp(b.site, 2002, 1, 200))
	peer := b.key.Public().String()
	approximately := cmpopts.EquateApprox(0, 1e-9)
	want := FlowDetail{
		Flow: "udp [fd00::101]:2001 > [fd00::201]:2001", Protocol: 17, Source: "[fd00::101]:2001", Destination: "[fd00::201]:2001",
		Peer: peer, Backlog: 10000, BacklogPackets: 10,
	}
	if diff := cmp.Diff(want, a.flowsByPort()[2001], approximately); diff != "" {
		t.Errorf("while it waits:\n%s", diff)
	}
	a.forward(3 * time.Millisecond)
	a.send()
	a.forward(7 * time.Millisecond)
	want.Backlog, want.BacklogPackets = 0, 0
	want.Packets, want.Bytes, want.SojournMs, want.SojournMaxMs, want.IdleMs = 10, 10000, 3, 3, 10
	got := a.flowsByPort()
	if want.Lane = got[2001].Lane; want.Lane == 0 || want.Lane == got[2002].Lane {
		t.Errorf("lanes %d and %d, want two above 0", got[2001].Lane, got[2002].Lane)
	}
	if diff := cmp.Diff(want, got[2001], approximately); diff != "" {
		t.Errorf("when it was sent:\n%s", diff)
	}
	if got[2001].Sparse || !got[2002].Sparse {
		t.Errorf("sparse: %v of the flow with 10 packets at a time, %v of that with one", got[2001].Sparse, got[2002].Sparse)
	}
	if all := a.device.Status().Flows; all[0].Bytes < all[1].Bytes {
		t.Error("the flow that sent more is not the first")
	}

	a.forward(time.Second)
	x.offer(a.udp(b.site, 2001, 1, 1000))
	a.send()
	if !a.flowsByPort()[2001].Sparse {
		t.Error("still bulk, after a second with one packet at a time")
	}
	a.forward(25 * time.Second)
	if got := a.flowsByPort(); len(got) != 2 {
		t.Errorf("%d flows after 26 s, want 2", len(got))
	}
	a.forward(4 * time.Second)
	if got := a.flowsByPort(); len(got) != 1 {
		t.Errorf("%d flows after 30 s, want the one that was heard of since", len(got))
	}
}

func TestFlowsCountMarksAndDrops(t *testing.T) {
	a, b, _ := stillPair(t)
	x := a.device.transmit[0]
	a.forward(0)
	able := a.udp(b.site, 2001, 1, 1000)
	if !ecn.Set(able, ecn.ECT0) {
		t.Fatal("cannot set ECT(0)")
	}
	plain := a.udp(b.site, 2002, 1, 1000)
	for range 200 {
		x.offer(able)
		x.offer(plain)
	}
	for x.queue.Len() > 0 { // far below what came in, for far longer than CoDel allows
		a.forward(20 * time.Millisecond)
		x.send()
	}
	stats := x.queue.Stats()
	got := a.flowsByPort()
	if m := got[2001].Marks; m == 0 || m != stats.Marked || got[2001].Drops != 0 || got[2001].Packets != 200 {
		t.Errorf("ECT(0): %+v, the queue counted %+v", got[2001], stats)
	}
	if d := got[2002].Drops; d == 0 || d != stats.DroppedCoDel || got[2002].Marks != 0 || got[2002].Packets+d != 200 {
		t.Errorf("Not-ECT: %+v, the queue counted %+v", got[2002], stats)
	}
	if got[2001].Backlog != 0 || got[2002].Backlog != 0 || got[2002].BacklogPackets != 0 {
		t.Errorf("backlog of an empty queue: %+v, %+v", got[2001], got[2002])
	}
	status := a.device.Status()
	if n := status.Queue.Sojourn.Count; n != stats.Dequeued {
		t.Errorf("%d sojourn times, %d packets left the queue", n, stats.Dequeued)
	}
	if diff := cmp.Diff(status.Queue.Sojourn, status.Peers[0].Sojourn); diff != "" {
		t.Errorf("the only peer's are not those of the queue:\n%s", diff)
	}
	if status.Totals.Drops["codel"] != stats.DroppedCoDel {
		t.Errorf("totals: %v", status.Totals.Drops)
	}
}

// A flow that lost its place among many comes back as a new one, and nothing of
// it is below zero.
func TestMoreFlowsThanPlaces(t *testing.T) {
	var table flowTable
	p := new(peer)
	var packets []*packet
	const flows = 3 * flowSets * flowWays
	flow := func(i int) (*packet, *flowhash.Key) {
		f := new(flowhash.Flow)
		udp := make([]byte, 100)
		udp[0], udp[5], udp[6] = 6<<4, 60, 17
		binary.BigEndian.PutUint32(udp[40:], uint32(i))
		if err := flowhash.Parse(udp, f); err != nil {
			t.Fatal(err)
		}
		h := flowhash.NewHasher([16]byte{1})
		return &packet{n: 100, hash: h.Hash(&f.Key), peer: p, note: note{bytes: 100, packets: 1}}, &f.Key
	}
	for round := range 2 {
		for i := range flows {
			pkt, key := flow(i)
			table.enqueued(int64(round*flows+i+1), pkt, key)
			packets = append(packets, pkt)
		}
	}
	for _, pkt := range packets {
		table.dequeued(2*flows+1, 5, pkt)
	}
	shown := table.recent(2*flows+1, nil)
	if len(shown) < flowSets*flowWays*9/10 {
		t.Errorf("%d flows are shown, of %d places", len(shown), flowSets*flowWays)
	}
	seen := make(map[flowhash.Key]bool)
	for i := range shown {
		e := &shown[i]
		if e.backlog != 0 || e.waiting != 0 || e.packets > 2 || e.packets == 0 || seen[e.key] {
			t.Fatalf("%+v", e)
		}
		seen[e.key] = true
	}
}

// A flow that allowed IPs give to another peer is another flow.
func TestFlowsOfAnotherPeer(t *testing.T) {
	var table flowTable
	one, two := &peer{key: noise.PublicKey{1}}, &peer{key: noise.PublicKey{2}}
	for now, p := range []*peer{one, two, one} {
		pkt := &packet{n: 100, hash: 7, peer: p, note: note{bytes: 100, packets: 1}}
		table.enqueued(int64(now+1), pkt, new(flowhash.Key))
		table.dequeued(int64(now+1), 0, pkt)
	}
	packets := make(map[noise.PublicKey]uint64)
	for _, e := range table.recent(4, nil) {
		packets[e.peer] += e.packets
	}
	if packets[one.key] != 2 || packets[two.key] != 1 || len(table.recent(4, nil)) != 2 {
		t.Errorf("packets by peer: %v", packets)
	}
}

// A flow may move from one queue of the TUN device to another.
func TestFlowsOfSeveralTransmittersAreJoined(t *testing.T) {
	one := []flowEntry{
		{hash: 7, seen: 10, lane: 1, packets: 1, bytes: 100, marks: 1, drops: 2, backlog: 5, waiting: 1, bulk: 3, sojourn: 4, worst: 9},
		{hash: 8, seen: 11, packets: 5},
		{hash: 7, seen: 20, lane: 2, packets: 2, bytes: 200, marks: 3, drops: 4, backlog: 6, waiting: 2, bulk: 2, sojourn: 6, worst: 8},
	}
	want := []flowEntry{
		{hash: 7, seen: 20, lane: 2, packets: 3, bytes: 300, marks: 4, drops: 6, backlog: 11, waiting: 3, bulk: 3, sojourn: 6, worst: 9},
		{hash: 8, seen: 11, packets: 5},
	}
	if diff := cmp.Diff(want, joinFlows(one), cmp.AllowUnexported(flowEntry{}), cmp.Comparer(func(a, b flowhash.Key) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestSuperPacketsCountAsTheirSegments(t *testing.T) {
	for _, c := range []struct {
		header tun.Header
		n      int
		want   uint16
	}{
		{tun.Header{}, 1420, 1},
		{tun.Header{GSO: tun.GSOTCP6, HeaderLen: 60, SegmentSize: 1360}, 60 + 1360*3, 3},
		{tun.Header{GSO: tun.GSOTCP6, HeaderLen: 60, SegmentSize: 1360}, 60 + 1360*3 + 1, 4},
		{tun.Header{GSO: tun.GSOUDP, HeaderLen: 5000, SegmentSize: 100}, 1000, 1},
		{tun.Header{GSO: tun.GSOUDP, HeaderLen: 48}, 1000, 1},
	} {
		if got := (&packet{n: c.n, header: c.header}).datagrams(); got != c.want {
			t.Errorf("%+v, %d bytes: %d, want %d", c.header, c.n, got, c.want)
		}
	}
}

// What peers have counted is not lost with them.
func TestTotalsNeverFall(t *testing.T) {
	t.Run("one peer is removed", func(t *testing.T) {
		totalsNeverFall(t, func(p uapi.PublicKey) *uapi.SetRequest {
			return &uapi.SetRequest{Peers: []uapi.PeerChange{{PublicKey: p, Remove: true}}}
		})
	})
	t.Run("all are", func(t *testing.T) {
		totalsNeverFall(t, func(uapi.PublicKey) *uapi.SetRequest { return &uapi.SetRequest{ReplacePeers: true} })
	})
}

func totalsNeverFall(t *testing.T, removal func(uapi.PublicKey) *uapi.SetRequest) {
	a, b, _ := stillPair(t)
	x := a.device.transmit[0]
	a.forward(0)
	for range 5 {
		x.offer(a.udp(b.site, 2001, 1, 1000))
	}
	a.send()
	exchange(a, b)
	a.peer(b).drops.add(dropForged)
	before := a.device.Status()
	if p := before.Peers[0]; !cmp.Equal(p.Sent, before.Totals.Sent) || !cmp.Equal(p.Received, before.Totals.Received) || p.Sent.Packets < 5 {
		t.Errorf("one peer with %+v, totals %+v", p, before.Totals)
	}
	if err := a.device.Configure(removal(uapi.PublicKey(b.key.Public()))); err != nil {
		t.Fatal(err)
	}
	after := a.device.Status()
	if diff := cmp.Diff(before.Totals, after.Totals); diff != "" || len(after.Peers) != 0 {
		t.Errorf("with the peer and without:\n%s", diff)
	}
	if after.Totals.Drops["forged"] != 1 {
		t.Errorf("drops %v", after.Totals.Drops)
	}
}

func TestDelaysAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		slow := 10 * time.Millisecond
		network.path = func(*memDatagram) []time.Duration { return []time.Duration{slow} }
		a, b := pair(t, network)
		defer b.stop()
		defer a.stop()
		count := func(h *HistogramStatus, above float64) (n uint64) {
			if h != nil {
				for _, bucket := range h.Buckets {
					if bucket.LeMs > above {
						n += bucket.Count
					}
				}
			}
			return n
		}
		run := func() {
			for range 40 {
				a.tun.in <- a.udp(b, 7, 1, 100)
				b.tun.in <- b.udp(a, 7, 1, 100)
				time.Sleep(time.Second)
			}
		}
		run()
		first := a.peerStatus()
		if first.DelayTo == nil || first.DelayFrom == nil || count(first.DelayTo, 0.01) != 0 || count(first.DelayFrom, 0.01) != 0 {
			t.Fatalf("to %+v, from %+v: want some, all as good as at best", first.DelayTo, first.DelayFrom)
		}
		network.mu.Lock()
		slow = 90 * time.Millisecond
		network.mu.Unlock()
		run()
		second := a.device.Status()
		p := second.Peers[0]
		if count(p.DelayTo, 50) == 0 || count(p.DelayFrom, 50) == 0 || count(p.DelayTo, 100) != 0 {
			t.Errorf("to %+v, from %+v: want some between 50 and 100 ms", p.DelayTo, p.DelayFrom)
		}
		if !cmp.Equal(p.DelayTo, second.Totals.DelayTo) || !cmp.Equal(p.DelayFrom, second.Totals.DelayFrom) {
			t.Errorf("the only peer's are not the totals: %+v", second.Totals)
		}
	})
}

// TestStatusWhileItRuns is for the race detector.
func TestStatusWhileItRuns(t *testing.T) {
	a, b, _ := stillPair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 {
			if n := len(a.device.Status().Flows); n > 64 {
				t.Errorf("%d flows", n)
			}
		}
	}()
	for n := 0; ; n++ {
		select {
		case <-done:
			return
		default:
		}
		for i := range 64 {
			a.tun.in <- a.udp(b.site, uint16(2000+i), 1, 100)
		}
		if err := a.device.transmit[0].fill(); err != nil {
			t.Fatal(err)
		}
		a.send()
		a.sent.n = 0
	}
}

// BenchmarkWatch is what a packet costs that is noted in and out of the queue.
func BenchmarkWatch(b *testing.B) {
	for name, flows := range map[string]int{"one flow": 1, "1000 flows": 1000} {
		b.Run(name, func(b *testing.B) {
			p := &peer{}
			p.sojourn.Store(&[]sharedHistogram{{}})
			x := &transmitter{now: 1}
			packets := make([]packet, flows)
			h := flowhash.NewHasher([16]byte{})
			for i := range packets {
				packets[i] = packet{n: 1000, hash: h.Hash(&flowhash.Key{}) + uint64(i)*0x9e3779b97f4a7c15, peer: p}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				pkt := &packets[i%flows]
				if i%transmitBatch == 0 {
					x.watch.mu.Lock()
				}
				x.now += 20e3
				x.enqueued(pkt)
				x.now += 20e3
				x.dequeued(pkt)
				x.onLane(pkt, 1)
				if i%transmitBatch == transmitBatch-1 {
					x.watch.mu.Unlock()
				}
			}
		})
	}
}
