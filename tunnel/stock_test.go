package tunnel

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"kiloport/portpool"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/tun"
	"kiloport/tunnel/uapi"
)

// memBind lets wireguard-go send over a memNet.
type memBind struct {
	net    *memNet
	host   netip.Addr
	mu     sync.Mutex
	socket *memSocket
}

func (b *memBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	s, err := b.net.open(b.host, port)
	if err != nil {
		return nil, 0, err
	}
	b.mu.Lock()
	b.socket = s
	b.mu.Unlock()
	receive := func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		m := []portpool.Message{{Buf: packets[0]}}
		if _, err := s.Receive(m); err != nil {
			return 0, net.ErrClosed
		}
		sizes[0], eps[0] = m[0].N, &memEndpoint{m[0].Addr}
		return 1, nil
	}
	return []conn.ReceiveFunc{receive}, s.Port(), nil
}

func (b *memBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.socket != nil {
		b.socket.Close()
		b.socket = nil
	}
	return nil
}

func (b *memBind) SetMark(uint32) error { return nil }
func (b *memBind) BatchSize() int       { return 1 }

func (b *memBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	b.mu.Lock()
	s := b.socket
	b.mu.Unlock()
	if s == nil {
		return net.ErrClosed
	}
	for _, buf := range bufs {
		b.net.send(memDatagram{from: s.at, to: ep.(*memEndpoint).to, bytes: slices.Clone(buf)})
	}
	return nil
}

func (b *memBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	to, err := netip.ParseAddrPort(s)
	return &memEndpoint{to}, err
}

type memEndpoint struct{ to netip.AddrPort }

func (e *memEndpoint) ClearSrc()           {}
func (e *memEndpoint) SrcToString() string { return "" }
func (e *memEndpoint) DstToString() string { return e.to.String() }
func (e *memEndpoint) DstToBytes() []byte  { b, _ := e.to.MarshalBinary(); return b }
func (e *memEndpoint) DstIP() netip.Addr   { return e.to.Addr() }
func (e *memEndpoint) SrcIP() netip.Addr   { return netip.Addr{} }

// stockTUN is a memTUN as wireguard-go wants it.
type stockTUN struct {
	*memTUN
	events chan wgtun.Event
}

func (s *stockTUN) Read(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	_, sizes[0], err = s.memTUN.Read(bufs[0][offset-tun.Headroom:])
	if err != nil {
		return 0, err
	}
	return 1, nil
}
func (s *stockTUN) Write(bufs [][]byte, offset int) (int, error) {
	for i, b := range bufs {
		if err := s.memTUN.Write(tun.Header{}, b[offset-tun.Headroom:], nil); err != nil {
			return i, err
		}
	}
	return len(bufs), nil
}
func (s *stockTUN) MTU() (int, error)          { return s.mtu, nil }
func (s *stockTUN) Name() (string, error)      { return "stock0", nil }
func (s *stockTUN) Events() <-chan wgtun.Event { return s.events }
func (s *stockTUN) BatchSize() int             { return 1 }
func (s *stockTUN) File() *os.File             { return nil }
func (s *stockTUN) Close() error {
	s.once.Do(func() { close(s.closed); close(s.events) })
	return nil
}

// immortal keeps wireguard-go's devices from being finalized: a finalizer runs
// outside the bubble and would touch the bubble's channels. So do its peers', which
// it forgets when it is closed.
var immortal []any

// stock is a wireguard-go with the address and inner address of a site.
type stock struct {
	site
	wg *device.Device
}

