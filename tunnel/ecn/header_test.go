package ecn_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"kiloport/tunnel/ecn"
)

// checksum computes an IPv4 header's from nothing (RFC 791, section 3.1).
func checksum(header []byte) uint16 {
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		if i != 10 {
			sum += uint32(binary.BigEndian.Uint16(header[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// packet4 is any IPv4 packet with a right checksum.
func packet4(t *rapid.T) []byte {
	words := rapid.IntRange(5, 15).Draw(t, "header words")
	p := rapid.SliceOfN(rapid.Byte(), words*4, words*4+16).Draw(t, "packet")
	p[0] = 0x40 | byte(words)
	binary.BigEndian.PutUint16(p[10:], checksum(p[:words*4]))
	return p
}

func packet6(t *rapid.T) []byte {
	p := rapid.SliceOfN(rapid.Byte(), 40, 60).Draw(t, "packet")
	p[0] = 0x60 | p[0]&15
	return p
}

func anyPacket(t *rapid.T) []byte {
	if rapid.Bool().Draw(t, "IPv4") {
		return packet4(t)
	}
	return packet6(t)
}

// rewrite is what Set has to do, said another way: the field's two bits, and for
// IPv4 a checksum of the whole header.
func rewrite(packet []byte, cp ecn.Codepoint) []byte {
	p := bytes.Clone(packet)
	if p[0]>>4 == 4 {
		p[1] = p[1]&^3 | byte(cp)
		header := p[:int(p[0]&15)*4]
		binary.BigEndian.PutUint16(p[10:], checksum(header))
		return p
	}
	p[1] = p[1]&^0x30 | byte(cp)<<4
	return p
}

func TestSetIsARewrite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPacket(t)
		cp := rapid.SampledFrom(all).Draw(t, "codepoint")
		want := rewrite(p, cp)
		_, before, _ := ecn.Of(p)
		if !ecn.Set(p, cp) {
			t.Fatalf("Set refused %x", p)
		}
		if !bytes.Equal(p, want) {
			t.Fatalf("got  %x\nwant %x", p, want)
		}
		if got, dscp, ok := ecn.Of(p); !ok || got != cp || dscp != before {
			t.Fatalf("now %v, DSCP %d, %v, want %v, DSCP %d", got, dscp, ok, cp, before)
		}
	})
}

// All checksums, from all codepoints to all others: the identification takes
// every value, so the checksum does, and passes 0x0000 and 0xffff's place.
func TestChecksumAtEveryValue(t *testing.T) {
	p := make([]byte, 20)
	p[0], p[8], p[9] = 0x45, 64, 17
	zeros := 0
	for ident := range 1 << 16 {
		binary.BigEndian.PutUint16(p[4:], uint16(ident))
		for _, from := range all {
			for _, to := range all {
				p[1] = 46<<2 | byte(from)
				binary.BigEndian.PutUint16(p[10:], checksum(p))
				ecn.Set(p, to)
				got, want := binary.BigEndian.Uint16(p[10:]), checksum(p)
				if got != want {
					t.Fatalf("identification %#x, %v to %v: checksum %#x, want %#x", ident, from, to, got, want)
				}
				if got == 0 {
					zeros++
				}
			}
		}
	}
	if zeros != 16 {
		t.Errorf("checksum zero was met %d times, want once for each pair", zeros)
	}
}

// RFC 1624, section 3, is about this corner: where the checksum becomes zero, the
// equation before it gives 0xffff.
func TestChecksumCorner(t *testing.T) {
	p := make([]byte, 20)
	binary.BigEndian.PutUint16(p, 0x4502)
	binary.BigEndian.PutUint16(p[4:], 0xbafc) // the words' sum is 0xfffe, so the checksum 1
	binary.BigEndian.PutUint16(p[10:], 1)
	if c := checksum(p); c != 1 {
		t.Fatalf("checksum %#x to begin with, want 1", c)
	}
	ecn.Set(p, ecn.CE)
	if c := binary.BigEndian.Uint16(p[10:]); c != 0 {
		t.Errorf("checksum %#x, want 0, not 0xffff", c)
	}
	ecn.Set(p, ecn.ECT0)
	if c := binary.BigEndian.Uint16(p[10:]); c != 1 {
		t.Errorf("checksum %#x, want 1 again", c)
	}
}

// A wrong checksum must stay wrong: to repair it would hide the corruption.
func TestWrongChecksumStaysWrong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := packet4(t)
		right := binary.BigEndian.Uint16(p[10:])
		wrong := rapid.Uint16().Filter(func(c uint16) bool {
			return c%0xffff != right%0xffff // 0 and 0xffff are the same number
		}).Draw(t, "wrong checksum")
		binary.BigEndian.PutUint16(p[10:], wrong)
		ecn.Set(p, rapid.SampledFrom(all).Draw(t, "codepoint"))
		if got := binary.BigEndian.Uint16(p[10:]); got == checksum(p[:int(p[0]&15)*4]) {
			t.Fatalf("%x has a right checksum now", p)
		}
	})
}

