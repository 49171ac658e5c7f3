package attach

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"kiloport/tunnel/attach/accord"
)

// families are two ends that talk to each other, us first.
var families = []struct {
	name       string
	us, them   netip.AddrPort
	elsewhere  netip.AddrPort
	otherLocal netip.AddrPort
}{
	{
		"IPv4", netip.MustParseAddrPort("192.0.2.1:51820"), netip.MustParseAddrPort("198.51.100.9:51821"),
		netip.MustParseAddrPort("198.51.100.10:51821"), netip.MustParseAddrPort("192.0.2.2:51820"),
	},
	{
		"IPv6", netip.MustParseAddrPort("[2001:db8::1]:51820"), netip.MustParseAddrPort("[2001:db8:9::9]:51821"),
		netip.MustParseAddrPort("[2001:db8:9::10]:51821"), netip.MustParseAddrPort("[2001:db8::2]:51820"),
	},
}

const slot = 7

// probed puts an endpoint into a mode, after HELLO has told it our address.
func (r *rig) probed(us, them netip.AddrPort, s spreading) {
	r.Helper()
	s.slot = slot
	last := s.mode
	s.mode = accord.Probe
	r.do(r.kernel.setEndpoint(them, s))
	r.egress(datagram{from: us, to: them, payload: message(4, helloLength)}.bytes())
	s.mode = last
	r.do(r.kernel.setEndpoint(them, s))
	r.do(r.kernel.clearCounts(slot))
}

// helloLength is the size of the message that carries HELLO.
const helloLength = 448

func TestEgressSpreads(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t)
			r.probed(f.us, f.them, spreading{mode: accord.Spread, ports: ourRange.Count})
			for _, tos := range []uint8{0, 2, 1, 3} {
				for _, noSum := range []bool{false, true} {
					if noSum && f.us.Addr().Is6() {
						continue
					}
					in := datagram{from: f.us, to: f.them, tos: tos, noSum: noSum, payload: message(4, 1200+int(tos))}.bytes()
					v := r.egress(in)
					p := parse(t, v.packet)
					if v.action != actUnspecified || !ourRange.Contains(p.from.Port()) || p.to != f.them || p.from.Addr() != f.us.Addr() {
						t.Errorf("tos %d: action %d, %v to %v", tos, v.action, p.from, p.to)
					}
					if !p.sumsGood || p.noSum != noSum || p.tos != tos || (p.label != 0) != f.us.Addr().Is6() {
						t.Errorf("tos %d: sums good %v (none: %v), tos %d, flow label %#x", tos, p.sumsGood, p.noSum, p.tos, p.label)
					}
					if !bytes.Equal(in[len(in)-1200:], v.packet[len(in)-1200:]) {
						t.Error("the payload was changed")
					}
				}
			}
			c := r.counts(slot)
			if n := uint64(4); f.us.Addr().Is6() && (c.Spread != n || c.SentBytes != 4*1200+6 || c.Sent != [4]uint64{1, 1, 1, 1}) {
				t.Errorf("counted %+v", c)
			}
		})
	}
}

// TestEgressLeavesAlone: what is not data to an agreed peer from our port leaves as
// it came.
func TestEgressLeavesAlone(t *testing.T) {
	for _, f := range families {
		r := newRig(t)
		r.probed(f.us, f.them, spreading{mode: accord.Spread, ports: ourRange.Count})
		port := func(a netip.AddrPort, p uint16) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), p) }
		data := message(4, 1000)
		cases := map[string]datagram{
			"initiation":           {from: f.us, to: f.them, payload: message(1, 148)},
			"response":             {from: f.us, to: f.them, payload: message(2, 92)},
			"cookie":               {from: f.us, to: f.them, payload: message(3, 64)},
			"keepalive":            {from: f.us, to: f.them, payload: message(4, 32)},
			"reserved bytes":       {from: f.us, to: f.them, payload: append([]byte{4, 1, 0, 0}, data...)},
			"another source port":  {from: port(f.us, 51819), to: f.them, payload: data},
			"another port there":   {from: f.us, to: port(f.them, 9), payload: data},
			"another peer":         {from: f.us, to: f.elsewhere, payload: data},
			"our address moved":    {from: f.otherLocal, to: f.them, payload: data},
			"VLAN tag in the data": {from: f.us, to: f.them, payload: data, vlan: true},
			"too short":            {from: f.us, to: f.them, payload: []byte{4}},
			"TCP":                  {from: f.us, to: f.them, payload: data, protocol: 6},
		}
		if f.us.Addr().Is4() {
			cases["first fragment"] = datagram{from: f.us, to: f.them, payload: data, fragment: 0x2000}
			cases["later fragment"] = datagram{from: f.us, to: f.them, payload: data, fragment: 0x20}
			cases["IP options"] = datagram{from: f.us, to: f.them, payload: data, options: true}
		}
		for name, d := range cases {
			in := d.bytes()
			if v := r.egress(in); v.action != actUnspecified || !bytes.Equal(v.packet, in) {
				t.Errorf("%s, %s: action %d, changed: %v", f.name, name, v.action, !bytes.Equal(v.packet, in))
			}
		}
		if c := r.counts(slot); c.Spread != 0 {
			t.Errorf("%s: %d were spread", f.name, c.Spread)
		}
	}
}