func newStock(t *testing.T, network *memNet, n byte) *stock {
	t.Helper()
	s := &stock{site: site{
		t: t, tun: newMemTUN(1420),
		addr:   netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: n}),
		inside: netip.AddrFrom16([16]byte{0xfd, 0, 14: n, 15: 1}),
	}}
	s.at = netip.AddrPortFrom(s.addr, 51820)
	s.key, _ = noise.NewPrivateKey(newSeeded(n))
	link := &stockTUN{memTUN: s.tun, events: make(chan wgtun.Event, 1)}
	s.wg = device.NewDevice(link, &memBind{net: network, host: s.addr}, &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   func(format string, args ...any) { t.Logf("wireguard-go: "+format, args...) },
	})
	immortal = append(immortal, s.wg)
	s.set("private_key=%s\nlisten_port=%d\n", hex.EncodeToString(s.key[:]), s.at.Port())
	if err := s.wg.Up(); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stock) set(format string, args ...any) {
	s.t.Helper()
	if err := s.wg.IpcSet(fmt.Sprintf(format, args...)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stock) knows(other *site, psk noise.PresharedKey) {
	s.t.Helper()
	public := other.key.Public()
	s.set("public_key=%s\npreshared_key=%s\nendpoint=%s\nallowed_ip=%s\n", hex.EncodeToString(public[:]),
		hex.EncodeToString(psk[:]), other.at, netip.PrefixFrom(other.inside, 112).Masked())
	immortal = append(immortal, s.wg.LookupPeer(device.NoisePublicKey(public)))
}

// TestStockPeer exchanges packets with wireguard-go for six minutes, hence over
// two rekeys with the protocol's own constants, with either side beginning.
func TestStockPeer(t *testing.T) {
	for _, c := range []struct {
		name    string
		weBegin bool
		withPSK bool
	}{
		{"we begin", true, false}, {"it begins", false, false},
		{"we begin, preshared key", true, true}, {"it begins, preshared key", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testStockPeer(t, c.weBegin, c.withPSK) })
		})
	}
}

func testStockPeer(t *testing.T, weBegin, withPSK bool) {
	network := newMemNet()
	network.keep = true
	a, b := newSite(t, network, 1), newStock(t, network, 2)
	defer b.wg.Close()
	defer a.stop()
	var psk noise.PresharedKey
	if withPSK {
		psk, _ = noise.NewPresharedKey(newSeeded(9))
	}
	a.knows(&b.site, b.at)
	a.configure(&uapi.SetRequest{Peers: []uapi.PeerChange{{PublicKey: uapi.PublicKey(b.key.Public()), PresharedKey: (*uapi.SecretKey)(&psk)}}})
	b.knows(a, psk)
	synctest.Wait()
	first, second := a, &b.site
	if !weBegin {
		first, second = second, first
	}
	first.tun.in <- first.udp(second, 1, 1, 200)
	time.Sleep(time.Second)

	ab, ba := newOrder(t), newOrder(t)
	number := uint64(10)
	keypairs := make(map[*noise.Keypair]bool)
	for start := time.Now(); time.Since(start) < 6*time.Minute; time.Sleep(100 * time.Millisecond) {
		for flow := range uint16(20) {
			number++
			a.tun.in <- a.udp(&b.site, 100+flow, number, 300)
			b.tun.in <- b.udp(a, 100+flow, number, 300)
		}
		keypairs[a.sending(&b.site).keypair] = true
		ab.check(b.tun.received())
		ba.check(a.tun.received())
	}
	time.Sleep(time.Second)
	ab.check(b.tun.received())
	ba.check(a.tun.received())
	want := 6 * 60 * 10
	for flow := uint16(100); flow < 120; flow++ {
		if ab.got[flow] != want || ba.got[flow] != want {
			t.Errorf("flow %d: of %d packets %d arrived at wireguard-go, %d at us", flow, want, ab.got[flow], ba.got[flow])
		}
	}
	if ab.got[1]+ba.got[1] != 1 {
		t.Error("the first packet, which waited for the handshake, did not arrive")
	}
	if len(keypairs) < 3 {
		t.Errorf("%d keypairs, want at least two rekeys", len(keypairs))
	}
	for port := range lanesUsed(network.taken(), a.addr) {
		if port != a.at.Port() {
			t.Errorf("a datagram left from port %d: a stock peer must see lane 0 alone", port)
		}
	}
	if s := a.peerStatus(); s.Mode != "stock" || s.Reason == "" || s.Lanes.InUse != 0 {
		t.Errorf("status: mode %s (%s), %d lanes", s.Mode, s.Reason, s.Lanes.InUse)
	}
	if !strings.Contains(a.peerStatus().ECN, "compat") {
		t.Errorf("ecn mode %q towards a stock peer", a.peerStatus().ECN)
	}
}
