package tun_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"testing"
	"time"

	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/tuntest"
)

// router is a host that forwards from one tun device to another, so that a test
// sees what the kernel makes of packets, and the kernel sees packets that no
// socket sends.
type router struct {
	in, out tun.Device
}

func newRouter(t *testing.T, mtu int, in, out tun.Offloads) *router {
	t.Helper()
	tuntest.Namespace(t)
	r := &router{
		in:  open(t, "in%d", tun.Options{MTU: mtu, Offloads: in}),
		out: open(t, "out%d", tun.Options{MTU: mtu, Offloads: out}),
	}
	for path, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
		"ipv6/conf/all/forwarding": "1", "ipv4/conf/" + r.in.Name() + "/rp_filter": "0",
	} {
		if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []tun.Device{r.in, r.out} {
		want(t, d, tun.Down)
		tuntest.IP(t, "link set up dev "+d.Name())
		want(t, d, tun.Up)
	}
	tuntest.IP(t, "addr add 192.0.2.1/32 dev "+r.in.Name())
	tuntest.IP(t, "route add "+to4.Addr().String()+" dev "+r.out.Name())
	tuntest.IP(t, "-6 route add "+to6.Addr().String()+" dev "+r.out.Name())
	return r
}

// packets reads n packets of ours, cut as on the wire, and in how many reads.
func (r *router) packets(t *testing.T, n int) (packets [][]byte, reads int) {
	t.Helper()
	buf := make([]byte, tun.Headroom+tun.MaxPacket)
	var s tun.Segmenter
	for deadline := time.Now().Add(patience); len(packets) < n; {
		h, length, err := r.out.Queues()[0].TryRead(buf)
		if err != nil {
			t.Fatal(err)
		}
		if length == 0 {
			if time.Now().After(deadline) {
				t.Fatalf("%d packets came, want %d", len(packets), n)
			}
			time.Sleep(time.Millisecond)
			continue
		}
		if err := s.Reset(h, buf[tun.Headroom:][:length], false); err != nil {
			t.Fatalf("%v: %+v %x", err, h, buf[tun.Headroom:][:60])
		}
		ours := false
		for p := s.Next(); p != nil; p = s.Next() {
			if ours = bytes.Contains(p, to4.Addr().AsSlice()) || bytes.Contains(p, to6.Addr().AsSlice()); ours {
				packets = append(packets, bytes.Clone(p))
			}
		}
		if ours {
			reads++
		}
	}
	return packets, reads
}

// forwarded is a packet as a router sends it on.
func forwarded(p []byte) []byte {
	p = bytes.Clone(p)
	if p[0]>>4 == 6 {
		p[7]--
		return p
	}
	p[8]--
	ihl := int(p[0]&15) * 4
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], ^tuntest.Sum(p[:ihl]))
	return p
}

// Packets are joined, written, forwarded by the kernel, cut by it or by us, and
// are the same as before, to the byte.
func TestTheKernelCutsWhatWasJoined(t *testing.T) {
	for _, mtu := range []int{1280, 1420, 1500, 9000} {
		for _, out := range []tun.Offloads{0, tun.OffloadChecksum, tun.OffloadChecksum | tun.OffloadTSO, tun.OffloadAll} {
			r := newRouter(t, mtu, tun.OffloadAll, out)
			if got := r.in.Capabilities(); got.Offloads != tun.OffloadAll {
				t.Fatalf("this kernel has %v: %v", got.Offloads, got.Lost)
			}
			c := tun.NewCoalescer(r.in.Queues()[0], r.in.Capabilities().Offloads)
			for name, in := range inners(noise(60000)) {
				if in.Between != nil || in.Flags > 0x18 {
					continue
				}
				in.Flags = 0
				size := mtu - len(in.Packet()) + len(in.Payload)
				for i, packets := range [][]inbound{stream(in, size), stream(in, size/3)} {
					vouched := i == 1
					packets = packets[:min(len(packets), 100)]
					var sent [][]byte
					for _, p := range packets {
						sent = append(sent, forwarded(p.packet))
						b := room(p.packet)
						if transport, field := checksumField(p.packet); vouched && transport > 0 {
							b[tun.Headroom+field], b[tun.Headroom+field+1] = 0, 0
						}
						c.Add(b, vouched)
					}
					if n, err := c.Flush(); n != 0 || err != nil {
						t.Fatal(name, n, err)
					}
					got, reads := r.packets(t, len(sent))
					equal(t, fmt.Sprintf("%s, mtu %d, out %v", name, mtu, out), got, sent)
					whole := out.Has(tun.OffloadTSO) && !in.UDP || out.Has(tun.OffloadUSO) && in.UDP
					if whole && reads > 2 || !whole && reads != len(sent) {
						t.Errorf("%s, mtu %d, out %v: %d packets in %d reads", name, mtu, out, len(sent), reads)
					}
				}
			}
			r.in.Close()
			r.out.Close()
		}
	}
}

// What the kernel must not touch passes as it is.
func TestSinglePacketsPass(t *testing.T) {
	r := newRouter(t, 1420, tun.OffloadAll, tun.OffloadAll)
	c := tun.NewCoalescer(r.in.Queues()[0], tun.OffloadAll)
	var sent [][]byte
	for _, in := range inners(noise(700)) {
		if in.Between != nil {
			continue
		}
		for _, bad := range []bool{false, true} {
			p := in.Packet()
			if bad {
				p[len(p)-1]++ // not for a router to look at
			}
			sent = append(sent, forwarded(p))
			c.Add(room(p), false)
		}
	}
	if n, err := c.Flush(); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	got, _ := r.packets(t, len(sent))
	equal(t, "singles", got, sent)
}