func TestEgressProbesWithHelloAlone(t *testing.T) {
	for _, f := range families {
		r := newRig(t)
		ports := map[uint16]bool{}
		for _, mode := range []accord.Mode{accord.Plain, accord.Probe} {
			r.do(r.kernel.setEndpoint(f.them, spreading{slot: slot, mode: mode, ports: ourRange.Count}))
			data := datagram{from: f.us, to: f.them, payload: message(4, 1000)}.bytes()
			if v := r.egress(data); !bytes.Equal(v.packet, data) {
				t.Errorf("%s: data was spread in mode %d", f.name, mode)
			}
			for range 20 {
				hello := datagram{from: f.us, to: f.them, payload: message(4, helloLength)}.bytes()
				v := r.egress(hello)
				if mode == accord.Plain && !bytes.Equal(v.packet, hello) {
					t.Errorf("%s: HELLO was spread in mode %d", f.name, mode)
				}
				if p := parse(t, v.packet); p.sumsGood {
					ports[p.from.Port()] = true
				}
			}
		}
		if len(ports) < 15 {
			t.Errorf("%s: HELLO went from %d ports", f.name, len(ports))
		}
	}
}

// TestEgressHonoursTheNumberOfPorts counts on the hash of the outer flow, which is
// what there is without WireGuard: each destination port is a flow.
func TestEgressHonoursTheNumberOfPorts(t *testing.T) {
	us, them := families[1].us, families[1].them
	r := newRig(t)
	for _, n := range []uint16{1, 16, 8192} {
		seen, labels := map[uint16]bool{}, map[uint32]bool{}
		for i := range uint16(300) {
			to := netip.AddrPortFrom(them.Addr(), 1000+i)
			r.probed(us, to, spreading{mode: accord.Spread, ports: n})
			p := parse(t, r.egress(datagram{from: us, to: to, payload: message(4, 900)}.bytes()).packet)
			if off := p.from.Port() - ourRange.Low; off >= n {
				t.Fatalf("port %d of %d", off, n)
			}
			seen[p.from.Port()], labels[p.label] = true, true
		}
		if want := map[uint16]int{1: 1, 16: 16, 8192: 285}[n]; len(seen) < want || len(labels) < 295 {
			t.Errorf("300 flows in %d of %d ports, want %d at least, with %d labels", len(seen), n, want, len(labels))
		}
	}
}

func TestEgressTellsTheOrigin(t *testing.T) {
	for _, f := range families {
		r := newRig(t)
		r.probed(f.us, f.them, spreading{mode: accord.Spread, ports: ourRange.Count, origin: true})
		for _, tos := range []uint8{0, 1, 2} {
			p := parse(t, r.egress(datagram{from: f.us, to: f.them, tos: tos, payload: message(4, 1000)}.bytes()).packet)
			if odd := (p.from.Port()-ourRange.Low)&1 == 1; odd != (tos != 0) {
				t.Errorf("%s: ECN %d leaves from port %d", f.name, tos, p.from.Port())
			}
		}
	}
}

func TestEgressSetsDSCP(t *testing.T) {
	for _, f := range families {
		r := newRig(t)
		var table [64]uint8
		for i := range table {
			table[i] = 46
		}
		r.do(r.kernel.configure(deviceSettings{port: ourPort, sends: ourRange, dscp: &table}))
		for _, m := range []accord.Mode{accord.Plain, accord.Spread} {
			r.probed(f.us, f.them, spreading{mode: m, ports: ourRange.Count})
			p := parse(t, r.egress(datagram{from: f.us, to: f.them, tos: 2, payload: message(4, 1000)}.bytes()).packet)
			if p.tos != 46<<2|2 || !p.sumsGood || ourRange.Contains(p.from.Port()) != (m == accord.Spread) {
				t.Errorf("%s, mode %d: traffic class %#x, sums good: %v, from %v", f.name, m, p.tos, p.sumsGood, p.from)
			}
			handshake := datagram{from: f.us, to: f.them, tos: 0x88, payload: message(1, 148)}.bytes()
			if v := r.egress(handshake); !bytes.Equal(v.packet, handshake) {
				t.Errorf("%s: a handshake was changed", f.name)
			}
		}
	}
}

// TestEgressEndsWithItsProcess: a filter that nobody tells to go on leaves all as it
// is.
func TestEgressEndsWithItsProcess(t *testing.T) {
	for _, f := range families {
		r := newRig(t)
		up, err := thisHost.uptime()
		r.do(err)
		r.probed(f.us, f.them, spreading{mode: accord.Spread, ports: ourRange.Count})
		data := datagram{from: f.us, to: f.them, payload: message(4, 1000)}.bytes()
		for i, left := range []time.Duration{time.Minute, -time.Second} {
			r.do(r.kernel.spreadUntil(up + left))
			if spread := !bytes.Equal(r.egress(data).packet, data); spread != (i == 0) {
				t.Errorf("%s, %v from now: spread %v", f.name, left, spread)
			}
		}
		r.do(r.kernel.configure(deviceSettings{port: ourPort, sends: ourRange}))
		if v := r.egress(data); !bytes.Equal(v.packet, data) {
			t.Errorf("%s: settings that change let it go on", f.name)
		}
	}
}
