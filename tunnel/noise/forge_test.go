package noise_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/curve25519"

	"kiloport/tunnel/noise"
)

// mangle calls f with every truncation of msg, with msg and a byte more, and
// with every single bit flipped.
func mangle(msg []byte, f func(what string, at int, bad []byte)) {
	for n := range msg {
		f("truncated to", n, slices.Clone(msg[:n]))
	}
	f("lengthened from", len(msg), append(slices.Clone(msg), 0))
	for bit := range len(msg) * 8 {
		bad := slices.Clone(msg)
		bad[bit/8] ^= 1 << (bit % 8)
		f("flipped in bit", bit, bad)
	}
}

func refused(err error) bool {
	for _, e := range []error{noise.ErrMalformed, noise.ErrForged, noise.ErrState, noise.ErrLowOrder} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func TestMangledInitiations(t *testing.T) {
	a, b := newSides(t)
	msg, _ := a.initiate(t, 1)
	mangle(msg, func(what string, at int, bad []byte) {
		if what == "flipped in bit" && at/8 >= noise.InitiationSize-16 {
			return // mac2 is looked at only under load
		}
		if b.static.CheckMAC1(bad) {
			t.Errorf("initiation %s %d has a good mac1", what, at)
		}
		// The two macs and the index are outside what Noise itself authenticates.
		if what == "flipped in bit" && (at/8 >= 116 || at/8 >= 4 && at/8 < 8) {
			return
		}
		// The top bit of an X25519 point is ignored, but hashed.
		if err := open(b, bad, now); !refused(err) {
			t.Errorf("initiation %s %d: %v", what, at, err)
		}
	})
	if err := open(b, msg, now); err != nil {
		t.Errorf("the true initiation after all the forged: %v", err)
	}
}

func TestMangledResponses(t *testing.T) {
	a, b := newSides(t)
	msg, h := a.initiate(t, 1)
	answer, kb := b.respond(t, msg, noise.PresharedKey{7}, 2)
	mangle(answer, func(what string, at int, bad []byte) {
		if what == "flipped in bit" && at/8 >= noise.ResponseSize-16 {
			return
		}
		if a.static.CheckMAC1(bad) {
			t.Errorf("response %s %d has a good mac1", what, at)
		}
		if what == "flipped in bit" && (at/8 >= 60 || at/8 >= 4 && at/8 < 8) {
			return
		}
		if k, err := h.OpenResponse(a.static, noise.PresharedKey{7}, bad); k != nil || !refused(err) {
			t.Errorf("response %s %d: %v", what, at, err)
		}
	})
	ka, err := h.OpenResponse(a.static, noise.PresharedKey{7}, answer)
	if err != nil {
		t.Fatalf("the true response after all the forged: %v", err)
	}
	checkCarries(t, ka, kb)
}

func TestMangledCookieReplies(t *testing.T) {
	a, b := newSides(t)
	msg, _ := a.initiate(t, 1)
	src := netip.MustParseAddrPort("192.0.2.1:51820")
	checker := noise.NewCookieChecker(b.static, nil)
	reply, err := checker.Reply(fixedRand('c'), now, msg, src)
	if err != nil {
		t.Fatal(err)
	}
	mangle(reply[:], func(what string, at int, bad []byte) {
		if what == "flipped in bit" && at/8 >= 4 && at/8 < 8 {
			return // the index only leads to the peer
		}
		if err := a.remote.OpenCookieReply(now, bad); !refused(err) || a.remote.HasCookie(now) {
			t.Errorf("cookie reply %s %d: %v", what, at, err)
		}
	})
	if err := a.remote.OpenCookieReply(now, reply[:]); err != nil {
		t.Errorf("the true cookie reply after all the forged: %v", err)
	}
}

func TestMangledTransport(t *testing.T) {
	ka, kb := shake(t, noise.PresharedKey{})
	msg := ka.Seal(nil, []byte("a packet of some bytes"), 5)
	mangle(msg, func(what string, at int, bad []byte) {
		if plain, _, err := kb.OpenInPlace(bad); plain != nil || !refused(err) {
			t.Errorf("transport message %s %d: %v", what, at, err)
		}
	})
	if _, _, err := kb.OpenInPlace(msg); err != nil {
		t.Errorf("the true message after all the forged: %v", err)
	}
}

func TestTransportOfOthersRefused(t *testing.T) {
	ka, _ := shake(t, noise.PresharedKey{})
	msg := ka.Seal(nil, []byte("to b"), 0)
	if _, _, err := ka.OpenInPlace(slices.Clone(msg)); !errors.Is(err, noise.ErrState) {
		t.Errorf("our own message sent back: %v", err)
	}
	// Sent back with the index made right, it meets another key.
	binary.LittleEndian.PutUint32(msg[4:], ka.LocalIndex)
	if _, _, err := ka.OpenInPlace(msg); !errors.Is(err, noise.ErrForged) {
		t.Errorf("our own message sent back with our index: %v", err)
	}
	if index, _, ok := noise.ParseTransport(msg); !ok || index != ka.LocalIndex {
		t.Error("a refused message has lost its header")
	}
}

// impostor makes an initiation to b in victim's name with nothing but their
// public keys, straight from section 5.4.2 and in the simplest way.
func impostor(t *testing.T, b, victim *side) []byte {
	t.Helper()
	hash := func(parts ...[]byte) (sum [32]byte) {
		h, _ := blake2s.New256(nil)
		for _, p := range parts {
			h.Write(p)
		}
		return [32]byte(h.Sum(nil))
	}
	e := newSide(t, 'e')
	pub, bpub, vpub := e.static.Public(), b.static.Public(), victim.static.Public()
	chain := hash([]byte("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"))
	sum := hash(chain[:], []byte("WireGuard v1 zx2c4 Jason@zx2c4.com"))
	sum = hash(sum[:], bpub[:])
	sum = hash(sum[:], pub[:])
	noise.KDF(&chain, pub[:], &chain)
	secret, err := curve25519.X25519(e.private[:], bpub[:])
	if err != nil {
		t.Fatal(err)
	}
	var key [32]byte
	noise.KDF(&chain, secret, &chain, &key)
	msg := make([]byte, noise.InitiationSize)
	msg[0] = noise.MessageInitiation
	copy(msg[8:], pub[:])
	aead, err := chacha20poly1305.New(key[:])
	if err != nil {
		t.Fatal(err)
	}
	aead.Seal(msg[:40], make([]byte, 12), vpub[:], sum[:])
	return msg
}
