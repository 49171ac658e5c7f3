package tunnel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/tuntest"
	"kiloport/tunnel/uapi"
)

// narrowPath carries no outer packet larger than its size, and says nothing of it.
type narrowPath struct {
	network *memNet
	size    int
	delay   time.Duration
	a, b    *site
}

func newNarrowPath(t *testing.T, size int, rtt time.Duration) *narrowPath {
	w := &narrowPath{network: newMemNet(), size: size, delay: rtt / 2}
	w.network.setPath(func(d *memDatagram) []time.Duration {
		if ipv6HeaderLen+udpHeaderLen+len(d.bytes) > w.size {
			return nil
		}
		return []time.Duration{w.delay}
	})
	w.a, w.b = pair(t, w.network)
	for _, s := range [][2]*site{{w.a, w.b}, {w.b, w.a}} {
		s[0].configure(&uapi.SetRequest{Peers: []uapi.PeerChange{{
			PublicKey:  uapi.PublicKey(s[1].key.Public()),
			AllowedIPs: []uapi.AllowedIPChange{{Prefix: netip.PrefixFrom(s[1].inside4(), 32)}},
		}}})
	}
	return w
}

func (w *narrowPath) stop() {
	w.b.stop()
	w.a.stop()
}

// becomes changes what the path carries.
func (w *narrowPath) becomes(size int) {
	w.network.mu.Lock()
	defer w.network.mu.Unlock()
	w.size = size
}

// inside4 is a second inner address of a site.
func (s *site) inside4() netip.Addr {
	b := s.inside.As16()
	return netip.AddrFrom4([4]byte{10, 0, b[14], 1})
}

// udp4 makes an inner IPv4 datagram of size bytes in all.
func (s *site) udp4(other *site, fragmentable bool, size int) []byte {
	p := make([]byte, size)
	p[0], p[8], p[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(p[2:], uint16(size))
	if !fragmentable {
		p[6] = 0x40
	}
	from, to := s.inside4().As4(), other.inside4().As4()
	copy(p[12:], from[:])
	copy(p[16:], to[:])
	binary.BigEndian.PutUint16(p[10:], ^sum16(p[:ipv4HeaderLen], 0))
	binary.BigEndian.PutUint16(p[24:], uint16(size-ipv4HeaderLen))
	for i := ipv4HeaderLen + udpHeaderLen; i < size; i++ {
		p[i] = byte(i)
	}
	return p
}

// run sends a small packet now and then, so that there is something to find a path for.
func (w *narrowPath) run(d time.Duration) {
	for start := time.Now(); time.Since(start) < d; time.Sleep(10 * time.Millisecond) {
		w.a.tun.in <- w.a.udp(w.b, 1, 0, 100)
	}
	time.Sleep(4 * w.delay)
	synctest.Wait()
	w.a.tun.received()
	w.b.tun.received()
}

// sends gives what the sending host hears, and what arrives, of one packet.
func (w *narrowPath) sends(packet []byte) (heard, arrived [][]byte) {
	w.a.tun.in <- bytes.Clone(packet)
	time.Sleep(2*w.delay + time.Second)
	synctest.Wait()
	return w.a.tun.received(), w.b.tun.received()
}

// TestHostsHearThatThePathIsNarrow: a packet that the path does not carry is answered
// with what it does carry, and one of that size arrives whole, even where IPv6 wants
// more than the path has.
func TestHostsHearThatThePathIsNarrow(t *testing.T) {
	for _, size := range []int{1280, 1300, 1400, 1492, 1500} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newNarrowPath(t, size, 20*time.Millisecond)
				defer w.stop()
				w.run(2 * time.Second)
				s := w.a.peerStatus()
				if s.PathMTU > size || s.PathMTU < size-2*mtuGrain {
					t.Fatalf("the path is taken to carry %d (%s), it carries %d", s.PathMTU, s.PathMTUHow, size)
				}
				inner := s.PathMTU - 80
				testNarrow6(t, w, max(inner, leastMTU6))
				testNarrow4(t, w, inner)
			})
		})
	}
}

