package noise

import (
	"errors"
	"runtime"
)

// KeypairState is a keypair as one process hands it to the next, keys and all. It
// is a secret for as long as the keypair is one; [KeypairState.Clear] ends it.
type KeypairState struct {
	LocalIndex, RemoteIndex uint32
	Initiator               bool
	// Age is how old the keypair is, in nanoseconds: clocks do not count from
	// the same moment in two processes.
	Age int64
	// Send and Receive are the keys of ChaCha20-Poly1305, SendAES and ReceiveAES
	// those of AES-256-GCM, 32 bytes each.
	Send, Receive, SendAES, ReceiveAES []byte
}

// Clear zeroes the keys.
func (s *KeypairState) Clear() {
	for _, key := range [][]byte{s.Send, s.Receive, s.SendAES, s.ReceiveAES} {
		clear(key)
	}
}

var errKeypairState = errors.New("a keypair that was handed over is not complete")

// State gives what [RestoreKeypair] needs. It reports false after Clear. The
// caller sees to it that k seals nothing any more: its counters go on elsewhere.
func (k *Keypair) State(now int64) (s KeypairState, ok bool) {
	k.seedMu.Lock()
	defer k.seedMu.Unlock()
	c := k.ciphers.Load()
	if c == nil || k.seed == nil {
		return s, false
	}
	send, receive := aeadKey(c.send), aeadKey(c.receive)
	if send == nil || receive == nil {
		return s, false
	}
	s = KeypairState{
		LocalIndex: k.LocalIndex, RemoteIndex: k.RemoteIndex, Initiator: k.Initiator, Age: now - k.Created,
		Send: append([]byte(nil), send[:]...), Receive: append([]byte(nil), receive[:]...),
		SendAES: append([]byte(nil), k.seed.send[:]...), ReceiveAES: append([]byte(nil), k.seed.receive[:]...),
	}
	runtime.KeepAlive(c)
	return s, true
}

// RestoreKeypair makes a keypair of what State gave, which stays the caller's to
// clear.
func RestoreKeypair(s *KeypairState, now int64) (*Keypair, error) {
	for _, key := range [][]byte{s.Send, s.Receive, s.SendAES, s.ReceiveAES} {
		if len(key) != keySize {
			return nil, errKeypairState
		}
	}
	if s.LocalIndex == 0 || s.Age < 0 {
		return nil, errKeypairState
	}
	c, err := newCiphers((*[32]byte)(s.Send), (*[32]byte)(s.Receive))
	if err != nil {
		return nil, err
	}
	k := &Keypair{
		LocalIndex: s.LocalIndex, RemoteIndex: s.RemoteIndex, Initiator: s.Initiator, Created: now - s.Age,
		seed: &aesSeed{send: [32]byte(s.SendAES), receive: [32]byte(s.ReceiveAES)},
	}
	if k.Created == 0 {
		k.Created = -1 // 0 is never
	}
	k.ciphers.Store(c)
	runtime.AddCleanup(k, (*aesSeed).clear, k.seed)
	return k, nil
}

// State gives the highest counter and the ring of blocks, as [RestoreWindow]
// takes them. The ring is the window's own.
func (w *Window) State() (last uint64, ring []uint64) { return w.last, w.ring }

// RestoreWindow makes a window of at least so many bits that refuses what the one
// that State was asked of would refuse. A ring of another size than that window's
// takes everything up to last for seen.
func RestoreWindow(bits int, last uint64, ring []uint64) Window {
	w := NewWindow(bits)
	w.last = last
	if len(ring) == len(w.ring) {
		copy(w.ring, ring)
		return w
	}
	for i := range w.ring {
		w.ring[i] = 1<<64 - 1
	}
	// Above last, in its own block, nothing has been seen.
	*w.block(last) = uint64(1)<<(last%blockBits)<<1 - 1
	return w
}

// Timestamps are what must not be forgotten of the handshakes with a peer, so that
// neither side falls for a replay: the last one sent and the last one accepted.
func (r *Remote) Timestamps() (sent, accepted []byte) { return r.sent[:], r.accepted[:] }

// SetTimestamps takes over what Timestamps gave. Older ones than it has, and
// what is none, it leaves.
func (r *Remote) SetTimestamps(sent, accepted []byte) {
	if len(sent) == timestampSize && timestamp(sent).after(r.sent) {
		r.sent = timestamp(sent)
	}
	if len(accepted) == timestampSize && timestamp(accepted).after(r.accepted) {
		r.accepted = timestamp(accepted)
	}
}

// Resumed reports: keypairs were taken over from a process before this one. They
// are forgotten when new ones would be.
func (t *Timers) Resumed(now int64) {
	t.mu.Lock()
	defer t.unlock()
	t.sessionDerived(now)
}
