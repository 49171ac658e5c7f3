package tun_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/tuntest"
)

// recorder is a queue that keeps what is written.
type recorder struct {
	writes []written
	err    error
}

type written struct {
	header tun.Header
	packet []byte
}

func (r *recorder) Read([]byte) (tun.Header, int, error)    { return tun.Header{}, 0, nil }
func (r *recorder) TryRead([]byte) (tun.Header, int, error) { return tun.Header{}, 0, nil }
func (r *recorder) Await(time.Duration) error               { return nil }
func (r *recorder) Doze(time.Duration) error                { return nil }
func (r *recorder) Write(h tun.Header, buf []byte, more [][]byte) error {
	if r.err != nil {
		return r.err
	}
	for i := range tun.Headroom {
		buf[i] = 0xdb
	}
	r.writes = append(r.writes, written{h, slices.Concat(append([][]byte{buf[tun.Headroom:]}, more...)...)})
	return nil
}

// wire gives the packets that the host sees on its side of the device.
func (r *recorder) wire(t *testing.T) (packets [][]byte) {
	t.Helper()
	for _, w := range r.writes {
		p, err := tuntest.Segment(w.header, w.packet)
		if err != nil {
			t.Fatalf("the host refuses: %v", err)
		}
		packets = append(packets, p...)
	}
	return packets
}

// inbound is a packet as it comes from the tunnel.
type inbound struct {
	packet  []byte // complete
	vouched bool
}

// coalesce gives packets to a Coalescer in one burst.
func coalesce(t *testing.T, o tun.Offloads, packets []inbound) *recorder {
	t.Helper()
	r := new(recorder)
	c := tun.NewCoalescer(r, o)
	for _, p := range packets {
		b := room(p.packet)
		if transport, field := checksumField(p.packet); p.vouched && transport > 0 {
			b[tun.Headroom+field], b[tun.Headroom+field+1] = 0, 0
		}
		c.Add(b, p.vouched)
	}
	if n, err := c.Flush(); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if s := c.Stats(); s.Packets != uint64(len(packets)) || s.Writes != uint64(len(r.writes)) {
		t.Errorf("%+v of %d packets in %d writes", s, len(packets), len(r.writes))
	}
	return r
}

// checksumField is where the transport header and its checksum are in a packet
// with neither options nor extensions, which is no fragment, and whose lengths
// are right; 0 in others.
func checksumField(p []byte) (transport, field int) {
	protocol := byte(0)
	switch {
	case len(p) >= 20 && p[0] == 0x45 && p[6]&0x3f == 0 && p[7] == 0 && int(binary.BigEndian.Uint16(p[2:])) == len(p):
		transport, protocol = 20, p[9]
	case len(p) >= 40 && p[0]>>4 == 6 && int(binary.BigEndian.Uint16(p[4:])) == len(p)-40:
		transport, protocol = 40, p[6]
	}
	switch {
	case protocol == 6 && len(p) >= transport+20 && p[transport+12] >= 0x50 && transport+int(p[transport+12]>>4)*4 <= len(p):
		return transport, transport + 16
	case protocol == 17 && len(p) >= transport+8 && int(binary.BigEndian.Uint16(p[transport+4:])) == len(p)-transport:
		return transport, transport + 6
	}
	return 0, 0
}

// group is what an oracle would write at once.
type group struct {
	packets [][]byte
	open    bool
}

// groups is an oracle for what is joined: a packet joins the newest group of
// its flow when the whole, cut again, is the same to the byte, and when GRO has
// nothing against it.
func groups(o tun.Offloads, packets []inbound) (all []*group) {
	newest := map[string]*group{}
	for _, in := range packets {
		p := in.packet
		transport, field := checksumField(p)
		if transport == 0 {
			all = append(all, &group{packets: [][]byte{p}})
			if p[0]>>4 == 4 && (p[6]&0x3f != 0 || p[7] != 0) || p[0]>>4 == 6 && p[6] == 44 {
				clear(newest)
			}
			continue
		}
		flow := flowOf(p)
		g := newest[flow]
		udp := field == transport+6
		able := o.Has(tun.OffloadChecksum) && (udp && o.Has(tun.OffloadUSO) || !udp && o.Has(tun.OffloadTSO))
		if g != nil && g.open && able && joined(append(slices.Clone(g.packets), p)) {
			g.packets = append(g.packets, p)
			continue
		}
		if g != nil {
			g.open = false
		}
		g = &group{packets: [][]byte{p}, open: true}
		newest[flow] = g
		all = append(all, g)
	}
	return all
}

