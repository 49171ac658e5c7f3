package tunnel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"kiloport/portpool"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/uapi"
)

// BenchmarkFlows is what a packet of 1420 bytes costs, from one device's TUN to the
// other's without the kernel, among so many flows that take turns: it is to be flat.
func BenchmarkFlows(b *testing.B) {
	for _, flows := range []int{1, 100, 10_000, 100_000} {
		b.Run(fmt.Sprint(flows), func(b *testing.B) {
			x, y, out := stillPair(b)
			packets := make([][]byte, 64)
			for i := range packets {
				packets[i] = x.udp(y.site, 0, 1, 1420)
			}
			b.SetBytes(1420)
			b.ReportAllocs()
			flow := uint32(0)
			one := func(i int) {
				p := packets[i%len(packets)]
				binary.BigEndian.PutUint32(p[40:], flow) // both ports
				if flow++; flow == uint32(flows) {
					flow = 0
				}
				x.device.transmit[0].offer(p)
				if i%len(packets) == len(packets)-1 {
					for x.device.transmit[0].queue.Len() > 0 {
						x.device.transmit[0].send()
					}
					exchange(x, y)
				}
			}
			for i := range max(2*flows, 10_000) {
				one(i)
			}
			arrived := out.packets
			for i := 0; b.Loop(); i++ {
				one(i)
			}
			if out.packets == arrived {
				b.Fatal("nothing arrived")
			}
		})
	}
}

// hub is a device with many peers, all of them stock ones that the test plays.
type hub struct {
	*still
	out   *countTUN
	peers []hubPeer
}

type hubPeer struct {
	at      netip.AddrPort
	inside  netip.Addr
	keypair *noise.Keypair
	counter uint64
}

func newHub(b *testing.B, peers int) *hub {
	h := &hub{peers: make([]hubPeer, peers)}
	h.still, h.out = newStill(b, 1)
	random := newSeeded(77)
	statics := make([]*noise.Static, peers)
	changes := make([]uapi.PeerChange, peers)
	for i := range h.peers {
		key, err := noise.NewPrivateKey(random)
		if err != nil {
			b.Fatal(err)
		}
		inside := [16]byte{0xfd, 1}
		binary.BigEndian.PutUint32(inside[12:], uint32(i+1))
		outside := inside
		outside[0], outside[1] = 0x20, 0x02
		h.peers[i].inside = netip.AddrFrom16(inside)
		h.peers[i].at = netip.AddrPortFrom(netip.AddrFrom16(outside), 51820)
		statics[i] = noise.NewStatic(key)
		changes[i] = uapi.PeerChange{
			PublicKey:  uapi.PublicKey(key.Public()),
			AllowedIPs: []uapi.AllowedIPChange{{Prefix: netip.PrefixFrom(h.peers[i].inside, 128)}},
		}
	}
	if err := h.device.Configure(&uapi.SetRequest{Peers: changes}); err != nil {
		b.Fatal(err)
	}
	for i := range h.peers {
		h.meet(b, &h.peers[i], statics[i], uint32(i+1))
	}
	return h
}

// meet makes a session that a peer began.
func (h *hub) meet(b *testing.B, p *hubPeer, static *noise.Static, index uint32) {
	h.clock.now.Add(1e6)
	remote, err := noise.NewRemote(static, h.key.Public())
	if err != nil {
		b.Fatal(err)
	}
	initiation, handshake, err := noise.Initiate(newSeeded(byte(index)), static, &remote, index, h.clock.Wall())
	if err != nil {
		b.Fatal(err)
	}
	noise.AddMACs(initiation[:], &remote, h.clock.Now())
	h.sent.n = 0
	h.hear(p, initiation[:])
	in := <-h.device.handshakes.inbound
	h.device.handshakes.consume(&in)
	m := h.sent.messages[0]
	if p.keypair, err = handshake.OpenResponse(static, noise.PresharedKey{}, m.Buf[:m.N]); err != nil {
		b.Fatal(err)
	}
	h.hear(p, p.seal(make([]byte, 200), nil))
	h.sent.n = 0
}

// seal makes a datagram of a packet in a buffer.
func (p *hubPeer) seal(buf, packet []byte) []byte {
	out := buf[:noise.PaddedSize(len(packet), 1420)+noise.TransportOverhead]
	plain := out[headerSize : len(out)-(noise.TransportOverhead-headerSize)]
	clear(plain[copy(plain, packet):])
	p.counter++
	return p.keypair.SealTo(out, plain, p.counter-1)
}

func (h *hub) hear(p *hubPeer, datagram []byte) {
	h.device.receive[0].receive([]portpool.Message{{Buf: datagram, N: len(datagram), Addr: p.at, Local: h.at.Addr(), HopLimit: 64}})
}

// BenchmarkPeers is what it costs to take a packet of 100 bytes from a peer and to
// send it one, among so many peers that take turns, and to seal the former.
func BenchmarkPeers(b *testing.B) {
	for _, peers := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint(peers), func(b *testing.B) {
			h := newHub(b, peers)
			const batch = 64
			messages := make([]portpool.Message, batch)
			room := make([]byte, batch*256)
			from, to := make([]byte, 100), make([]byte, 100)
			for _, p := range [][]byte{from, to} {
				p[0], p[5], p[6], p[7] = 6<<4, 60, 59, 64 // no next header
			}
			inside := h.inside.As16()
			copy(to[8:], inside[:])
			copy(from[24:], inside[:])
			next := 0
			round := func() {
				t := h.device.transmit[0]
				h.clock.now.Add(1e4)
				t.now = h.clock.Now()
				for i := range messages {
					p := &h.peers[next]
					next = (next + 1) % len(h.peers)
					address := p.inside.As16()
					copy(from[8:], address[:])
					copy(to[24:], address[:])
					d := p.seal(room[i*256:(i+1)*256], from)
					messages[i] = portpool.Message{Buf: d, N: len(d), Addr: p.at, Local: h.at.Addr(), HopLimit: 64}
					t.offer(to)
				}
				h.device.receive[0].receive(messages)
				for t.queue.Len() > 0 {
					t.send()
				}
				h.sent.n = 0
			}
			for range 2*peers/batch + 100 {
				round()
			}
			arrived, n := h.out.packets, 0
			b.ReportAllocs()
			for b.Loop() {
				if n++; n%batch == 0 {
					round()
				}
			}
			if n > batch && h.out.packets-arrived < n/batch*batch {
				b.Fatalf("%d packets of %d arrived: %v", h.out.packets-arrived, n, h.device.drops.byName())
			}
		})
	}
}
