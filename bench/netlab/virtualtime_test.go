package netlab_test

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"kiloport/bench/netlab"
)

// needVirtualTime skips where the clock runs by itself: what these tests measure
// is exact only where computing takes no time.
func needVirtualTime(t *testing.T) {
	t.Helper()
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(line), "time-travel") {
		t.Skip("this kernel's time is real; run in the lab kernel (`bench kernel`)")
	}
}

// echoUDP answers every datagram that comes to port 7 of the address.
func echoUDP(t *testing.T, n *netlab.Node, addr netip.Addr) {
	t.Helper()
	conn := listenUDP(t, n, netip.AddrPortFrom(addr, 7))
	go func() {
		b := make([]byte, 2000)
		for {
			size, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			conn.WriteToUDPAddrPort(b[:size], from)
		}
	}()
}

func listenUDP(t *testing.T, n *netlab.Node, addr netip.AddrPort) (conn *net.UDPConn) {
	t.Helper()
	err := n.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// roundTrip sends a datagram with 50 bytes of payload behind so many full ones of
// another flow and returns how long the echo takes.
func roundTrip(t *testing.T, from *netlab.Node, to netip.Addr, behind int) time.Duration {
	t.Helper()
	anyPort := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	full := 1500 - 20 - 8
	if to.Is6() {
		anyPort = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
		full = 1500 - 40 - 8
	}
	probe, other := listenUDP(t, from, anyPort), listenUDP(t, from, anyPort)
	begin := time.Now()
	for range behind {
		if _, err := other.WriteToUDPAddrPort(make([]byte, full), netip.AddrPortFrom(to, 9)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := probe.WriteToUDPAddrPort(make([]byte, 50), netip.AddrPortFrom(to, 7)); err != nil {
		t.Fatal(err)
	}
	probe.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, _, err := probe.ReadFromUDPAddrPort(make([]byte, 2000)); err != nil {
		t.Fatal(err)
	}
	return time.Since(begin)
}

func TestRoundTripInVirtualTime(t *testing.T) {
	needVirtualTime(t)
	const tolerance = 20 * time.Microsecond
	oneFrame := 1514 * 8 * time.Second / 20e6
	for _, test := range []struct {
		qdisc  netlab.Qdisc
		burst  time.Duration
		behind int
		wait   time.Duration // above the base RTT
	}{
		{netlab.Qdisc{Kind: netlab.KindFQCodel}, 0, 0, 0},
		{netlab.Qdisc{Kind: netlab.KindFQCodel}, 0, 1, oneFrame},
		{netlab.Qdisc{Kind: netlab.KindFQCodel}, 0, 10, oneFrame},
		{netlab.Qdisc{Kind: netlab.KindPfifo}, 0, 10, 10 * oneFrame},
		{netlab.Qdisc{Kind: netlab.KindPfifo}, 3 * oneFrame, 10, 7 * oneFrame},
		{netlab.Qdisc{Kind: netlab.KindCake}, 0, 1, oneFrame},
		{netlab.Qdisc{Kind: netlab.KindCake}, 0, 10, oneFrame},
	} {
		s := newPath(t, netlab.Path{RateUp: 20e6, RateDown: 20e6, RTT: 20 * time.Millisecond, Qdisc: test.qdisc, Burst: test.burst})
		if err := s.RouteNative(); err != nil {
			t.Fatal(err)
		}
		for _, to := range []netip.Addr{s.B.Inner4(2).Addr(), s.B.Inner6(2).Addr()} {
			echoUDP(t, s.B.Host, to)
			listenUDP(t, s.B.Host, netip.AddrPortFrom(to, 9))
			time.Sleep(100 * time.Millisecond) // until the start's own packets are through
			took := roundTrip(t, s.A.Host, to, test.behind)
			want := 20*time.Millisecond + test.wait
			t.Logf("%v, burst %v, %v behind %d full packets: %v", test.qdisc, test.burst, to, test.behind, took)
			if took < want-tolerance || took > want+tolerance {
				t.Errorf("%v, burst %v, %v: behind %d full packets a round trip takes %v, want %v", test.qdisc, test.burst, to, test.behind, took, want)
			}
		}
		up, _, err := s.Bottlenecks()
		if err != nil {
			t.Fatal(err)
		}
		if test.qdisc.Kind != netlab.KindPfifo && test.behind > 0 && up.MaxPacket != 1514 {
			t.Errorf("the longest packet at the bottleneck is %d bytes, want 1514: %+v", up.MaxPacket, up)
		}
	}
}

func TestFirstPacketsArrive(t *testing.T) {
	needVirtualTime(t)
	for range 5 {
		s := newPath(t, netlab.Path{RTT: 20 * time.Millisecond})
		if err := s.RouteNative(); err != nil {
			t.Fatal(err)
		}
		for _, way := range [][2]*netlab.Site{{s.A, s.B}, {s.B, s.A}} {
			for _, to := range []netip.Addr{way[1].Inner6(2).Addr(), way[1].Inner4(2).Addr()} {
				begin := time.Now()
				exchange(t, way[0].Host, way[1].Host, to)
				if took := time.Since(begin); took > 50*time.Millisecond {
					t.Errorf("connecting to %v and an echo took %v, want two round trips of 20 ms", to, took)
				}
			}
		}
	}
}
