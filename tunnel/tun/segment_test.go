package tun_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/tuntest"
)

var (
	from4, to4 = netip.MustParseAddrPort("10.1.2.3:40000"), netip.MustParseAddrPort("10.4.5.6:443")
	from6, to6 = netip.MustParseAddrPort("[fd00::1:2]:40000"), netip.MustParseAddrPort("[fd00:1::3]:443")
)

// noise is a payload that repeats itself nowhere.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

var timestamps = []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}

// inners are packets of every kind, by name.
func inners(payload []byte) map[string]tuntest.Inner {
	extension := []byte{60, 0, 1, 4, 0, 0, 0, 0, 6, 1, 1, 12, 23: 0}
	udpExtension := bytes.Clone(extension)
	udpExtension[8] = 17
	return map[string]tuntest.Inner{
		"tcp4":            {From: from4, To: to4, Payload: payload, ID: 0xfffe, DF: true, Class: 0xb9, Seq: 0xffffff00, Ack: 7, Window: 500, Options: timestamps},
		"tcp4, no option": {From: from4, To: to4, Payload: payload, ID: 9, Flags: 0x18, TTL: 3},
		"tcp4, all flags": {From: from4, To: to4, Payload: payload, Flags: 0xff},
		"tcp6":            {From: from6, To: to6, Payload: payload, Label: 0x12345, Class: 0x2e, Seq: 1, Options: timestamps},
		"tcp6, fin":       {From: from6, To: to6, Payload: payload, Flags: 0x11},
		"tcp6, extension": {From: from6, To: to6, Payload: payload, Between: extension},
		"udp4":            {From: from4, To: to4, Payload: payload, UDP: true, ID: 77},
		"udp6":            {From: from6, To: to6, Payload: payload, UDP: true, Class: 3},
		"udp6, extension": {From: from6, To: to6, Payload: payload, UDP: true, Between: udpExtension},
	}
}

// segments uses a Segmenter as one does who seals: what was given is spoilt
// only after it was copied.
func segments(s *tun.Segmenter) (out [][]byte) {
	for n := s.Len(); ; n-- {
		if s.Len() != n {
			return append(out, fmt.Appendf(nil, "%d segments are left, %d are said", n, s.Len()))
		}
		p := s.Next()
		if p == nil {
			return out
		}
		out = append(out, bytes.Clone(p))
		for i := range p {
			p[i] ^= 0x55
		}
	}
}

func equal(t *testing.T, what string, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d packets, want %d", what, len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			n := 0
			for n < min(len(got[i]), len(want[i])) && got[i][n] == want[i][n] {
				n++
			}
			t.Fatalf("%s: packet %d of %d: %d bytes, want %d, and they differ at %d:\n%x\n%x", what, i, len(want),
				len(got[i]), len(want[i]), n, got[i][:min(n+40, len(got[i]))], want[i][:min(n+40, len(want[i]))])
		}
	}
}

func TestSegments(t *testing.T) {
	var s tun.Segmenter
	for _, mtu := range []int{1280, 1420, 1500, 9000} {
		for _, length := range []int{1, 2, mtu - 100, mtu, 3*mtu + 17, 65000} {
			for name, in := range inners(noise(length)) {
				for _, size := range []int{1, 37, mtu - 72, mtu - 40} {
					if length/size > 5000 {
						continue
					}
					h, p := in.Super(size)
					want, err := tuntest.Segment(h, p)
					if err != nil {
						t.Fatal(err)
					}
					if err := s.Reset(h, bytes.Clone(p), false); err != nil {
						t.Fatal(err)
					}
					equal(t, fmt.Sprintf("%s: %d bytes in %d", name, length, size), segments(&s), want)

					// The kernel's hint of the header's length may be the whole's,
					// and the checksum may be there already.
					h.HeaderLen = uint16(len(p))
					h.Flags = 0
					if err := s.Reset(h, p, false); err != nil {
						t.Fatal(err)
					}
					equal(t, name+", finished", segments(&s), want)
				}
			}
		}
	}
}

// Padding covers nothing for longer than until the next segment.
func TestPaddedSegments(t *testing.T) {
	var s tun.Segmenter
	for name, in := range inners(noise(4000)) {
		for _, size := range []int{4000, 1300, 1000, 7, 1} {
			h, p := in.Super(size)
			if size == 4000 {
				h.GSO = tun.GSONone
			}
			want, err := tuntest.Segment(h, p)
			if err != nil {
				t.Fatal(err)
			}
			p = append(p, 0xaa)[:len(p)]
			p = slices.Grow(p, tun.MaxPadding)
			behind := p[len(p) : len(p)+1]
			if err := s.Reset(h, p, false); err != nil {
				t.Fatal(err)
			}
			var got [][]byte
			for p := s.Next(); p != nil; p = s.Next() {
				n := len(got) % (tun.MaxPadding + 1)
				s.Pad(p, 3) // the last word counts
				padded := bytes.Clone(s.Pad(p, n))
				if len(padded) != len(p)+n || !bytes.Equal(padded[len(p):], make([]byte, n)) {
					t.Fatalf("%s: %d bytes padded with %d give %x", name, len(p), n, padded[len(p):])
				}
				got = append(got, padded[:len(p)])
			}
			equal(t, name, got, want)
			if behind[0] != 0xaa {
				t.Errorf("%s: what is behind the packet is now %x", name, behind)
			}
		}
	}
}

