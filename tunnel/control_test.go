package tunnel

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kiloport/queue"
)

type controlVector struct {
	name string
	kind controlType
	body interface{ append([]byte) []byte }
	hex  string
}

// The wire format is fixed by these vectors: a released peer must read them.
var controlVectors = []controlVector{
	{"hello", controlHello, &hello{Version: 1, SendLanes: 1024, ReceiveLanes: 16384, ECN: 1, DSCP: 1, AEADs: 1, Path: 1},
		"f101" + "0019" + "010101" + "02020400" + "03024000" + "040101" + "050101" + "06020001" + "07020001"},
	{"hello with a rate", controlHello, &hello{Version: 1, ReceiveRate: 20_000_000, ReceiveOverhead: queue.Overhead{Bytes: -4, MPU: 84, Cells: queue.PTM}},
		"f101" + "0028" + "010101" + "02020000" + "03020000" + "040100" + "050100" + "06020000" + "07020000" + "080d" + "0000000001312d00" + "fffc" + "0054" + "02"},
	{"hello ack", controlHelloAck, &hello{Version: 2},
		"f102" + "0019" + "010102" + "02020000" + "03020000" + "040100" + "050100" + "06020000" + "07020000"},
	{"probe", controlProbe, &probe{ID: 0x0102030405060708, Sent: 0x1112131415161718},
		"f103" + "0010" + "0102030405060708" + "1112131415161718"},
	{"probe echo over ipv6", controlProbeEcho, &probeEcho{probe: probe{ID: 1, Sent: 2}, Lane: 0x0304, Size: 0x0506,
		TrafficClass: 7, HopLimit: 8, Arrived: 9, Source: netip.MustParseAddrPort("[2001:db8::1]:51820")},
		"f104" + "0030" + "0000000000000001" + "0000000000000002" + "0304" + "0506" + "07" + "08" + "0000000000000009" +
			"20010db8000000000000000000000001" + "ca6c"},
	{"probe echo over ipv4", controlProbeEcho, &probeEcho{Source: netip.MustParseAddrPort("192.0.2.1:1")},
		"f104" + "0030" + "0000000000000000" + "0000000000000000" + "0000" + "0000" + "00" + "00" + "0000000000000000" +
			"00000000000000000000ffffc0000201" + "0001"},
	{"heard", controlHeard, &heardList{Number: 7, Largest: 1452, Lanes: []byte{0x80, 0x41}},
		"f106" + "0008" + "00000007" + "05ac" + "8041"},
	{"open", controlOpen, &openList{Lanes: []uint16{1, 1024}, Ports: []uint16{0, 40000}},
		"f107" + "0008" + "00010000" + "04009c40"},
	{"opened", controlOpened, &openList{Lanes: []uint16{3}, Ports: []uint16{51820}},
		"f108" + "0004" + "0003ca6c"},
}

func TestControlVectors(t *testing.T) {
	for _, v := range controlVectors {
		t.Run(v.name, func(t *testing.T) {
			payload := appendControl(nil, v.kind, v.body)
			if got := hex.EncodeToString(payload); got != v.hex {
				t.Fatalf("appended\n%s, want\n%s", got, v.hex)
			}
			padded := append(payload[1:len(payload):len(payload)], make([]byte, 15)...)
			kind, body, rest, err := nextControl(padded)
			if err != nil || kind != v.kind {
				t.Fatalf("read type %d, error %v", kind, err)
			}
			if got := parseAny(t, kind, body); !cmp.Equal(got, v.body, cmpopts.EquateComparable(netip.AddrPort{}), cmp.AllowUnexported(probeEcho{})) {
				t.Errorf("read %+v, want %+v", got, v.body)
			}
			if kind, _, _, err := nextControl(rest); kind != controlEnd || err != nil {
				t.Errorf("padding read as type %d, error %v", kind, err)
			}
		})
	}
}

