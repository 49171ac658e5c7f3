package flowhash

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
)

// Hasher is a keyed hash of [Key]. It is a value, immutable, and safe for use
// by several goroutines. Make it with [NewHasher]; the zero Hasher works, but
// its secret is known to all.
type Hasher struct {
	secret [secretSize]byte
}

// secretSize is one stripe of XXH64: its four lanes of 64 bits take a quarter
// each.
const secretSize = 32

// NewHasher makes a Hasher from a secret. One drawn at random for each process
// keeps a sender of packets from choosing flows that share a queue or a lane.
func NewHasher(secret [16]byte) Hasher {
	var h Hasher
	copy(h.secret[:], secret[:])
	for i := range 2 {
		derived := xxhash.Sum64(append(secret[:], byte(i+1)))
		binary.LittleEndian.PutUint64(h.secret[16+8*i:], derived)
	}
	return h
}

// Hash is XXH64 of the secret followed by the key. All 64 bits are equally
// good. Keys that differ only in ports, id, protocol or kind never collide.
//
// The secret comes first and fills a whole stripe, so that all four lanes are
// unknown when a word of an address enters each of them, and only the last word
// of the key is left for XXH64's tail. After a secret of 16 bytes, both words of
// an IPv6 destination would be in the tail, where flipping bit 36 of the one's
// mix and bit 63 of the other's cancel whatever the secret is. XXH64 is still no
// cryptographic function: whoever sees hashes can find collisions, so they must
// not leave the process.
func (h *Hasher) Hash(k *Key) uint64 {
	var b [secretSize + keySize]byte
	copy(b[:], h.secret[:])
	copy(b[secretSize:], k.b[:])
	return xxhash.Sum64(b[:])
}
