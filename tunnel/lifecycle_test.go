package tunnel

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"kiloport/portpool"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/tun"
	"kiloport/tunnel/uapi"
)

// TestPeerThatComesBackAsAStockOne: a kiloport is replaced by a wireguard-go with
// its key. Data goes to the new one as soon as there is a session with it.
func TestPeerThatComesBackAsAStockOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		network.path = func(*memDatagram) []time.Duration { return []time.Duration{15 * time.Millisecond} }
		a, b := pair(t, network)
		defer a.stop()
		a.tun.in <- a.udp(b, 1, 0, 100)
		time.Sleep(500 * time.Millisecond)
		b.stop()
		c := newStock(t, network, 2)
		defer c.wg.Close()
		c.knows(a, noise.PresharedKey{})
		before := a.peerStatus().LastHandshake
		for n := uint64(1); ; n++ {
			a.tun.in <- a.udp(b, 1, n, 100)
			time.Sleep(50 * time.Millisecond)
			if now := a.peerStatus().LastHandshake; now.After(*before) {
				break
			}
			if n == 1000 {
				t.Fatal("no new handshake in 50 s")
			}
		}
		c.tun.received()
		a.tun.in <- a.udp(b, 1, 2000, 100)
		time.Sleep(20 * time.Millisecond)
		if n := len(c.tun.received()); n == 0 {
			t.Error("after the new handshake, data still goes to the peer that has gone")
		}
	})
}

// TestAnotherPortAfterAFailure: the link comes up and its port is taken. Setting
// another one opens the sockets.
func TestAnotherPortAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		host := netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1})
		for _, port := range []uint16{51820, 51821} {
			if _, err := network.open(host, port); err != nil {
				t.Fatal(err)
			}
		}
		a := newSite(t, network, 1)
		defer a.stop()
		synctest.Wait()
		if a.device.Status().Up {
			t.Fatal("the device is up without its port")
		}
		taken, free := uint16(51821), uint16(51822)
		if err := a.device.Configure(&uapi.SetRequest{ListenPort: &taken}); err == nil {
			t.Error("another port that is taken was accepted")
		}
		if err := a.device.Configure(&uapi.SetRequest{ListenPort: &free}); err != nil {
			t.Error(err)
		}
		if s := a.device.Status(); !s.Up || s.ListenPort != free {
			t.Errorf("after that: up %v, port %d", s.Up, s.ListenPort)
		}
	})
}

// strangers are two devices that know each other and have not met.
func strangers(t *testing.T) (a, b *still) {
	t.Helper()
	a, _ = newStill(t, 1)
	b, _ = newStill(t, 2)
	a.knows(b.site, b.at)
	b.knows(a.site, a.at)
	return a, b
}

// TestKeyChangedDuringAHandshake: an initiation is worked on while the private
// key changes. It comes to nothing, and the next one with the new key works.
func TestKeyChangedDuringAHandshake(t *testing.T) {
	a, b := strangers(t)
	a.peer(b).initiate()
	m := a.sent.messages[0]
	old := b.device.static.Load()
	incoming, err := noise.OpenInitiation(old, m.Buf[:m.N])
	if err != nil {
		t.Fatal(err)
	}
	key, _ := noise.NewPrivateKey(newSeeded(99))
	b.configure(&uapi.SetRequest{PrivateKey: (*uapi.SecretKey)(&key)})
	in := inbound{size: m.N, source: a.at}
	if err := b.peer(a).respond(b.clock.Now(), old, &incoming, &in); err == nil {
		t.Error("an initiation to the old key was answered")
	}
	b.key = key
	a.configure(&uapi.SetRequest{ReplacePeers: true})
	a.knows(b.site, b.at)
	a.clock.now.Add(int64(time.Minute))
	b.clock.now.Add(int64(time.Minute))
	a.sent.n = 0
	a.peer(b).initiate()
	exchange(a, b)
	exchange(b, a)
	if a.peer(b).current == nil {
		t.Errorf("no session with the new key: %v", b.device.Status().Peers[0].Drops)
	}
}

// TestNothingIsLeftOfAPeer: a handshake that was queued when the link went down
// makes no session, and a removed peer leaves no index and no waiting packet.
func TestNothingIsLeftOfAPeer(t *testing.T) {
	a, b := strangers(t)
	a.peer(b).initiate()
	b.device.receive[0].receive(a.sent.messages[:a.sent.n])
	in := <-b.device.handshakes.inbound
	b.device.linkEvent(tun.Down)
	b.device.handshakes.consume(&in)
	if p := b.peer(a); p.next != nil || p.current != nil {
		t.Error("a session was made while the link was down")
	}
	b.device.linkEvent(tun.Up)
	b.device.transmit[0].offer(b.udp(a.site, 1, 1, 100))
	b.device.transmit[0].send()
	if n := b.device.staged.Load(); n != 1 {
		t.Fatalf("%d packets wait for a session, want one", n)
	}
	b.peer(a).initiate()
	gone := b.peer(a)
	b.configure(&uapi.SetRequest{Peers: []uapi.PeerChange{{PublicKey: uapi.PublicKey(a.key.Public()), Remove: true}}})
	gone.stage(b.clock.Now(), b.device.transmit[0].buffers.take(100))
	if n, indexes := b.device.staged.Load(), len(b.device.indexes.entries); n != 0 || indexes != 0 {
		t.Errorf("%d packets wait and %d indexes are taken after the last peer went", n, indexes)
	}
}