func parseAny(t *testing.T, kind controlType, body []byte) any {
	t.Helper()
	var got any
	var err error
	switch kind {
	case controlHello, controlHelloAck:
		var h hello
		h, err = parseHello(body)
		got = &h
	case controlProbe:
		var p probe
		p, err = parseProbe(body)
		got = &p
	case controlProbeEcho:
		var e probeEcho
		e, err = parseProbeEcho(body)
		got = &e
	case controlReport:
		var r report
		r, err = parseReport(body)
		got = &r
	case controlHeard:
		var l heardList
		l, err = parseHeard(body)
		got = &l
	case controlOpen, controlOpened:
		var l openList
		l, err = parseOpen(body)
		got = &l
	}
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestControlSkipsTheUnknown(t *testing.T) {
	payload := []byte{controlMagic, 77, 0, 2, 1, 2} // a later version's message
	payload = appendControl(payload, controlProbe, &probe{ID: 5})
	kind, _, rest, err := nextControl(payload[1:])
	if kind != 77 || err != nil {
		t.Fatalf("read type %d, error %v", kind, err)
	}
	if kind, _, _, err = nextControl(rest); kind != controlProbe || err != nil {
		t.Fatalf("after an unknown message read type %d, error %v", kind, err)
	}
	// Unknown fields, and known ones of another width.
	h, err := parseHello([]byte{99, 3, 1, 2, 3, helloFieldSendLanes, 4, 0, 0, 0, 9, helloFieldVersion, 1, 1, helloFieldReceiveLanes, 2, 0, 7})
	if want := (hello{Version: 1, ReceiveLanes: 7}); err != nil || h != want {
		t.Errorf("parseHello = %+v, %v; want %+v", h, err, want)
	}
}

func TestControlRefusesTheMalformed(t *testing.T) {
	for _, list := range [][]byte{{1}, {1, 0}, {1, 0, 1}, {1, 255, 255, 0}} {
		if _, _, _, err := nextControl(list); err == nil {
			t.Errorf("nextControl(%x) succeeded", list)
		}
	}
	for _, body := range [][]byte{{}, {helloFieldVersion}, {helloFieldVersion, 1}, {helloFieldVersion, 1, 0}, {9, 200, 1}} {
		if h, err := parseHello(body); err == nil {
			t.Errorf("parseHello(%x) = %+v", body, h)
		}
	}
	for _, body := range [][]byte{{}, {1, 2, 3, 4, 5}, make([]byte, heardHeader+heardMaxBytes+1)} {
		if l, err := parseHeard(body); err == nil {
			t.Errorf("parseHeard of %d bytes = %+v", len(body), l)
		}
	}
	for _, body := range [][]byte{{1}, {1, 2, 3, 4, 5}, make([]byte, (openMost+1)*openEntry)} {
		if l, err := parseOpen(body); err == nil {
			t.Errorf("parseOpen of %d bytes = %+v", len(body), l)
		}
	}
	for n := range probeEchoLen {
		if _, err := parseProbeEcho(make([]byte, n)); err == nil {
			t.Errorf("a probe echo of %d bytes was read", n)
		}
		if _, err := parseProbe(make([]byte, n)); err == nil != (n >= probeLen) {
			t.Errorf("a probe of %d bytes: %v", n, err)
		}
	}
}

// FuzzControl reads any payload to its end, and what it can read must read the
// same after being written again.
func FuzzControl(f *testing.F) {
	for _, v := range controlVectors {
		f.Add(appendControl(nil, v.kind, v.body)[1:])
	}
	f.Fuzz(func(t *testing.T, list []byte) {
		if len(list) > maxDatagram {
			return
		}
		for {
			kind, body, rest, err := nextControl(list)
			if err != nil || kind == controlEnd {
				return
			}
			if len(rest) >= len(list) {
				t.Fatal("no progress")
			}
			rewrite(t, kind, body)
			list = rest
		}
	})
}

func rewrite(t *testing.T, kind controlType, body []byte) {
	switch kind {
	case controlHello, controlHelloAck:
		if h, err := parseHello(body); err == nil {
			if again, err := parseHello(h.append(nil)); err != nil || again != h {
				t.Fatalf("%+v became %+v, %v", h, again, err)
			}
		}
	case controlProbe:
		if p, err := parseProbe(body); err == nil && !bytes.Equal(p.append(nil), body[:probeLen]) {
			t.Fatalf("%+v written differs from %x", p, body)
		}
	case controlProbeEcho:
		if e, err := parseProbeEcho(body); err == nil {
			if again, err := parseProbeEcho(e.append(nil)); err != nil || again != e {
				t.Fatalf("%+v became %+v, %v", e, again, err)
			}
		}
	case controlReport:
		if r, err := parseReport(body); err == nil {
			if again, err := parseReport(r.append(nil)); err != nil || !cmp.Equal(again, r) {
				t.Fatalf("%+v became %+v, %v", r, again, err)
			}
		}
	case controlHeard:
		if l, err := parseHeard(body); err == nil && !bytes.Equal(l.append(nil), body) {
			t.Fatalf("%+v written differs from %x", l, body)
		}
	case controlOpen, controlOpened:
		if l, err := parseOpen(body); err == nil && !bytes.Equal(l.append(nil), body) {
			t.Fatalf("%+v written differs from %x", l, body)
		}
	}
}
