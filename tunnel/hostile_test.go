package tunnel

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"kiloport/portpool"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/uapi"
)

// hostile makes datagrams that must do nothing, out of true ones of all four
// types: flipped bits, cut and lengthened, wrong types, other indexes, noise.
func hostile(r *rand.Rand, true [][]byte) []byte {
	d := bytes.Clone(true[r.IntN(len(true))])
	switch r.IntN(6) {
	case 0: // a bit, anywhere
		d[r.IntN(len(d))] ^= 1 << r.IntN(8)
	case 1: // cut
		d = d[:r.IntN(len(d))]
	case 2: // lengthened
		d = append(d, make([]byte, 1+r.IntN(64))...)
	case 3: // type or reserved bytes
		d[r.IntN(4)] = byte(r.Uint32() | 8)
	case 4: // all but the type and the indexes
		for i := 12; i < len(d); i++ {
			d[i] = byte(r.Uint32())
		}
	case 5: // noise
		d = make([]byte, r.IntN(1600))
		for i := range d {
			d[i] = byte(r.Uint32())
		}
		if len(d) > 4 && r.IntN(2) == 0 {
			copy(d, []byte{byte(1 + r.IntN(4)), 0, 0, 0})
		}
	}
	return d
}

// trueMessages gives a valid message of each type that passed between two
// devices, and what they delivered on the way.
func trueMessages(t *testing.T, a, b *still) (all [][]byte) {
	take := func(s *still) {
		for _, m := range s.sent.messages[:s.sent.n] {
			all = append(all, bytes.Clone(m.Buf[:m.N]))
		}
	}
	a.clock.now.Add(int64(time.Minute))
	b.clock.now.Add(int64(time.Minute))
	a.peer(b).initiate()
	take(a)
	exchange(a, b)
	take(b)
	exchange(b, a)
	for flow := range uint16(20) {
		a.device.transmit[0].now = a.clock.Now()
		a.device.transmit[0].offer(a.udp(b.site, 3000+flow, 1, 200))
	}
	a.device.transmit[0].send()
	take(a)
	exchange(a, b)
	exchange(b, a)
	static := b.device.static.Load()
	reply, err := noise.NewCookieChecker(static, b.device.constants).Reply(b.device.rand, 1e9, all[0], a.at)
	if err != nil {
		t.Fatal(err)
	}
	return append(all, reply[:])
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestHostileDatagramsDoNothing throws hundreds of thousands of broken, forged
// and replayed datagrams at a device in the middle of a session.
func TestHostileDatagramsDoNothing(t *testing.T) {
	a, b, out := stillPair(t)
	true := trueMessages(t, a, b)
	r := rand.New(rand.NewPCG(3, 4))
	before, endpoint := out.packets, b.peer(a).endpoint.Load().addr
	stranger := netip.MustParseAddrPort("[2001:db8::bad]:666")
	var memory uint64
	const total = 400_000
	batch := make([]portpool.Message, receiveBatch)
	for n := 0; n < total; n += len(batch) {
		for i := range batch {
			d := hostile(r, true)
			if i%4 == 0 { // a true one again: a replay
				d = bytes.Clone(true[r.IntN(len(true))])
			}
			batch[i] = portpool.Message{Buf: append(d, make([]byte, 64)...), N: len(d), Addr: stranger, TrafficClass: byte(r.Uint32())}
		}
		b.clock.now.Add(1e6)
		b.device.receive[0].receive(batch)
		exchange(b, b) // handles what was queued, and drops what b would answer
		b.sent.n = 0
		if n == total/4/receiveBatch*receiveBatch {
			memory = heap()
		}
	}
	if out.packets != before {
		t.Errorf("%d packets were delivered", out.packets-before)
	}
	if got := b.peer(a).endpoint.Load().addr; got != endpoint {
		t.Errorf("the endpoint moved to %v", got)
	}
	if grown := int64(heap()) - int64(memory); grown > 1<<20 {
		t.Errorf("memory grew by %d bytes during the last three quarters", grown)
	}
	drops := b.device.Status().Drops
	for name, n := range b.device.Status().Peers[0].Drops {
		drops[name] += n
	}
	for _, reason := range []dropReason{dropMalformed, dropMAC, dropHandshake, dropIndex, dropForged, dropReplay} {
		if drops[reason.String()] == 0 {
			t.Errorf("nothing was dropped as %v: %v", reason, drops)
		}
	}
	// The tunnel goes on, on the session that was there before.
	s := a.peer(b).sending.Load()
	a.device.transmit[0].offer(a.udp(b.site, 3000, 9, 200))
	a.device.transmit[0].send()
	exchange(a, b)
	if out.packets != before+1 || a.peer(b).sending.Load() != s {
		t.Errorf("after that the session carried %d packets of 1", out.packets-before)
	}
}

// floodOf is what strangers who know the public key of b send: a batch of valid
// initiations from as many addresses.
func floodOf(t *testing.T, b *still) []portpool.Message {
	t.Helper()
	static := b.device.static.Load()
	strangerKey, _ := noise.NewPrivateKey(newSeeded(77))
	stranger := noise.NewStatic(strangerKey)
	remote, err := noise.NewRemote(stranger, static.Public())
	if err != nil {
		t.Fatal(err)
	}
	msg, _, err := noise.Initiate(newSeeded(78), stranger, &remote, 1, time.Unix(1e9, 0))
	if err != nil {
		t.Fatal(err)
	}
	noise.AddMACs(msg[:], &remote, 1e9)
	flood := make([]portpool.Message, receiveBatch)
	for i := range flood {
		flood[i] = portpool.Message{Buf: msg[:], N: len(msg), Addr: netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i)}), 1)}
	}
	return flood
}

