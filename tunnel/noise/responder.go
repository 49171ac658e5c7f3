package noise

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// Incoming is an initiation on its way through the responder: [OpenInitiation]
// says who claims to have sent it, [Incoming.Accept] proves it,
// [Incoming.Respond] answers it.
type Incoming struct {
	// RemotePublic is the initiator's key. Until Accept it is only a claim: it
	// was sealed to us, but whoever knows our public key can do that.
	RemotePublic PublicKey
	// RemoteIndex is the index that the initiator wants to be named by.
	RemoteIndex uint32
	// Timestamp is the initiator's TAI64N timestamp, set by Accept.
	Timestamp [12]byte

	symmetric       symmetric
	remoteEphemeral [keySize]byte
	sealedTimestamp [timestampSize + TagSize]byte
	stage           stage
}

type stage uint8

const (
	stageDone stage = iota
	stageOpened
	stageAccepted
)

// OpenInitiation decrypts the sender's public key in an initiation (section
// 5.4.2). The caller has checked mac1, and looks the peer up next.
func OpenInitiation(s *Static, msg []byte) (Incoming, error) {
	if !isMessage(msg, MessageInitiation) {
		return Incoming{}, ErrMalformed
	}
	if s == nil || s.key == nil {
		return Incoming{}, ErrNoKey
	}
	// Kept apart from what is returned: what an AEAD is given escapes to the
	// heap, where a copy of the chaining key would stay behind.
	sym := symmetric{hash: s.hash, chain: initial.chain}
	defer sym.clear()
	var key [32]byte
	defer clear(key[:])
	e := msg[initiationEphemeral:initiationStatic]
	sym.mixEphemeral(e)
	if err := sym.mixDHKey(&key, s.key, e); err != nil {
		return Incoming{}, err
	}
	var public PublicKey
	if err := sym.open(public[:], &key, msg[initiationStatic:initiationTimestamp]); err != nil {
		return Incoming{}, err
	}
	return Incoming{
		RemotePublic:    public,
		RemoteIndex:     binary.LittleEndian.Uint32(msg[senderOffset:]),
		symmetric:       sym,
		remoteEphemeral: [keySize]byte(e),
		sealedTimestamp: [timestampSize + TagSize]byte(msg[initiationTimestamp:]),
		stage:           stageOpened,
	}, nil
}

// Accept decrypts the timestamp with the secret that only we and r share, which
// proves who sent the initiation, and refuses one that is not newer than the
// last ([ErrReplay], [ErrRepeated]) or comes within HandshakeInitiationRate of it ([ErrFlood]).
// r remembers it if it is accepted, and is unchanged if not.
func (in *Incoming) Accept(r *Remote, now int64) error {
	if in.stage != stageOpened || in.RemotePublic != r.public {
		return ErrState
	}
	if isZero(&r.staticStatic) {
		return ErrNoKey
	}
	sym := in.symmetric
	defer sym.clear()
	var key [32]byte
	defer clear(key[:])
	var t timestamp
	kdf(&sym.chain, r.staticStatic[:], &sym.chain, &key)
	if err := sym.open(t[:], &key, in.sealedTimestamp[:]); err != nil {
		return err
	}
	if err := r.admit(t, now); err != nil {
		return err
	}
	in.symmetric, in.Timestamp, in.stage = sym, t, stageAccepted
	return nil
}

func (r *Remote) admit(t timestamp, now int64) error {
	switch {
	case t == r.accepted:
		return ErrRepeated
	case !t.after(r.accepted):
		return ErrReplay
	}
	rate := r.Constants.orDefault().HandshakeInitiationRate
	if r.acceptedAt != 0 && time.Duration(now-r.acceptedAt) <= rate {
		return ErrFlood
	}
	r.accepted, r.acceptedAt = t, now
	return nil
}

// Respond makes the response to an accepted initiation (section 5.4.3), and the
// keypair, on which we may send only after something was received on it. index
// is the one that the peer shall name us by. The caller sets the keypair's
// Created, and the message still needs [AddMACs]. in is used up, also by an
// error, which is of rand, [ErrLowOrder] or [ErrState].
func (in *Incoming) Respond(rand io.Reader, psk PresharedKey, index uint32) (msg [ResponseSize]byte, k *Keypair, err error) {
	defer psk.Clear()
	defer in.Clear()
	if in.stage != stageAccepted {
		return msg, nil, fmt.Errorf("respond to handshake: %w", ErrState)
	}
	binary.LittleEndian.PutUint32(msg[:], MessageResponse)
	binary.LittleEndian.PutUint32(msg[senderOffset:], index)
	binary.LittleEndian.PutUint32(msg[responseReceiver:], in.RemoteIndex)
	if err = in.writeResponse(rand, &psk, &msg); err == nil {
		k, err = newKeypair(&in.symmetric, false, index, in.RemoteIndex)
	}
	if err != nil {
		return [ResponseSize]byte{}, nil, fmt.Errorf("respond to handshake: %w", err)
	}
	return msg, k, nil
}

// writeResponse is the pattern's second line: e, ee, se, psk.
func (in *Incoming) writeResponse(rand io.Reader, psk *PresharedKey, msg *[ResponseSize]byte) error {
	e, err := newEphemeral(rand)
	if err != nil {
		return err
	}
	defer eraseDH(e)
	copy(msg[responseEphemeral:], e.PublicKey().Bytes())
	sym := &in.symmetric
	sym.mixEphemeral(msg[responseEphemeral:responseEmpty])
	if err := sym.mixDH(e, in.remoteEphemeral[:]); err != nil {
		return err
	}
	if err := sym.mixDH(e, in.RemotePublic[:]); err != nil {
		return err
	}
	var key [32]byte
	defer clear(key[:])
	sym.mixPSK(&key, psk)
	return sym.seal(msg[responseEmpty:responseMAC1], &key, nil)
}

// Clear zeroes the keys in an initiation that will not be answered.
func (in *Incoming) Clear() {
	in.symmetric.clear()
	in.stage = stageDone
}

// Format writes the initiator's public key for every verb.
func (in Incoming) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, in.RemotePublic.String()) }
