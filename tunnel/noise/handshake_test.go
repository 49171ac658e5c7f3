package noise_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"kiloport/tunnel/noise"
)

func TestHandshake(t *testing.T) {
	for name, psk := range map[string]noise.PresharedKey{"no psk": {}, "psk": {1, 2, 3}} {
		t.Run(name, func(t *testing.T) {
			ka, kb := shake(t, psk)
			if ka.LocalIndex != 1 || ka.RemoteIndex != 2 || kb.LocalIndex != 2 || kb.RemoteIndex != 1 {
				t.Errorf("indexes: %v, %v", ka, kb)
			}
			if !ka.Initiator || kb.Initiator {
				t.Error("who began is wrong")
			}
			checkCarries(t, ka, kb)
			checkCarries(t, kb, ka)
		})
	}
}

func TestDifferentPSKRefused(t *testing.T) {
	a, b := newSides(t)
	msg, h := a.initiate(t, 1)
	answer, _ := b.respond(t, msg, noise.PresharedKey{1}, 2)
	if _, err := h.OpenResponse(a.static, noise.PresharedKey{2}, answer); !errors.Is(err, noise.ErrForged) {
		t.Fatalf("wrong psk: %v", err)
	}
	if _, err := h.OpenResponse(a.static, noise.PresharedKey{1}, answer); err != nil {
		t.Fatalf("the right psk after the wrong one: %v", err)
	}
}

func TestResponseIsTakenOnce(t *testing.T) {
	a, b := newSides(t)
	msg, h := a.initiate(t, 1)
	answer, _ := b.respond(t, msg, noise.PresharedKey{}, 2)
	if _, err := h.OpenResponse(a.static, noise.PresharedKey{}, answer); err != nil {
		t.Fatal(err)
	}
	if _, err := h.OpenResponse(a.static, noise.PresharedKey{}, answer); !errors.Is(err, noise.ErrState) {
		t.Fatalf("the same response again: %v", err)
	}
}

// open goes as far as Accept.
func open(s *side, msg []byte, at int64) error {
	in, err := noise.OpenInitiation(s.static, msg)
	if err != nil {
		return err
	}
	return in.Accept(&s.remote, at)
}

func TestInitiationReplayAndFlood(t *testing.T) {
	a, b := newSides(t)
	first, _ := a.initiate(t, 1)
	second, _ := a.initiate(t, 2)
	third, _ := a.initiate(t, 3)
	rate := int64(20 * time.Millisecond)
	steps := []struct {
		what string
		msg  []byte
		at   int64
		want error
	}{
		{"second", second, now, nil},
		{"the same", second, later, noise.ErrRepeated},
		{"an older one", first, later, noise.ErrReplay},
		{"a newer one too soon", third, now + rate, noise.ErrFlood},
		{"the newer one in time", third, now + rate + 1, nil},
		{"the newer one twice", third, later, noise.ErrRepeated},
	}
	for _, s := range steps {
		if err := open(b, s.msg, s.at); !errors.Is(err, s.want) {
			t.Errorf("%s: %v, want %v", s.what, err, s.want)
		}
	}
}

// The peer accepts only newer timestamps, so ours must grow even when the clock
// stands still or is set back.
func TestTimestampsAlwaysGrow(t *testing.T) {
	a, b := newSides(t)
	var last [12]byte
	walls := []time.Time{wall, wall, wall.Add(time.Nanosecond), wall.Add(-time.Hour), wall, wall.Add(time.Second)}
	for range 100 { // across a second's end, too
		walls = append(walls, wall)
	}
	for i, w := range walls {
		msg, _, err := noise.Initiate(fixedRand(byte(i)), a.static, &a.remote, 1, w)
		if err != nil {
			t.Fatal(err)
		}
		in, err := noise.OpenInitiation(b.static, msg[:])
		if err != nil {
			t.Fatal(err)
		}
		if err := in.Accept(&b.remote, now+int64(i)*int64(time.Second)); err != nil {
			t.Fatalf("initiation %d: %v", i, err)
		}
		nanos := binary.BigEndian.Uint32(in.Timestamp[8:])
		if bytes.Compare(in.Timestamp[:], last[:]) <= 0 || nanos%(1<<24) != 0 || nanos >= 1e9 {
			t.Fatalf("timestamp %d: %x after %x", i, in.Timestamp, last)
		}
		last = in.Timestamp
	}
}

func TestPeersAreNotConfused(t *testing.T) {
	a, b := newSides(t)
	c := newSide(t, 'c')
	msg, _ := a.initiate(t, 1)
	other, err := noise.NewRemote(b.static, c.static.Public())
	if err != nil {
		t.Fatal(err)
	}
	in, err := noise.OpenInitiation(b.static, msg)
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Accept(&other, now); !errors.Is(err, noise.ErrState) {
		t.Errorf("accepted as another peer: %v", err)
	}
	if _, _, err := in.Respond(fixedRand('r'), noise.PresharedKey{}, 1); !errors.Is(err, noise.ErrState) {
		t.Errorf("answered without being accepted: %v", err)
	}
	if _, err := noise.OpenInitiation(c.static, msg); !errors.Is(err, noise.ErrForged) {
		t.Errorf("opened by whom it was not for: %v", err)
	}
}

