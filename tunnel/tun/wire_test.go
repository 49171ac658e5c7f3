package tun_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/tuntest"
)

// wire joins the tun devices of two hosts as a tunnel does, but for the
// cryptography: each queue's packets are cut, carried, joined.
type wire struct {
	t       *testing.T
	hosts   [2]*tuntest.Host
	tuns    [2]tun.Device
	vouch   bool
	mangle  func(packet []byte) (deliver bool) // between the two; may be nil
	workers sync.WaitGroup
	reads   atomic.Int64
	packets atomic.Int64
	writes  atomic.Int64
	marked  atomic.Int64 // by mangle
}

// ends says how each of the two devices is opened.
func newWire(t *testing.T, vouch bool, mangle func(*wire) func([]byte) bool, ends ...tun.Options) *wire {
	t.Helper()
	tuntest.Namespace(t)
	w := &wire{t: t, vouch: vouch}
	if mangle != nil {
		w.mangle = mangle(w)
	}
	for i := range w.hosts {
		w.hosts[i] = tuntest.NewHost(t)
		w.hosts[i].Do(t, func() {
			d := open(t, "wire%d", ends[i%len(ends)])
			w.tuns[i] = d
			tuntest.IP(t, fmt.Sprintf("addr add 10.80.0.%d/24 dev %s", i+1, d.Name()))
			tuntest.IP(t, fmt.Sprintf("-6 addr add fd80::%d/64 dev %s nodad", i+1, d.Name()))
			tuntest.IP(t, "link set up dev "+d.Name())
			// The kernel adds the route to the address a little later.
			for start := time.Now(); tuntest.IP(t, fmt.Sprintf("-6 route show table local fd80::%d", i+1)) == ""; {
				if time.Since(start) > patience {
					t.Fatal("the IPv6 address is not there")
				}
				time.Sleep(time.Millisecond)
			}
			if err := os.WriteFile("/proc/sys/net/ipv4/tcp_ecn", []byte("1"), 0); err != nil {
				t.Fatal(err)
			}
		})
	}
	for i := range w.tuns {
		for n, from := range w.tuns[i].Queues() {
			other := w.tuns[1-i].Queues()
			w.workers.Go(func() { w.carry(from, other[n%len(other)], w.tuns[1-i].Capabilities().Offloads) })
		}
	}
	t.Cleanup(func() { // before the devices' own
		for _, d := range w.tuns {
			d.Close()
		}
		w.workers.Wait()
	})
	return w
}

// carry is one worker of one direction.
func (w *wire) carry(from, to tun.Queue, o tun.Offloads) {
	var s tun.Segmenter
	c := tun.NewCoalescer(to, o)
	buf := make([]byte, tun.Headroom+tun.MaxPacket)
	slab := make([]byte, 1<<20)
	free := slab
	var err error
	for {
		h, n, readErr := from.TryRead(buf)
		if n == 0 && readErr == nil || len(free) < 2*tun.MaxPacket {
			if _, err = c.Flush(); err != nil && !errors.Is(err, os.ErrClosed) {
				w.t.Errorf("write: %v", err)
			}
			free = slab
		}
		if n == 0 && readErr == nil {
			h, n, readErr = from.Read(buf)
		}
		if readErr != nil {
			if !errors.Is(readErr, os.ErrClosed) {
				w.t.Errorf("read: %v", readErr)
			}
			w.writes.Add(int64(c.Stats().Writes))
			return
		}
		w.reads.Add(1)
		if err := s.Reset(h, buf[tun.Headroom:][:n], w.vouch); err != nil {
			w.t.Errorf("%v: %+v %x", err, h, buf[tun.Headroom:][:min(n, 60)])
		}
		for p := s.Next(); p != nil; p = s.Next() {
			w.packets.Add(1)
			m := tun.Headroom + len(p)
			b := free[:m:m]
			copy(b[tun.Headroom:], p)
			if w.mangle == nil || w.mangle(b[tun.Headroom:]) {
				free = free[m:]
				c.Add(b, s.Vouched())
			}
		}
	}
}

// dial makes a TCP connection from host 0 to host 1.
func (w *wire) dial(network, address string) (client, server net.Conn) {
	w.t.Helper()
	var listener net.Listener
	w.hosts[1].Do(w.t, func() {
		var err error
		if listener, err = net.Listen(network, address); err != nil {
			w.t.Fatal(err)
		}
	})
	defer listener.Close()
	w.hosts[0].Do(w.t, func() {
		var err error
		if client, err = net.Dial(network, listener.Addr().String()); err != nil {
			w.t.Fatal(err)
		}
	})
	server, err := listener.Accept()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range []net.Conn{client, server} {
		c.SetDeadline(time.Now().Add(3 * patience)) // what never arrives must not hang the test
		w.t.Cleanup(func() { c.Close() })
	}
	return client, server
}

