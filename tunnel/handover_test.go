package tunnel

import (
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kiloport/portpool"
	"kiloport/tunnel/attach/accord"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/uapi"
)

// successor hands the site over to another device, which takes its place, and gives
// what that says of the state.
func (s *site) successor(network *memNet, other *site, change func(state []byte) []byte) error {
	s.t.Helper()
	h, err := s.device.HandOver()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := <-s.stopped; err != nil {
		s.t.Errorf("run ended with %v", err)
	}
	s.tun = newMemTUN(1420)
	options := s.device.options
	if s.device, err = New(Config{TUN: s.tun, Options: options, Log: s.device.log, Constants: s.device.constants, OpenSocket: network.opener(s.addr)}); err != nil {
		s.t.Fatal(err)
	}
	port := s.at.Port()
	s.configure(&uapi.SetRequest{PrivateKey: (*uapi.SecretKey)(&s.key), ListenPort: &port})
	s.knows(other, other.at)
	failed := s.device.Restore(change(h.State))
	go func() { s.stopped <- s.device.Run(context.Background()) }()
	synctest.Wait()
	return failed
}

func asItIs(state []byte) []byte { return state }

// Either end may be handed over, again and again, with either cipher: no handshake
// is made for it, nothing is lost, no counter comes twice, replays are dropped, lanes
// are used again, and rekeys go on.
func TestHandOver(t *testing.T) {
	for _, cipher := range []CipherMode{CipherChaCha, CipherAES} {
		synctest.Test(t, func(t *testing.T) {
			network := newMemNet()
			network.keep = true
			a, b := pair(t, network, withConstants(rekeying()), func(c *Config) { c.Options.Cipher = cipher })
			defer func() { b.stop(); a.stop() }()
			ab, ba := newOrder(t), newOrder(t)
			number := uint64(0)
			exchange := func(packets int) {
				for range packets {
					number++
					for flow := range uint16(3) {
						a.tun.in <- a.udp(b, 10+flow, number, 200)
						b.tun.in <- b.udp(a, 10+flow, number, 200)
					}
					time.Sleep(3 * time.Millisecond)
				}
				ab.check(b.tun.received())
				ba.check(a.tun.received())
			}
			exchange(50)
			before := handshakesIn(network.taken())
			for _, s := range []*site{a, b, a} {
				other := map[*site]*site{a: b, b: a}[s]
				if err := s.successor(network, other, asItIs); err != nil {
					t.Fatal(err)
				}
				exchange(20)
			}
			seen := network.taken()
			if n := handshakesIn(seen); before == 0 || n != 0 {
				t.Errorf("%v: %d handshake messages before, %d because of being handed over", cipher, before, n)
			}
			countersAreNew(t, seen)
			if p := a.peerStatus(); p.Mode != "direct" || p.Lanes.InUse != 3 {
				t.Errorf("%v: mode %s, %d lanes", cipher, p.Mode, p.Lanes.InUse)
			}
			replayed := len(seen) / 2
			for _, d := range seen[:replayed] {
				network.send(d)
			}
			time.Sleep(10 * time.Millisecond)
			if n := len(a.tun.received()) + len(b.tun.received()); n > 0 {
				t.Errorf("%v: %d replays were taken for packets", cipher, n)
			}
			for range 8 {
				exchange(100)
			}
			if handshakesIn(network.taken()) == 0 {
				t.Errorf("%v: there was no rekey", cipher)
			}
			for flow := uint16(10); flow < 13; flow++ {
				if ab.got[flow] != int(number) || ba.got[flow] != int(number) {
					t.Errorf("%v: flow %d: of %d packets %d and %d arrived", cipher, flow, number, ab.got[flow], ba.got[flow])
				}
			}
		})
	}
}

func handshakesIn(seen []memDatagram) (n int) {
	for _, d := range seen {
		if kind, _ := noise.MessageType(d.bytes); kind != noise.MessageTransport {
			n++
		}
	}
	return n
}