// Someone who knows both public keys but no private one can make an initiation
// that opens, and must fail at Accept.
func TestImpostorFailsAtAccept(t *testing.T) {
	_, b := newSides(t)
	victim := newSide(t, 'v')
	known, err := noise.NewRemote(b.static, victim.static.Public())
	if err != nil {
		t.Fatal(err)
	}
	msg := impostor(t, b, victim)
	in, err := noise.OpenInitiation(b.static, msg)
	if err != nil || in.RemotePublic != victim.static.Public() {
		t.Fatalf("the claim should open: %v", err)
	}
	if err := in.Accept(&known, now); !errors.Is(err, noise.ErrForged) {
		t.Fatalf("impostor accepted: %v", err)
	}
}

func TestNewPrivateKeyOfOurs(t *testing.T) {
	a, b := newSides(t)
	msg, _ := a.initiate(t, 1)
	if err := open(b, msg, now); err != nil {
		t.Fatal(err)
	}
	old := b.static.Public()
	b.static = newSide(t, 'B').static
	if err := b.remote.SetStatic(b.static); err != nil {
		t.Fatal(err)
	}
	if open(b, msg, later) == nil {
		t.Fatal("an initiation to the old key was accepted")
	}
	if b.static.Public() == old {
		t.Fatal("the test changed nothing")
	}
	var err error
	if a.remote, err = noise.NewRemote(a.static, b.static.Public()); err != nil {
		t.Fatal(err)
	}
	msg, _ = a.initiate(t, 2)
	if err := open(b, msg, later); !errors.Is(err, noise.ErrReplay) {
		t.Fatalf("the last accepted timestamp was forgotten: %v", err)
	}
}

func TestWithoutPrivateKey(t *testing.T) {
	a, b := newSides(t)
	none := noise.NewStatic(noise.PrivateKey{})
	r, err := noise.NewRemote(none, b.static.Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := noise.Initiate(fixedRand(1), none, &r, 1, wall); !errors.Is(err, noise.ErrNoKey) {
		t.Errorf("initiate: %v", err)
	}
	msg, h := a.initiate(t, 1)
	if _, err := noise.OpenInitiation(none, msg); !errors.Is(err, noise.ErrNoKey) {
		t.Errorf("open initiation: %v", err)
	}
	answer, _ := b.respond(t, msg, noise.PresharedKey{}, 2)
	if _, err := h.OpenResponse(none, noise.PresharedKey{}, answer); !errors.Is(err, noise.ErrNoKey) {
		t.Errorf("open response: %v", err)
	}
	if r, err = noise.NewRemote(nil, b.static.Public()); err != nil {
		t.Errorf("peer before any private key: %v", err)
	}
	if err := r.SetStatic(a.static); err != nil {
		t.Errorf("key set later: %v", err)
	}
	if _, _, err := noise.Initiate(fixedRand(1), a.static, &r, 1, wall); err != nil {
		t.Errorf("initiate with the key set later: %v", err)
	}
}

// The points of small order, RFC 7748 section 6.1 and the lists that every
// implementation tests.
var lowOrder = []noise.PublicKey{
	{},
	{1},
	{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8},
	{0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57},
	edge(0xec), edge(0xed), edge(0xee),
}

// edge is p-1, p or p+1 by its lowest byte.
func edge(low byte) (k noise.PublicKey) {
	for i := range k {
		k[i] = 0xff
	}
	k[0], k[31] = low, 0x7f
	return k
}

func TestLowOrderRefused(t *testing.T) {
	a, b := newSides(t)
	for _, point := range lowOrder {
		for name, s := range map[string]*noise.Static{"with key": a.static, "without": nil} {
			if _, err := noise.NewRemote(s, point); !errors.Is(err, noise.ErrLowOrder) {
				t.Errorf("peer %v %s: %v", point, name, err)
			}
		}
		msg, _ := a.initiate(t, 1)
		copy(msg[8:], point[:])
		if _, err := noise.OpenInitiation(b.static, msg); !errors.Is(err, noise.ErrLowOrder) {
			t.Errorf("initiation with ephemeral %v: %v", point, err)
		}
	}
}

func TestLowOrderResponseRefused(t *testing.T) {
	for _, point := range lowOrder {
		a, b := newSides(t)
		msg, h := a.initiate(t, 1)
		answer, _ := b.respond(t, msg, noise.PresharedKey{}, 2)
		forged := slices.Clone(answer)
		copy(forged[12:], point[:])
		if _, err := h.OpenResponse(a.static, noise.PresharedKey{}, forged); !errors.Is(err, noise.ErrLowOrder) {
			t.Errorf("response with ephemeral %v: %v", point, err)
		}
		if _, err := h.OpenResponse(a.static, noise.PresharedKey{}, answer); err != nil {
			t.Errorf("the true response after it: %v", err)
		}
	}
}

func TestFailingRandomness(t *testing.T) {
	a, b := newSides(t)
	broken := iotest.ErrReader(errors.New("entropy is out"))
	if _, err := noise.NewPrivateKey(broken); err == nil {
		t.Error("a key without randomness")
	}
	if _, err := noise.NewPresharedKey(broken); err == nil {
		t.Error("a preshared key without randomness")
	}
	_, _, err := noise.Initiate(broken, a.static, &a.remote, 1, wall)
	if err == nil || !strings.Contains(err.Error(), "entropy is out") {
		t.Errorf("initiate: %v", err)
	}
	msg, _ := a.initiate(t, 1)
	in, err := noise.OpenInitiation(b.static, msg)
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Accept(&b.remote, now); err != nil {
		t.Fatal(err)
	}
	if out, k, err := in.Respond(broken, noise.PresharedKey{}, 2); err == nil || k != nil || out != [noise.ResponseSize]byte{} {
		t.Errorf("respond: %v, %v", k, err)
	}
}