// What was padded last is forgotten with its packet.
func TestSegmenterForgetsPadding(t *testing.T) {
	var s tun.Segmenter
	for range 2 {
		h, p := inners(noise(3000))["tcp4"].Super(1000)
		want, err := tuntest.Segment(h, p)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Reset(h, p, false); err != nil {
			t.Fatal(err)
		}
		first := s.Next()
		if !bytes.Equal(first, want[0]) {
			t.Error("the first segment is another")
		}
		s.Pad(first, 16)
	}
	h, p := inners(noise(40))["udp6"].Super(40)
	h.GSO = tun.GSONone
	whole := bytes.Clone(p)
	tuntest.Finish(whole, 40)
	if err := s.Reset(h, p, false); err != nil || !bytes.Equal(s.Next(), whole) || !bytes.Equal(p, whole) {
		t.Error("the packet after a padded one is another")
	}
}

func TestSegmentsOfPacketsThatAreNoSuperPackets(t *testing.T) {
	var s tun.Segmenter
	for name, in := range inners(noise(99)) {
		for _, flags := range []uint8{0, tun.DataValid, tun.NeedsChecksum} {
			h, p := in.Super(1)
			h.GSO, h.SegmentSize, h.Flags = tun.GSONone, 0, flags
			want := in.Packet()
			if flags != tun.NeedsChecksum {
				p = bytes.Clone(want)
			}
			if err := s.Reset(h, p, false); err != nil {
				t.Fatal(err)
			}
			equal(t, fmt.Sprint(name, flags), segments(&s), [][]byte{want})
		}
	}
}

// A vouched packet is what it would have been but for the checksum.
func TestVouchedSegments(t *testing.T) {
	var s tun.Segmenter
	vouched := func(p []byte, transport int) []byte {
		field := transport + 16
		if p[0]>>4 == 4 && p[9] == 17 || p[0]>>4 == 6 && p[6] == 17 {
			field = transport + 6
		}
		p[field], p[field+1] = 0, 0
		return p
	}
	for name, in := range inners(noise(9000)) {
		for _, gso := range []bool{true, false} {
			h, p := in.Super(1300)
			if !gso {
				h.GSO = tun.GSONone
			}
			want, _ := tuntest.Segment(h, p)
			if in.Between == nil {
				for _, w := range want {
					vouched(w, int(h.ChecksumStart))
				}
			}
			if err := s.Reset(h, p, true); err != nil {
				t.Fatal(err)
			}
			if s.Vouched() != (in.Between == nil) {
				t.Errorf("%s: vouched %v", name, s.Vouched())
			}
			equal(t, name, segments(&s), want)
		}
		// Valid is as good as unfinished, unknown is not.
		if in.Between == nil {
			p := in.Packet()
			s.Reset(tun.Header{Flags: tun.DataValid}, p, true)
			if !s.Vouched() || !bytes.Equal(s.Next(), vouched(in.Packet(), map[bool]int{true: 20, false: 40}[in.From == from4])) {
				t.Errorf("%s, valid: not vouched", name)
			}
		}
		s.Reset(tun.Header{}, in.Packet(), true)
		if s.Vouched() || !bytes.Equal(s.Next(), in.Packet()) {
			t.Errorf("%s, unknown: vouched or changed", name)
		}
	}
	// The other end would not find the checksum behind IP options.
	h, plain := tuntest.Inner{From: from4, To: to4, Payload: noise(3000)}.Super(1000)
	p := slices.Insert(bytes.Clone(plain), 20, 1, 1, 1, 1)
	p[0]++
	h.ChecksumStart += 4
	want, _ := tuntest.Segment(h, p)
	if err := s.Reset(h, p, true); err != nil || s.Vouched() {
		t.Errorf("IP options: vouched %v, %v", s.Vouched(), err)
	}
	equal(t, "IP options", segments(&s), want)
	// A datagram without checksum must not get one.
	none := tuntest.Inner{From: from4, To: to4, UDP: true, Payload: noise(10)}.Packet()
	none[26], none[27] = 0, 0
	if s.Reset(tun.Header{Flags: tun.DataValid}, none, true); s.Vouched() {
		t.Error("vouched for a checksum that is none")
	}
}

