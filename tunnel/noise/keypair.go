package noise

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/chacha20poly1305"
)

// Keypair is the result of a handshake: a key to send with and one to receive
// with. Its methods may be called from several goroutines at once. The fields
// are not to be changed once more than one goroutine has it.
type Keypair struct {
	// LocalIndex is what the peer names this keypair by, RemoteIndex what we
	// name it by towards the peer.
	LocalIndex, RemoteIndex uint32
	// Initiator is whether we began the handshake: the initiator rekeys by age.
	Initiator bool
	// Created is when the handshake finished, monotonic ns. Whoever finished
	// it sets it; while it is 0 the keypair counts as expired.
	Created int64

	ciphers atomic.Pointer[ciphers] // ChaCha20-Poly1305
	aes     atomic.Pointer[ciphers] // nil until first needed
	seed    *aesSeed                // nil after Clear
	seedMu  sync.Mutex
}

// ciphers are apart from the keypair so that Clear can let go of them while
// others still hold the keypair. The keys are zeroed when the last user is done
// with them, which the garbage collector finds out: zeroing at once would let
// another goroutine, in the middle of a packet, seal it with a key of zeros,
// and counting users would cost every packet two atomic operations on one
// shared cache line.
type ciphers struct{ send, receive cipher.AEAD }

func newKeypair(s *symmetric, initiator bool, local, remote uint32) (*Keypair, error) {
	var first, second [32]byte // the initiator's sending key comes first
	defer clear(first[:])
	defer clear(second[:])
	kdf(&s.chain, nil, &first, &second)
	if !initiator {
		first, second = second, first
	}
	c, err := newCiphers(&first, &second)
	if err != nil {
		return nil, err
	}
	k := &Keypair{LocalIndex: local, RemoteIndex: remote, Initiator: initiator, seed: newAESSeed(s, initiator)}
	k.ciphers.Store(c)
	runtime.AddCleanup(k, (*aesSeed).clear, k.seed)
	return k, nil
}

func newCiphers(send, receive *[32]byte) (*ciphers, error) {
	return ciphersOf(chacha20poly1305.New, send, receive)
}

// ciphersOf makes an AEAD of each key. The keys stay the caller's to clear.
func ciphersOf(make func(key []byte) (cipher.AEAD, error), send, receive *[32]byte) (*ciphers, error) {
	s, err := make(send[:])
	if err != nil {
		return nil, err
	}
	r, err := make(receive[:])
	if err != nil {
		return nil, err
	}
	c := &ciphers{send: s, receive: r}
	runtime.AddCleanup(c, func(c ciphers) {
		eraseAEAD(c.send)
		eraseAEAD(c.receive)
	}, *c)
	return c, nil
}

// Seal appends a transport message with plaintext to dst. It returns nil after
// Clear. A counter must never be used twice on one keypair.
func (k *Keypair) Seal(dst, plaintext []byte, counter uint64) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, TransportHeaderSize)...)
	dst = append(dst, plaintext...)
	dst = append(dst, make([]byte, TagSize)...)
	if k.SealInPlace(dst[at:], len(plaintext), counter) == nil {
		return nil
	}
	return dst
}

// SealInPlace makes a transport message of the n bytes at buf[16:], without
// allocating: buf has 16 bytes of headroom for the header before them and at
// least 16 behind them for the tag. It returns the message, buf[:n+32], or nil
// after Clear, with buf unchanged. A counter must never be used twice on one
// keypair; see [RejectLaneAfter] and Constants.RejectAfterMessages for its
// limits. It panics if buf is too short.
func (k *Keypair) SealInPlace(buf []byte, n int, counter uint64) []byte {
	return k.SealTo(buf, buf[TransportHeaderSize:TransportHeaderSize+n], counter)
}

// SealTo is SealInPlace for a plaintext that is elsewhere, so that sealing takes
// the place of a copy: out has room for it and for [TransportOverhead] bytes.
// The two must not overlap, unless plaintext begins at out[16].
//
// A counter with [CounterAES] is sealed with AES-256-GCM, others as WireGuard
// has it.
func (k *Keypair) SealTo(out, plaintext []byte, counter uint64) []byte {
	out = out[: len(plaintext)+TransportOverhead : len(out)]
	c := k.ciphersFor(counter)
	if c == nil {
		return nil
	}
	binary.LittleEndian.PutUint32(out, MessageTransport)
	nonce := headerNonce(out, counter)
	c.send.Seal(out[:TransportHeaderSize], nonce, plaintext, nil)
	binary.LittleEndian.PutUint32(out[transportReceiver:], k.RemoteIndex)
	runtime.KeepAlive(c) // else the keys could be zeroed while they are in use
	return out
}

// OpenInPlace authenticates a transport message and decrypts it where it is,
// without allocating: plaintext lies within msg. The counter is still to be
// checked against the replay window of its lane. The error is [ErrMalformed],
// [ErrForged] (the content of msg is lost then) or [ErrState] after Clear or
// for another keypair's message.
func (k *Keypair) OpenInPlace(msg []byte) (plaintext []byte, counter uint64, err error) {
	index, counter, ok := ParseTransport(msg)
	if !ok {
		return nil, 0, ErrMalformed
	}
	c := k.ciphersFor(counter)
	if c == nil || index != k.LocalIndex {
		return nil, 0, ErrState
	}
	content := msg[TransportHeaderSize:]
	nonce := headerNonce(msg, counter)
	plaintext, err = c.receive.Open(content[:0], nonce, content, nil)
	binary.LittleEndian.PutUint32(msg[transportReceiver:], index)
	runtime.KeepAlive(c)
	if err != nil {
		return nil, 0, ErrForged
	}
	return plaintext, counter, nil
}

// headerNonce forms the nonce, four zeros and the counter, inside the header,
// where the zeros stand in for the receiver index until it is written back. A
// nonce anywhere else would escape through cipher.AEAD and be allocated for
// each packet.
func headerNonce(header []byte, counter uint64) []byte {
	binary.LittleEndian.PutUint32(header[transportReceiver:], 0)
	binary.LittleEndian.PutUint64(header[transportCounter:], counter)
	return header[transportReceiver:TransportHeaderSize:TransportHeaderSize]
}

// Clear lets go of the keys; from now on nothing can be sealed or opened. It is
// safe while other goroutines are in Seal or Open: those finish with the true
// keys. The memory is zeroed by the garbage collection that finds the last of
// them done, which the Go runtime forces every two minutes at the latest;
// runtime.GC makes it prompt. The same happens to a keypair that is dropped
// without Clear.
func (k *Keypair) Clear() {
	k.seedMu.Lock()
	defer k.seedMu.Unlock()
	if k.seed != nil {
		k.seed.clear()
		k.seed = nil
	}
	k.ciphers.Store(nil)
	k.aes.Store(nil)
}

// Cleared reports whether Clear was called.
func (k *Keypair) Cleared() bool { return k.ciphers.Load() == nil }

// Format writes the indexes for every verb.
func (k *Keypair) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "keypair %08x/%08x", k.LocalIndex, k.RemoteIndex)
}