// TestFloodOfInitiations: strangers who know our public key send valid mac1s as
// fast as they can. They get cookies; a session and its rekey do not notice.
func TestFloodOfInitiations(t *testing.T) {
	a, b, out := stillPair(t)
	h := b.device.handshakes
	flood := floodOf(t, b)
	before := out.packets
	var memory uint64
	for n := range 200 {
		for range 20 {
			b.device.receive[0].receive(flood) // faster than it can be answered
		}
		for range 64 { // what the handshaker manages meanwhile
			in := <-h.inbound
			h.consume(&in)
		}
		b.sent.n = 0
		a.device.transmit[0].offer(a.udp(b.site, 3000, uint64(n), 200))
		a.device.transmit[0].send()
		b.device.receive[0].receive(a.sent.messages[:a.sent.n])
		a.sent.n = 0
		a.clock.now.Add(1e6)
		b.clock.now.Add(1e6)
		if n == 100 {
			memory = heap()
		}
	}
	if n := out.packets - before; n != 200 {
		t.Errorf("%d of 200 packets of the session arrived", n)
	}
	if n := b.device.cookiesSent.Load(); n == 0 {
		t.Error("no cookies were sent")
	}
	if grown := int64(heap()) - int64(memory); grown > 1<<20 {
		t.Errorf("memory grew by %d bytes", grown)
	}
	if d := b.device.Status().Drops; d[dropBusy.String()] == 0 || d[dropCookie.String()] == 0 {
		t.Errorf("drops: %v", d)
	}

	// Our own rekey goes through, although the queue of strangers is full.
	b.clock.now.Add(int64(10 * time.Second))
	a.clock.now.Add(int64(10 * time.Second))
	b.device.receive[0].receive(flood)
	old := b.peer(a).current
	b.peer(a).initiate()
	exchange(b, a)
	m := a.sent.messages[:a.sent.n]
	b.device.receive[0].receive(m)
	a.sent.n = 0
	h.first(make(chan struct{}))
	if b.peer(a).current == old {
		t.Error("our own handshake was held up by the flood")
	}
}

// TestTenThousandPeers: memory and sockets do not follow the number of peers.
func TestTenThousandPeers(t *testing.T) {
	a, _ := newStill(t, 1)
	before := heap()
	r := newSeeded(5)
	request := &uapi.SetRequest{}
	for i := range 10_000 {
		var public uapi.PublicKey
		r.Read(public[:])
		endpoint := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 51820)
		keepalive := uint16(25)
		request.Peers = append(request.Peers, uapi.PeerChange{
			PublicKey: public, Endpoint: &endpoint, PersistentKeepalive: &keepalive,
			AllowedIPs: []uapi.AllowedIPChange{
				{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)},
				{Prefix: netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1, byte(i >> 8), byte(i)}), 64)},
			},
		})
	}
	if err := a.device.Configure(request); err != nil {
		t.Fatal(err)
	}
	request = nil
	used := heap() - before
	t.Logf("%d bytes for each peer", used/10_000)
	if used > 60<<20 {
		t.Errorf("10 000 peers take %d MB", used>>20)
	}
	if s := a.device.Status(); len(s.Peers) != 10_000 || s.Pool.Open != 0 {
		t.Errorf("%d peers, %d pool sockets open", len(s.Peers), s.Pool.Open)
	}
	runtime.KeepAlive(a)
}
