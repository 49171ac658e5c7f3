package noise_test

import (
	"bytes"
	"crypto/ecdh"
	"errors"
	"runtime"
	"sync"
	"testing"

	"kiloport/tunnel/noise"
)

// collected runs the garbage collector until done, or for a number of rounds
// that is never needed.
func collected(done func() bool) bool {
	for range 100 {
		runtime.GC()
		if done() {
			return true
		}
		runtime.Gosched()
	}
	return false
}

func bothZero(a, b *[32]byte) func() bool {
	return func() bool { return *a == [32]byte{} && *b == [32]byte{} }
}

func TestDroppedKeypairIsZeroed(t *testing.T) {
	ka, kb := shake(t, noise.PresharedKey{})
	send, receive := ka.Keys()
	if *send == [32]byte{} || *receive == [32]byte{} || *send == *receive {
		t.Fatal("the keys are not where they were looked for")
	}
	checkCarries(t, ka, kb)
	runtime.GC()
	if bothZero(send, receive)() {
		t.Fatal("keys zeroed while the keypair is in use")
	}
	runtime.KeepAlive(ka)
	ka = nil
	if !collected(bothZero(send, receive)) {
		t.Fatal("the keys of a dropped keypair are still in memory")
	}
}

func TestClearedKeypair(t *testing.T) {
	ka, kb := shake(t, noise.PresharedKey{})
	send, receive := ka.Keys()
	msg := kb.Seal(nil, []byte("late"), 0)
	ka.Clear()
	ka.Clear()
	if !ka.Cleared() || kb.Cleared() {
		t.Error("Cleared is wrong")
	}
	buf := bytes.Repeat([]byte{9}, 64)
	if ka.Seal(nil, nil, 1) != nil || ka.SealInPlace(buf, 8, 1) != nil {
		t.Error("sealed after Clear")
	}
	if !bytes.Equal(buf, bytes.Repeat([]byte{9}, 64)) {
		t.Error("SealInPlace after Clear touched the buffer")
	}
	if _, _, err := ka.OpenInPlace(msg); !errors.Is(err, noise.ErrState) {
		t.Errorf("opened after Clear: %v", err)
	}
	if !collected(bothZero(send, receive)) {
		t.Error("the keys of a cleared keypair that is still held are still in memory")
	}
	runtime.KeepAlive(ka)
}

// Whatever is sealed while another goroutine clears must have been sealed with
// the true key.
func TestClearDuringSeal(t *testing.T) {
	for range 20 {
		ka, kb := shake(t, noise.PresharedKey{})
		var sealed [4][][]byte
		var wg sync.WaitGroup
		started := make(chan struct{}, len(sealed))
		for lane := range sealed {
			wg.Go(func() {
				for seq := range uint64(1 << 20) {
					msg := ka.Seal(nil, []byte("data"), noise.JoinCounter(uint16(lane), seq, uint64(lane%2)*noise.CounterAES))
					if msg == nil {
						return
					}
					sealed[lane] = append(sealed[lane], msg)
					if seq == 10 {
						started <- struct{}{}
					}
				}
			})
		}
		<-started
		ka.Clear()
		runtime.GC()
		wg.Wait()
		for _, msgs := range sealed {
			for _, m := range msgs {
				if _, _, err := kb.OpenInPlace(m); err != nil {
					t.Fatalf("sealed with a wrong key: %v", err)
				}
			}
		}
	}
}

func TestHandshakeSecretsAreZeroed(t *testing.T) {
	a, b := newSides(t)
	msg, h := a.initiate(t, 1)
	ephemeral, chain := h.Secrets()
	if bytes.Equal(ephemeral, make([]byte, 32)) || *chain == [32]byte{} {
		t.Fatal("the secrets are not where they were looked for")
	}
	in, err := noise.OpenInitiation(b.static, msg)
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Accept(&b.remote, now); err != nil {
		t.Fatal(err)
	}
	answer, _, err := in.Respond(fixedRand('r'), noise.PresharedKey{}, 2)
	if err != nil {
		t.Fatal(err)
	}
	if *in.Secrets() != [32]byte{} {
		t.Error("the responder's chaining key survives the handshake")
	}
	if _, err := h.OpenResponse(a.static, noise.PresharedKey{}, answer[:]); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ephemeral, make([]byte, 32)) || *chain != [32]byte{} {
		t.Error("the initiator's secrets survive the handshake")
	}
}

func TestIdentitySecretsAreZeroed(t *testing.T) {
	a, b := newSides(t)
	secret, shared := a.static.Secret(), a.remote.Secret()
	if !bytes.Equal(secret, a.private[:]) || *shared != *b.remote.Secret() || *shared == [32]byte{} {
		t.Fatal("the secrets are not where they were looked for")
	}
	a.remote.Clear()
	a.static.Clear()
	if !bytes.Equal(secret, make([]byte, 32)) || *shared != [32]byte{} {
		t.Error("secrets survive Clear")
	}
	if _, _, err := noise.Initiate(fixedRand(1), a.static, &a.remote, 1, wall); !errors.Is(err, noise.ErrNoKey) {
		t.Errorf("handshake after Clear: %v", err)
	}
	msg, _ := b.initiate(t, 1)
	if _, err := noise.OpenInitiation(a.static, msg); !errors.Is(err, noise.ErrNoKey) {
		t.Errorf("initiation opened after Clear: %v", err)
	}
}

func TestScalarIsFound(t *testing.T) {
	k, err := ecdh.X25519().GenerateKey(fixedRand(1))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(noise.DHKey(k), k.Bytes()) || noise.DHKey(nil) != nil {
		t.Error("crypto/ecdh keeps its scalar somewhere else now: keys survive Clear")
	}
}

func TestDroppedIdentityIsZeroed(t *testing.T) {
	private, err := noise.NewPrivateKey(fixedRand(3))
	if err != nil {
		t.Fatal(err)
	}
	s := noise.NewStatic(private)
	secret := s.Secret()
	if !bytes.Equal(secret, private[:]) {
		t.Fatal("the key is not where it was looked for")
	}
	runtime.KeepAlive(s)
	s = nil
	if !collected(func() bool { return bytes.Equal(secret, make([]byte, len(secret))) }) {
		t.Error("the private key of a dropped identity is still in memory")
	}
}