// joined says whether packets can be one super-packet.
func joined(packets [][]byte) bool {
	transport, field := checksumField(packets[0])
	udp := field == transport+6
	headers := transport + 8
	if !udp {
		headers = transport + int(packets[0][transport+12]>>4)*4
	}
	whole := bytes.Clone(packets[0])
	for i, p := range packets {
		switch {
		case !udp && p[transport+13]&^(0x08|0x40) != 0x10, len(p) <= headers:
			return false
		case udp && p[field] == 0 && p[field+1] == 0:
			return false
		}
		if i > 0 {
			whole = append(whole, p[headers:]...)
		}
	}
	if len(whole) > tun.MaxPacket || len(packets) > 1+tun.MaxPieces {
		return false
	}
	h := tun.Header{GSO: tun.GSOUDP, SegmentSize: uint16(len(packets[0]) - headers)}
	if !udp {
		h.GSO = map[byte]tun.GSOType{4: tun.GSOTCP4, 6: tun.GSOTCP6}[whole[0]>>4]
		whole[transport+13] |= packets[len(packets)-1][transport+13] & 8
	}
	again, err := tuntest.Segment(h, whole)
	return err == nil && slices.EqualFunc(again, packets, bytes.Equal) ||
		err == nil && fixedID(packets) && slices.EqualFunc(withoutID(again), withoutID(packets), bytes.Equal)
}

// fixedID says whether all packets have DF and the same ID.
func fixedID(packets [][]byte) bool {
	for _, p := range packets {
		if p[0]>>4 != 4 || p[6]&0x40 == 0 || !bytes.Equal(p[4:6], packets[0][4:6]) || ^tuntest.Sum(p[:20]) != 0 {
			return false
		}
	}
	return true
}

// withoutID gives the packets with the IPv4 ID 0.
func withoutID(packets [][]byte) (out [][]byte) {
	for _, p := range packets {
		if p = bytes.Clone(p); p[0]>>4 == 4 {
			p[4], p[5], p[10], p[11] = 0, 0, 0, 0
		}
		out = append(out, p)
	}
	return out
}

// check compares with the oracle, group by group.
func check(t *testing.T, o tun.Offloads, packets []inbound) *recorder {
	t.Helper()
	r := coalesce(t, o, packets)
	number := 0
	for i, g := range groups(o, packets) {
		if i >= len(r.writes) {
			t.Fatalf("%d writes, there should be more", len(r.writes))
		}
		w := r.writes[i]
		got, err := tuntest.Segment(w.header, w.packet)
		if err != nil {
			t.Fatalf("write %d: the host refuses: %v", i, err)
		}
		if len(got) != len(g.packets) {
			t.Fatalf("write %d has %d packets, want %d: %v %x", i, len(got), len(g.packets), w.header, w.packet[:min(len(w.packet), 60)])
		}
		if len(got) > 1 && fixedID(g.packets) {
			got, g.packets = withoutID(got), withoutID(g.packets)
		}
		equal(t, fmt.Sprintf("write %d", i), got, g.packets)
		number += len(got)
	}
	if number != len(packets) || len(r.writes) != len(groups(o, packets)) {
		t.Fatalf("%d packets went in, %d came out in %d writes", len(packets), number, len(r.writes))
	}
	return r
}

// stream cuts a payload into packets of one flow.
func stream(in tuntest.Inner, size int) (packets []inbound) {
	payload := in.Payload
	for at := 0; at < len(payload); at += size {
		in.Payload = payload[at:min(at+size, len(payload))]
		packets = append(packets, inbound{packet: in.Packet()})
		in.Seq += uint32(len(in.Payload))
		in.ID++
	}
	return packets
}