func testNarrow6(t *testing.T, w *narrowPath, told int) {
	if told < w.a.tun.mtu {
		large := w.a.udp(w.b, 2, 1, w.a.tun.mtu)
		heard, arrived := w.sends(large)
		if len(heard) != 1 || len(arrived) != 0 {
			t.Fatalf("of a packet of %d, %d answers and %d packets came", len(large), len(heard), len(arrived))
		}
		e := heard[0]
		if len(e) > leastMTU6 || e[6] != 58 || e[40] != 2 || int(binary.BigEndian.Uint32(e[44:])) != told || !bytes.Equal(e[48:], large[:len(e)-48]) {
			t.Errorf("the answer is % x…, want packet too big, %d", e[:48], told)
		}
		if sum := sum16(e[40:], uint32(len(e)-40)+58+uint32(sum16(e[8:40], 0))); sum != 0xffff {
			t.Errorf("its checksum is wrong by %#x", sum)
		}
		if source, _ := netip.AddrFromSlice(e[8:24]); source != w.b.inside {
			t.Errorf("it comes from %v, want %v", source, w.b.inside)
		}
	}
	fits := w.a.udp(w.b, 2, 2, told)
	if heard, arrived := w.sends(fits); len(heard) != 0 || len(arrived) != 1 || !bytes.Equal(arrived[0], fits) {
		t.Errorf("a packet of %d, which may be sent: %d answers, %d packets", told, len(heard), len(arrived))
	}
}

func testNarrow4(t *testing.T, w *narrowPath, inner int) {
	large := w.a.udp4(w.b, false, w.a.tun.mtu)
	if inner < w.a.tun.mtu {
		heard, arrived := w.sends(large)
		if len(heard) != 1 || len(arrived) != 0 {
			t.Fatalf("of an IPv4 packet of %d, %d answers and %d packets came", len(large), len(heard), len(arrived))
		}
		e := heard[0]
		if len(e) > 576 || e[9] != 1 || e[20] != 3 || e[21] != 4 || int(binary.BigEndian.Uint16(e[26:])) != inner || !bytes.Equal(e[28:], large[:len(e)-28]) {
			t.Errorf("the answer is % x…, want fragmentation needed, %d", e[:28], inner)
		}
		if sum16(e[:20], 0) != 0xffff || sum16(e[20:], 0) != 0xffff {
			t.Errorf("a checksum of it is wrong")
		}
	}
	heard, arrived := w.sends(w.a.udp4(w.b, true, w.a.tun.mtu))
	if len(heard) != 0 {
		t.Errorf("%d answers to a packet that may be fragmented", len(heard))
	}
	if got := reassembled(t, arrived); !bytes.Equal(got, large[ipv4HeaderLen:]) {
		t.Errorf("of a packet that may be fragmented %d packets came, and make %d bytes of %d", len(arrived), len(got), len(large)-ipv4HeaderLen)
	}
}

// reassembled is the payload of an IPv4 packet, out of its fragments in order.
func reassembled(t *testing.T, fragments [][]byte) (payload []byte) {
	t.Helper()
	for i, f := range fragments {
		field := binary.BigEndian.Uint16(f[6:])
		if int(field&0x1fff)*8 != len(payload) || (field&0x2000 != 0) != (i < len(fragments)-1) || int(binary.BigEndian.Uint16(f[2:])) != len(f) || sum16(f[:20], 0) != 0xffff {
			t.Errorf("fragment %d is % x…, behind %d bytes", i, f[:20], len(payload))
		}
		payload = append(payload, f[ipv4HeaderLen:]...)
	}
	return payload
}

