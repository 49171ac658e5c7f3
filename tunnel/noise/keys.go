package noise

import (
	"crypto/ecdh"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// PrivateKey is an X25519 scalar. Every fmt verb, slog and every text encoder
// shows "(hidden)" in its place; [PrivateKey.Base64] reveals it on purpose. The
// exceptions are fmt's own: %p, which go vet refuses, and a key in an unexported
// field of a struct that has no Format method of its own.
type PrivateKey [32]byte

// PublicKey is an X25519 point, the name of a peer. It prints as base64.
type PublicKey [32]byte

// PresharedKey is the optional symmetric key of section 5.2; zero means none.
// It hides itself as [PrivateKey] does.
type PresharedKey [32]byte

const hidden = "(hidden)"

// NewPrivateKey reads a private key from rand and clamps it.
func NewPrivateKey(rand io.Reader) (PrivateKey, error) {
	var k PrivateKey
	defer k.Clear() // it escapes to rand; what is returned is a copy
	if _, err := io.ReadFull(rand, k[:]); err != nil {
		return PrivateKey{}, fmt.Errorf("make private key: %w", err)
	}
	k.Clamp()
	return k, nil
}

// NewPresharedKey reads a preshared key from rand.
func NewPresharedKey(rand io.Reader) (PresharedKey, error) {
	var k PresharedKey
	defer k.Clear()
	if _, err := io.ReadFull(rand, k[:]); err != nil {
		return PresharedKey{}, fmt.Errorf("make preshared key: %w", err)
	}
	return k, nil
}

// Clamp sets and clears the bits that RFC 7748, section 5 fixes. X25519 gives
// the same with and without; clamped is the form that other tools show.
func (k *PrivateKey) Clamp() {
	k[0] &= 248
	k[31] = k[31]&127 | 64
}

// Public returns the public key that belongs to k.
func (k *PrivateKey) Public() PublicKey {
	key, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil { // only where a FIPS mode forbids the curve
		return PublicKey{}
	}
	defer eraseDH(key)
	return PublicKey(key.PublicKey().Bytes())
}

// IsZero reports whether no key is set, in constant time.
func (k *PrivateKey) IsZero() bool { return isZero((*[32]byte)(k)) }

// IsZero reports whether no key is set, in constant time.
func (k *PresharedKey) IsZero() bool { return isZero((*[32]byte)(k)) }

// IsZero reports whether no key is set.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// Clear zeroes the key.
func (k *PrivateKey) Clear() { clear(k[:]) }

// Clear zeroes the key.
func (k *PresharedKey) Clear() { clear(k[:]) }

// Base64 reveals the key in the form that configuration files hold.
func (k *PrivateKey) Base64() string { return base64.StdEncoding.EncodeToString(k[:]) }

// Base64 reveals the key in the form that configuration files hold.
func (k *PresharedKey) Base64() string { return base64.StdEncoding.EncodeToString(k[:]) }

// String returns the key in base64, as wg shows it.
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// MarshalText returns the key in base64.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what [PublicKey.MarshalText] wrote.
func (k *PublicKey) UnmarshalText(text []byte) (err error) {
	*k, err = ParsePublicKey(string(text))
	return err
}

// Format writes "(hidden)" for every verb.
func (PrivateKey) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, hidden) }

// Format writes "(hidden)" for every verb.
func (PresharedKey) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, hidden) }

// String returns "(hidden)".
func (PrivateKey) String() string { return hidden }

// String returns "(hidden)".
func (PresharedKey) String() string { return hidden }

// LogValue returns "(hidden)".
func (PrivateKey) LogValue() slog.Value { return slog.StringValue(hidden) }

// LogValue returns "(hidden)".
func (PresharedKey) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText returns "(hidden)", which keeps the key out of JSON.
func (PrivateKey) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalText returns "(hidden)", which keeps the key out of JSON.
func (PresharedKey) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// ParsePrivateKey reads a private key in base64 and clamps it, unless it is all
// zeros, which means "none". The error never holds the text.
func ParsePrivateKey(s string) (PrivateKey, error) {
	b, err := parseKey(s)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("parse private key: %w (kiloport genkey makes one)", err)
	}
	k := PrivateKey(b)
	if !k.IsZero() {
		k.Clamp()
	}
	return k, nil
}

// ParsePublicKey reads a public key in base64. The error never holds the text:
// it may be a private key in the wrong place.
func ParsePublicKey(s string) (PublicKey, error) {
	b, err := parseKey(s)
	if err != nil {
		return PublicKey{}, fmt.Errorf("parse public key: %w (kiloport pubkey makes one from a private key)", err)
	}
	return PublicKey(b), nil
}

// ParsePresharedKey reads a preshared key in base64. The error never holds the
// text.
func ParsePresharedKey(s string) (PresharedKey, error) {
	b, err := parseKey(s)
	if err != nil {
		return PresharedKey{}, fmt.Errorf("parse preshared key: %w (kiloport genpsk makes one)", err)
	}
	return PresharedKey(b), nil
}

var errKeyText = errors.New("want 32 bytes in base64, 44 characters ending in =")

func parseKey(s string) (key [32]byte, err error) {
	// The length is checked first because the decoder skips line breaks.
	if len(s) != 44 {
		return key, errKeyText
	}
	var buf [33]byte
	defer clear(buf[:])
	n, err := base64.StdEncoding.Strict().Decode(buf[:], []byte(s))
	if err != nil || n != len(key) {
		return key, errKeyText
	}
	return [32]byte(buf[:]), nil
}

func isZero(k *[32]byte) bool {
	var zero [32]byte
	return subtle.ConstantTimeCompare(k[:], zero[:]) == 1
}