// transfer sends bytes both ways at once, in writes of all sizes, and compares.
func (w *wire) transfer(a, b net.Conn, bytes int) {
	w.t.Helper()
	var both sync.WaitGroup
	for i, ends := range [][2]net.Conn{{a, b}, {b, a}} {
		sent, got := make(chan []byte, 1), make(chan []byte, 1)
		both.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), uint64(bytes)))
			sum, buf := sha256.New(), noise(200000)
			for left := bytes; left > 0; {
				n := min(left, 1+r.IntN(len(buf)))
				if r.IntN(4) == 0 {
					n = min(left, 1+r.IntN(2000))
				}
				at := r.IntN(len(buf) - n + 1)
				sum.Write(buf[at : at+n])
				if _, err := ends[0].Write(buf[at : at+n]); err != nil {
					w.t.Errorf("write: %v", err)
					break
				}
				left -= n
			}
			sent <- sum.Sum(nil)
			ends[0].(*net.TCPConn).CloseWrite()
		})
		both.Go(func() {
			sum := sha256.New()
			if n, err := io.Copy(sum, ends[1]); n != int64(bytes) || err != nil {
				w.t.Errorf("direction %d: got %d of %d bytes, %v", i, n, bytes, err)
			}
			got <- sum.Sum(nil)
		})
		both.Go(func() {
			if s, g := <-sent, <-got; string(s) != string(g) {
				w.t.Errorf("direction %d: other bytes came than went", i)
			}
		})
	}
	both.Wait()
}

// finish ends the carrying, so that the counters are all there.
func (w *wire) finish() {
	for _, d := range w.tuns {
		d.Close()
	}
	w.workers.Wait()
}

// The kernel's TCP between two hosts, over devices with everything and with
// ever less.
func TestTCPOverTheWire(t *testing.T) {
	megabyte := 1 << 20
	size := 6 * megabyte
	if testing.Short() {
		size = megabyte
	}
	basic := tun.OffloadChecksum | tun.OffloadTSO
	for _, c := range []struct {
		mtu, queues int
		ends        [2]tun.Offloads
		vouch       bool
	}{
		{1420, 1, [2]tun.Offloads{tun.OffloadAll, tun.OffloadAll}, true},
		{1420, 1, [2]tun.Offloads{tun.OffloadAll, tun.OffloadAll}, false},
		{1280, 2, [2]tun.Offloads{tun.OffloadAll, tun.OffloadAll}, true},
		{9000, 2, [2]tun.Offloads{tun.OffloadAll, basic}, false},
		{1500, 3, [2]tun.Offloads{basic, tun.OffloadChecksum}, true},
		{1280, 1, [2]tun.Offloads{tun.OffloadAll, 0}, true},
		{9000, 1, [2]tun.Offloads{0, 0}, false},
	} {
		t.Run(fmt.Sprintf("mtu=%d,queues=%d,%v,%v,vouch=%v", c.mtu, c.queues, c.ends[0], c.ends[1], c.vouch), func(t *testing.T) {
			w := newWire(t, c.vouch, nil,
				tun.Options{MTU: c.mtu, Queues: c.queues, Offloads: c.ends[0]},
				tun.Options{MTU: c.mtu, Queues: c.queues, Offloads: c.ends[1]})
			for _, address := range []string{"10.80.0.2:0", "[fd80::2]:0"} {
				var flows sync.WaitGroup
				for range c.queues {
					a, b := w.dial("tcp", address)
					flows.Go(func() { w.transfer(a, b, size) })
				}
				flows.Wait()
			}
			w.finish()
			t.Logf("%d packets in %d reads and %d writes", w.packets.Load(), w.reads.Load(), w.writes.Load())
			tso := c.ends[0].Has(tun.OffloadTSO) && c.ends[1].Has(tun.OffloadTSO)
			// How much is saved depends on how busy the machine is.
			if most := w.packets.Load() * 3 / 4; tso && (w.reads.Load() > most || w.writes.Load() > most) {
				t.Errorf("%d packets in %d reads and %d writes: nothing was saved", w.packets.Load(), w.reads.Load(), w.writes.Load())
			}
		})
	}
}

