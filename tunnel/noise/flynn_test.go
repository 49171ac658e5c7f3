package noise_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	flynn "github.com/flynn/noise"

	"kiloport/tunnel/noise"
)

// flynnState is our handshake in a general implementation of Noise: WireGuard's
// is IKpsk2 with the identifier as prologue, the timestamp as first payload.
func flynnState(t *testing.T, g goldenHandshake, initiator bool) *flynn.HandshakeState {
	t.Helper()
	c := flynn.Config{
		CipherSuite:           flynn.NewCipherSuite(flynn.DH25519, flynn.CipherChaChaPoly, flynn.HashBLAKE2s),
		Pattern:               flynn.HandshakeIK,
		Initiator:             initiator,
		Prologue:              []byte("WireGuard v1 zx2c4 Jason@zx2c4.com"),
		PresharedKey:          g.PresharedKey,
		PresharedKeyPlacement: 2,
	}
	if initiator {
		c.Random = bytes.NewReader(g.InitiatorEphemeral)
		c.StaticKeypair = flynn.DHKey{Private: g.InitiatorPrivate, Public: g.InitiatorPublic}
		c.PeerStatic = g.ResponderPublic
	} else {
		c.Random = bytes.NewReader(g.ResponderEphemeral)
		c.StaticKeypair = flynn.DHKey{Private: g.ResponderPrivate, Public: g.ResponderPublic}
	}
	s, err := flynn.NewHandshakeState(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// flynn/noise makes every byte of the golden handshakes out of the same random
// numbers, and the same transport messages.
func TestFlynnMakesTheGoldenVectors(t *testing.T) {
	for _, g := range readGolden[goldenHandshake](t, "handshakes.json") {
		t.Run(g.Name, func(t *testing.T) {
			a, b := flynnState(t, g, true), flynnState(t, g, false)
			first, _, _, err := a.WriteMessage(nil, g.Timestamp)
			if err != nil || !bytes.Equal(first, g.Initiation[8:116]) {
				t.Fatalf("initiation: %v\n%x\n%x", err, first, g.Initiation[8:116])
			}
			payload, _, _, err := b.ReadMessage(nil, first)
			if err != nil || !bytes.Equal(payload, g.Timestamp) {
				t.Fatalf("timestamp: %v, %x", err, payload)
			}
			second, bReceive, bSend, err := b.WriteMessage(nil, nil)
			if err != nil || !bytes.Equal(second, g.Response[12:60]) {
				t.Fatalf("response: %v\n%x\n%x", err, second, g.Response[12:60])
			}
			if _, _, _, err := a.ReadMessage(nil, second); err != nil {
				t.Fatal(err)
			}
			for i, p := range g.Packets {
				if p.Counter&noise.CounterAES != 0 {
					continue // not Noise's business: TestAESMessages looks after it
				}
				cipher := bSend
				if p.FromInitiator {
					cipher = bReceive
				}
				cipher.SetNonce(p.Counter)
				sealed, err := cipher.Encrypt(nil, nil, p.Payload)
				if err != nil || !bytes.Equal(sealed, p.Message[16:]) {
					t.Errorf("packet %d: %v", i, err)
				}
			}
		})
	}
}

// Both sides against flynn/noise, with fresh keys each time.
func TestAgainstFlynn(t *testing.T) {
	for i := range byte(20) {
		g := goldenHandshake{PresharedKey: make(hexBytes, 32)}
		r := fixedRand(i)
		a, b := newSide(t, i), newSide(t, i+100)
		meet(t, a, b)
		pa, pb := a.static.Public(), b.static.Public()
		g.InitiatorPrivate, g.InitiatorPublic = a.private[:], pa[:]
		g.ResponderPrivate, g.ResponderPublic = b.private[:], pb[:]
		g.InitiatorEphemeral, g.ResponderEphemeral = make(hexBytes, 32), make(hexBytes, 32)
		for _, k := range []hexBytes{g.PresharedKey, g.InitiatorEphemeral, g.ResponderEphemeral} {
			_, _ = r.Read(k)
		}
		flynnResponds(t, a, g)
		flynnInitiates(t, b, g)
	}
}

func flynnResponds(t *testing.T, a *side, g goldenHandshake) {
	t.Helper()
	msg, h := a.initiate(t, 77)
	b := flynnState(t, g, false)
	if _, _, _, err := b.ReadMessage(nil, msg[8:116]); err != nil {
		t.Fatalf("flynn reads our initiation: %v", err)
	}
	second, receive, send, err := b.WriteMessage(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, noise.ResponseSize)
	answer[0] = noise.MessageResponse
	binary.LittleEndian.PutUint32(answer[4:], 88)
	binary.LittleEndian.PutUint32(answer[8:], 77)
	copy(answer[12:], second)
	k, err := h.OpenResponse(a.static, g.PresharedKey.key(), answer)
	if err != nil {
		t.Fatalf("flynn's response: %v", err)
	}
	flynnCarries(t, k, send, receive)
}

func flynnInitiates(t *testing.T, b *side, g goldenHandshake) {
	t.Helper()
	a := flynnState(t, g, true)
	first, _, _, err := a.WriteMessage(nil, bytes.Repeat([]byte{0x40}, 12))
	if err != nil {
		t.Fatal(err)
	}
	msg := make([]byte, noise.InitiationSize)
	msg[0] = noise.MessageInitiation
	binary.LittleEndian.PutUint32(msg[4:], 88)
	copy(msg[8:], first)
	in, err := noise.OpenInitiation(b.static, msg)
	if err != nil {
		t.Fatalf("flynn's initiation: %v", err)
	}
	if err := in.Accept(&b.remote, now); err != nil {
		t.Fatalf("flynn's timestamp: %v", err)
	}
	answer, k, err := in.Respond(fixedRand('r'), g.PresharedKey.key(), 77)
	if err != nil {
		t.Fatal(err)
	}
	_, send, receive, err := a.ReadMessage(nil, answer[12:60])
	if err != nil {
		t.Fatalf("flynn reads our response: %v", err)
	}
	flynnCarries(t, k, send, receive)
}

// flynnCarries exchanges a packet each way; k's index is 77, flynn's 88.
func flynnCarries(t *testing.T, k *noise.Keypair, send, receive *flynn.CipherState) {
	t.Helper()
	const counter = 3<<48 | 9
	msg := k.Seal(nil, []byte("ours"), counter)
	receive.SetNonce(counter)
	if got, err := receive.Decrypt(nil, nil, msg[16:]); err != nil || string(got) != "ours" {
		t.Errorf("flynn opens %q: %v", got, err)
	}
	theirs := make([]byte, 16)
	theirs[0] = noise.MessageTransport
	binary.LittleEndian.PutUint32(theirs[4:], 77)
	binary.LittleEndian.PutUint64(theirs[8:], counter)
	send.SetNonce(counter)
	theirs, err := send.Encrypt(theirs, nil, []byte("theirs"))
	if err != nil {
		t.Fatal(err)
	}
	if got, c, err := k.OpenInPlace(theirs); err != nil || string(got) != "theirs" || c != counter {
		t.Errorf("we open %q, %x: %v", got, uint64(c), err)
	}
}
