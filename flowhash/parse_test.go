package flowhash_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"kiloport/flowhash"
)

func parse(t *testing.T, packet []byte) flowhash.Flow {
	t.Helper()
	var f flowhash.Flow
	if err := flowhash.Parse(packet, &f); err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return f
}

func TestFlows(t *testing.T) {
	for _, c := range flowCases {
		t.Run(c.name, func(t *testing.T) {
			f := parse(t, c.packet)
			if got := f.Key.String(); got != c.want {
				t.Errorf("flow %q, want %q", got, c.want)
			}
			if f.Length != len(c.packet) {
				t.Errorf("length %d, want %d", f.Length, len(c.packet))
			}
		})
	}
}

// Cases with the same description are the same flow, all others differ.
func TestKeysAreEqualWhereFlowsAre(t *testing.T) {
	described := map[flowhash.Key]string{}
	keys := map[string]flowhash.Key{}
	for _, c := range flowCases {
		k := parse(t, c.packet).Key
		if s, ok := described[k]; ok && s != c.want {
			t.Errorf("%s: key is that of %q", c.name, s)
		}
		if other, ok := keys[c.want]; ok && other != k {
			t.Errorf("%s: another key than the same flow's before", c.name)
		}
		described[k], keys[c.want] = c.want, k
	}
}

// An IPv4 address and the IPv6 address of the same leading bytes stay apart.
func TestVersionsStayApart(t *testing.T) {
	a := parse(t, v4(17, ports)).Key
	b := parse(t, header6{next: 17, src: "a00:1::", dst: "a00:2::"}.packet(unhex(ports))).Key
	if a == b {
		t.Errorf("%v and %v have the same key", &a, &b)
	}
}

// An error, and the answer that the other end would have sent, travel together.
func TestErrorTravelsWithAnswers(t *testing.T) {
	answer := parse(t, header4{protocol: 6, src: "10.0.0.2", dst: "10.0.0.1"}.packet(unhex("c350 1f90"))).Key
	if got := parse(t, back4.packet(icmp(3, v4(6, ports)))).Key; got != answer {
		t.Errorf("error is in %v, want %v", &got, &answer)
	}
	reply := parse(t, header6{next: 58, src: "fd00::2", dst: "fd00::1"}.packet(unhex("8100 0000 1234 0001"))).Key
	if got := parse(t, back6.packet(icmp(3, v6(58, "8000 0000 1234 0001")))).Key; got != reply {
		t.Errorf("error is in %v, want %v", &got, &reply)
	}
}

func TestTreatment(t *testing.T) {
	for class := range 256 {
		for _, packet := range [][]byte{
			header4{tos: uint8(class), protocol: 6}.packet(unhex(ports)),
			header6{class: uint8(class), label: 0xfffff, next: 6}.packet(unhex(ports)),
			header6{class: uint8(class), next: 6}.packet(unhex(ports)),
		} {
			f := parse(t, packet)
			if int(f.DSCP) != class/4 || int(f.ECN) != class%4 || f.Version != packet[0]>>4 {
				t.Errorf("class %#x: got DSCP %d, ECN %d, version %d", class, f.DSCP, f.ECN, f.Version)
			}
		}
	}
}

