package tun_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/tuntest"
)

// host is the other end of a device: a kernel's socket, or a fake's calls.
type host struct {
	tun.Device
	setUp    func()
	inject   func(payload []byte)
	received func() []byte // the payload of the next UDP datagram
}

var (
	inside  = netip.MustParseAddrPort("10.96.0.1:4000")
	outside = netip.MustParseAddrPort("10.96.0.2:5000")
)

func realHost(t *testing.T) host {
	tuntest.Namespace(t)
	d := open(t, "same%d", tun.Options{})
	var conn *net.UDPConn
	return host{
		Device: d,
		setUp: func() {
			// Without IPv6 the host sends nothing by itself into the tunnel.
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+d.Name()+"/disable_ipv6", []byte("1"), 0); err != nil {
				t.Fatal(err)
			}
			tuntest.IP(t, "addr add 10.96.0.1/24 dev "+d.Name())
			tuntest.IP(t, "link set up dev "+d.Name())
			var err error
			if conn, err = net.DialUDP("udp4", net.UDPAddrFromAddrPort(inside), net.UDPAddrFromAddrPort(outside)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
		},
		inject: func(payload []byte) { conn.Write(payload) },
		received: func() []byte {
			b := make([]byte, 2000)
			n, err := conn.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			return b[:n]
		},
	}
}

func fakeHost(*testing.T) host {
	f := tuntest.New("same0", tun.DefaultMTU)
	return host{
		Device:   f,
		setUp:    func() { f.SetUp(true) },
		inject:   func(payload []byte) { f.Inject(udp4(inside, outside, string(payload))) },
		received: func() []byte { return (<-f.Received())[28:] },
	}
}

// What holds for a real device holds for the fake, so that tests with the fake
// say something about the real one.
func TestContract(t *testing.T) {
	for name, make := range map[string]func(*testing.T) host{"real": realHost, "fake": fakeHost} {
		t.Run(name, func(t *testing.T) {
			h := make(t)
			contract(t, h)
		})
	}
}

func contract(t *testing.T, h host) {
	want(t, h, tun.Down)
	packet := udp4(outside, inside, "hello")
	room := func(p []byte) []byte { return append(make([]byte, 16), p...) }

	if n, err := h.Write([][]byte{room(packet)}, 16); n != 0 || !errors.Is(err, tun.ErrLinkDown) {
		t.Errorf("write while down: %d, %v", n, err)
	}
	if h.MTU() != tun.DefaultMTU || h.Name() != "same0" {
		t.Errorf("%s, mtu %d", h.Name(), h.MTU())
	}
	h.setUp()
	want(t, h, tun.Up)

	// From the host: in order, at the offset, no more than asked for, and only
	// what is there.
	bufs, sizes := make([][]byte, 4), make([]int, 4)
	for i := range bufs {
		bufs[i] = make([]byte, 2000)
	}
	if n, err := h.TryRead(bufs, sizes, 8); n != 0 || err != nil {
		t.Errorf("nothing there: %d, %v", n, err)
	}
	for i := range 6 {
		h.inject(fmt.Append(nil, "number ", i))
	}
	for next := 0; next < 6; {
		n, err := h.Read(bufs, sizes, 8)
		if n == 0 || err != nil {
			t.Fatalf("read: %d, %v", n, err)
		}
		for i := range n {
			if got, want := bufs[i][8:8+sizes[i]], fmt.Append(nil, "number ", next); !bytes.HasSuffix(got, want) {
				t.Errorf("read %q, want %q", got, want)
			}
			next++
		}
	}
	if n, err := h.Read(nil, nil, 0); n != 0 || err != nil {
		t.Errorf("no buffers: %d, %v", n, err)
	}
	if _, err := h.TryRead(bufs, sizes[:3], 0); err == nil {
		t.Error("fewer sizes than buffers")
	}
	if _, err := h.TryRead(bufs, sizes, 2000); err == nil {
		t.Error("an offset without room")
	}
	h.inject([]byte("cut me off"))
	if n, err := h.Read([][]byte{make([]byte, 30)}, sizes, 2); n != 1 || sizes[0] != 28 || err != nil {
		t.Errorf("a small buffer: %d, %d bytes, %v", n, sizes[0], err)
	}

	// To the host: what is refused does not hold up the rest.
	bad := []byte{0x99, 1, 2, 3}
	n, err := h.Write([][]byte{room(packet), room(bad), room(nil), room(packet)}, 16)
	if n != 2 || !errors.Is(err, tun.ErrMalformed) {
		t.Errorf("write: %d, %v", n, err)
	}
	for range 2 {
		if got := h.received(); string(got) != "hello" {
			t.Errorf("the host got %q", got)
		}
	}

	// Closed, with a packet that nobody read.
	h.inject([]byte("too late"))
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if n, err := h.Read(bufs, sizes, 0); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("read: %d, %v", n, err)
	}
	if n, err := h.TryRead(bufs, sizes, 0); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("tryread: %d, %v", n, err)
	}
	if n, err := h.Write([][]byte{room(packet)}, 16); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("write: %d, %v", n, err)
	}
	if err := h.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
	if e, ok := <-h.Events(); ok {
		t.Errorf("event %v after the end", e)
	}
}

// Neither packets nor floods of bad ones make garbage.
func TestRefusedPacketsAllocateNothing(t *testing.T) {
	h := realHost(t)
	good, bad := udp4(outside, inside, "x"), []byte{0x99, 1}
	bufs, sizes := [][]byte{make([]byte, 2000)}, make([]int, 1)
	both := [][]byte{bad, good, nil}
	use := func() {
		h.Write(both, 0)
		h.TryRead(bufs, sizes, 0)
	}
	if n := testing.AllocsPerRun(200, use); n != 0 {
		t.Errorf("link down: %v allocations", n)
	}
	h.setUp()
	if n := testing.AllocsPerRun(200, use); n != 0 {
		t.Errorf("link up: %v allocations", n)
	}
	h.Close()
	if n := testing.AllocsPerRun(200, use); n != 0 {
		t.Errorf("closed: %v allocations", n)
	}
}

// A read that has to wait, too.
func TestReadAllocatesNothing(t *testing.T) {
	h := realHost(t)
	h.setUp()
	sender := make(chan struct{})
	defer close(sender)
	payload := []byte("text")
	go func() {
		for range sender {
			h.inject(payload)
		}
	}()
	bufs, sizes := [][]byte{make([]byte, 2000)}, make([]int, 1)
	use := func() {
		sender <- struct{}{}
		if n, err := h.Read(bufs, sizes, 0); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	use()
	if n := testing.AllocsPerRun(200, use); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRead(b *testing.B)  { benchmark(b, true) }
func BenchmarkWrite(b *testing.B) { benchmark(b, false) }
func benchmark(b *testing.B, r bool) {
	tuntest.Namespace(b)
	d, err := tun.Create("bench%d", tun.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	tuntest.IP(b, "addr add 10.96.0.1/24 dev "+d.Name())
	tuntest.IP(b, "link set up dev "+d.Name())
	conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(inside), net.UDPAddrFromAddrPort(outside))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	const batch = 64
	bufs, sizes, payload := make([][]byte, batch), make([]int, batch), make([]byte, 1392)
	for i := range bufs {
		bufs[i] = udp4(netip.MustParseAddrPort("10.96.0.2:9"), netip.MustParseAddrPort("10.96.0.3:9"), string(payload))
	}
	b.SetBytes(1420)
	b.ReportAllocs()
	for done := 0; done < b.N; done += batch {
		if !r {
			if _, err := d.Write(bufs, 0); err != nil {
				b.Fatal(err)
			}
			continue
		}
		b.StopTimer()
		for range batch {
			conn.Write(payload)
		}
		b.StartTimer()
		for got := 0; got < batch; {
			n, err := d.Read(bufs, sizes, 0)
			if err != nil {
				b.Fatal(err)
			}
			got += n
		}
	}
}