// Set and SetClass are the same but for the DSCP.
func TestSetClass(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPacket(t)
		now := rapid.Byte().Draw(t, "class")
		want := bytes.Clone(p)
		if want[0]>>4 == 4 {
			want[1] = now
			binary.BigEndian.PutUint16(want[10:], checksum(want[:int(want[0]&15)*4]))
		} else {
			binary.BigEndian.PutUint32(want, binary.BigEndian.Uint32(want)&^(0xff<<20)|uint32(now)<<20)
		}
		if !ecn.SetClass(p, now) || !bytes.Equal(p, want) {
			t.Fatalf("class %#x:\ngot  %x\nwant %x", now, p, want)
		}
	})
}

// A field that has its value already leaves the packet as it is, even where an
// update would write the checksum 0xffff, which is wrong, as 0, which is right.
func TestSetToTheSame(t *testing.T) {
	p := make([]byte, 20)
	for _, cp := range all {
		p[0], p[1], p[10], p[11] = 0x45, byte(cp), 0xff, 0xff
		before := bytes.Clone(p)
		if ecn.Set(p, cp); !bytes.Equal(p, before) {
			t.Errorf("%v: %x became %x", cp, before, p)
		}
	}
}

func TestMarkCE(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPacket(t)
		cp := rapid.SampledFrom(all).Draw(t, "codepoint")
		ecn.Set(p, cp)
		want := bytes.Clone(p)
		if cp != ecn.NotECT {
			want = rewrite(p, ecn.CE)
		}
		if got := ecn.MarkCE(p); got != (cp != ecn.NotECT) {
			t.Fatalf("MarkCE of %v is %v", cp, got)
		}
		if !bytes.Equal(p, want) {
			t.Fatalf("got  %x\nwant %x", p, want)
		}
	})
}

func TestOf(t *testing.T) {
	for class := range 256 {
		p4 := make([]byte, 20)
		p4[0], p4[1] = 0x45, byte(class)
		p6 := make([]byte, 40)
		binary.BigEndian.PutUint32(p6, 6<<28|uint32(class)<<20|0xfffff)
		for _, p := range [][]byte{p4, p6} {
			cp, dscp, ok := ecn.Of(p)
			if !ok || int(cp) != class%4 || int(dscp) != class/4 {
				t.Errorf("class %#x of IPv%d: %v, DSCP %d, %v", class, p[0]>>4, cp, dscp, ok)
			}
			if got := ecn.TrafficClass(dscp, cp); int(got) != class {
				t.Errorf("class %#x is put together as %#x", class, got)
			}
		}
	}
}

// With its DSCP out of range, TrafficClass must not touch the ECN field.
func TestTrafficClassOutOfRange(t *testing.T) {
	if got := ecn.TrafficClass(0xff, ecn.ECT1|4); got != 0xfd {
		t.Errorf("got %#x, want 0xfd", got)
	}
}