func TestCoalesceStreams(t *testing.T) {
	for _, size := range []int{100, 1228, 1368, 1448, 8948} {
		for _, length := range []int{1, size, size + 1, 2 * size, 10*size - 1, 64000, 200000} {
			for name, in := range inners(noise(length)) {
				if in.Between != nil || in.Flags > 0x18 {
					continue
				}
				in.Flags = 0
				packets := stream(in, size)
				for _, vouched := range []bool{false, true} {
					for i := range packets {
						packets[i].vouched = vouched
					}
					var r *recorder
					if len(packets) <= 50 {
						r = check(t, tun.OffloadAll, packets)
					} else { // the oracle takes for ever
						r = coalesce(t, tun.OffloadAll, packets)
						inOrder(t, r.wire(t), packets)
					}
					perWrite := min((65535-72)/size, tun.MaxPieces+1)
					if most := len(packets)/perWrite + 1; len(r.writes) > most+len(packets)/1000 {
						t.Errorf("%s: %d packets of %d in %d writes, want %d", name, len(packets), size, len(r.writes), most)
					}
				}
			}
		}
	}
}

// What is joined to what, by what is different in the second packet of three.
func TestCoalesceRules(t *testing.T) {
	type change func(*tuntest.Inner)
	third := noise(300)
	base := map[string]tuntest.Inner{
		"tcp4": {From: from4, To: to4, DF: true, Seq: 1000, Ack: 5, Window: 9, Options: timestamps, Payload: third},
		"tcp6": {From: from6, To: to6, Seq: 1000, Ack: 5, Window: 9, Options: timestamps, Payload: third},
		"udp4": {From: from4, To: to4, UDP: true, Payload: third},
		"udp6": {From: from6, To: to6, UDP: true, Payload: third},
	}
	all := "tcp4 tcp6 udp4 udp6"
	for _, c := range []struct {
		what   string
		kinds  string
		change change
		writes int // of three packets
	}{
		{"nothing", all, func(*tuntest.Inner) {}, 1},
		{"port", all, func(in *tuntest.Inner) { in.To = netip.AddrPortFrom(in.To.Addr(), 9) }, 2},
		{"address", all, func(in *tuntest.Inner) { in.From = netip.AddrPortFrom(in.From.Addr().Next(), in.From.Port()) }, 2},
		{"CE", all, func(in *tuntest.Inner) { in.Class = 3 }, 3},
		{"DSCP", all, func(in *tuntest.Inner) { in.Class = 0xb8 }, 3},
		{"TTL", all, func(in *tuntest.Inner) { in.TTL = 63 }, 3},
		{"flow label", "tcp6 udp6", func(in *tuntest.Inner) { in.Label = 1 }, 3},
		{"DF", "tcp4 udp4", func(in *tuntest.Inner) { in.DF = !in.DF }, 3},
		{"ID", "tcp4 udp4", func(in *tuntest.Inner) { in.ID += 100 }, 3},
		{"longer", "tcp4 tcp6", func(in *tuntest.Inner) { in.Payload = noise(301) }, 3},
		{"longer, and what is shorter ends it", "udp4 udp6", func(in *tuntest.Inner) { in.Payload = noise(301) }, 2},
		{"shorter, so that it ends", "udp4 udp6", func(in *tuntest.Inner) { in.Payload = noise(299) }, 2},
		{"shorter, so that a gap follows", "tcp4 tcp6", func(in *tuntest.Inner) { in.Payload = noise(299) }, 2},
		{"empty", all, func(in *tuntest.Inner) { in.Payload = nil }, 3},
		{"gap", "tcp4 tcp6", func(in *tuntest.Inner) { in.Seq++ }, 3},
		{"repeated", "tcp4 tcp6", func(in *tuntest.Inner) { in.Seq -= 300 }, 3},
		{"PSH", "tcp4 tcp6", func(in *tuntest.Inner) { in.Flags = 0x18 }, 2},
		{"ECE", "tcp4 tcp6", func(in *tuntest.Inner) { in.Flags = 0x50 }, 3},
		{"CWR", "tcp4 tcp6", func(in *tuntest.Inner) { in.Flags = 0x90 }, 3},
		{"FIN", "tcp4 tcp6", func(in *tuntest.Inner) { in.Flags = 0x11 }, 3},
		{"SYN", "tcp4 tcp6", func(in *tuntest.Inner) { in.Flags = 0x12 }, 3},
		{"RST", "tcp4 tcp6", func(in *tuntest.Inner) { in.Flags = 0x14 }, 3},
		{"URG", "tcp4 tcp6", func(in *tuntest.Inner) { in.Flags = 0x30 }, 3},
		{"no ACK", "tcp4 tcp6", func(in *tuntest.Inner) { in.Flags = 0x08 }, 3},
		{"acknowledgement", "tcp4 tcp6", func(in *tuntest.Inner) { in.Ack++ }, 3},
		{"window", "tcp4 tcp6", func(in *tuntest.Inner) { in.Window++ }, 3},
		{"an option", "tcp4 tcp6", func(in *tuntest.Inner) {
			in.Options = bytes.Clone(in.Options)
			in.Options[11]++
		}, 3},
		{"fewer options", "tcp4 tcp6", func(in *tuntest.Inner) { in.Options = nil }, 3},
	} {
		for kind, in := range base {
			if !bytes.Contains([]byte(c.kinds), []byte(kind)) {
				continue
			}
			packets := []inbound{{packet: in.Packet()}}
			in.Seq, in.ID = in.Seq+300, in.ID+1
			second := in
			c.change(&second)
			packets = append(packets, inbound{packet: second.Packet()})
			if len(second.Payload) > 0 && second.To == in.To && second.From == in.From {
				in.Seq, in.ID = in.Seq+300, in.ID+1 // else the third comes after the first
			}
			packets = append(packets, inbound{packet: in.Packet()})
			if r := check(t, tun.OffloadAll, packets); len(r.writes) != c.writes {
				t.Errorf("%s, %s: %d writes, want %d", kind, c.what, len(r.writes), c.writes)
			}
		}
	}
}

