package noise

import (
	"crypto/ecdh"
	"fmt"
	"io"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
)

// Names that go into the first hash and into the MAC keys (section 5.4).
const (
	construction = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
	identifier   = "WireGuard v1 zx2c4 Jason@zx2c4.com"
	labelMAC1    = "mac1----"
	labelCookie  = "cookie--"
)

// initial is the state before either side's key is mixed in.
var initial = func() symmetric {
	s := symmetric{chain: blake2s.Sum256([]byte(construction))}
	s.hash = s.chain
	s.mixHash([]byte(identifier))
	return s
}()

// symmetric is Noise's SymmetricState (revision 34, section 5.2): what both
// sides have said so far, and the key that follows from it. Each cipher key is
// used once, hence the nonce is always zero.
type symmetric struct {
	hash  [32]byte
	chain [32]byte
}

func (s *symmetric) clear() { *s = symmetric{} }

func (s *symmetric) mixHash(data []byte) {
	var buf [128]byte // the longest data is a sealed static key, 48 bytes
	n := copy(buf[:], s.hash[:])
	n += copy(buf[n:], data)
	s.hash = blake2s.Sum256(buf[:n])
}

func (s *symmetric) mixKey(data []byte) { kdf(&s.chain, data, &s.chain) }

// mixEphemeral is what the psk modifier makes of an "e" token (Noise, 9.2).
func (s *symmetric) mixEphemeral(public []byte) {
	s.mixHash(public)
	s.mixKey(public)
}

// mixDH mixes in the secret shared by local and remote.
func (s *symmetric) mixDH(local *ecdh.PrivateKey, remote []byte) error {
	secret, err := sharedSecret(local, remote)
	if err != nil {
		return err
	}
	s.mixKey(secret[:])
	clear(secret[:])
	return nil
}

// mixDHKey mixes in the secret shared by local and remote, and derives a key.
func (s *symmetric) mixDHKey(key *[32]byte, local *ecdh.PrivateKey, remote []byte) error {
	secret, err := sharedSecret(local, remote)
	if err != nil {
		return err
	}
	kdf(&s.chain, secret[:], &s.chain, key)
	clear(secret[:])
	return nil
}

// mixPSK is Noise's MixKeyAndHash.
func (s *symmetric) mixPSK(key *[32]byte, psk *PresharedKey) {
	var tau [32]byte
	kdf(&s.chain, psk[:], &s.chain, &tau, key)
	s.mixHash(tau[:])
	clear(tau[:])
}

// seal encrypts plaintext into dst, which must have the room, and mixes the
// result into the hash.
func (s *symmetric) seal(dst []byte, key *[32]byte, plaintext []byte) error {
	aead, err := chacha20poly1305.New(key[:])
	if err != nil {
		return err
	}
	defer eraseAEAD(aead)
	var nonce [chacha20poly1305.NonceSize]byte
	s.mixHash(aead.Seal(dst[:0], nonce[:], plaintext, s.hash[:]))
	return nil
}

// open is the inverse of seal. The state is unchanged if it fails.
func (s *symmetric) open(dst []byte, key *[32]byte, sealed []byte) error {
	aead, err := chacha20poly1305.New(key[:])
	if err != nil {
		return err
	}
	defer eraseAEAD(aead)
	var nonce [chacha20poly1305.NonceSize]byte
	if _, err := aead.Open(dst[:0], nonce[:], sealed, s.hash[:]); err != nil {
		return ErrForged
	}
	s.mixHash(sealed)
	return nil
}

// kdf is HKDF with BLAKE2s as section 5.4 writes it: KDF1, KDF2 or KDF3 by the
// number of outputs. An output may be the key itself.
func kdf(key *[32]byte, input []byte, out ...*[32]byte) {
	var secret, t [32]byte
	hmac(&secret, key, input)
	var buf [33]byte
	for i, o := range out {
		n := 0
		if i > 0 {
			n = copy(buf[:], t[:])
		}
		buf[n] = byte(i + 1)
		hmac(&t, &secret, buf[:n+1])
		*o = t
	}
	clear(secret[:])
	clear(t[:])
	clear(buf[:])
}

// hmac is HMAC-BLAKE2s (RFC 2104) of at most 64 bytes, on the stack.
func hmac(out, key *[32]byte, data []byte) {
	var inner, outer [2 * blake2s.BlockSize]byte
	for i := range blake2s.BlockSize {
		inner[i], outer[i] = 0x36, 0x5c
	}
	for i, b := range key {
		inner[i] ^= b
		outer[i] ^= b
	}
	n := blake2s.BlockSize + copy(inner[blake2s.BlockSize:], data)
	sum := blake2s.Sum256(inner[:n])
	n = blake2s.BlockSize + copy(outer[blake2s.BlockSize:], sum[:])
	*out = blake2s.Sum256(outer[:n])
	clear(inner[:])
	clear(outer[:])
	clear(sum[:])
}

// sharedSecret is X25519. crypto/ecdh is called directly because the older
// package over it computes the public key of local afresh each time, which
// doubles the cost of a handshake.
func sharedSecret(local *ecdh.PrivateKey, remote []byte) (secret [32]byte, err error) {
	if local == nil {
		return secret, ErrNoKey
	}
	point, err := ecdh.X25519().NewPublicKey(remote)
	if err != nil {
		return secret, err
	}
	out, err := local.ECDH(point)
	if err != nil {
		return secret, ErrLowOrder
	}
	defer clear(out)
	return [32]byte(out), nil
}

func newEphemeral(rand io.Reader) (*ecdh.PrivateKey, error) {
	k, err := NewPrivateKey(rand)
	if err != nil {
		return nil, fmt.Errorf("make ephemeral key: %w", err)
	}
	defer k.Clear()
	return ecdh.X25519().NewPrivateKey(k[:])
}