func notIP() map[string][]byte {
	long := make([]byte, 59)
	long[0] = 0x4f
	return map[string][]byte{
		"nil":                        nil,
		"empty":                      {},
		"one byte":                   {0x45},
		"IPv4 cut":                   append([]byte{0x45, 3}, make([]byte, 17)...),
		"IPv4 options cut":           long,
		"IPv4 header of 16 bytes":    append([]byte{0x44, 3}, make([]byte, 18)...),
		"IPv6 cut":                   append([]byte{0x60, 0x30}, make([]byte, 37)...),
		"IPv6 as long as IPv4":       append([]byte{0x60, 0x30}, make([]byte, 18)...),
		"version 0":                  append([]byte{0x05, 0x33}, make([]byte, 58)...),
		"a control message, not IP":  append([]byte{0xf1, 0x33}, make([]byte, 58)...),
		"version 5, all others ones": bytes.Repeat([]byte{0x5f}, 60),
	}
}

func TestNotIP(t *testing.T) {
	for name, p := range notIP() {
		before := bytes.Clone(p)
		if cp, dscp, ok := ecn.Of(p); ok || cp != ecn.NotECT || dscp != 0 {
			t.Errorf("%s: Of is %v, %d, %v", name, cp, dscp, ok)
		}
		for _, cp := range all {
			if ecn.Set(p, cp) {
				t.Errorf("%s: Set to %v", name, cp)
			}
			if ecn.SetClass(p, uint8(cp)|0x88) {
				t.Errorf("%s: class set", name)
			}
		}
		if ecn.MarkCE(p) {
			t.Errorf("%s: marked", name)
		}
		if !bytes.Equal(p, before) {
			t.Errorf("%s: changed", name)
		}
	}
}

// FuzzHeader lets any bytes through all functions on packets.
func FuzzHeader(f *testing.F) {
	for _, p := range notIP() {
		f.Add(p, byte(3))
	}
	f.Add(append([]byte{0x45, 2}, make([]byte, 20)...), byte(3))
	f.Add(append([]byte{0x46, 0xff}, make([]byte, 30)...), byte(0))
	f.Add(append([]byte{0x6f, 0xef}, make([]byte, 40)...), byte(1))
	f.Fuzz(func(t *testing.T, p []byte, b byte) {
		before := bytes.Clone(p)
		cp := ecn.Codepoint(b & 3)
		old, dscp, ok := ecn.Of(p)
		if ecn.Set(p, cp) != ok {
			t.Fatalf("%x: Of is ok %v, Set is not", before, ok)
		}
		if !ok {
			if !bytes.Equal(p, before) {
				t.Fatalf("%x became %x", before, p)
			}
			return
		}
		if got, d, _ := ecn.Of(p); got != cp || d != dscp {
			t.Fatalf("%x set to %v: %v, DSCP %d", before, cp, got, d)
		}
		want := rewrite(before, cp)
		valid := p[0]>>4 == 6 || checksum(before[:int(p[0]&15)*4]) == binary.BigEndian.Uint16(before[10:])
		if valid && !bytes.Equal(p, want) {
			t.Fatalf("%x set to %v:\ngot  %x\nwant %x", before, cp, p, want)
		}
		ecn.Set(p, old)
		if valid && !bytes.Equal(p, before) {
			t.Fatalf("%x set and set back is %x", before, p)
		}
	})
}

func TestNoAllocations(t *testing.T) {
	p4 := make([]byte, 20)
	p4[0], p4[1] = 0x45, 2
	p6 := make([]byte, 40)
	p6[0], p6[1] = 0x60, 0x20
	var policy ecn.DSCPPolicy
	var sink uint8
	if n := testing.AllocsPerRun(100, func() {
		for _, p := range [][]byte{p4, p6} {
			cp, dscp, _ := ecn.Of(p)
			sink += ecn.TrafficClass(policy.Outer(dscp), ecn.Encapsulate(ecn.Normal, cp))
			ecn.SetClass(p, ecn.Uniform.Inner(dscp, 0x88, ecn.Decapsulate(cp, ecn.CE).Inner))
			ecn.Set(p, ecn.ECT0)
			ecn.MarkCE(p)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSet(b *testing.B) {
	p := make([]byte, 20)
	p[0] = 0x45
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		ecn.Set(p, ecn.Codepoint(i&3))
	}
}