// What a segment is not to repeat is not joined, though all packets have it.
func TestCoalesceFlagsOfAll(t *testing.T) {
	for flags, want := range map[uint8]int{0x10: 1, 0x50: 1, 0x90: 3, 0x11: 3, 0x12: 3, 0x14: 3, 0x30: 3, 0x18: 3, 0x40: 3} {
		for _, in := range []tuntest.Inner{{From: from4, To: to4}, {From: from6, To: to6}} {
			in.Flags, in.Payload = flags, noise(300)
			if r := check(t, tun.OffloadAll, stream(in, 100)); len(r.writes) != want {
				t.Errorf("flags %#x: %d writes, want %d", flags, len(r.writes), want)
			}
		}
	}
}

// What is wrong in one packet stays wrong, and its own.
func TestCoalesceLeavesBadChecksums(t *testing.T) {
	for name, in := range inners(noise(5 * 400)) {
		if in.Between != nil || in.Flags != 0 {
			continue
		}
		for bad := range 5 {
			for _, at := range []int{-1, 11} { // the payload, the IPv4 header checksum
				if at == 11 && !in.From.Addr().Is4() {
					continue
				}
				packets := stream(in, 400)
				p := packets[bad].packet
				if at < 0 {
					p[len(p)-1] ^= 1
				} else {
					p[at] ^= 1
				}
				r := check(t, tun.OffloadAll, packets)
				if want := min(bad, 1) + 1 + min(4-bad, 1); len(r.writes) != want {
					t.Errorf("%s: packet %d is bad: %d writes, want %d", name, bad, len(r.writes), want)
				}
			}
		}
	}
}

