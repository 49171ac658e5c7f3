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

// room puts a packet behind the headroom.
func room(packet []byte) []byte { return append(make([]byte, tun.Headroom), packet...) }

func contract(t *testing.T, h host) {
	want(t, h, tun.Down)
	packet := udp4(outside, inside, "hello")
	if n := h.Capabilities().Queues; n != 1 || len(h.Queues()) != n {
		t.Fatalf("%d queues, %d are said", len(h.Queues()), n)
	}
	q := h.Queues()[0]
	if err := q.Write(tun.Header{}, room(packet), nil); !errors.Is(err, tun.ErrLinkDown) {
		t.Errorf("write while down: %v", err)
	}
	if h.MTU() != tun.DefaultMTU || h.Name() != "same0" {
		t.Errorf("%s, mtu %d", h.Name(), h.MTU())
	}
	h.setUp()
	want(t, h, tun.Up)

	// From the host: in order, behind the headroom, and only what is there.
	buf := make([]byte, 2000)
	if _, n, err := q.TryRead(buf); n != 0 || err != nil {
		t.Errorf("nothing there: %d, %v", n, err)
	}
	for i := range 6 {
		h.inject(fmt.Append(nil, "number ", i))
	}
	for i := range 6 {
		read := q.Read
		if i%2 == 1 {
			read = q.TryRead
		}
		header, n, err := read(buf)
		if n == 0 || err != nil || header != (tun.Header{}) {
			t.Fatalf("read: %d, %v, %v", n, err, header)
		}
		if got, want := buf[tun.Headroom:][:n], fmt.Append(nil, "number ", i); !bytes.HasSuffix(got, want) {
			t.Errorf("read %q, want %q", got, want)
		}
	}
	if _, _, err := q.TryRead(buf[:tun.Headroom]); err == nil {
		t.Error("a buffer without room")
	}
	if _, _, err := q.Read(nil); err == nil {
		t.Error("no buffer")
	}
	h.inject([]byte("cut me off"))
	if _, n, err := q.Read(buf[:tun.Headroom+28]); n != 28 || err != nil {
		t.Errorf("a small buffer: %d, %v", n, err)
	}

	// To the host.
	if err := q.Write(tun.Header{}, room([]byte{0x99, 1, 2, 3}), nil); !errors.Is(err, tun.ErrMalformed) {
		t.Errorf("write: %v", err)
	}
	if err := q.Write(tun.Header{}, room(nil), nil); !errors.Is(err, tun.ErrMalformed) {
		t.Errorf("write nothing: %v", err)
	}
	whole := room(packet)
	for _, more := range [][][]byte{nil, {whole[30:33], nil, whole[33:]}} {
		buf := whole
		if more != nil {
			buf = whole[:30]
		}
		if err := q.Write(tun.Header{}, buf, more); err != nil {
			t.Error(err)
		}
		if got := h.received(); string(got) != "hello" {
			t.Errorf("the host got %q", got)
		}
	}

	// Closed, with a packet that nobody read.
	h.inject([]byte("too late"))
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, n, err := q.Read(buf); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("read: %d, %v", n, err)
	}
	if _, n, err := q.TryRead(buf); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("tryread: %d, %v", n, err)
	}
	if err := q.Write(tun.Header{}, room(packet), nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("write: %v", err)
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
	q, buf := h.Queues()[0], make([]byte, 2000)
	all := [][]byte{room([]byte{0x99, 1}), room(udp4(outside, inside, "x")), nil}
	use := func() {
		for _, b := range all {
			q.Write(tun.Header{}, b, nil)
		}
		q.TryRead(buf)
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
	q, buf := h.Queues()[0], make([]byte, 2000)
	use := func() {
		sender <- struct{}{}
		if _, n, err := q.Read(buf); n == 0 || err != nil {
			t.Fatal(n, err)
		}
	}
	use()
	if n := testing.AllocsPerRun(200, use); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
