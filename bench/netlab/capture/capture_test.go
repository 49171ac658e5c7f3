package capture_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/capture"
)

// dial opens a UDP socket in the node towards addr.
func dial(t *testing.T, node *netlab.Node, addr netip.AddrPort) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	err := node.Do(func() (err error) {
		conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// send writes a datagram; an ICMP error of an earlier one is no failure.
func send(t *testing.T, conn *net.UDPConn, b []byte) {
	t.Helper()
	_, err := conn.Write(b)
	if errors.Is(err, unix.ECONNREFUSED) {
		_, err = conn.Write(b)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestCaptureCountsFlows(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	var calls uint64
	var file bytes.Buffer
	c, err := capture.Start(s.Router, s.A.RouterDev, capture.Config{
		OnPacket: func(*capture.Packet) { calls++ },
		Pcap:     &file,
	})
	if err != nil {
		t.Fatal(err)
	}
	const conns, packets = 50, 20
	port := uint16(9999)
	for i := range conns {
		conn := dial(t, s.A.Node, netip.AddrPortFrom(s.B.Addr6, port))
		if err := ipv6.NewConn(conn).SetTrafficClass(46<<2 | 2); err != nil {
			t.Fatal(err)
		}
		for range packets {
			send(t, conn, make([]byte, 100+i))
		}
	}
	r, err := c.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if r.KernelDrops != 0 || r.Malformed != 0 || r.Uncounted != 0 {
		t.Errorf("%d dropped, %d malformed, %d uncounted", r.KernelDrops, r.Malformed, r.Uncounted)
	}
	if calls != r.Packets {
		t.Errorf("OnPacket was called %d times for %d packets", calls, r.Packets)
	}
	flows := r.Where(func(f *capture.Flow) bool { return f.Proto == unix.IPPROTO_UDP && f.Dst.Port() == port })
	if len(flows) != conns {
		t.Fatalf("%d flows, want %d", len(flows), conns)
	}
	lengths := map[int]bool{}
	for _, f := range flows {
		lengths[f.MaxLength] = true
		if f.Packets != packets || f.MinLength != f.MaxLength || f.Relabelled != 0 || f.ECN[2] != packets ||
			f.DSCPs != 1<<46 || f.MinHopLimit != 64 || f.Outgoing || f.Fragments != 0 {
			t.Errorf("unexpected flow %+v", f)
		}
	}
	if len(lengths) != conns || !lengths[40+8+100] {
		t.Errorf("lengths %v, want %d different ones from 148", lengths, conns)
	}
	checkPcap(t, file.Bytes(), r.Packets+r.NotIP+r.Malformed)
}

// checkPcap walks through a capture file.
func checkPcap(t *testing.T, file []byte, frames uint64) {
	t.Helper()
	if len(file) < 24 || binary.LittleEndian.Uint32(file) != 0xa1b23c4d {
		t.Fatalf("no capture file: %.24x", file)
	}
	var got uint64
	for rest := file[24:]; len(rest) > 0; got++ {
		if len(rest) < 16 {
			t.Fatal("a record's header is cut")
		}
		captured, length := binary.LittleEndian.Uint32(rest[8:]), binary.LittleEndian.Uint32(rest[12:])
		if captured > length || int(captured) > len(rest)-16 {
			t.Fatalf("record %d has %d of %d bytes", got, captured, length)
		}
		rest = rest[16+captured:]
	}
	if got != frames {
		t.Errorf("the file holds %d frames, the report %d", got, frames)
	}
}

// TestCaptureReportsDrops overfills the smallest ring while its reader is held
// up: what does not fit must be reported.
func TestCaptureReportsDrops(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	hold, held := make(chan struct{}), false
	c, err := capture.Start(s.Router, s.A.RouterDev, capture.Config{
		RingBytes: 1,
		OnPacket: func(*capture.Packet) {
			if !held {
				held = true
				<-hold
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	conn := dial(t, s.A.Node, netip.AddrPortFrom(s.B.Addr4, 9999))
	const sent = 30000
	for range sent {
		send(t, conn, make([]byte, 200))
	}
	close(hold)
	r, err := c.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if r.KernelDrops == 0 {
		t.Errorf("no drop reported, though %d packets were sent into a ring of 2 MiB", sent)
	}
	var seen uint64
	for _, f := range r.Where(func(f *capture.Flow) bool { return f.Dst.Port() == 9999 && f.Proto == unix.IPPROTO_UDP }) {
		seen += f.Packets
	}
	if seen+r.KernelDrops < sent {
		t.Errorf("%d seen and %d dropped do not make %d sent", seen, r.KernelDrops, sent)
	}
}

func TestCaptureOfNoInterface(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	if _, err := capture.Start(s.Router, "nowhere0", capture.Config{}); err == nil {
		t.Error("captured on an interface that does not exist")
	}
}

func TestFailingFileIsReported(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	c, err := capture.Start(s.Router, s.A.RouterDev, capture.Config{Pcap: fullDisk{}})
	if err != nil {
		t.Fatal(err)
	}
	send(t, dial(t, s.A.Node, netip.AddrPortFrom(s.B.Addr4, 9999)), []byte("x"))
	if r, err := c.Stop(); !errors.Is(err, errFull) || r.Packets == 0 {
		t.Errorf("report %+v, error %v; want packets and %v", r, err, errFull)
	}
}

var errFull = fmt.Errorf("disk full")

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }
