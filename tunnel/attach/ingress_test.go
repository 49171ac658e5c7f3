package attach

import (
	"bytes"
	"net/netip"
	"testing"

	"kiloport/tunnel/attach/accord"
)

func TestIngressRestores(t *testing.T) {
	for _, f := range families {
		r := newRig(t)
		r.source(f.them, theirRange, false)
		for _, tos := range []uint8{0, 2, 3} {
			for _, noSum := range []bool{false, true} {
				if noSum && f.us.Addr().Is6() {
					continue
				}
				from := netip.AddrPortFrom(f.them.Addr(), theirRange.Low+77)
				in := datagram{from: from, to: f.us, tos: tos, noSum: noSum, payload: message(4, 1300)}.bytes()
				want := datagram{from: f.them, to: f.us, tos: tos, noSum: noSum, payload: message(4, 1300)}.bytes()
				if v := r.ingress(in); v.action != actUnspecified || !bytes.Equal(v.packet, want) {
					t.Errorf("%s: action %d, %+v", f.name, v.action, parse(t, v.packet))
				}
			}
		}
		if c := r.counts(slot); c.Restored < 3 || c.Restored != c.Received[0]+c.Received[2]+c.Received[3] || c.ReceivedBytes != 1300*c.Restored {
			t.Errorf("%s: counted %+v", f.name, c)
		}
	}
}

func TestIngressLeavesAlone(t *testing.T) {
	for _, f := range families {
		r := newRig(t)
		r.source(f.them, theirRange, false)
		port := func(a netip.AddrPort, p uint16) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), p) }
		spread := port(f.them, theirRange.Low)
		data := message(4, 1000)
		cases := map[string]datagram{
			"canonical":             {from: f.them, to: f.us, payload: data},
			"initiation":            {from: spread, to: f.us, payload: message(1, 148)},
			"response":              {from: spread, to: f.us, payload: message(2, 92)},
			"cookie":                {from: spread, to: f.us, payload: message(3, 64)},
			"below the range":       {from: port(f.them, theirRange.Low-1), to: f.us, payload: data},
			"above the range":       {from: port(f.them, theirRange.High()+1), to: f.us, payload: data},
			"another address":       {from: port(f.elsewhere, theirRange.Low), to: f.us, payload: data},
			"to another port of us": {from: spread, to: port(f.us, 51819), payload: data},
			"stranger to our range": {from: port(f.elsewhere, 1), to: port(f.us, ourRange.Low), payload: data},
			"DNS answer":            {from: port(f.them, 53), to: port(f.us, ourRange.Low+5), payload: data},
			"VLAN tag in the data":  {from: spread, to: f.us, payload: data, vlan: true},
			"frame to another":      {from: spread, to: f.us, payload: data, otherHost: true},
			"too short":             {from: spread, to: f.us, payload: []byte{4}},
			"TCP":                   {from: spread, to: f.us, payload: data, protocol: 6},
		}
		if f.us.Addr().Is4() {
			cases["first fragment"] = datagram{from: spread, to: f.us, payload: data, fragment: 0x2000}
			cases["IP options"] = datagram{from: spread, to: f.us, payload: data, options: true}
		}
		for name, d := range cases {
			in := d.bytes()
			if v := r.ingress(in); v.action != actUnspecified || !bytes.Equal(v.packet, in) {
				t.Errorf("%s, %s: action %d, changed: %v", f.name, name, v.action, !bytes.Equal(v.packet, in))
			}
		}
		if c := r.counts(slot); c.Restored != 0 || c.Received[0] != 6 || c.Strange != 5 {
			t.Errorf("%s: counted %+v, want what is canonical and 5 others", f.name, c)
		}
	}
}

// TestIngressTellsPeersApart: several peers at one address, by their ports, and of
// what is nobody's the first is told.
func TestIngressTellsPeersApart(t *testing.T) {
	for _, f := range families {
		r := newRig(t)
		var peers []restoring
		for i := range uint16(peersAtAddress) {
			peers = append(peers, restoring{slot: uint32(i), port: 1000 + i, sends: accord.Range{Low: 30000 + 100*i, Count: 100}})
		}
		r.do(r.kernel.setSource(f.them.Addr(), peers))
		for i, p := range peers {
			for _, from := range []uint16{p.port, p.sends.Low, p.sends.High()} {
				in := datagram{from: netip.AddrPortFrom(f.them.Addr(), from), to: f.us, payload: message(4, 200)}.bytes()
				if got := parse(t, r.ingress(in).packet).from.Port(); got != p.port {
					t.Errorf("%s: what peer %d sends from port %d is from %d, want %d", f.name, i, from, got, p.port)
				}
			}
			if c := r.counts(p.slot); c.Restored < 2 || c.Received[0] < 3 || c.Received[0] > c.Restored+c.Restored/2 || c.Strange != 0 {
				t.Errorf("%s: of peer %d counted %+v", f.name, i, c)
			}
		}
		in := datagram{from: netip.AddrPortFrom(f.them.Addr(), 29999), to: f.us, payload: message(4, 200)}.bytes()
		if v := r.ingress(in); !bytes.Equal(v.packet, in) || r.counts(0).Strange == 0 {
			t.Errorf("%s: from a port of nobody's: changed %v, counted %+v", f.name, !bytes.Equal(v.packet, in), r.counts(0))
		}
	}
}

// TestIngressReturns: what a peer sends to a port of ours, because it was not told
// in time, still gets to WireGuard.
func TestIngressReturns(t *testing.T) {
	for _, f := range families {
		r := newRig(t)
		r.source(f.them, theirRange, false)
		ours := netip.AddrPortFrom(f.us.Addr(), ourRange.Low+9)
		for _, from := range []uint16{f.them.Port(), theirRange.Low + 3} {
			in := datagram{from: netip.AddrPortFrom(f.them.Addr(), from), to: ours, payload: message(4, 1000)}.bytes()
			want := datagram{from: f.them, to: f.us, payload: message(4, 1000)}.bytes()
			if v := r.ingress(in); !bytes.Equal(v.packet, want) {
				t.Errorf("%s from port %d: %+v", f.name, from, parse(t, v.packet))
			}
		}
		if c := r.counts(slot); c.Returned != 2 || c.Restored != 1 {
			t.Errorf("%s: counted %+v", f.name, c)
		}
	}
}

// TestIngressDropsMarksOfWhatBearsNone is RFC 6040's drop of Not-ECT inside CE,
// by what the peer has written into the port.
func TestIngressDropsMarksOfWhatBearsNone(t *testing.T) {
	for _, f := range families {
		r := newRig(t)
		for _, origin := range []bool{true, false} {
			r.source(f.them, theirRange, origin)
			for lane := range uint16(2) {
				for tos := range uint8(4) {
					from := netip.AddrPortFrom(f.them.Addr(), theirRange.Low+lane)
					v := r.ingress(datagram{from: from, to: f.us, tos: tos, payload: message(4, 1000)}.bytes())
					if want := origin && tos == 3 && lane == 0; (v.action == actShot) != want {
						t.Errorf("%s, port %d, ECN %d, told: %v: action %d", f.name, lane, tos, origin, v.action)
					}
				}
			}
		}
		if c := r.counts(slot); c.CeDropped != 1 {
			t.Errorf("%s: counted %+v", f.name, c)
		}
	}
}