func TestNoFlow(t *testing.T) {
	long4 := v4(6, ports)
	long4[3]++
	long6 := v6(6, ports)
	long6[5]++
	shorter := v4(6, ports)
	shorter[3] = 19
	for _, c := range []struct {
		name   string
		packet []byte
		want   error
	}{
		{"nil", nil, flowhash.ErrShort},
		{"empty", []byte{}, flowhash.ErrShort},
		{"one byte of IPv4", []byte{0x45}, flowhash.ErrShort},
		{"IPv4 header cut", v4(6, ports)[:19], flowhash.ErrShort},
		{"IPv6 header cut", v6(6, ports)[:39], flowhash.ErrShort},
		{"IPv4 options cut", header4{options: make([]byte, 40)}.packet(nil)[:59], flowhash.ErrShort},
		{"version 0", make([]byte, 60), flowhash.ErrVersion},
		{"version 5", []byte{0x55}, flowhash.ErrVersion},
		{"version 15", bytes.Repeat([]byte{0xf1}, 60), flowhash.ErrVersion},
		{"IPv4 header of 16 bytes", join([]byte{0x44}, v4(6, ports)[1:]), flowhash.ErrHeader},
		{"IPv4 header of 0 bytes", join([]byte{0x40}, v4(6, ports)[1:]), flowhash.ErrHeader},
		{"IPv4 total length below the header's", shorter, flowhash.ErrHeader},
		{"IPv4 packet cut", v4(6, ports)[:27], flowhash.ErrLength},
		{"IPv6 packet cut", v6(6, ports)[:47], flowhash.ErrLength},
		{"IPv4 total length too great", long4, flowhash.ErrLength},
		{"IPv6 payload length too great", long6, flowhash.ErrLength},
	} {
		f := flowhash.Flow{DSCP: 1, ECN: 1, Version: 9, Length: 9, Key: parse(t, v4(6, ports)).Key}
		if err := flowhash.Parse(c.packet, &f); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.want)
		}
		if f != (flowhash.Flow{}) {
			t.Errorf("%s: flow %+v left behind", c.name, f)
		}
	}
}

// Parse sets every field of a flow used before.
func TestReuse(t *testing.T) {
	f := parse(t, header6{class: 0xff, next: 44}.packet(unhex("1100 0001 ffffffff")))
	if err := flowhash.Parse(v4(89, ""), &f); err != nil {
		t.Fatal(err)
	}
	if fresh := parse(t, v4(89, "")); f != fresh {
		t.Errorf("reused %+v, fresh %+v", f, fresh)
	}
}

// What lies behind the packet's own length must not be read.
func TestTrailer(t *testing.T) {
	for _, packet := range [][]byte{v4(6, "1f90"), v6(6, "1f90"), v6(60, "0600 0104 0000")} {
		want := parse(t, packet)
		if got := parse(t, join(packet, unhex(ports+ports))); got != want {
			t.Errorf("with a trailer %v, without %v", &got.Key, &want.Key)
		}
	}
}

func TestZeroKey(t *testing.T) {
	var k flowhash.Key
	if k.String() != "no flow" || k.Source().IsValid() || k.Destination().IsValid() || k.Version() != 0 {
		t.Errorf("zero key: %v, version %d", &k, k.Version())
	}
}

// Every prefix of every packet, as it is and with its length made to match,
// gives what the oracle gives, and never a panic.
func TestTruncation(t *testing.T) {
	for _, packet := range corpus(t) {
		for n := range packet {
			if n > 400 {
				break
			}
			cut := bytes.Clone(packet[:n:n])
			compare(t, cut)
			switch {
			case n >= 20 && packet[0]>>4 == 4:
				cut[2], cut[3] = byte(n>>8), byte(n)
			case n >= 40 && packet[0]>>4 == 6:
				cut[4], cut[5] = byte((n-40)>>8), byte(n-40)
			}
			compare(t, cut)
		}
	}
}

// compare holds Parse, Source and Destination against the oracle.
func compare(t *testing.T, packet []byte) {
	t.Helper()
	var got flowhash.Flow
	err := flowhash.Parse(packet, &got)
	want, key, wantErr := oracle(packet)
	if err != wantErr {
		t.Fatalf("%x: error %v, oracle says %v", packet, err, wantErr)
	}
	if err != nil {
		return
	}
	if k := keyOf(&got.Key); k != key {
		t.Fatalf("%x: key %+v, oracle says %+v", packet, k, key)
	}
	got.Key = flowhash.Key{}
	if got != want {
		t.Fatalf("%x: flow %+v, oracle says %+v", packet, got, want)
	}
	src, ok := flowhash.Source(packet)
	dst, ok2 := flowhash.Destination(packet)
	hs, _ := headers(wire{packet})
	if !ok || !ok2 || src != hs[0].src || dst != hs[0].dst {
		t.Fatalf("%x: from %v to %v, oracle says from %v to %v", packet, src, dst, hs[0].src, hs[0].dst)
	}
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		name     string
		packet   []byte
		src, dst string // empty for none
	}{
		{"IPv4", v4(6, ports), "10.0.0.1", "10.0.0.2"},
		{"IPv4 header only", v4(6, ports)[:20], "10.0.0.1", "10.0.0.2"},
		{"IPv4 cut", v4(6, ports)[:19], "", ""},
		{"IPv6", v6(6, ports), "fd00::1", "fd00::2"},
		{"IPv6 header only", v6(6, ports)[:40], "fd00::1", "fd00::2"},
		{"IPv6 cut", v6(6, ports)[:39], "", ""},
		{"IPv4-mapped stays IPv6", header6{src: "::ffff:1.2.3.4", dst: "::ffff:5.6.7.8"}.packet(nil), "::ffff:1.2.3.4", "::ffff:5.6.7.8"},
		{"version 5", bytes.Repeat([]byte{0x55}, 60), "", ""},
		{"empty", nil, "", ""},
	} {
		for _, side := range []struct {
			name string
			of   func([]byte) (netip.Addr, bool)
			want string
		}{
			{"source", flowhash.Source, c.src},
			{"destination", flowhash.Destination, c.dst},
		} {
			got, ok := side.of(c.packet)
			if ok != (side.want != "") || ok && got.String() != side.want || !ok && got.IsValid() {
				t.Errorf("%s: %s %v, %v, want %q", c.name, side.name, got, ok, side.want)
			}
		}
	}
}

