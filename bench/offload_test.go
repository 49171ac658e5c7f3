package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/tunnels"
)

// TestTransfersUnderOffload wants every byte that goes in to come out, whatever
// the host, the daemon and the socket join and cut on the way. TCP's own checksum
// would not notice: between two kiloports it is not computed.
func TestTransfersUnderOffload(t *testing.T) {
	for _, c := range []struct {
		name         string
		outer, inner int
		atA, atB     []string // settings of the two ends
		ipv4         bool     // outside
	}{
		{"as it comes", 1500, 1420, nil, nil, false},
		{"as it comes, IPv4 outside", 1500, 1420, nil, nil, true},
		{"least MTU", 1360, 1280, nil, nil, false},
		{"jumbo frames", 9000, 8920, nil, nil, false},
		{"one end without offloads", 1500, 1420, []string{"GSO = off", "GRO = off"}, nil, false},
		{"no joining on the way in", 1500, 1420, []string{"GRO = off"}, []string{"GRO = off"}, true},
		{"nothing at all, one worker", 1500, 1420, []string{"GSO = off", "GRO = off", "Workers = 1"}, []string{"GSO = off", "GRO = off", "Workers = 1"}, false},
		{"four workers, ChaCha20", 1500, 1420, []string{"Workers = 4", "Cipher = chacha20poly1305"}, []string{"Workers = 4"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := netlab.ForTest(t, netlab.SitesConfig{MTU: c.outer, Offload: true})
			end := func(settings []string) tunnels.Daemon {
				return tunnels.Kiloport{Binary: binary(t, kiloportBinary), Settings: settings}
			}
			tun, err := tunnels.Start(t.Context(), s, end(c.atA), end(c.atB), tunnels.Config{IPv6: !c.ipv4})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range []*tunnels.End{&tun.A, &tun.B} {
				err := errors.Join(e.Site.Up(e.Dev, c.inner), e.Site.End().Sysctl("net/ipv4/tcp_ecn", "1"))
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := tun.AwaitLanes(t.Context(), binary(t, kiloportBinary)); err != nil {
				t.Fatal(err)
			}
			for _, to := range []netip.Addr{s.B.Inner4(1).Addr(), s.B.Inner6(1).Addr()} {
				transferStreams(t, tun, to)
				transferDatagrams(t, tun, to, c.inner)
			}
		})
	}
}

// transferStreams carries streams both ways at the same time, in writes of all
// sizes.
func transferStreams(t *testing.T, tun *tunnels.Tunnel, to netip.Addr) {
	t.Helper()
	const streams, length = 4, 16 << 20
	var listener net.Listener
	err := tun.B.Site.End().Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(to, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var all sync.WaitGroup
	both := func(c net.Conn, sends, expects byte) {
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Error(err)
		}
		sent := make(chan error, 1)
		go func() { sent <- writeStream(c, sends, length) }()
		if err := errors.Join(checkStream(c, expects, length), <-sent); err != nil {
			t.Errorf("a stream to %v: %v", to, err)
		}
	}
	for range streams {
		all.Go(func() {
			c, err := listener.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			both(c, 2, 1)
		})
		all.Go(func() {
			var c net.Conn
			err := tun.A.Site.End().Do(func() (err error) {
				c, err = net.DialTimeout("tcp", listener.Addr().String(), 10*time.Second)
				return err
			})
			if err != nil {
				t.Error(err)
				listener.Close()
				return
			}
			both(c, 1, 2)
		})
	}
	all.Wait()
}

// stream is an endless sequence of bytes that its seed tells.
func stream(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

func writeStream(w io.Writer, seed byte, length int) error {
	bytes, sizes := stream(seed), rand.New(stream(^seed))
	buf := make([]byte, 128<<10)
	for length > 0 {
		n := min(length, 1+sizes.IntN(1<<(1+sizes.IntN(17))))
		_, _ = bytes.Read(buf[:n]) // never fails
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		length -= n
	}
	return nil
}

func checkStream(r io.Reader, seed byte, length int) error {
	want, got := make([]byte, 64<<10), make([]byte, 64<<10)
	source := stream(seed)
	for at := 0; at < length; at += len(got) {
		if _, err := io.ReadFull(r, got); err != nil {
			return fmt.Errorf("after %d bytes: %w", at, err)
		}
		_, _ = source.Read(want)
		if !bytes.Equal(got, want) {
			return fmt.Errorf("other bytes than were sent, between %d and %d", at, at+len(got))
		}
	}
	return nil
}

// transferDatagrams carries datagrams of all lengths there and back, a few at a
// time, so that none need be lost.
func transferDatagrams(t *testing.T, tun *tunnels.Tunnel, to netip.Addr, mtu int) {
	t.Helper()
	const bursts, burst = 300, 16
	var server, client net.PacketConn
	err := errors.Join(
		tun.B.Site.End().Do(func() (err error) {
			server, err = net.ListenPacket("udp", netip.AddrPortFrom(to, 0).String())
			return err
		}),
		tun.A.Site.End().Do(func() (err error) {
			client, err = net.ListenPacket("udp", ":0")
			return err
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	go echo(server)
	defer server.Close()
	sizes := rand.New(stream(byte(mtu)))
	buf := make([]byte, mtu)
	for n := range bursts {
		size := 8 + sizes.IntN(mtu-48-8) // equal in a burst, so that they are joined,
		for i := range burst {
			if i == burst-1 {
				size = 8 + sizes.IntN(size-7) // but for a shorter one
			}
			if _, err := client.WriteTo(datagram(n*burst+i, size), server.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		if err := client.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for i := range burst {
			size, _, err := client.ReadFrom(buf)
			if err != nil {
				t.Fatalf("datagram %d to %v: %v", n*burst+i, to, err)
			}
			if want := datagram(n*burst+i, size); !bytes.Equal(buf[:size], want) {
				t.Fatalf("datagram %d to %v came back as another one, or in another order", n*burst+i, to)
			}
		}
	}
}

// echo sends everything back until the socket is closed.
func echo(c net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		if _, err := c.WriteTo(buf[:n], from); err != nil {
			return
		}
	}
}

// datagram is the content of the number-th datagram.
func datagram(number, size int) []byte {
	b := make([]byte, size)
	_, _ = stream(byte(number)).Read(b)
	b[0], b[1], b[2], b[3] = byte(number>>8), byte(number), byte(size>>8), byte(size)
	return b
}
