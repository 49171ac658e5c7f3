package tunnel

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// TestAddressesChanged gives a site that only receives another address: it sends nothing
// by itself, so it tells the peer where it is, also when the way there is late; and tells
// nobody with whom there was nothing to do of late.
func TestAddressesChanged(t *testing.T) {
	for _, test := range []struct {
		name  string
		late  time.Duration // the way back, after the address
		tells bool
	}{
		{"at once", 0, true},
		{"a route that is late", 900 * time.Millisecond, true},
		{"nobody told", 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet()
				a, b := pair(t, network)
				defer func() { b.stop(); a.stop() }()
				arrives := func(number uint64) bool {
					a.tun.in <- a.udp(b, 1000, number, 200)
					time.Sleep(5 * time.Millisecond)
					synctest.Wait()
					return len(b.tun.received()) > 0
				}
				for n := range uint64(100) {
					arrives(n)
				}
				time.Sleep(3 * time.Second) // what may have been doubtful is over
				b.tun.received()
				if !arrives(200) {
					t.Fatal("nothing arrives")
				}
				time.Sleep(5 * time.Second) // what is to be said of that is said
				other := netip.MustParseAddr("2001:db8::77")
				ready := time.Now().Add(test.late)
				network.setPath(func(d *memDatagram) []time.Duration {
					switch {
					case d.from.Addr() == b.addr && time.Now().Before(ready), d.to.Addr() == b.addr:
						return nil
					case d.from.Addr() == b.addr:
						d.from = netip.AddrPortFrom(other, d.from.Port())
					case d.to.Addr() == other:
						d.to = netip.AddrPortFrom(b.addr, d.to.Port())
					}
					return []time.Duration{0}
				})
				if test.tells {
					b.device.AddressesChanged()
				}
				time.Sleep(test.late + 200*time.Millisecond)
				synctest.Wait()
				if got := arrives(300); got != test.tells {
					t.Errorf("a datagram to the new address arrives: %v", got)
				}
				time.Sleep(time.Minute)
				b.device.AddressesChanged()
				sent := b.device.order[0].tx.packets.Load()
				time.Sleep(2 * time.Second)
				if n := b.device.order[0].tx.packets.Load() - sent; n != 0 {
					t.Errorf("%d messages to a peer with which there is nothing to do", n)
				}
			})
		})
	}
}
