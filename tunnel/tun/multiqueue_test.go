package tun_test

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/tuntest"
)

// The host answers on the queue on which it was asked, so that a worker sees both
// directions of a flow.
func TestAFlowStaysOnItsQueue(t *testing.T) {
	const queues = 4
	tuntest.Namespace(t)
	d := open(t, "multi%d", tun.Options{Queues: queues, Offloads: tun.OffloadAll})
	tuntest.IP(t, "addr add 10.96.0.1/24 dev "+d.Name())
	tuntest.IP(t, "link set up dev "+d.Name())
	buf := make([]byte, tun.Headroom+tun.MaxPacket)
	for i := range 4 * queues {
		to := netip.AddrPortFrom(outside.Addr(), uint16(6000+i))
		conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(inside), net.UDPAddrFromAddrPort(to))
		if err != nil {
			t.Fatal(err)
		}
		want := i % queues
		if err := d.Queues()[want].Write(tun.Header{}, room(udp4(to, inside, "question")), nil); err != nil {
			t.Fatal(err)
		}
		answer := []byte{'a', byte(i)}
		if _, err := conn.Write(answer); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if got := arrivesOn(t, d, buf, answer); got != want {
			t.Errorf("flow %d was written to queue %d and read from %d", i, want, got)
		}
	}
}

// arrivesOn looks for a packet on all queues.
func arrivesOn(t *testing.T, d tun.Device, buf, payload []byte) int {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		for i, q := range d.Queues() {
			_, n, err := q.TryRead(buf)
			if err != nil {
				t.Fatal(err)
			}
			if n > 0 && bytes.HasSuffix(buf[:tun.Headroom+n], payload) {
				return i
			}
		}
	}
	t.Fatal("the packet never came")
	return -1
}
