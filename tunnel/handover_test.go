package tunnel

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kiloport/portpool"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/uapi"
)

// successor hands the site over to another device, which takes its place.
func (s *site) successor(network *memNet, other *site, change func(state []byte) []byte) {
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
	if s.device, err = New(Config{TUN: s.tun, Options: options, Constants: s.device.constants, OpenSocket: network.opener(s.addr)}); err != nil {
		s.t.Fatal(err)
	}
	port := s.at.Port()
	s.configure(&uapi.SetRequest{PrivateKey: (*uapi.SecretKey)(&s.key), ListenPort: &port})
	s.knows(other, other.at)
	if err := s.device.Restore(change(h.State)); err != nil {
		s.t.Fatal(err)
	}
	go func() { s.stopped <- s.device.Run(context.Background()) }()
	synctest.Wait()
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
				s.successor(network, other, asItIs)
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
			m := message{index, counter &^ (noise.CounterVouched)}
			if all[m] {
				t.Fatalf("counter %x came twice", counter)
			}
			all[m] = true
		}
	}
}

// What cannot be read, is of another version or of another key is left, and there
// are handshakes instead.
func TestHandOverOfNothing(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"another key": func(state []byte) []byte {
			return []byte(strings.Replace(string(state), `"Public":"`, `"Public":"AAAA`, 1)[:0] + `{"Version":1}`)
		},
		"no peers": func([]byte) []byte { return []byte(`{"Version":1,"Peers":[]}`) },
	} {
		synctest.Test(t, func(t *testing.T) {
			network := newMemNet()
			a, b := pair(t, network, withConstants(rekeying()))
			defer func() { b.stop(); a.stop() }()
			a.tun.in <- a.udp(b, 7, 1, 100)
			time.Sleep(time.Second / 10)
			a.successor(network, b, change)
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