// A DF flow whose ID never changes is joined, one that may be fragmented is not.
func TestCoalesceFixedID(t *testing.T) {
	for _, df := range []bool{true, false} {
		in := tuntest.Inner{From: from4, To: to4, UDP: true, DF: df, ID: 7, Payload: noise(100)}
		p := inbound{packet: in.Packet()}
		want := map[bool]int{true: 1, false: 3}[df]
		if r := check(t, tun.OffloadAll, []inbound{p, p, p}); len(r.writes) != want {
			t.Errorf("DF %v: %d writes, want %d", df, len(r.writes), want)
		}
		in.ID++
		if r := check(t, tun.OffloadAll, []inbound{p, {packet: in.Packet()}, p}); len(r.writes) != 2 {
			t.Errorf("DF %v, back to the first: %d writes, want 2", df, len(r.writes))
		}
	}
}

// Several flows, with what is none, in one burst.
func TestCoalesceInterleaved(t *testing.T) {
	var flows [][]inbound
	for n := range 40 {
		for _, in := range inners(noise(20 * 500)) {
			if in.Between == nil && in.Flags == 0 {
				in.To = netip.AddrPortFrom(in.To.Addr(), uint16(n))
				flows = append(flows, stream(in, 500))
			}
		}
	}
	for _, number := range []int{2, 10, len(flows)} {
		var packets []inbound
		for i := range 20 {
			for _, f := range flows[:number] {
				packets = append(packets, f[i])
			}
		}
		if number <= 10 {
			if r := check(t, tun.OffloadAll, packets); len(r.writes) != number {
				t.Errorf("%d flows in %d writes", number, len(r.writes))
			}
			continue
		}
		// More than are held at once, and more than find a slot: nothing is lost,
		// and each flow keeps its order.
		r := coalesce(t, tun.OffloadAll, packets)
		inOrder(t, r.wire(t), packets)
	}
}

// Flows that hardly differ do not get into each other's way.
func TestCoalesceManySimilarFlows(t *testing.T) {
	for what, change := range map[string]func(in *tuntest.Inner, n int){
		"source port": func(in *tuntest.Inner, n int) { in.From = netip.AddrPortFrom(in.From.Addr(), uint16(40000+n)) },
		"port":        func(in *tuntest.Inner, n int) { in.To = netip.AddrPortFrom(in.To.Addr(), uint16(256*n)) },
		"address": func(in *tuntest.Inner, n int) {
			b := in.To.Addr().AsSlice()
			b[len(b)-2] = byte(n)
			to, _ := netip.AddrFromSlice(b)
			in.To = netip.AddrPortFrom(to, in.To.Port())
		},
	} {
		for name, in := range inners(noise(400)) {
			if in.Between != nil || in.Flags != 0 {
				continue
			}
			const flows = 50
			packets := make([]inbound, 4*flows)
			for n := range flows {
				change(&in, n)
				for i, p := range stream(in, 100) {
					packets[i*flows+n] = p
				}
			}
			if r := coalesce(t, tun.OffloadAll, packets); len(r.writes) > flows {
				t.Errorf("%s, by %s: %d flows in %d writes", name, what, flows, len(r.writes))
			}
		}
	}
}

// flowOf names a packet's flow; what is of none is of one.
func flowOf(p []byte) string {
	transport, field := checksumField(p)
	switch {
	case transport == 0:
		return "none"
	case p[0]>>4 == 6:
		return fmt.Sprint(field, p[8:44])
	}
	return fmt.Sprint(field, p[12:24])
}

// inOrder compares flow by flow.
func inOrder(t *testing.T, got [][]byte, want []inbound) {
	t.Helper()
	byFlow := func(packets [][]byte) map[string][][]byte {
		m := map[string][][]byte{}
		for _, p := range packets {
			key := flowOf(p)
			m[key] = append(m[key], p)
		}
		return m
	}
	var all [][]byte
	for _, p := range want {
		all = append(all, p.packet)
	}
	g, w := byFlow(got), byFlow(all)
	if len(got) != len(all) || len(g) != len(w) {
		t.Fatalf("%d packets of %d flows, want %d of %d", len(got), len(g), len(all), len(w))
	}
	for key := range w {
		equal(t, key, g[key], w[key])
	}
}