// TestPathGrowsNarrowUnderData: whatever the path carries from one moment to the next,
// a host that sends as much as it is told to is never without delivery for 2 s.
func TestPathGrowsNarrowUnderData(t *testing.T) {
	for _, rtt := range []time.Duration{2 * time.Millisecond, 40 * time.Millisecond, 200 * time.Millisecond} {
		t.Run(rtt.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newNarrowPath(t, 1500, rtt)
				defer w.stop()
				w.run(3 * time.Second)
				h := narrowHost{w: w, size: w.a.tun.mtu, last: time.Now()}
				for _, size := range []int{1500, 1492, 1400, 1280, 1500, 1300} {
					w.becomes(size)
					h.longest = 0
					for range 500 {
						h.send()
					}
					t.Logf("%d: no delivery for up to %v; packets of %d", size, h.longest, h.size)
					if h.longest > 2*time.Second {
						t.Errorf("no delivery for %v when the path had become one of %d", h.longest, size)
					}
				}
			})
		})
	}
}

// narrowHost sends packets of the size that the last "packet too big" has told it.
type narrowHost struct {
	w       *narrowPath
	size    int
	number  uint64
	last    time.Time
	longest time.Duration
}

func (h *narrowHost) send() {
	h.number++
	h.w.a.tun.in <- h.w.a.udp(h.w.b, 7, h.number, h.size)
	time.Sleep(10 * time.Millisecond)
	synctest.Wait()
	for _, e := range h.w.a.tun.received() {
		if e[6] == 58 && e[40] == 2 {
			h.size = int(binary.BigEndian.Uint32(e[44:]))
		}
	}
	if len(h.w.b.tun.received()) > 0 {
		h.last = time.Now()
	}
	h.longest = max(h.longest, time.Since(h.last))
}

// TestAnswersToLargePacketsAreLimited sends a thousand of them at once.
func TestAnswersToLargePacketsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNarrowPath(t, 1400, 20*time.Millisecond)
		defer w.stop()
		w.run(2 * time.Second)
		for i := range 1000 {
			w.a.tun.in <- w.a.udp(w.b, 2, uint64(i), w.a.tun.mtu)
		}
		synctest.Wait()
		if n := len(w.a.tun.received()); n < 1 || n > tellBurst {
			t.Errorf("%d answers to 1000 packets, want %d at most", n, tellBurst)
		}
	})
}

// TestNoAnswerToWhatMustNotHaveOne: ICMP errors, later fragments, and what is for many.
func TestNoAnswerToWhatMustNotHaveOne(t *testing.T) {
	v6 := func(change func(p []byte)) []byte {
		p := make([]byte, 100)
		p[0], p[6], p[8], p[24] = 6<<4, 17, 0xfd, 0xfd
		change(p)
		return p
	}
	v4 := func(change func(p []byte)) []byte {
		p := make([]byte, 100)
		p[0], p[9], p[12], p[16] = 0x45, 17, 10, 10
		change(p)
		return p
	}
	for name, test := range map[string]struct {
		packet []byte
		want   bool
	}{
		"udp over IPv6":       {v6(func([]byte) {}), true},
		"echo over IPv6":      {v6(func(p []byte) { p[6], p[40] = 58, 128 }), true},
		"an error over IPv6":  {v6(func(p []byte) { p[6], p[40] = 58, 1 }), false},
		"to many over IPv6":   {v6(func(p []byte) { p[24] = 0xff }), false},
		"udp over IPv4":       {v4(func([]byte) {}), true},
		"echo over IPv4":      {v4(func(p []byte) { p[9], p[20] = 1, 8 }), true},
		"an error over IPv4":  {v4(func(p []byte) { p[9], p[20] = 1, 3 }), false},
		"a later fragment":    {v4(func(p []byte) { p[7] = 9 }), false},
		"to many over IPv4":   {v4(func(p []byte) { p[16] = 224 }), false},
		"ICMP without a type": {v4(func(p []byte) { p[9] = 1 })[:20], false},
	} {
		if got := answerable(test.packet); got != test.want {
			t.Errorf("%s: answered %v, want %v", name, got, test.want)
		}
	}
}

// piecesOf cuts a packet as PIECEs have it, at one place.
func piecesOf(id uint32, whole []byte, at int) (first, second []byte) {
	piece := func(from, to int) []byte {
		b := binary.BigEndian.AppendUint32(nil, id)
		b = binary.BigEndian.AppendUint16(b, uint16(from))
		b = binary.BigEndian.AppendUint16(b, uint16(len(whole)))
		return append(b, whole[from:to]...)
	}
	return piece(0, at), piece(at, len(whole))
}

