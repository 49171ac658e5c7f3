package noise

import "crypto/ecdh"

// KDF is the key derivation, for comparison with other implementations.
func KDF(key *[32]byte, input []byte, out ...*[32]byte) { kdf(key, input, out...) }

// Keys returns where the keypair keeps its two keys.
func (k *Keypair) Keys() (send, receive *[32]byte) {
	c := k.ciphers.Load()
	return aeadKey(c.send), aeadKey(c.receive)
}

// AESSeed returns where the keypair keeps its AES keys, nil after Clear.
func (k *Keypair) AESSeed() (send, receive *[32]byte) {
	if k.seed == nil {
		return nil, nil
	}
	return &k.seed.send, &k.seed.receive
}

// EraseAES makes an AEAD of a key, erases it, and tells whether it could; sealed
// is what the erased one makes of nothing.
func EraseAES(key []byte) (sealed []byte, erased bool) {
	a, err := newAES(key)
	if err != nil {
		return nil, false
	}
	erased = erase(a)
	defer func() { _ = recover() }() // without its schedule it may well panic
	return a.Seal(nil, make([]byte, a.NonceSize()), nil, nil), erased
}

// Secrets returns where a waiting handshake keeps its secrets.
func (h *Handshake) Secrets() (ephemeral []byte, chain *[32]byte) {
	return dhKey(h.ephemeral), &h.symmetric.chain
}

// Secrets returns where an initiation under way keeps its secrets.
func (in *Incoming) Secrets() *[32]byte { return &in.symmetric.chain }

// Secret returns where the identity keeps its private key.
func (s *Static) Secret() []byte { return dhKey(s.key) }

// Secret returns where the peer keeps the shared secret.
func (r *Remote) Secret() *[32]byte { return &r.staticStatic }

// DHKey exposes the search for a scalar inside crypto/ecdh.
func DHKey(k *ecdh.PrivateKey) []byte { return dhKey(k) }
