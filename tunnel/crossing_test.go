package tunnel

import (
	"testing"
	"testing/synctest"
	"time"

	"kiloport/tunnel/noise"
)

// TestCrossingHandshakes lets both sites begin at the same moment, so that their
// initiations cross. One handshake must come out of it, or every rekey would
// cross again; and no rekey may be felt.
func TestCrossingHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		network.path = func(*memDatagram) []time.Duration { return []time.Duration{15 * time.Millisecond} }
		a, b := pair(t, network, withConstants(rekeying()))
		defer b.stop()
		defer a.stop()
		a.tun.in <- a.udp(b, 1, 0, 100)
		b.tun.in <- b.udp(a, 1, 0, 100)
		time.Sleep(400 * time.Millisecond)
		if ours, theirs := a.sending(b).keypair.Initiator, b.sending(a).keypair.Initiator; ours == theirs {
			t.Errorf("both ends are the initiator: %v", ours)
		}
		exchangeForAWhile(t, a, b)
	})
}

// exchangeForAWhile sends 4 flows each way for nine seconds, over at least three
// rekeys, and wants every packet to arrive in order.
func exchangeForAWhile(t *testing.T, a, b *site) {
	t.Helper()
	keypairs := make(map[*noise.Keypair]bool)
	ab, ba := newOrder(t), newOrder(t)
	number, sent := uint64(0), 0
	for start := time.Now(); time.Since(start) < 9*time.Second; time.Sleep(5 * time.Millisecond) {
		for range 4 {
			number++
			sent++
			for flow := range uint16(4) {
				a.tun.in <- a.udp(b, 10+flow, number, 1420)
				b.tun.in <- b.udp(a, 10+flow, number, 1420)
			}
		}
		keypairs[a.sending(b).keypair] = true
		ab.check(b.tun.received())
		ba.check(a.tun.received())
	}
	time.Sleep(time.Second)
	ab.check(b.tun.received())
	ba.check(a.tun.received())
	if len(keypairs) < 4 {
		t.Errorf("%d keypairs, want at least three rekeys", len(keypairs))
	}
	for flow := range uint16(4) {
		if ab.got[10+flow] != sent || ba.got[10+flow] != sent {
			t.Errorf("flow %d: of %d packets %d arrived at b and %d at a", flow, sent, ab.got[10+flow], ba.got[10+flow])
		}
	}
}

// TestRekeysThatCrossNowAndThen makes both sites ask for new keys at the same
// moment although only one of them would have to.
func TestRekeysThatCrossNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		network.path = func(*memDatagram) []time.Duration { return []time.Duration{15 * time.Millisecond} }
		a, b := pair(t, network, withConstants(rekeying()))
		defer b.stop()
		defer a.stop()
		a.tun.in <- a.udp(b, 1, 0, 100)
		time.Sleep(400 * time.Millisecond)
		go func() {
			for range 5 {
				time.Sleep(1500 * time.Millisecond)
				for _, p := range []*peer{a.device.peer(b.key.Public()), b.device.peer(a.key.Public())} {
					p.mu.Lock()
					p.askHandshake()
					p.mu.Unlock()
				}
			}
		}()
		exchangeForAWhile(t, a, b)
	})
}

// TestCrossingWithAStockPeer: wireguard-go gives up its own initiation whenever
// ours arrives. Both begin at once, and everything gets through.
func TestCrossingWithAStockPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		network.path = func(*memDatagram) []time.Duration { return []time.Duration{15 * time.Millisecond} }
		a, b := newSite(t, network, 1), newStock(t, network, 2)
		defer b.wg.Close()
		defer a.stop()
		a.knows(&b.site, b.at)
		b.knows(a, noise.PresharedKey{})
		synctest.Wait()
		const packets = 100
		for n := range uint64(packets) {
			a.tun.in <- a.udp(&b.site, 1, n, 100)
			b.tun.in <- b.udp(a, 1, n, 100)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second)
		ab, ba := newOrder(t), newOrder(t)
		ab.check(b.tun.received())
		ba.check(a.tun.received())
		if ab.got[1] != packets || ba.got[1] != packets {
			t.Errorf("of %d packets %d arrived at wireguard-go and %d at us", packets, ab.got[1], ba.got[1])
		}
	})
}