// A fragment may belong to any flow, and must not be overtaken.
func TestCoalesceFragmentsEndEverything(t *testing.T) {
	for _, in := range []tuntest.Inner{{From: from4, To: to4, UDP: true}, {From: from6, To: to6, UDP: true}} {
		in.Payload = noise(4 * 100)
		packets := stream(in, 100)
		in.From = netip.AddrPortFrom(in.From.Addr(), 1)
		fragment := in.Packet()
		if in.To == to4 {
			fragment[6], fragment[10], fragment[11] = 0x20, 0, 0 // more fragments
			binary.BigEndian.PutUint16(fragment[10:], ^tuntest.Sum(fragment[:20]))
		} else {
			fragment[6] = 44
		}
		packets = slices.Insert(packets, 2, inbound{packet: fragment})
		if r := check(t, tun.OffloadAll, packets); len(r.writes) != 3 {
			t.Errorf("%d writes, want 3", len(r.writes))
		}
	}
}

// What is not as its headers say is not touched, let alone joined.
func TestCoalesceLeavesOtherLengths(t *testing.T) {
	for name, in := range inners(noise(200)) {
		if in.Between != nil || in.Flags != 0 {
			continue
		}
		header := len(in.Packet()) - 200
		doff := map[bool]int{true: 32, false: 52}[in.From == from4]
		for what, change := range map[string]func([]byte) []byte{
			"longer":  func(p []byte) []byte { return append(p, 1, 2, 3, 4) },
			"shorter": func(p []byte) []byte { return p[:len(p)-2] },
			"a UDP length": func(p []byte) []byte {
				if in.UDP {
					p[header-4]++
				}
				return append(p, 0)
			},
			"a TCP header": func(p []byte) []byte {
				if !in.UDP {
					in := in
					in.Payload = nil
					p = in.Packet()
					p[doff] = 0xf0
				}
				return p[:len(p):len(p)]
			},
		} {
			if what == "a TCP header" && in.UDP {
				continue
			}
			p := change(in.Packet())
			for _, vouched := range []bool{false, true} {
				r := new(recorder)
				c := tun.NewCoalescer(r, tun.OffloadAll)
				c.Add(room(p), vouched)
				c.Add(room(p), vouched)
				c.Flush()
				for _, w := range r.writes {
					if !bytes.Equal(w.packet, p) || w.header != (tun.Header{}) {
						t.Errorf("%s, %s: changed: %v %x", name, what, w.header, w.packet[:60])
					}
				}
				if len(r.writes) != 2 {
					t.Errorf("%s, %s: %d writes", name, what, len(r.writes))
				}
			}
		}
	}
}

// Nor is it when it would go on where another packet ended.
func TestCoalesceFollowersOfOtherLengths(t *testing.T) {
	for name, in := range inners(noise(300)) {
		if in.Between != nil || in.Flags != 0 {
			continue
		}
		for what, change := range map[string]func(p []byte, transport int) []byte{
			"nothing": func(p []byte, _ int) []byte { return p },
			"longer":  func(p []byte, _ int) []byte { return append(p, 0, 0) },
			"shorter": func(p []byte, _ int) []byte { return p[:len(p)-2] },
			"a UDP length": func(p []byte, transport int) []byte {
				if in.UDP {
					p[transport+5]--
				}
				return p
			},
		} {
			packets := stream(in, 200)
			transport, _ := checksumField(packets[1].packet)
			packets[1].packet = change(packets[1].packet, transport)
			packets[1].vouched = true
			want := 2
			if what == "nothing" || what == "a UDP length" && !in.UDP {
				want = 1
			}
			if r := check(t, tun.OffloadAll, packets); len(r.writes) != want {
				t.Errorf("%s, %s: %d writes, want %d", name, what, len(r.writes), want)
			}
		}
	}
}

