package tunnel

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"kiloport/tunnel/noise"
)

func TestTwoSitesExchangePackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, newMemNet())
		defer b.stop()
		defer a.stop()
		sent := a.udp(b, 7, 1, 100)
		a.tun.in <- sent
		synctest.Wait()
		if got := b.tun.received(); len(got) != 1 || !bytes.Equal(got[0], sent) {
			t.Fatalf("b got %d packets, want the one that a sent", len(got))
		}
		back := b.udp(a, 7, 1, 1420)
		b.tun.in <- back
		synctest.Wait()
		if got := a.tun.received(); len(got) != 1 || !bytes.Equal(got[0], back) {
			t.Fatalf("a got %d packets, want the one that b sent", len(got))
		}
	})
}

// lanesUsed gives the outer source ports of transport messages from a host,
// with the flow labels of each.
func lanesUsed(seen []memDatagram, host netip.Addr) map[uint16]map[uint32]int {
	ports := make(map[uint16]map[uint32]int)
	for _, d := range seen {
		if kind, _ := noise.MessageType(d.bytes); kind != noise.MessageTransport || d.from.Addr() != host {
			continue
		}
		if ports[d.from.Port()] == nil {
			ports[d.from.Port()] = make(map[uint32]int)
		}
		ports[d.from.Port()][d.label]++
	}
	return ports
}

func TestEachFlowGetsItsOwnLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		a, b := pair(t, network)
		defer b.stop()
		defer a.stop()
		a.tun.in <- a.udp(b, 1, 0, 100)
		time.Sleep(100 * time.Millisecond) // handshake, HELLO, first probe
		if s := a.peerStatus(); s.Mode != "direct" {
			t.Fatalf("mode %s (%s), want direct", s.Mode, s.Reason)
		}
		network.mu.Lock()
		network.keep = true
		network.mu.Unlock()
		const flows = 500
		for round := range 20 {
			for flow := range flows {
				a.tun.in <- a.udp(b, uint16(1000+flow), uint64(round+1), 100)
			}
			time.Sleep(10 * time.Millisecond)
		}
		check := newOrder(t)
		check.check(b.tun.received())
		for flow := range flows {
			if n := check.got[uint16(1000+flow)]; n != 20 {
				t.Errorf("flow %d: %d packets of 20 arrived", flow, n)
			}
		}
		ports := lanesUsed(network.taken(), a.addr)
		delete(ports, a.at.Port())
		labels := make(map[uint32]bool)
		for port, of := range ports {
			for label, n := range of {
				if label == 0 || labels[label] || len(of) != 1 {
					t.Errorf("port %d has label %#x (%d labels), which is none or another port's", port, label, len(of))
				}
				labels[label] = true
				if n < 20 {
					t.Errorf("port %d carried %d packets, want a whole flow", port, n)
				}
			}
		}
		if len(ports) < flows {
			t.Errorf("%d flows left in %d source ports", flows, len(ports))
		}
		if s := a.peerStatus(); s.Lanes.InUse < flows || s.Lanes.Shared != 0 {
			t.Errorf("status says %d lanes in use, %d shared", s.Lanes.InUse, s.Lanes.Shared)
		}
	})
}

// rekeying are constants with which a keypair lasts two seconds.
func rekeying() noise.Constants {
	k := noise.Default()
	k.RekeyAfterTime = 2 * time.Second
	k.RejectAfterTime = 10 * time.Second
	k.RekeyTimeout = time.Second
	k.KeepaliveTimeout = time.Second
	return k
}

// TestRekeyIsNotFelt sends 4 large and 200 small flows through several rekeys
// over a path of 30 ms: nothing is lost, and no flow sees reordering.
func TestRekeyIsNotFelt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		network.path = func(*memDatagram) []time.Duration { return []time.Duration{15 * time.Millisecond} }
		a, b := pair(t, network, withConstants(rekeying()))
		defer b.stop()
		defer a.stop()
		a.tun.in <- a.udp(b, 1, 0, 100)
		time.Sleep(200 * time.Millisecond)

		keypairs := make(map[*noise.Keypair]bool)
		ab, ba := newOrder(t), newOrder(t)
		number := uint64(0)
		sent := make(map[uint16]int)
		for start := time.Now(); time.Since(start) < 9*time.Second; time.Sleep(5 * time.Millisecond) {
			number++
			for large := range uint16(4) {
				for range 4 {
					number++
					a.tun.in <- a.udp(b, 10+large, number, 1420)
					b.tun.in <- b.udp(a, 10+large, number, 1420)
					sent[10+large]++
				}
			}
			small := 1000 + uint16(number%200)
			a.tun.in <- a.udp(b, small, number, 80)
			b.tun.in <- b.udp(a, small, number, 80)
			sent[small]++
			keypairs[a.sending(b).keypair] = true
			ab.check(b.tun.received()[:])
			ba.check(a.tun.received()[:])
		}
		time.Sleep(time.Second)
		ab.check(b.tun.received())
		ba.check(a.tun.received())
		if len(keypairs) < 4 {
			t.Errorf("%d keypairs were used, want at least three rekeys", len(keypairs))
		}
		for flow, n := range sent {
			if ab.got[flow] != n || ba.got[flow] != n {
				t.Errorf("flow %d: of %d packets %d arrived at b and %d at a", flow, n, ab.got[flow], ba.got[flow])
			}
		}
	})
}

// sending is the session that s sends data to other with.
func (s *site) sending(other *site) *session {
	return s.device.peer(other.key.Public()).sending.Load()
}

// TestLanesMayBeDelayedAgainstEachOther delays each lane by up to 2 s of its
// own, more and more, so that none falls silent meanwhile. Nothing is dropped as a replay, but every true replay is.
func TestLanesMayBeDelayedAgainstEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		a, b := pair(t, network)
		defer b.stop()
		defer a.stop()
		a.tun.in <- a.udp(b, 1, 0, 100)
		time.Sleep(100 * time.Millisecond)
		b.tun.received()

		random := rand.New(rand.NewPCG(1, 2))
		delays := make(map[uint16]time.Duration)
		replays, began := 0, time.Now()
		network.setPath(func(d *memDatagram) []time.Duration {
			if kind, _ := noise.MessageType(d.bytes); kind != noise.MessageTransport || d.to != b.at {
				return []time.Duration{0}
			}
			delay, known := delays[d.from.Port()]
			if !known {
				delay = time.Duration(random.Int64N(int64(2 * time.Second)))
				delays[d.from.Port()] = delay
			}
			delay = min(delay, time.Since(began)/2)
			// Each datagram arrives, and again later.
			replays++
			return []time.Duration{delay, delay + time.Duration(random.Int64N(int64(time.Second)))}
		})
		const flows, rounds = 100, 600
		for round := range rounds {
			for flow := range flows {
				a.tun.in <- a.udp(b, uint16(1000+flow), uint64(round+1), 100)
			}
			time.Sleep(10 * time.Millisecond) // too often for a sparse flow, which would leave a slow lane
		}
		network.setPath(nil)
		time.Sleep(4 * time.Second)
		check := newOrder(t)
		check.check(b.tun.received())
		for flow := range flows {
			if n := check.got[uint16(1000+flow)]; n != rounds {
				t.Errorf("flow %d: %d packets of %d arrived", flow, n, rounds)
			}
		}
		if len(delays) < flows {
			t.Errorf("%d lanes were used, want %d", len(delays), flows)
		}
		s := b.peerStatus()
		if got, want := s.Drops[dropReplay.String()], uint64(replays); got != want {
			t.Errorf("%d datagrams dropped as replays, %d were replayed: %v", got, want, s.Drops)
		}
	})
}
