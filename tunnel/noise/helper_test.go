package noise_test

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"kiloport/tunnel/noise"
)

// Two instants for whatever wants one.
const (
	now   = int64(1_000_000_000_000)
	later = now + int64(time.Second)
)

var wall = time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)

// fixedRand is a stream that depends on nothing but its number.
func fixedRand(n byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{n}) }

// side is one end: its identity and what it knows of the other.
type side struct {
	private noise.PrivateKey
	static  *noise.Static
	remote  noise.Remote
}

func newSides(t testing.TB) (a, b *side) {
	t.Helper()
	a, b = newSide(t, 'a'), newSide(t, 'b')
	meet(t, a, b)
	return a, b
}

func newSide(t testing.TB, n byte) *side {
	t.Helper()
	k, err := noise.NewPrivateKey(fixedRand(n))
	if err != nil {
		t.Fatal(err)
	}
	return &side{private: k, static: noise.NewStatic(k)}
}

func meet(t testing.TB, a, b *side) {
	t.Helper()
	var err error
	if a.remote, err = noise.NewRemote(a.static, b.static.Public()); err != nil {
		t.Fatal(err)
	}
	if b.remote, err = noise.NewRemote(b.static, a.static.Public()); err != nil {
		t.Fatal(err)
	}
}

func (s *side) initiate(t testing.TB, index uint32) ([]byte, *noise.Handshake) {
	t.Helper()
	msg, h, err := noise.Initiate(fixedRand('i'), s.static, &s.remote, index, wall)
	if err != nil {
		t.Fatal(err)
	}
	noise.AddMACs(msg[:], &s.remote, now)
	return msg[:], h
}

func (s *side) respond(t testing.TB, msg []byte, psk noise.PresharedKey, index uint32) ([]byte, *noise.Keypair) {
	t.Helper()
	if !s.static.CheckMAC1(msg) {
		t.Fatal("mac1 of a true initiation refused")
	}
	in, err := noise.OpenInitiation(s.static, msg)
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Accept(&s.remote, now); err != nil {
		t.Fatal(err)
	}
	out, k, err := in.Respond(fixedRand('r'), psk, index)
	if err != nil {
		t.Fatal(err)
	}
	noise.AddMACs(out[:], &s.remote, now)
	k.Created = now
	return out[:], k
}

// shake completes a handshake between new sides.
func shake(t testing.TB, psk noise.PresharedKey) (initiator, responder *noise.Keypair) {
	t.Helper()
	a, b := newSides(t)
	msg, h := a.initiate(t, 1)
	answer, kb := b.respond(t, msg, psk, 2)
	if !a.static.CheckMAC1(answer) {
		t.Fatal("mac1 of a true response refused")
	}
	ka, err := h.OpenResponse(a.static, psk, answer)
	if err != nil {
		t.Fatal(err)
	}
	ka.Created = now
	return ka, kb
}

func checkCarries(t testing.TB, from, to *noise.Keypair) {
	t.Helper()
	for i, payload := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte{0xA5}, 1420)} {
		msg := from.Seal(nil, payload, uint64(i))
		got, counter, err := to.OpenInPlace(msg)
		if err != nil || counter != uint64(i) || !bytes.Equal(got, payload) {
			t.Fatalf("packet %d: got %d bytes, counter %d, error %v", i, len(got), counter, err)
		}
	}
}