// A datagram without checksum whose checksum would be zero is without, all the
// same.
func TestCoalesceNoChecksum(t *testing.T) {
	in := tuntest.Inner{From: from4, To: to4, UDP: true, DF: true, Payload: noise(100)}
	p := in.Packet()
	for v := 0; p[26] != 0xff || p[27] != 0xff; v++ {
		binary.BigEndian.PutUint16(in.Payload, uint16(v))
		p = in.Packet()
	}
	with := inbound{packet: bytes.Clone(p)}
	if r := check(t, tun.OffloadAll, []inbound{with, with}); len(r.writes) != 1 {
		t.Errorf("with a checksum: %d writes", len(r.writes))
	}
	with.vouched = true
	check(t, 0, []inbound{with})
	p[26], p[27] = 0, 0
	without := inbound{packet: p}
	if r := check(t, tun.OffloadAll, []inbound{without, without}); len(r.writes) != 2 {
		t.Errorf("without a checksum: %d writes", len(r.writes))
	}
}

// Without an offload nothing is joined, and what is vouched for gets a checksum.
func TestCoalesceWithoutOffloads(t *testing.T) {
	for name, in := range inners(noise(3000)) {
		if in.Between != nil {
			continue
		}
		for _, o := range []tun.Offloads{0, tun.OffloadTSO, tun.OffloadChecksum, tun.OffloadChecksum | tun.OffloadTSO} {
			packets := stream(in, 1000)
			for i := range packets {
				packets[i].vouched = true
			}
			r := check(t, o, packets)
			for _, w := range r.writes {
				if o&tun.OffloadChecksum == 0 && w.header != (tun.Header{}) {
					t.Errorf("%s, %v: header %v", name, o, w.header)
				}
			}
		}
	}
}

// No more is held than there is room for.
func TestCoalescerHoldsLittle(t *testing.T) {
	for name, packets := range map[string][]inbound{
		"one flow":    stream(tuntest.Inner{From: from4, To: to4, Payload: noise(150000)}, 100),
		"no two join": stream(tuntest.Inner{From: from4, To: to4, Flags: 0x18, Payload: noise(150000)}, 100),
	} {
		r := new(recorder)
		c := tun.NewCoalescer(r, tun.OffloadAll)
		for _, p := range packets {
			c.Add(room(p.packet), false)
		}
		if len(r.wire(t)) < len(packets)-1100 {
			t.Errorf("%s: of %d packets only %d are written before the end", name, len(packets), len(r.wire(t)))
		}
	}
}

func TestCoalescerSaysWhatWasRefused(t *testing.T) {
	r := &recorder{err: tun.ErrLinkDown}
	c := tun.NewCoalescer(r, tun.OffloadAll)
	for _, p := range stream(inners(noise(1000))["tcp4"], 100) {
		c.Add(room(p.packet), false)
	}
	c.Add(room([]byte{0x45}), false)
	c.Add(room(nil), true)
	c.Add(nil, true)
	if n, err := c.Flush(); n != 13 || !errors.Is(err, tun.ErrLinkDown) {
		t.Errorf("%d refused, %v", n, err)
	}
	r.err = nil
	if n, err := c.Flush(); n != 0 || err != nil {
		t.Errorf("again: %d refused, %v", n, err)
	}
}

