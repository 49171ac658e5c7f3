package noise

import (
	"crypto/aes"
	"crypto/cipher"
	"runtime"

	"golang.org/x/sys/cpu"
)

// Two kiloports may seal with AES-256-GCM (NIST SP 800-38D) in place of
// ChaCha20-Poly1305, because processors with instructions for it need 60 % of the
// time. The handshake is WireGuard's all the same.
//
// # Derivation
//
// Let C be the chaining key at the end of the handshake. WireGuard's transport
// keys are KDF2(C, ""), these are KDF2(C, [labelAES]); in both pairs the first
// sends from initiator to responder. KDF is HKDF with HMAC-BLAKE2s (section 5.4).
//
// # Why this is sound
//
// C is a uniformly random secret to all but the two ends, as WireGuard's proofs
// show, for its own transport keys are derived from it. HMAC under a secret key
// is a pseudorandom function, and the two inputs differ, so the four keys are
// independent of each other: knowing or breaking one pair tells nothing of the
// other, and no key is ever used with two ciphers. Nothing an attacker sends can
// make an end use one key where it means the other: which AEAD a message has is
// part of its counter ([CounterAES]), which is its nonce, so a message whose bit
// was changed is not authentic. A downgrade is not possible either: what both
// offer is said inside the tunnel, sealed with ChaCha20-Poly1305, where nobody
// can remove it.
//
// Nonces are four zero bytes and the counter, unique as with WireGuard. GCM's
// bound of 2^32 messages is one for random nonces and does not apply. What does
// is that AES is a permutation: the n blocks that one key encrypts differ from
// random ones with probability n²/2^129. A keypair lives for 180 s; at 100 Gbit/s
// these are 2^37 blocks, which makes 2^-55. A forged message of b blocks passes
// with probability b/2^128, less than with Poly1305 (8b/2^106).
const labelAES = "kiloport v1 aes-256-gcm"

// aesSeed are the two AES keys of a keypair. They are expanded when first needed,
// because that takes a hundred times the room, and towards a stock peer they never
// are.
type aesSeed struct{ send, receive [32]byte }

func (s *aesSeed) clear() {
	clear(s.send[:])
	clear(s.receive[:])
}

func newAESSeed(s *symmetric, initiator bool) *aesSeed {
	seed := new(aesSeed)
	kdf(&s.chain, []byte(labelAES), &seed.send, &seed.receive) // as the initiator has them
	if !initiator {
		seed.send, seed.receive = seed.receive, seed.send
	}
	return seed
}

// ciphersFor gives the AEADs for a counter, nil after Clear.
func (k *Keypair) ciphersFor(counter uint64) *ciphers {
	if counter&CounterAES == 0 {
		return k.ciphers.Load()
	}
	if c := k.aes.Load(); c != nil {
		return c
	}
	return k.makeAES()
}

func (k *Keypair) makeAES() *ciphers {
	k.seedMu.Lock()
	defer k.seedMu.Unlock()
	if c := k.aes.Load(); c != nil || k.seed == nil {
		return c // somebody was faster, or Clear was called
	}
	c, err := ciphersOf(newAES, &k.seed.send, &k.seed.receive)
	if err != nil {
		return nil
	}
	k.aes.Store(c)
	return c
}

func newAES(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	defer erase(block) // the AEAD has a copy
	return cipher.NewGCM(block)
}

// AESIsFast tells whether this processor has the instructions that AES-GCM needs
// to be faster than ChaCha20-Poly1305.
func AESIsFast() bool {
	switch runtime.GOARCH {
	case "amd64":
		return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ
	case "arm64":
		return cpu.ARM64.HasAES && cpu.ARM64.HasPMULL
	}
	return false
}