// The same with losses and marks on the way: retransmissions, SACK, ECE, CWR.
func TestTCPOverABadWire(t *testing.T) {
	for _, vouch := range []bool{false, true} {
		w := newWire(t, vouch, func(w *wire) func([]byte) bool {
			var n atomic.Int64
			return func(p []byte) bool {
				number := n.Add(1)
				if number%997 == 0 {
					return false
				}
				if number%101 == 0 && mark(p) {
					w.marked.Add(1)
				}
				return true
			}
		}, tun.Options{Offloads: tun.OffloadAll})
		for _, address := range []string{"10.80.0.2:0", "[fd80::2]:0"} {
			a, b := w.dial("tcp", address)
			w.transfer(a, b, 2<<20)
		}
		w.finish()
		if w.marked.Load() < 10 {
			t.Errorf("only %d packets could be marked: is ECN on?", w.marked.Load())
		}
	}
}

// mark sets CE in an ECN-capable packet.
func mark(p []byte) bool {
	if p[0]>>4 == 6 {
		if p[1]>>4&3 == 0 {
			return false
		}
		p[1] |= 3 << 4
		return true
	}
	if p[1]&3 == 0 {
		return false
	}
	p[1] |= 3
	transport := int(p[0]&15) * 4
	p[10], p[11] = 0, 0
	sum := ^tuntest.Sum(p[:transport])
	p[10], p[11] = byte(sum>>8), byte(sum)
	return true
}

// control sets a socket option.
func control(level, option, value int) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, value) }); e != nil {
			return e
		}
		return err
	}
}

// Datagrams cut by the host's UDP_SEGMENT and by us are the same, one by one,
// with the marks that they got on the way.
func TestUDPOverTheWire(t *testing.T) {
	const size, perSend, sends = 1200, 40, 50
	for _, vouch := range []bool{false, true} {
		for _, network := range []string{"udp4", "udp6"} {
			w := newWire(t, vouch, func(*wire) func([]byte) bool {
				return func(p []byte) bool {
					if p[len(p)-1]%7 == 3 { // the number of the datagram
						mark(p)
					}
					return true
				}
			}, tun.Options{Offloads: tun.OffloadAll})
			level, class, receive, address := unix.IPPROTO_IP, unix.IP_TOS, unix.IP_RECVTOS, "10.80.0.2:0"
			if network == "udp6" {
				level, class, receive, address = unix.IPPROTO_IPV6, unix.IPV6_TCLASS, unix.IPV6_RECVTCLASS, "[fd80::2]:0"
			}
			var server *net.UDPConn
			w.hosts[1].Do(t, func() {
				l := net.ListenConfig{Control: control(level, receive, 1)}
				c, err := l.ListenPacket(context.Background(), network, address)
				if err != nil {
					t.Fatal(err)
				}
				server = c.(*net.UDPConn)
			})
			server.SetReadBuffer(8 << 20)
			server.SetDeadline(time.Now().Add(3 * patience))
			var client net.Conn
			w.hosts[0].Do(t, func() {
				d := net.Dialer{Control: func(n, a string, c syscall.RawConn) error {
					return errors.Join(control(level, class, 2)(n, a, c), control(unix.SOL_UDP, unix.UDP_SEGMENT, size)(n, a, c))
				}}
				var err error
				if client, err = d.Dial(network, server.LocalAddr().String()); err != nil {
					t.Fatal(err)
				}
			})
			payload := noise(size * perSend)
			number := byte(0)
			got, oob := make([]byte, 2000), make([]byte, 100)
			for range sends {
				for i := range perSend {
					payload[(i+1)*size-1] = number + byte(i)
				}
				if _, err := client.Write(payload[:len(payload)-1+int(number%2)]); err != nil {
					t.Fatal(err)
				}
				for i := range perSend {
					n, nOOB, _, _, err := server.ReadMsgUDP(got, oob)
					if err != nil {
						t.Fatal(err)
					}
					sent := payload[i*size:][:min(size, len(payload)-1+int(number%2)-i*size)]
					if !bytes.Equal(got[:n], sent) {
						t.Fatalf("datagram %d: %d bytes, want %d, or others", i, n, len(sent))
					}
					ecn := 2
					if sent[len(sent)-1]%7 == 3 {
						ecn = 3
					}
					m, err := unix.ParseSocketControlMessage(oob[:nOOB])
					if err != nil || len(m) != 1 || int(m[0].Data[0]) != ecn {
						t.Fatalf("datagram %d: ECN %v, %v, want %d", i, m, err, ecn)
					}
				}
				number += perSend
			}
			client.Close()
			server.Close()
			w.finish()
			t.Logf("%d packets in %d reads and %d writes", w.packets.Load(), w.reads.Load(), w.writes.Load())
			if w.reads.Load()*3 > w.packets.Load() || w.writes.Load()*2 > w.packets.Load() {
				t.Errorf("%d packets in %d reads and %d writes: nothing was saved", w.packets.Load(), w.reads.Load(), w.writes.Load())
			}
		}
	}
}