// countersAreNew wants no counter to come twice on one keypair.
func countersAreNew(t *testing.T, seen []memDatagram) {
	t.Helper()
	type message struct {
		index   uint32
		counter uint64
	}
	all := make(map[message]bool)
	for _, d := range seen {
		if index, counter, ok := noise.ParseTransport(d.bytes); ok {
			m := message{index, counter &^ (noise.CounterVouched | noise.CounterAES)}
			if all[m] {
				t.Fatalf("counter %x came twice", counter)
			}
			all[m] = true
		}
	}
}

// changed is a change of what is handed over.
func changed(t *testing.T, change func(*handoverState)) func([]byte) []byte {
	return func(state []byte) []byte {
		var h handoverState
		if err := json.Unmarshal(state, &h); err != nil {
			t.Fatal(err)
		}
		change(&h)
		state, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		return state
	}
}

// Where the sessions cannot be taken over, or must not be, there are handshakes
// instead.
func TestHandOverOfNothing(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*handoverState)
		says   string
	}{
		"another key":        {func(h *handoverState) { h.Public[0]++ }, ""},
		"no peers":           {func(h *handoverState) { h.Peers = nil }, ""},
		"too old":            {func(h *handoverState) { h.At = h.At.Add(-noise.Default().RejectAfterTime) }, ""},
		"a clock set back":   {func(h *handoverState) { h.At = h.At.Add(time.Second) }, "set back"},
		"half of a keypair":  {func(h *handoverState) { h.Peers[0].Sessions[0].Keypair.Send = nil }, "not complete"},
		"a version to come":  {func(h *handoverState) { h.Version++ }, "version 2"},
		"nothing of session": {func(h *handoverState) { h.Peers[0].Sessions = nil }, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			network := newMemNet()
			a, b := pair(t, network)
			defer func() { b.stop(); a.stop() }()
			a.tun.in <- a.udp(b, 7, 1, 100)
			time.Sleep(time.Second / 10)
			err := a.successor(network, b, changed(t, c.change))
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", name, err)
			}
			network.keep = true
			a.tun.in <- a.udp(b, 7, 2, 100)
			time.Sleep(time.Second)
			if handshakesIn(network.taken()) == 0 || len(b.tun.received()) != 2 {
				t.Errorf("%s: there was no handshake, or no packet", name)
			}
		})
	}
	d, err := New(Config{TUN: newMemTUN(1420), Options: DefaultOptions(), OpenSocket: func(portpool.SocketConfig) (portpool.Socket, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{"", "{}", "[]", `{"Version":2}`, `{"Version":1,"Public":"x"}`} {
		if err := d.Restore([]byte(state)); err == nil {
			t.Errorf("%q was taken over", state)
		}
	}
	if _, err := d.HandOver(); err == nil {
		t.Error("a device whose link is down was handed over")
	}
}

// The time that has passed counts as the keys' age: they expire when they would have.
func TestHandOverTakesTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		a, b := pair(t, network)
		defer func() { b.stop(); a.stop() }()
		a.tun.in <- a.udp(b, 7, 1, 100)
		time.Sleep(time.Second)
		before := a.sending(b).keypair.Created
		const away = 100 * time.Second
		start := a.device.clock.Now()
		if err := a.successor(network, b, func(state []byte) []byte { time.Sleep(away); return state }); err != nil {
			t.Fatal(err)
		}
		age, was := a.device.clock.Now()-a.sending(b).keypair.Created, start-before
		if got := time.Duration(age - was); got != away {
			t.Errorf("the keypair is older by %v than before, want %v", got, away)
		}
	})
}

