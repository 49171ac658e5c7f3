package noise_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/conn/bindtest"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"kiloport/tunnel/noise"
)

// wireguard is a wireguard-go device with one peer, us, on a link and a TUN
// device made of channels. It runs inside a synctest bubble, so its timers
// take no time.
type wireguard struct {
	device *device.Device
	tun    *tuntest.ChannelTUN
	link   conn.Bind
	from   chan []byte // datagrams that it sent
}

// kept holds every device ever made with its peer. Their finalizers drain
// channels, which is fatal for a channel that belongs to a synctest bubble.
var kept []any

// The peer's and our addresses within the tunnel.
var theirs, ours = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")

func startWireGuard(t *testing.T, private noise.PrivateKey, peer noise.PublicKey, psk noise.PresharedKey, keepalive int) *wireguard {
	t.Helper()
	binds := bindtest.NewChannelBinds()
	w := &wireguard{tun: tuntest.NewChannelTUN(), link: binds[1], from: make(chan []byte, 1000)}
	w.device = device.NewDevice(w.tun.TUN(), binds[0], device.NewLogger(device.LogLevelError, "wireguard-go: "))
	receive, _, err := w.link.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range receive {
		go w.pump(f)
	}
	config := fmt.Sprintf("private_key=%x\npublic_key=%x\npreshared_key=%x\nendpoint=127.0.0.1:1\nallowed_ip=%v/32\npersistent_keepalive_interval=%d\n",
		private[:], peer[:], psk[:], ours, keepalive)
	if err := w.device.IpcSet(config); err != nil {
		t.Fatal(err)
	}
	kept = append(kept, w.device, w.device.LookupPeer(device.NoisePublicKey(peer)))
	if err := w.device.Up(); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *wireguard) pump(f conn.ReceiveFunc) {
	bufs, sizes, ends := [][]byte{make([]byte, 65536)}, make([]int, 1), make([]conn.Endpoint, 1)
	for {
		n, err := f(bufs, sizes, ends)
		if err != nil {
			return
		}
		if n > 0 {
			w.from <- slices.Clone(bufs[0][:sizes[0]])
		}
	}
}

func (w *wireguard) close() {
	w.device.Close()
	_ = w.link.Close()
}

// send delivers a datagram to the device.
func (w *wireguard) send(t *testing.T, msg []byte) {
	t.Helper()
	if err := w.link.Send([][]byte{msg}, bindtest.ChannelEndpoint(2)); err != nil {
		t.Fatal(err)
	}
}

// next is the next datagram from the device, of type kind.
func (w *wireguard) next(t *testing.T, kind uint8) []byte {
	t.Helper()
	select {
	case msg := <-w.from:
		if got, ok := noise.MessageType(msg); !ok || got != kind {
			t.Fatalf("wireguard-go sent type %d, %v, want %d", got, ok, kind)
		}
		return msg
	case <-time.After(time.Minute):
		t.Fatalf("wireguard-go sent nothing, want type %d", kind)
		return nil
	}
}

// exchange sends a packet each way through the tunnel.
func (w *wireguard) exchange(t *testing.T, k *noise.Keypair, counter uint64) {
	t.Helper()
	in := tuntest.Ping(theirs, ours)
	w.send(t, k.Seal(nil, in, counter))
	if got := <-w.tun.Inbound; !bytes.Equal(got, in) {
		t.Errorf("wireguard-go received %x, want %x", got, in)
	}
	out := tuntest.Ping(ours, theirs)
	w.tun.Outbound <- out
	plain, _, err := k.OpenInPlace(w.next(t, noise.MessageTransport))
	if err != nil || !bytes.Equal(plain[:len(out)], out) || len(plain) != noise.PaddedSize(len(out), 1420) {
		t.Errorf("received %x, %v, want %x", plain, err, out)
	}
}

func bothPSKs(t *testing.T, f func(t *testing.T, psk noise.PresharedKey)) {
	for name, psk := range map[string]noise.PresharedKey{"no psk": {}, "psk": {9, 8, 7, 31: 1}} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { f(t, psk) }) })
	}
}