// golden is one line of testdata/golden.txt.
type golden struct {
	line, name, want string
	packet           []byte
}

func goldens(t testing.TB) []golden {
	file, err := os.Open("testdata/golden.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var list []golden
	for s := bufio.NewScanner(file); s.Scan(); {
		if s.Text() == "" || s.Text()[0] == '#' {
			continue
		}
		part := strings.Split(s.Text(), " | ")
		if len(part) != 3 {
			t.Fatalf("golden line %q: want name | flow | packet", s.Text())
		}
		digits, zeros, _ := strings.Cut(part[2], "+")
		n, _ := strconv.Atoi(zeros)
		list = append(list, golden{s.Text(), part[0], part[1], join(unhex(digits), make([]byte, n))})
	}
	if len(list) < 20 {
		t.Fatalf("only %d golden packets", len(list))
	}
	return list
}

func TestGolden(t *testing.T) {
	for _, g := range goldens(t) {
		f := parse(t, g.packet)
		if got := fmt.Sprintf("%v, length %d, dscp %d, ecn %d", &f.Key, f.Length, f.DSCP, f.ECN); got != g.want {
			t.Errorf("%s: got  %s\nwant %s", g.name, got, g.want)
		}
	}
}

// corpus is every packet of this package's tests.
func corpus(t testing.TB) [][]byte {
	var list [][]byte
	for _, c := range flowCases {
		list = append(list, c.packet)
	}
	for _, g := range goldens(t) {
		list = append(list, g.packet)
	}
	return list
}

func TestOracleAgrees(t *testing.T) {
	for _, packet := range corpus(t) {
		compare(t, packet)
	}
}

func FuzzParse(f *testing.F) {
	for _, packet := range corpus(f) {
		f.Add(packet)
	}
	f.Fuzz(compare)
}

func TestParseDoesNotAllocate(t *testing.T) {
	packets := corpus(t)
	packets = append(packets, nil, []byte{0x45}, []byte{0x55}, v4(6, ports)[:27])
	var f flowhash.Flow
	h := flowhash.NewHasher([16]byte{1})
	var sink uint64
	if n := testing.AllocsPerRun(100, func() {
		for _, p := range packets {
			_ = flowhash.Parse(p, &f)
			sink += h.Hash(&f.Key)
			if a, ok := flowhash.Source(p); ok && a.Is4() {
				sink++
			}
			if a, ok := flowhash.Destination(p); ok && a.Is4() {
				sink++
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations for %d packets", n, len(packets))
	}
}

func BenchmarkParse(b *testing.B) {
	for _, c := range []struct {
		name   string
		packet []byte
	}{
		{"tcp4", v4(6, ports)},
		{"tcp6", v6(6, ports)},
		{"icmp4-error", back4.packet(icmp(3, v4(6, ports)))},
		{"8-extensions", v6(60, strings.Repeat("3c00 0104 00000000", 7)+"0600 0104 00000000"+ports)},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			var f flowhash.Flow
			for b.Loop() {
				if err := flowhash.Parse(c.packet, &f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