// What waits because of a rate, of one's own or of the peer's, is sent at the end.
func TestHandOverSendsWhatWaits(t *testing.T) {
	const rate, packets = 1_000_000, 20
	for name, option := range map[string][2]siteOption{
		"own":    {withOptions(func(o *Options) { o.Bandwidth = rate }), func(*Config) {}},
		"peer's": {func(*Config) {}, withReceiveBandwidth(rate)},
	} {
		synctest.Test(t, func(t *testing.T) {
			network := newMemNet()
			a, b := newSite(t, network, 1, option[0]), newSite(t, network, 2, option[1])
			defer func() { b.stop(); a.stop() }()
			a.knows(b, b.at)
			b.knows(a, a.at)
			synctest.Wait()
			a.tun.in <- a.udp(b, 7, 0, 100)
			time.Sleep(time.Second)
			b.tun.received()
			for number := range uint64(packets) {
				a.tun.in <- a.udp(b, 7, number, 1200)
			}
			time.Sleep(20 * time.Millisecond)
			early := len(b.tun.received())
			if err := a.successor(network, b, asItIs); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
			if late := len(b.tun.received()); early > packets/2 || early+late != packets {
				t.Errorf("%s: %d packets before and %d at the end, of %d", name, early, late, packets)
			}
			if p := a.peerStatus(); (p.Asks != nil) != (name == "peer's") {
				t.Errorf("%s: the peer asks for %v", name, p.Asks)
			}
		})
	}
}

// A kernel's WireGuard goes on sending from the ports that it was told are put back:
// they are, from the first packet on.
func TestHandOverOfAnAttachedPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		a, b := pair(t, network)
		defer func() { b.stop(); a.stop() }()
		a.tun.in <- a.udp(b, 7, 1, 100)
		time.Sleep(time.Second)
		network.mu.Lock()
		network.path = func(*memDatagram) []time.Duration { return nil } // b is none, and must not answer as one
		network.mu.Unlock()
		hello := accord.Hello{Version: accord.Version, Instance: 7, Sequence: 1, Port: b.at.Port(), Sends: accord.Range{Low: 40000, Count: 64}}
		p := a.device.order[0]
		p.heardKernel(a.device.clock.Now(), accord.Packet(b.inside, a.inside, &hello))
		for range 2 {
			p = a.device.order[0]
			other := netip.AddrPortFrom(b.at.Addr(), 40063)
			if p.canonical(other) != b.at || p.kernel.there != b.inside {
				t.Fatalf("%v is taken for %v", other, p.canonical(other))
			}
			if err := a.successor(network, b, asItIs); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A successor with fewer ports uses no more lanes than it has, and one that does not
// spread none; what it is sent it takes on all.
func TestHandOverToFewerPorts(t *testing.T) {
	for _, ports := range []int{2, 1} {
		synctest.Test(t, func(t *testing.T) {
			network := newMemNet()
			a, b := pair(t, network)
			defer func() { b.stop(); a.stop() }()
			exchange := func(number uint64) {
				for flow := range uint16(8) {
					a.tun.in <- a.udp(b, 10+flow, number, 200)
					b.tun.in <- b.udp(a, 10+flow, number, 200)
				}
				time.Sleep(time.Second)
				if n, m := len(a.tun.received()), len(b.tun.received()); n != 8 || m != 8 {
					t.Errorf("%d ports: %d and %d packets arrived", ports, n, m)
				}
			}
			network.keep = true
			exchange(1)
			exchange(2)
			synctest.Wait()
			a.device.options.Ports = ports
			if ports == 1 {
				a.device.options.Spread = SpreadOff
			}
			if err := a.successor(network, b, asItIs); err != nil {
				t.Fatal(err)
			}
			exchange(3)
			exchange(4)
			if p := a.peerStatus(); p.Lanes.InUse > ports || b.peerStatus().Lanes.InUse != 8 {
				t.Errorf("%d ports: %d lanes in use, %d of the other end", ports, p.Lanes.InUse, b.peerStatus().Lanes.InUse)
			}
			countersAreNew(t, network.taken())
		})
	}
}

// A peer that accepts no lanes, or to which none are to be used, has none.
func TestNoLanes(t *testing.T) {
	s := newSession(nil, nil)
	s.allowLanes(0)
	if limit := s.limit.Load(); limit != 0 || s.sentOn(1) {
		t.Errorf("the limit is %d", limit)
	}
	if s.allowLanes(70); s.limit.Load() != 70 {
		t.Errorf("the limit is %d", s.limit.Load())
	}
}