// TestPiecesInAnyOrder come together, each packet once, and nothing else does.
func TestPiecesInAnyOrder(t *testing.T) {
	whole := make([]byte, leastMTU6)
	for i := range whole {
		whole[i] = byte(i * 7)
	}
	for _, swap := range []bool{false, true} {
		var table pieceTable
		a, b := piecesOf(9, whole, 1100)
		other, _ := piecesOf(10, whole, 700)
		if swap {
			a, b = b, a
		}
		if !table.take(a) || table.ready != nil || !table.take(other) || table.ready != nil {
			t.Fatal("a packet is whole with one piece")
		}
		if !table.take(b) || !bytes.Equal(table.ready[headerSize:], whole) {
			t.Errorf("the pieces do not make the packet, in order %v", !swap)
		}
		table.ready = nil
		if table.take(b); table.ready != nil {
			t.Error("a piece that came again made a packet")
		}
	}
	var table pieceTable
	a, b := piecesOf(1, whole, 600)
	binary.BigEndian.PutUint16(b[4:], 900) // a hole between them, and beyond the end
	if table.take(a); table.take(b) || table.ready != nil {
		t.Error("pieces that do not fit made a packet")
	}
}

// FuzzPieces: whatever a peer sends, what becomes whole has the length it was said to
// have.
func FuzzPieces(f *testing.F) {
	a, b := piecesOf(3, []byte("a packet in two pieces"), 9)
	f.Add(a, b)
	f.Add(b, b)
	f.Add([]byte{}, []byte{0, 0, 0, 1, 0, 0, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var table pieceTable
		table.take(a)
		if table.ready != nil {
			t.Fatal("whole with one piece")
		}
		table.take(b)
		if table.ready != nil && len(table.ready) != headerSize+int(binary.BigEndian.Uint16(b[6:])) {
			t.Fatalf("%d bytes, of a packet of %d", len(table.ready)-headerSize, binary.BigEndian.Uint16(b[6:]))
		}
	})
}

// streamOf is the payload of TCP segments over IPv6, in order, of which none may be
// longer than most.
func streamOf(t *testing.T, h tun.Header, super []byte, most int) (stream []byte) {
	t.Helper()
	segments, err := tuntest.Segment(h, super)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range segments {
		if len(s) > most {
			t.Errorf("a segment of %d bytes, want %d at most", len(s), most)
		}
		stream = append(stream, s[ipv6HeaderLen+int(s[ipv6HeaderLen+12]>>4)*4:]...)
	}
	return stream
}

// TestSuperPacketsAreCutForNarrowPaths: a stream loses nothing, in smaller segments.
// Datagrams keep their boundaries, so that larger ones are not sent.
func TestSuperPacketsAreCutForNarrowPaths(t *testing.T) {
	const most = 1290
	a, b, _ := stillPair(t)
	x, p := a.device.transmit[0], a.peer(b)
	p.innerMax.Store(most)
	h, super := a.superTo(b.site, false, 1300)
	want := streamOf(t, h, super, 1400)
	x.offerSuper(h, super)
	pkt, ok := x.queue.Dequeue(x.now)
	if !ok {
		t.Fatal("a super-packet of a stream was not queued")
	}
	if !bytes.Equal(streamOf(t, pkt.header, pkt.payload(), most), want) {
		t.Error("the stream is another one")
	}
	x.offerSuper(a.superTo(b.site, true, 1300))
	if n := x.queue.Len(); n != 0 || p.drops[dropTooBig].Load() == 0 {
		t.Errorf("%d packets of datagrams that are too large are queued, %d dropped", n, p.drops[dropTooBig].Load())
	}
	x.offerSuper(a.superTo(b.site, true, 1200))
	if x.queue.Len() != 1 {
		t.Error("datagrams that fit were not queued")
	}
}
