package noise

import (
	"crypto/ecdh"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// Handshake is an initiation that waits for its response.
type Handshake struct {
	symmetric symmetric
	ephemeral *ecdh.PrivateKey // nil when used up or cleared
	index     uint32
}

// Initiate makes a handshake initiation to r (section 5.4.2). index is the one
// that the peer shall name us by, wall the time of day. The message still needs
// [AddMACs]. The error is of rand, [ErrNoKey] or [ErrLowOrder].
func Initiate(rand io.Reader, s *Static, r *Remote, index uint32, wall time.Time) (msg [InitiationSize]byte, h *Handshake, err error) {
	if s == nil || s.key == nil || isZero(&r.staticStatic) {
		return msg, nil, fmt.Errorf("initiate handshake: %w", ErrNoKey)
	}
	e, err := newEphemeral(rand)
	if err != nil {
		return msg, nil, fmt.Errorf("initiate handshake: %w", err)
	}
	h = &Handshake{symmetric: initial, ephemeral: e, index: index}
	binary.LittleEndian.PutUint32(msg[:], MessageInitiation)
	binary.LittleEndian.PutUint32(msg[senderOffset:], index)
	copy(msg[initiationEphemeral:], e.PublicKey().Bytes())
	if err := h.writeInitiation(&msg, s, r, r.stamp(wall)); err != nil {
		h.Clear()
		return [InitiationSize]byte{}, nil, fmt.Errorf("initiate handshake: %w", err)
	}
	return msg, h, nil
}

// writeInitiation is the pattern's first line: e, es, s, ss.
func (h *Handshake) writeInitiation(msg *[InitiationSize]byte, s *Static, r *Remote, t timestamp) error {
	var key [32]byte
	defer clear(key[:])
	sym := &h.symmetric
	sym.mixHash(r.public[:])
	sym.mixEphemeral(msg[initiationEphemeral:initiationStatic])
	if err := sym.mixDHKey(&key, h.ephemeral, r.public[:]); err != nil {
		return err
	}
	if err := sym.seal(msg[initiationStatic:initiationTimestamp], &key, s.public[:]); err != nil {
		return err
	}
	kdf(&sym.chain, r.staticStatic[:], &sym.chain, &key)
	return sym.seal(msg[initiationTimestamp:initiationMAC1], &key, t[:])
}

// Index is our index in the initiation.
func (h *Handshake) Index() uint32 { return h.index }

// OpenResponse finishes the handshake with the peer's response (section 5.4.3).
// The caller has checked mac1 and sets the keypair's Created. A response that is
// refused leaves the handshake as it was, waiting for the true one; one that is
// accepted uses it up.
func (h *Handshake) OpenResponse(s *Static, psk PresharedKey, msg []byte) (*Keypair, error) {
	if !isMessage(msg, MessageResponse) {
		return nil, ErrMalformed
	}
	if h.ephemeral == nil || binary.LittleEndian.Uint32(msg[responseReceiver:]) != h.index {
		return nil, ErrState
	}
	if s == nil || s.key == nil {
		return nil, ErrNoKey
	}
	sym := h.symmetric
	defer sym.clear()
	defer psk.Clear()
	if err := h.readResponse(&sym, s, &psk, msg); err != nil {
		return nil, err
	}
	k, err := newKeypair(&sym, true, h.index, binary.LittleEndian.Uint32(msg[senderOffset:]))
	if err != nil {
		return nil, err
	}
	h.Clear()
	return k, nil
}

// readResponse is the pattern's second line: e, ee, se, psk.
func (h *Handshake) readResponse(sym *symmetric, s *Static, psk *PresharedKey, msg []byte) error {
	e := msg[responseEphemeral:responseEmpty]
	sym.mixEphemeral(e)
	if err := sym.mixDH(h.ephemeral, e); err != nil {
		return err
	}
	if err := sym.mixDH(s.key, e); err != nil {
		return err
	}
	var key [32]byte
	defer clear(key[:])
	sym.mixPSK(&key, psk)
	return sym.open(nil, &key, msg[responseEmpty:responseMAC1])
}

// Clear zeroes the handshake's keys; it then refuses every response.
func (h *Handshake) Clear() {
	h.symmetric.clear()
	eraseDH(h.ephemeral)
	h.ephemeral = nil
}

// Format writes the index for every verb.
func (h *Handshake) Format(f fmt.State, _ rune) { _, _ = fmt.Fprintf(f, "handshake %08x", h.index) }