// TestKeysAreGone: whatever ends a session leaves no keypair behind.
func TestKeysAreGone(t *testing.T) {
	for what, end := range map[string]func(a, b *still){
		"link down":   func(a, _ *still) { a.device.linkEvent(tun.Down) },
		"key removed": func(a, _ *still) { a.configure(&uapi.SetRequest{PrivateKey: new(uapi.SecretKey)}) },
		"three times the rejection time": func(a, b *still) {
			a.clock.now.Add(3*int64(noise.Default().RejectAfterTime) + int64(time.Second))
			a.peer(b).fire()
		},
	} {
		a, b, _ := stillPair(t)
		p := a.peer(b)
		end(a, b)
		if p.current != nil || p.previous != nil || p.next != nil || p.sending.Load() != nil || p.handshake != nil {
			t.Errorf("%s: a keypair or a handshake is left", what)
		}
		if n := len(a.device.indexes.entries); n != 0 {
			t.Errorf("%s: %d indexes are left", what, n)
		}
	}
}

// TestPeerGetsThroughAFlood: strangers' initiations fill the queue all the time.
// A peer whose own gets a place there once is given a cookie; with that it is
// served at once, however full the queue is.
func TestPeerGetsThroughAFlood(t *testing.T) {
	a, b := strangers(t)
	flood := floodOf(t, b)
	h := b.device.handshakes
	ask := func() {
		a.peer(b).initiate()
		b.device.receive[0].receive(a.sent.messages[:a.sent.n])
		a.sent.n = 0
	}
	full := func() {
		for len(h.inbound) < inboundQueue {
			b.device.receive[0].receive(flood)
		}
	}
	full()
	in := <-h.inbound
	h.consume(&in)
	ask() // takes the place that has become free
	for range inboundQueue {
		in := <-h.inbound
		h.consume(&in)
	}
	exchangeTo(a, toHost(b, a.at))
	if a.peer(b).current != nil {
		t.Fatal("there was no load")
	}
	full()
	a.clock.now.Add(int64(6 * time.Second))
	b.clock.now.Add(int64(6 * time.Second))
	full()
	b.device.receive[0].receive(flood)
	ask()
	h.first(make(chan struct{}))
	exchangeTo(a, toHost(b, a.at))
	if a.peer(b).current == nil {
		t.Errorf("no session with a cookie: %v", b.device.Status().Drops)
	}
}

// exchangeTo lets a device handle datagrams.
func exchangeTo(s *still, messages []portpool.Message) {
	s.device.receive[0].receive(messages)
	for s.device.handshakes.consumeFrom(s.device.handshakes.answers) {
	}
}

// toHost takes what a device has sent to one address, and forgets the rest.
func toHost(s *still, at netip.AddrPort) (some []portpool.Message) {
	for _, m := range s.sent.messages[:s.sent.n] {
		if m.Local == at.Addr() {
			m.Buf = slices.Clone(m.Buf)
			some = append(some, m)
		}
	}
	s.sent.n = 0
	return some
}

// TestDatagramsDoNotGoRound: a datagram to the peer's endpoint that is routed into the
// tunnel is dropped, and what others send to that address is not.
func TestDatagramsDoNotGoRound(t *testing.T) {
	a, b, _ := stillPair(t)
	p := a.peer(b)
	p.endpoint.Store(&endpoint{addr: netip.AddrPortFrom(b.inside, 51820)})
	packet := func(from, to uint16) []byte {
		d := a.udp(b.site, 1, 1, 200)
		binary.BigEndian.PutUint16(d[40:], from)
		binary.BigEndian.PutUint16(d[42:], to)
		return d
	}
	listen := a.device.sockets.Load().listen.Port()
	for _, c := range []struct {
		from, to uint16
		loops    bool
	}{{40000, 51820, true}, {listen, 40000, true}, {40000, 53, false}, {40000, 51821, false}} {
		before := p.drops[dropLoop].Load()
		a.device.transmit[0].offer(packet(c.from, c.to))
		if got := p.drops[dropLoop].Load() > before; got != c.loops {
			t.Errorf("from port %d to %d: dropped %v", c.from, c.to, got)
		}
	}
	tcp := packet(40000, 51820)
	tcp[6] = 6
	a.device.transmit[0].offer(tcp)
	short := packet(40000, 51820)[:42]
	binary.BigEndian.PutUint16(short[4:], 2)
	a.device.transmit[0].offer(short)
	if n := p.drops[dropLoop].Load(); n != 2 {
		t.Errorf("%d are dropped, want 2", n)
	}
}