func TestWireGuardResponds(t *testing.T) {
	bothPSKs(t, func(t *testing.T, psk noise.PresharedKey) {
		a, b := newSides(t)
		w := startWireGuard(t, b.private, a.static.Public(), psk, 0)
		defer w.close()
		for i := range 3 { // the later ones are rekeys
			msg, h, err := noise.Initiate(fixedRand(byte(i)), a.static, &a.remote, uint32(i), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			noise.AddMACs(msg[:], &a.remote, now)
			w.send(t, msg[:])
			answer := w.next(t, noise.MessageResponse)
			if !a.static.CheckMAC1(answer) {
				t.Fatal("wireguard-go's mac1 refused")
			}
			k, err := h.OpenResponse(a.static, psk, answer)
			if err != nil {
				t.Fatal(err)
			}
			w.exchange(t, k, 0)
			w.exchange(t, k, 1)
			time.Sleep(time.Second)
		}
	})
}

func TestWireGuardInitiates(t *testing.T) {
	bothPSKs(t, func(t *testing.T, psk noise.PresharedKey) {
		a, b := newSides(t)
		w := startWireGuard(t, a.private, b.static.Public(), psk, 0)
		defer w.close()
		out := tuntest.Ping(ours, theirs)
		w.tun.Outbound <- out
		in, err := noise.OpenInitiation(b.static, w.next(t, noise.MessageInitiation))
		if err != nil {
			t.Fatal(err)
		}
		if err := in.Accept(&b.remote, now); err != nil {
			t.Fatal(err)
		}
		answer, k, err := in.Respond(fixedRand('r'), psk, 5)
		if err != nil {
			t.Fatal(err)
		}
		noise.AddMACs(answer[:], &b.remote, now)
		w.send(t, answer[:])
		plain, counter, err := k.OpenInPlace(w.next(t, noise.MessageTransport))
		if err != nil || counter != 0 || !bytes.HasPrefix(plain, out) {
			t.Fatalf("%x, %d, %v", plain, counter, err)
		}
		w.exchange(t, k, 0)
	})
}

// A lane's counter is large, and a stock peer takes it as a leap of its window.
func TestWireGuardUnderstandsLaneZeroOnly(t *testing.T) {
	bothPSKs(t, func(t *testing.T, psk noise.PresharedKey) {
		a, b := newSides(t)
		w := startWireGuard(t, b.private, a.static.Public(), psk, 0)
		defer w.close()
		msg, h, err := noise.Initiate(fixedRand(1), a.static, &a.remote, 1, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		noise.AddMACs(msg[:], &a.remote, now)
		w.send(t, msg[:])
		k, err := h.OpenResponse(a.static, psk, w.next(t, noise.MessageResponse))
		if err != nil {
			t.Fatal(err)
		}
		w.exchange(t, k, noise.JoinCounter(1, 0, 0))
		w.send(t, k.Seal(nil, tuntest.Ping(theirs, ours), 1))
		select {
		case <-w.tun.Inbound:
			t.Error("the premise is wrong: lane 0 is still accepted after lane 1")
		case <-time.After(time.Second):
		}
	})
}

func TestWireGuardAcceptsTheGoldenInitiations(t *testing.T) {
	for _, g := range readGolden[goldenHandshake](t, "handshakes.json") {
		synctest.Test(t, func(t *testing.T) {
			w := startWireGuard(t, g.ResponderPrivate.key(), g.InitiatorPublic.key(), g.PresharedKey.key(), 0)
			defer w.close()
			var msg device.MessageInitiation
			if err := binary.Read(bytes.NewReader(g.Initiation), binary.LittleEndian, &msg); err != nil {
				t.Fatal(err)
			}
			if w.device.ConsumeMessageInitiation(&msg) == nil {
				t.Errorf("%s: refused", g.Name)
			}
			msg.Timestamp[0]++
			if w.device.ConsumeMessageInitiation(&msg) != nil {
				t.Errorf("%s: accepted with a damaged timestamp", g.Name)
			}
		})
	}
}

func TestWireGuardAgreesOnGoldenMACs(t *testing.T) {
	for _, g := range readGolden[goldenHandshake](t, "handshakes.json") {
		var generator device.CookieGenerator
		generator.Init(device.NoisePublicKey(g.ResponderPublic.key()))
		msg := slices.Clone(g.Initiation)
		clear(msg[116:])
		generator.AddMacs(msg)
		if !bytes.Equal(msg, g.Initiation) {
			t.Errorf("%s: mac1", g.Name)
		}
		var reply device.MessageCookieReply
		if err := binary.Read(bytes.NewReader(g.CookieReply), binary.LittleEndian, &reply); err != nil {
			t.Fatal(err)
		}
		if !generator.ConsumeReply(&reply) {
			t.Errorf("%s: cookie reply refused", g.Name)
		}
		if generator.AddMacs(msg); !bytes.Equal(msg, g.InitiationAnswered) {
			t.Errorf("%s: mac2", g.Name)
		}
		var checker device.CookieChecker
		checker.Init(device.NoisePublicKey(g.InitiatorPublic.key()))
		if !checker.CheckMAC1(g.Response) {
			t.Errorf("%s: mac1 of the response", g.Name)
		}
	}
}

// wireguard-go sends the cookie, we use it.
func TestWireGuardCookie(t *testing.T) {
	a, b := newSides(t)
	var checker device.CookieChecker
	checker.Init(device.NoisePublicKey(b.static.Public()))
	msg, _ := a.initiate(t, 3)
	src := []byte{192, 0, 2, 1, 0xca, 0x6c}
	made, err := checker.CreateReply(msg, 3, src)
	if err != nil {
		t.Fatal(err)
	}
	var reply bytes.Buffer
	if err := binary.Write(&reply, binary.LittleEndian, made); err != nil {
		t.Fatal(err)
	}
	if err := a.remote.OpenCookieReply(now, reply.Bytes()); err != nil {
		t.Fatal(err)
	}
	noise.AddMACs(msg, &a.remote, now)
	if !checker.CheckMAC1(msg) || !checker.CheckMAC2(msg, src) {
		t.Error("our macs refused")
	}
	if msg[147]++; checker.CheckMAC2(msg, src) {
		t.Error("the premise is wrong: a damaged mac2 is accepted")
	}
}

func TestWireGuardAgreesOnKDF(t *testing.T) {
	for i, g := range readGolden[goldenKDF](t, "kdf.json") {
		var t1, t2, t3 [32]byte
		device.KDF3(&t1, &t2, &t3, g.Key, g.Input)
		if !bytes.Equal(t1[:], g.T1) || !bytes.Equal(t2[:], g.T2) || !bytes.Equal(t3[:], g.T3) {
			t.Errorf("vector %d: %s", i, hex.EncodeToString(t1[:]))
		}
	}
}