func TestCoalescerDoesNotAllocate(t *testing.T) {
	var bufs [][]byte
	for _, in := range inners(noise(40000)) {
		in.Flags = 0
		for _, p := range stream(in, 1300) {
			bufs = append(bufs, room(p.packet))
		}
	}
	for _, p := range stream(tuntest.Inner{From: from6, To: to6, Payload: noise(150000)}, 100) {
		bufs = append(bufs, room(p.packet))
	}
	c := tun.NewCoalescer(discard{}, tun.OffloadAll)
	for _, vouched := range []bool{false, true} {
		if n := testing.AllocsPerRun(10, func() {
			for range 5 { // more than are held
				for _, b := range bufs {
					c.Add(b, vouched)
				}
			}
			c.Flush()
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

type discard struct{ tun.Queue }

func (discard) Write(tun.Header, []byte, [][]byte) error { return nil }

// script makes packets of fuzzed bytes: of few flows, in sequence more often than
// not, every now and then with something different.
type script struct {
	b     []byte
	flows [4]tuntest.Inner
}

func (s *script) next() byte {
	if len(s.b) == 0 {
		return 0
	}
	b := s.b[0]
	s.b = s.b[1:]
	return b
}

func newScript(b []byte) *script {
	s := &script{b: b}
	s.flows = [4]tuntest.Inner{
		{From: from4, To: to4, Options: timestamps}, {From: from6, To: to6},
		{From: from4, To: to4, UDP: true}, {From: from6, To: to6, UDP: true},
	}
	s.flows[0].DF = s.next()&1 == 0
	s.flows[2].DF = s.next()&1 == 0
	return s
}

var lengths = [...]int{100, 100, 100, 99, 101, 0, 1, 1400}

func (s *script) packet() inbound {
	what, more := s.next(), s.next()
	in := &s.flows[what&3]
	in.Payload = noise(lengths[what>>2&7])
	once := *in
	if what>>5 == 7 {
		switch more % 16 {
		case 0:
			once.Flags = s.next()
		case 1:
			once.Class = s.next()
		case 2:
			once.Seq += uint32(int8(s.next()))
		case 3:
			once.ID += uint16(int8(s.next()))
		case 4:
			once.Window++
		case 5:
			once.Ack++
		case 6:
			once.TTL = s.next()
		case 7:
			once.DF = !once.DF
		case 8:
			once.Options = nil
		case 9:
			once.Flags = 0x18
		case 10:
			once.Label++
		}
	}
	p := once.Packet()
	if what>>5 == 6 {
		p[int(more)%len(p)] ^= s.next() // anything, lengths included
		if p[0]>>4 != 4 && p[0]>>4 != 6 {
			p[0] = 0x45
		}
	}
	in.Seq += uint32(len(in.Payload))
	if more&0x80 == 0 {
		in.ID++
	}
	return inbound{p, more&0x40 != 0 && sound(p)}
}

// sound says whether a packet's checksums are right, so that one may vouch.
func sound(p []byte) bool {
	transport, _ := checksumField(p)
	if transport == 0 {
		return false
	}
	again := bytes.Clone(p)
	tuntest.Finish(again, transport)
	return bytes.Equal(again, p)
}

func FuzzCoalescer(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0, 0, 1, 1, 2, 2, 3, 3}, 40))
	f.Add(bytes.Repeat([]byte{0, 0x40, 0, 0, 0, 0x40, 0xe0, 9, 1, 0xc5, 1, 1}, 20))
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		b := make([]byte, 400)
		for i := range b {
			b[i] = byte(r.Uint32())
			if i%3 > 0 {
				b[i] &= 0x9f // fewer surprises
			}
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newScript(b)
		o := tun.OffloadAll
		if s.next() > 200 {
			o = tun.Offloads(s.next())
		}
		var packets []inbound
		for len(s.b) > 0 && len(packets) < 150 {
			packets = append(packets, s.packet())
		}
		flows := map[string]bool{}
		for _, p := range packets {
			flows[flowOf(p.packet)] = true
		}
		delete(flows, "none")
		if len(flows) <= 8 {
			check(t, o, packets)
			return
		}
		// More than are always told apart.
		var want []inbound
		for _, p := range packets {
			want = append(want, inbound{packet: withoutID([][]byte{p.packet})[0]})
		}
		inOrder(t, withoutID(coalesce(t, o, packets).wire(t)), want)
	})
}

// Any bytes at all.
func FuzzCoalescerBytes(f *testing.F) {
	for _, in := range inners(noise(50)) {
		f.Add(in.Packet(), true)
		f.Add(in.Packet()[:30], false)
	}
	f.Fuzz(func(t *testing.T, b []byte, vouched bool) {
		r := new(recorder)
		c := tun.NewCoalescer(r, tun.OffloadAll)
		for range 3 {
			c.Add(room(b), vouched)
		}
		if n, err := c.Flush(); n != 0 || err != nil {
			t.Fatal(n, err)
		}
		n := 0
		for _, w := range r.writes {
			n += len(w.packet)
		}
		if n > 3*len(b) {
			t.Errorf("%d bytes of 3 times %d", n, len(b))
		}
	})
}
