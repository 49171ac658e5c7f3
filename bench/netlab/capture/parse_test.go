package capture

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const ethernet = "020000000001 020000000002 "

func frameOf(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", "\n", "", "\t", "").Replace(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tuple(src, dst string, proto uint8) Tuple {
	return Tuple{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Proto: proto}
}

var frames = []struct {
	name, frame string
	want        Packet
	err         error
}{
	{
		name: "UDP over IPv4, ECT(0), DSCP 46",
		frame: ethernet + "0800" + "45ba0020 00004000 4011 0000 c0000201 c6336401" +
			"3039 ca6c 000c 0000 01000000",
		want: Packet{Tuple: tuple("192.0.2.1:12345", "198.51.100.1:51820", 17), Length: 32, Payload: 4, TOS: 0xba, HopLimit: 64, Head: []byte{1, 0, 0, 0}},
	},
	{
		name: "UDP over IPv6 with a flow label and CE",
		frame: ethernet + "86dd" + "603abcde 000c 11 3f 20010db8000a00000000000000000001 20010db8000b00000000000000000001" +
			"3039 ca6c 000c 0000 04000000",
		want: Packet{Tuple: tuple("[2001:db8:a::1]:12345", "[2001:db8:b::1]:51820", 17), Length: 52, Payload: 4, TOS: 3, Label: 0xabcde, HopLimit: 63, Head: []byte{4, 0, 0, 0}},
	},
	{
		name:  "IPv4 options",
		frame: ethernet + "0800" + "46000020 00000000 4011 0000 c0000201 c6336401 94040000" + "0035 0036 0008 0000",
		want:  Packet{Tuple: tuple("192.0.2.1:53", "198.51.100.1:54", 17), Length: 32, HopLimit: 64},
	},
	{
		name:  "a VLAN tag",
		frame: ethernet + "8100 0064 0800" + "45000028 00000000 4006 0000 c0000201 c6336401" + "0050 0051 00000000 00000000 50000000 00000000",
		want:  Packet{Tuple: tuple("192.0.2.1:80", "198.51.100.1:81", 6), Length: 40, Payload: 20, HopLimit: 64, Head: frameBytes(20, 0, 0x50, 0, 0x51, 12, 0x50)},
	},
	{
		name:  "first fragment has ports",
		frame: ethernet + "0800" + "45000024 00012000 4011 0000 c0000201 c6336401" + "0035 0036 0108 0000 aaaaaaaa aaaaaaaa",
		want:  Packet{Tuple: tuple("192.0.2.1:53", "198.51.100.1:54", 17), Length: 36, Payload: 8, HopLimit: 64, Fragment: true, Head: []byte{0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa}},
	},
	{
		name:  "later fragment has none",
		frame: ethernet + "0800" + "45000018 00010002 4011 0000 c0000201 c6336401" + "0035 0036",
		want:  Packet{Tuple: tuple("192.0.2.1:0", "198.51.100.1:0", 17), Length: 24, Payload: 4, HopLimit: 64, Fragment: true, Head: []byte{0, 0x35, 0, 0x36}},
	},
	{
		name: "later IPv6 fragment behind hop-by-hop options",
		frame: ethernet + "86dd" + "60000000 0014 00 40 20010db8000a00000000000000000001 20010db8000b00000000000000000001" +
			"2c 00 050200000000" + "11 00 0008 00000001" + "3039ca6c",
		want: Packet{Tuple: tuple("[2001:db8:a::1]:0", "[2001:db8:b::1]:0", 17), Length: 60, Payload: 4, HopLimit: 64, Fragment: true, Head: []byte{0x30, 0x39, 0xca, 0x6c}},
	},
	{name: "ARP", frame: ethernet + "0806 0001 0800", err: ErrNotIP},
	{name: "short frame", frame: "0200", err: ErrNotIP},
	{name: "no header", frame: ethernet + "0800", err: ErrMalformed},
	{name: "IPv4 header too short", frame: ethernet + "0800" + "44000014 00000000 4011 0000 c0000201 c6336401", err: ErrMalformed},
	{name: "IPv4 length too short", frame: ethernet + "0800" + "45000010 00000000 4011 0000 c0000201 c6336401", err: ErrMalformed},
	{name: "UDP header cut", frame: ethernet + "0800" + "45000018 00000000 4011 0000 c0000201 c6336401 00350036", err: ErrMalformed},
	{name: "IPv6 extension cut", frame: ethernet + "86dd" + "60000000 0004 00 40 20010db8000a00000000000000000001 20010db8000b00000000000000000001 2c000000", err: ErrMalformed},
	{name: "tags without end", frame: ethernet + "8100 0001 8100 0002 8100 0003 0800 4500", err: ErrNotIP},
	{name: "tag cut", frame: ethernet + "8100 00", err: ErrMalformed},
}

// frameBytes is n zero bytes but for those at the given indexes.
func frameBytes(n int, indexed ...byte) []byte {
	b := make([]byte, n)
	b[1], b[3] = indexed[1], indexed[3]
	b[indexed[4]] = indexed[5]
	return b
}

func TestParse(t *testing.T) {
	for _, test := range frames {
		t.Run(test.name, func(t *testing.T) {
			var got Packet
			err := Parse(frameOf(t, test.frame), &got)
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v, want %v", err, test.err)
			}
			if err != nil {
				return
			}
			if diff := cmp.Diff(test.want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestParseCut cuts every good frame at every place: nothing may be read beyond
// the end, and what remains may not claim to be more than it is.
func TestParseCut(t *testing.T) {
	for _, test := range frames {
		whole := frameOf(t, test.frame)
		for n := range whole {
			var p Packet
			if err := Parse(whole[:n:n], &p); err == nil && len(p.Head) > p.Payload {
				t.Errorf("%s cut to %d bytes: %d bytes of a payload of %d", test.name, n, len(p.Head), p.Payload)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, test := range frames {
		f.Add(frameOf(f, test.frame))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		p := Packet{}
		if err := Parse(frame, &p); err != nil {
			if !errors.Is(err, ErrNotIP) && !errors.Is(err, ErrMalformed) {
				t.Fatalf("unexpected error %v", err)
			}
			return
		}
		if !p.Src.Addr().IsValid() || p.Src.Addr().Is4() != p.Dst.Addr().Is4() {
			t.Fatalf("addresses of two kinds: %v, %v", p.Src, p.Dst)
		}
		if p.Label > 0xfffff || p.Payload < 0 || p.Payload > p.Length || len(p.Head) > p.Payload {
			t.Fatalf("impossible packet %+v", p)
		}
	})
}

func TestParseAllocatesNothing(t *testing.T) {
	frame := frameOf(t, frames[1].frame)
	var p Packet
	if n := testing.AllocsPerRun(100, func() {
		if err := Parse(frame, &p); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a packet", n)
	}
}

func TestCounterIsBounded(t *testing.T) {
	c := newCounter(10)
	for i := range 1000 {
		p := Packet{Tuple: tuple("[2001:db8::1]:1", "[2001:db8::2]:2", 17), Length: 100, Label: uint32(i)}
		p.Src = netip.AddrPortFrom(p.Src.Addr(), uint16(i))
		c.add(&p)
	}
	r := c.snapshot()
	if len(r.Flows) != 10 || len(r.Labels) != 10 || r.Uncounted != 990 || r.Packets != 1000 {
		t.Errorf("%d flows, %d labels, %d uncounted of %d packets; want 10, 10, 990 of 1000", len(r.Flows), len(r.Labels), r.Uncounted, r.Packets)
	}
}
