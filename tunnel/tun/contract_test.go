package tun_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/tuntest"
)

// host is the other end of a device: a kernel's socket, or a fake's calls.
type host struct {
	tun.Device
	setUp  func()
	inject func(payload []byte)

	// injectSuper sends datagrams of a size by one call.
	injectSuper func(payload []byte, size int)
	received    func() []byte // the payload of the next UDP datagram
}

var (
	inside  = netip.MustParseAddrPort("10.96.0.1:4000")
	outside = netip.MustParseAddrPort("10.96.0.2:5000")
)

func realHost(t *testing.T, o tun.Options) host {
	tuntest.Namespace(t)
	d := open(t, "same%d", o)
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
		injectSuper: func(payload []byte, size int) {
			raw, err := conn.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) })
			if _, e := conn.Write(payload); err != nil || e != nil {
				t.Fatal(err, e)
			}
			raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, 0) })
		},
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

func fakeHost(_ *testing.T, o tun.Options) host {
	o.MTU = tun.DefaultMTU
	f := tuntest.NewWith("same0", o)
	return host{
		Device: f,
		setUp:  func() { f.SetUp(true) },
		inject: func(payload []byte) {
			f.InjectTo(0, partial(o), udp4(inside, outside, string(payload)))
		},
		injectSuper: func(payload []byte, size int) {
			h, p := tuntest.Inner{From: inside, To: outside, UDP: true, Payload: payload}.Super(size)
			f.InjectTo(0, h, p)
		},
		received: func() []byte { return (<-f.Received())[28:] },
	}
}

// partial is the header of a datagram that a host sends: it leaves the checksum
// to whom it can.
func partial(o tun.Options) tun.Header {
	if o.Offloads == 0 {
		return tun.Header{}
	}
	return tun.Header{Flags: tun.NeedsChecksum, ChecksumStart: 20, ChecksumOffset: 6}
}

// What holds for a real device holds for the fake, so that tests with the fake
// say something about the real one.
func TestContract(t *testing.T) {
	for name, make := range map[string]func(*testing.T, tun.Options) host{"real": realHost, "fake": fakeHost} {
		for _, o := range []tun.Options{{}, {Offloads: tun.OffloadAll}, {Offloads: tun.OffloadAll, Rings: 4}} {
			t.Run(fmt.Sprint(name, ", offloads ", o.Offloads, ", rings ", o.Rings), func(t *testing.T) {
				h := make(t, o)
				contract(t, h, o)
			})
		}
	}
}

// room puts a packet behind the headroom.
func room(packet []byte) []byte { return append(make([]byte, tun.Headroom), packet...) }

func contract(t *testing.T, h host, o tun.Options) {
	want(t, h, tun.Down)
	packet := udp4(outside, inside, "hello")
	if c := h.Capabilities(); c.Queues != 1 || len(h.Queues()) != 1 || c.Offloads != o.Offloads {
		t.Fatalf("%d queues, said is %+v", len(h.Queues()), c)
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
	awaits(t, q, time.Millisecond)
	for i := range 6 {
		h.inject(fmt.Append(nil, "number ", i))
	}
	awaits(t, q, time.Hour)
	for i := range 6 {
		read := q.Read
		if i%2 == 1 {
			read = q.TryRead
		}
		header, n, err := read(buf)
		if n == 0 || err != nil || header != partial(o) {
			t.Fatalf("read: %d, %v, %v", n, err, header)
		}
		if got, want := buf[tun.Headroom:][:n], fmt.Append(nil, "number ", i); !bytes.HasSuffix(got, want) {
			t.Errorf("read %q, want %q", got, want)
		}
	}
	for _, wait := range []func(time.Duration) error{q.Await, q.Doze} {
		waiting := make(chan error)
		go func() {
			for {
				err := wait(time.Hour)
				if _, n, _ := q.TryRead(buf); n > 0 || err != nil { // it may end sooner, by a signal
					waiting <- err
					return
				}
			}
		}()
		h.inject([]byte("wake up"))
		if err := <-waiting; err != nil {
			t.Errorf("wait for a packet: %v", err)
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

	superPackets(t, h, o, buf)

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
	if err := q.Await(time.Hour); !errors.Is(err, os.ErrClosed) {
		t.Errorf("await: %v", err)
	}
	if err := q.Doze(time.Hour); !errors.Is(err, os.ErrClosed) {
		t.Errorf("doze: %v", err)
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

// awaits wants both kinds of wait to end, early or not.
func awaits(t *testing.T, q tun.Queue, d time.Duration) {
	t.Helper()
	if err := q.Await(d); err != nil {
		t.Errorf("await: %v", err)
	}
	if err := q.Doze(d); err != nil {
		t.Errorf("doze: %v", err)
	}
}

// superPackets come and go where there are offloads.
func superPackets(t *testing.T, h host, o tun.Options, buf []byte) {
	q := h.Queues()[0]
	payload := noise(1000)
	h.injectSuper(payload, 300)
	for i := 0; i < len(payload); i += 300 {
		header, n, err := q.TryRead(buf)
		if err != nil || n == 0 {
			t.Fatal("a super-packet: ", n, err)
		}
		if o.Offloads == 0 {
			if want := payload[i:min(i+300, 1000)]; !bytes.Equal(buf[tun.Headroom:][28:n], want) || header != (tun.Header{}) {
				t.Errorf("packet %d: other bytes, or header %v", i, header)
			}
			continue
		}
		want := tun.Header{Flags: tun.NeedsChecksum, GSO: tun.GSOUDP, HeaderLen: header.HeaderLen, SegmentSize: 300, ChecksumStart: 20, ChecksumOffset: 6}
		if header != want || !bytes.Equal(buf[tun.Headroom:][28:n], payload) {
			t.Errorf("header %v, want %v, or other bytes", header, want)
		}
		break
	}

	header, packet := tuntest.Inner{From: outside, To: inside, UDP: true, Payload: payload}.Super(300)
	err := q.Write(header, room(packet), nil)
	if o.Offloads == 0 {
		if !errors.Is(err, tun.ErrOffload) {
			t.Errorf("a super-packet without offloads: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(payload); i += 300 {
		if got := h.received(); !bytes.Equal(got, payload[i:min(i+300, 1000)]) {
			t.Errorf("datagram %d: other bytes", i)
		}
	}
	for what, wrong := range map[string]func(*tun.Header){
		"kind": func(h *tun.Header) { h.GSO = 9 }, "no size": func(h *tun.Header) { h.SegmentSize = 0 },
		"checksum": func(h *tun.Header) { h.ChecksumStart = 5000 }, "checksum field": func(h *tun.Header) { h.ChecksumOffset = 16 },
	} {
		bad := header
		wrong(&bad)
		if err := q.Write(bad, room(packet), nil); !errors.Is(err, tun.ErrMalformed) {
			t.Errorf("wrong %s: %v", what, err)
		}
	}
}

// Neither packets nor floods of bad ones make garbage.
func TestRefusedPacketsAllocateNothing(t *testing.T) {
	h := realHost(t, tun.Options{Offloads: tun.OffloadAll})
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

func TestAwaitAllocatesNothing(t *testing.T) {
	for _, o := range []tun.Options{{}, {Rings: 4}} {
		h := realHost(t, o)
		h.setUp()
		q := h.Queues()[0]
		if n := testing.AllocsPerRun(50, func() { awaits(t, q, 10*time.Microsecond) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
		h.Close()
	}
}

// A read that has to wait, too.
func TestReadAllocatesNothing(t *testing.T) {
	h := realHost(t, tun.Options{Offloads: tun.OffloadAll})
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