func TestSegmenterRefuses(t *testing.T) {
	h4, p4 := tuntest.Inner{From: from4, To: to4, Payload: noise(3000)}.Super(1000)
	h6, p6 := tuntest.Inner{From: from6, To: to6, Payload: noise(3000)}.Super(1000)
	with := func(h tun.Header, change func(*tun.Header)) tun.Header { change(&h); return h }
	option := bytes.Clone(p4)
	option[32] = 0x40 // a TCP header of 16 bytes
	long := bytes.Clone(p4[:50])
	long[32] = 0xf0
	udp := bytes.Clone(p4)
	udp[9] = 17
	endless := bytes.Clone(p6)
	endless[6], endless[40], endless[41] = 60, 60, 255
	for _, c := range []struct {
		what   string
		header tun.Header
		packet []byte
	}{
		{"nothing", tun.Header{}, nil},
		{"tcp6 in IPv4", with(h4, func(h *tun.Header) { h.GSO = tun.GSOTCP6 }), p4},
		{"tcp4 in IPv6", with(h6, func(h *tun.Header) { h.GSO = tun.GSOTCP4 }), p6},
		{"an unknown kind", with(h4, func(h *tun.Header) { h.GSO = 3 }), p4},
		{"ecn of udp", with(h4, func(h *tun.Header) { h.GSO = tun.GSOUDP | tun.GSOECN }), udp},
		{"udp that is said to be tcp", h4, udp},
		{"udp that is said to be tcp, complete", with(h4, func(h *tun.Header) { h.Flags = 0 }), udp},
		{"no size", with(h4, func(h *tun.Header) { h.SegmentSize = 0 }), p4},
		{"a checksum elsewhere", with(h4, func(h *tun.Header) { h.ChecksumStart = 24 }), p4},
		{"a checksum of another field", with(h4, func(h *tun.Header) { h.ChecksumOffset = 6 }), p4},
		{"a header that is too short", h4, option},
		{"a header that is too long", h4, long},
		{"no payload", h4, p4[:40]},
		{"no transport header", h6, p6[:45]},
		{"a checksum behind the end", tun.Header{Flags: tun.NeedsChecksum, ChecksumStart: 3030, ChecksumOffset: 16}, p4},
		{"headers without end", with(h6, func(h *tun.Header) { h.ChecksumStart = 600 }), p6},
		{"an extension without end", h6, endless},
	} {
		var s tun.Segmenter
		for _, vouch := range []bool{false, true} {
			if err := s.Reset(c.header, bytes.Clone(c.packet), vouch); err == nil {
				t.Errorf("%s: taken", c.what)
			}
			if s.Len() != 0 || s.Next() != nil {
				t.Errorf("%s: segments all the same", c.what)
			}
		}
	}
}

func TestSegmenterDoesNotAllocate(t *testing.T) {
	h, p := tuntest.Inner{From: from4, To: to4, Payload: noise(60000)}.Super(1300)
	b := bytes.Clone(p)
	var s tun.Segmenter
	if n := testing.AllocsPerRun(100, func() {
		copy(b, p)
		if s.Reset(h, b, false) != nil {
			t.Fatal()
		}
		for s.Next() != nil {
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzSegmenter compares with the oracle, and looks for panics.
func FuzzSegmenter(f *testing.F) {
	for _, in := range inners(noise(3000)) {
		h, p := in.Super(1288)
		f.Add(h.Flags, uint8(h.GSO), h.SegmentSize, h.ChecksumStart, h.ChecksumOffset, p)
		f.Add(h.Flags, uint8(0), h.SegmentSize, h.ChecksumStart, h.ChecksumOffset, p[:200])
	}
	f.Fuzz(func(t *testing.T, flags, gso uint8, size, start, offset uint16, packet []byte) {
		if size < 16 && gso != 0 {
			size += 16 // or it takes for ever
		}
		h := tun.Header{Flags: flags, GSO: tun.GSOType(gso), SegmentSize: size, ChecksumStart: start, ChecksumOffset: offset}
		var s tun.Segmenter
		if s.Reset(h, bytes.Clone(packet), true) == nil {
			for s.Next() != nil {
			}
		}
		if err := s.Reset(h, bytes.Clone(packet), false); err != nil {
			return
		}
		want, err := tuntest.Segment(h, packet)
		if err != nil {
			t.Fatalf("the oracle refuses: %v", err)
		}
		got := segments(&s)
		if gso != 0 && flags&tun.NeedsChecksum != 0 {
			// The oracle sums the pseudo header anew, where Segmenter trusts the
			// field; only what is right can be compared.
			right := bytes.Clone(packet)
			tuntest.Unfinish(right, int(start))
			if !bytes.Equal(right, packet) {
				return
			}
		}
		equal(t, "fuzz", got, want)
	})
}
