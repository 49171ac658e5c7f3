package attach

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/vishvananda/netlink"

	"kiloport/tunnel/attach/accord"
	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/tuntest"
)

// testLink makes a TUN device with addresses, in a network namespace of its own: an
// interface without a link header, of which the test sees what is sent.
func testLink(t *testing.T, offloads tun.Offloads) (tun.Queue, netlink.Link) {
	t.Helper()
	d, err := tun.Create("under0", tun.Options{Offloads: offloads})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	for _, args := range []string{"link set under0 up", "addr add 192.0.2.1/24 dev under0", "addr add 2001:db8::1/64 dev under0 nodad"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	l, err := netlink.LinkByName("under0")
	if err != nil {
		t.Fatal(err)
	}
	return d.Queues()[0], l
}

// TestWithoutLinkHeader sends from a socket through the hooks of an interface that
// has no link header, with its checksum complete and left to the device.
func TestWithoutLinkHeader(t *testing.T) {
	tuntest.Namespace(t)
	for _, offloads := range []tun.Offloads{0, tun.OffloadChecksum} {
		for _, to := range []netip.AddrPort{netip.MustParseAddrPort("192.0.2.9:51821"), netip.MustParseAddrPort("[2001:db8::9]:51821")} {
			throughLink(t, offloads, to)
		}
	}
}

func throughLink(t *testing.T, offloads tun.Offloads, to netip.AddrPort) {
	queue, link := testLink(t, offloads)
	r := newRig(t)
	h := hooks{kernel: r.kernel, name: "test0", on: map[int]*hooked{}}
	defer h.close()
	r.do(h.sync())
	if got := h.names(); len(got) != 1 || got[0] != "under0" {
		t.Fatalf("hooked to %v, want under0", got)
	}
	socket, err := net.ListenUDP("udp", &net.UDPAddr{Port: ourPort})
	r.do(err)
	defer socket.Close()
	for _, mode := range []accord.Mode{accord.Probe, accord.Spread} {
		r.source(to, theirRange, false)
		r.do(r.kernel.setEndpoint(to, spreading{slot: slot, mode: mode, ports: ourRange.Count}))
		_, err := socket.WriteToUDPAddrPort(message(4, helloLength), to)
		r.do(err)
		p, partial := nextDatagram(t, queue)
		if p.to != to || !ourRange.Contains(p.from.Port()) || !p.sumsGood {
			t.Errorf("offloads %v, mode %d: from %v to %v, sums good: %v", offloads, mode, p.from, p.to, p.sumsGood)
		}
		if partial != (offloads != 0) {
			t.Errorf("offloads %v: the checksum was left to the device: %v", offloads, partial)
		}
	}
	if got := exchange(t, socket, func() { deliver(t, queue, to) }); got != to {
		t.Errorf("a message from another port is taken for one from %v, want %v", got, to)
	}
	deviceGone(t, &h, link)
}

// nextDatagram reads the next UDP datagram, and finishes its checksum.
func nextDatagram(t *testing.T, q tun.Queue) (p parsed, partial bool) {
	t.Helper()
	buf := make([]byte, tun.Headroom+tun.MaxPacket)
	for {
		header, n, err := q.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		packet := buf[tun.Headroom : tun.Headroom+n]
		etherType := []byte{0x08, 0}
		if packet[0]>>4 == 6 {
			if packet[6] != 17 { // the kernel looks for routers
				continue
			}
			etherType = []byte{0x86, 0xdd}
		}
		partial = header.Flags == tun.NeedsChecksum
		if partial {
			sum := ^onesSum(packet[header.ChecksumStart:], 0)
			at := header.ChecksumStart + header.ChecksumOffset
			packet[at], packet[at+1] = byte(sum>>8), byte(sum)
		}
		return parse(t, append(append(make([]byte, 12), etherType...), packet...)), partial
	}
}

// deliver hands the kernel a message from a port of the other end's range.
func deliver(t *testing.T, q tun.Queue, from netip.AddrPort) {
	t.Helper()
	us := netip.MustParseAddrPort("192.0.2.1:51820")
	if from.Addr().Is6() {
		us = netip.MustParseAddrPort("[2001:db8::1]:51820")
	}
	d := datagram{from: netip.AddrPortFrom(from.Addr(), theirRange.Low+5), to: us, payload: message(4, 100)}
	buf := append(make([]byte, tun.Headroom), d.bytes()[ethernetHeader:]...)
	if err := q.Write(tun.Header{}, buf, nil); err != nil {
		t.Fatal(err)
	}
}

// exchange sends until something is received: the kernel's backlog, which all
// namespaces share, may be full.
func exchange(t *testing.T, socket *net.UDPConn, send func()) netip.AddrPort {
	t.Helper()
	for range 20 {
		send()
		socket.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		if _, from, err := socket.ReadFromUDPAddrPort(make([]byte, 2000)); err == nil {
			return netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		}
	}
	t.Fatal("nothing was received")
	return netip.AddrPort{}
}

// deviceGone deletes the interface and wants the hooks to be forgotten.
func deviceGone(t *testing.T, h *hooks, link netlink.Link) {
	t.Helper()
	if err := netlink.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	if err := h.sync(); err != nil || len(h.on) != 0 {
		t.Errorf("hooked to %v, error %v", h.names(), err)
	}
}

// TestHelloIsCaught: HELLO gets to us and not to the host, others to the host.
func TestHelloIsCaught(t *testing.T) {
	tuntest.Namespace(t)
	queue, link := testLink(t, 0)
	r := newRig(t)
	h, err := attachTo(link.Attrs().Index, r.kernel.inner.Hello, incoming, "test0")
	r.do(err)
	defer h.Close()
	reader, err := ringbuf.NewReader(r.kernel.maps.Hellos)
	r.do(err)
	defer reader.Close()
	socket, err := net.ListenUDP("udp", &net.UDPAddr{Port: accord.Port})
	r.do(err)
	defer socket.Close()

	for _, ends := range [][2]string{{"192.0.2.9", "192.0.2.1"}, {"2001:db8::9", "2001:db8::1"}} {
		from, to := netip.MustParseAddr(ends[0]), netip.MustParseAddr(ends[1])
		for _, flags := range []accord.Flags{0, accord.Ask} {
			hello := accord.Hello{Version: 1, Instance: 7, Sequence: 3, Flags: flags}
			packet := append(make([]byte, tun.Headroom), accord.Packet(from, to, &hello)...)
			other := append([]byte(nil), packet...)
			var record ringbuf.Record
			for range 20 { // as in exchange
				r.do(queue.Write(tun.Header{}, append([]byte(nil), packet...), nil))
				reader.SetDeadline(time.Now().Add(500 * time.Millisecond))
				if record, err = reader.Read(); err == nil {
					break
				}
			}
			r.do(err)
			gotFrom, gotTo, got, err := accord.ParsePacket(record.RawSample)
			if err != nil || gotFrom != from || gotTo != to || got != hello {
				t.Errorf("caught %+v from %v to %v, error %v", got, gotFrom, gotTo, err)
			}
			// The same with another beginning is the host's.
			at := len(other) - len(hello.Payload(to))
			other[at] = 'K'
			other[at-2], other[at-1] = 0, 0 // no checksum
			if to.Is6() {
				continue // where a checksum is a must
			}
			again := func() { r.do(queue.Write(tun.Header{}, append([]byte(nil), other...), nil)) }
			if got := exchange(t, socket, again); got.Addr() != from {
				t.Errorf("the host got a datagram from %v", got)
			}
		}
	}
	reader.SetDeadline(time.Now())
	if _, err := reader.Read(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("more was caught: error %v", err)
	}
	if n, _ := socketWaits(socket); n > 0 {
		t.Error("the host got HELLO")
	}
}

// socketWaits tells whether there is something to read.
func socketWaits(socket *net.UDPConn) (int, error) {
	socket.SetReadDeadline(time.Now().Add(time.Millisecond))
	return socket.Read(make([]byte, 2000))
}
