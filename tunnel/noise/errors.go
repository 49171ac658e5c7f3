package noise

import (
	"errors"
	"fmt"
)

// What a message or a call can be refused for. Errors caused by bytes from the
// network are always one of these values itself, so that refusing costs nothing.
var (
	// ErrMalformed: wrong type, size or reserved bytes.
	ErrMalformed = errors.New("malformed wireguard message")
	// ErrForged: the message does not authenticate.
	ErrForged = errors.New("wireguard message does not authenticate: forged, damaged, or the two sides' keys differ")
	// ErrReplay: an initiation not newer than the last one accepted.
	ErrReplay = errors.New("handshake initiation is a replay, or the peer's clock went back")
	// ErrRepeated: an initiation that is the last one accepted. It is an ErrReplay.
	ErrRepeated = fmt.Errorf("%w: it came a second time", ErrReplay)
	// ErrFlood: an initiation too soon after the last one accepted.
	ErrFlood = errors.New("handshake initiation too soon after the last one")
	// ErrLowOrder: a public key with which no secret can be shared.
	ErrLowOrder = errors.New("public key is a low-order point: no secret can be shared with it")
	// ErrNoKey: our private key is not set, or has been cleared.
	ErrNoKey = errors.New("no private key: set one first")
	// ErrState: the handshake or keypair is used up or cleared, or the message
	// is for another one.
	ErrState = errors.New("handshake or keypair is not waiting for this")
)
