package accord

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var sample = Hello{
	Version: 1, Instance: 0x1122334455667788, Sequence: 7, Heard: 5, HeardFrom: 0x99aabbccddeeff00,
	Port: 51820, Sends: Range{20480, 8192}, Restores: Range{12288, 4096},
	Seen: netip.MustParseAddrPort("192.0.2.1:51821"), Restored: 1 << 31, Limit: 512, Flags: Ask | Origin,
}

// golden is what sample is on the wire: other versions have to read it.
const golden = "6b696c6f706f7274" + "010101" + "02081122334455667788" + "030400000007" +
	"040c0000000599aabbccddeeff00" + "0502ca6c" + "060450002000" + "070430001000" +
	"081200000000000000000000ffffc0000201ca6d" + "090480000000" + "0a020200" + "0b0105"

var plain = cmpopts.EquateComparable(netip.AddrPort{})

func TestGolden(t *testing.T) {
	if got := hex.EncodeToString(sample.Append(nil)); got != golden {
		t.Errorf("encoded as\n%s, want\n%s", got, golden)
	}
	b, err := hex.DecodeString(golden)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sample, got, plain); d != "" {
		t.Error(d)
	}
}

func TestParse(t *testing.T) {
	valid := sample.Append(nil)
	for name, test := range map[string]struct {
		bytes []byte
		ok    bool
	}{
		"as it is":          {valid, true},
		"padded":            {append(bytes.Clone(valid), make([]byte, 300)...), true},
		"unknown field":     {append(bytes.Clone(valid), 200, 3, 1, 2, 3), true},
		"wider field":       {append(bytes.Clone(valid), fieldLimit, 4, 0, 0, 0, 1), true},
		"cut field":         {append(bytes.Clone(valid), 200, 3, 1, 2), false},
		"cut id":            {append(bytes.Clone(valid), 200), false},
		"nothing":           {nil, false},
		"another magic":     {append([]byte("kilogram"), valid[8:]...), false},
		"no version":        {[]byte(magic), false},
		"ports above 65535": {append(bytes.Clone(valid), fieldSends, 4, 0xff, 0xff, 0, 2), false},
		"port 0":            {append(bytes.Clone(valid), fieldRestores, 4, 0, 0, 0, 2), false},
	} {
		if _, err := Parse(test.bytes); test.ok != (err == nil) || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: error %v, want it good: %v", name, err, test.ok)
		}
	}
}

func TestPacket(t *testing.T) {
	for _, test := range []struct{ from, to string }{{"10.0.0.1", "10.0.1.0"}, {"fd00::1", "fd00:1::"}} {
		from, to := netip.MustParseAddr(test.from), netip.MustParseAddr(test.to)
		b := Packet(from, to, &sample)
		if len(b) != AskSize || !IsHello(b) {
			t.Fatalf("%v: %d bytes, HELLO: %v", test, len(b), IsHello(b))
		}
		checkSums(t, b)
		gotFrom, gotTo, got, err := ParsePacket(append(b, 1, 2, 3))
		if err != nil || gotFrom != from || gotTo != to {
			t.Errorf("from %v to %v, error %v, want %v", gotFrom, gotTo, err, test)
		}
		if d := cmp.Diff(sample, got, plain); d != "" {
			t.Error(d)
		}
		if _, _, _, err := ParsePacket(b[:AnswerSize-1]); !errors.Is(err, ErrMalformed) {
			t.Errorf("a cut packet: error %v", err)
		}
	}
	if b := Packet(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::"), &sample); b != nil {
		t.Errorf("two families made a packet of %d bytes", len(b))
	}
}

// checkSums wants the checksums to be what a host's stack takes.
func checkSums(t *testing.T, b []byte) {
	t.Helper()
	addresses, udp := b[8:40], b[40:]
	if b[0] == 0x45 {
		addresses, udp = b[12:20], b[20:]
		if s := sum(b[:20], 0); s != 0xffff {
			t.Errorf("the IPv4 header sums up to %#x", s)
		}
	}
	if s := sum(udp, sum(addresses, uint16(len(udp)+protoUDP))); s != 0xffff {
		t.Errorf("the UDP datagram sums up to %#x", s)
	}
}

func TestFieldsLeaveRoom(t *testing.T) {
	if n := len(sample.Append(nil)); n > AnswerSize/2-sizeIPv6 {
		t.Errorf("HELLO has %d bytes", n)
	}
}

func TestRange(t *testing.T) {
	r := Range{Low: 100, Count: 10}
	for port, want := range map[uint16]bool{99: false, 100: true, 109: true, 110: false, 0: false, 65535: false} {
		if r.Contains(port) != want {
			t.Errorf("%v contains %d: %v", r, port, !want)
		}
	}
	if r.High() != 109 || (Range{}).Contains(0) {
		t.Errorf("high %d, nothing contains 0: %v", r.High(), (Range{}).Contains(0))
	}
}

func FuzzParsePacket(f *testing.F) {
	f.Add(Packet(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.1.0"), &sample))
	f.Add(Packet(netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00:1::"), &sample))
	f.Fuzz(func(t *testing.T, b []byte) {
		from, to, h, err := ParsePacket(b)
		if err != nil {
			return
		}
		again := Packet(from, to, &h)
		_, _, back, err := ParsePacket(again)
		if from.Is4In6() || to.Is4In6() { // is built as IPv4
			return
		}
		if d := cmp.Diff(h, back, plain); err != nil || d != "" {
			t.Errorf("error %v, %s", err, d)
		}
	})
}
