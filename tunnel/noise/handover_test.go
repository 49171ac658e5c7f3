package noise_test

import (
	"math/rand/v2"
	"testing"

	"kiloport/tunnel/noise"
)

// A keypair that was handed over seals and opens as the first did, with both
// ciphers.
func TestKeypairIsHandedOver(t *testing.T) {
	ka, kb := shake(t, noise.PresharedKey{1})
	for _, flags := range []uint64{0, noise.CounterAES, 0} {
		ka.Seal(nil, []byte("x"), noise.JoinCounter(3, 1, flags))
		state, ok := ka.State(ka.Created + 1000)
		if !ok {
			t.Fatal("there is no state: has chacha20poly1305 changed?")
		}
		again, err := noise.RestoreKeypair(&state, 5000)
		if err != nil {
			t.Fatal(err)
		}
		if again.Created != 4000 || again.Initiator != ka.Initiator {
			t.Errorf("created %d, initiator %v", again.Created, again.Initiator)
		}
		checkCarries(t, again, kb)
		checkCarries(t, kb, again)
		msg := kb.Seal(nil, []byte("aes"), noise.JoinCounter(9, 2, noise.CounterAES))
		if plain, _, err := again.OpenInPlace(msg); err != nil || string(plain) != "aes" {
			t.Errorf("opened %q, %v", plain, err)
		}
		state.Clear()
		if _, err := noise.RestoreKeypair(&noise.KeypairState{LocalIndex: 1, Send: state.Send}, 0); err == nil {
			t.Error("half a keypair was restored")
		}
		ka = again
	}
	ka.Clear()
	if _, ok := ka.State(0); ok {
		t.Error("a cleared keypair has a state")
	}
}

// A window that was handed over gives the answers that the first gives; one whose
// size has changed takes nothing for new that the first does not.
func TestWindowIsHandedOver(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		const bits, limit = 448, 1 << 40
		w := noise.NewWindow(bits)
		for range random.IntN(600) {
			w.Accept(random.Uint64N(1500), limit)
		}
		last, ring := w.State()
		same := noise.RestoreWindow(bits, last, ring)
		other := noise.RestoreWindow(bits, last, ring[:3])
		for counter := range uint64(1700) {
			if w.Check(counter, limit) != same.Check(counter, limit) {
				t.Fatalf("last %d: counter %d: %v before", last, counter, w.Check(counter, limit))
			}
			if other.Check(counter, limit) != (counter > last) {
				t.Fatalf("last %d: counter %d: %v without the ring", last, counter, other.Check(counter, limit))
			}
		}
		for counter := last + 1; counter < last+100; counter++ {
			if !other.Accept(counter, limit) || other.Accept(counter, limit) {
				t.Fatalf("last %d: counter %d is not taken once", last, counter)
			}
		}
	}
}
