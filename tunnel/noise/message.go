package noise

import "encoding/binary"

// Message types, the first byte of every message (section 5.4).
const (
	MessageInitiation  = 1
	MessageResponse    = 2
	MessageCookieReply = 3
	MessageTransport   = 4
)

// Sizes of the messages and of their parts, bytes.
const (
	InitiationSize      = 148
	ResponseSize        = 92
	CookieReplySize     = 64
	TransportHeaderSize = 16
	TagSize             = 16
	// TransportOverhead is what a transport message adds to its payload, and the
	// size of a keepalive.
	TransportOverhead = TransportHeaderSize + TagSize
	// PaddingMultiple is what payloads are padded to with zeros.
	PaddingMultiple = 16
)

// Offsets within the messages of section 5.4.
const (
	senderOffset = 4 // initiation and response: the sender's index

	initiationEphemeral = 8
	initiationStatic    = initiationEphemeral + keySize
	initiationTimestamp = initiationStatic + keySize + TagSize
	initiationMAC1      = initiationTimestamp + timestampSize + TagSize

	responseReceiver  = 8
	responseEphemeral = 12
	responseEmpty     = responseEphemeral + keySize
	responseMAC1      = responseEmpty + TagSize

	cookieReceiver = 4
	cookieNonce    = 8
	cookieSealed   = cookieNonce + cookieNonceSize

	transportReceiver = 4
	transportCounter  = 8

	keySize         = 32
	macSize         = 16
	cookieNonceSize = 24
)

// MessageType returns the type of a datagram. It is not ok unless the three
// reserved bytes are zero and the size is right for the type.
func MessageType(msg []byte) (t uint8, ok bool) {
	if len(msg) < TransportOverhead {
		return 0, false
	}
	switch word := binary.LittleEndian.Uint32(msg); word {
	case MessageTransport:
		return MessageTransport, true
	case MessageInitiation:
		return MessageInitiation, len(msg) == InitiationSize
	case MessageResponse:
		return MessageResponse, len(msg) == ResponseSize
	case MessageCookieReply:
		return MessageCookieReply, len(msg) == CookieReplySize
	}
	return 0, false
}

func isMessage(msg []byte, want uint8) bool {
	t, ok := MessageType(msg)
	return ok && t == want
}

// ParseTransport reads the header of a transport message: the index that its
// receiver chose for the keypair, and the counter. Neither is authenticated yet.
func ParseTransport(msg []byte) (index uint32, counter uint64, ok bool) {
	if !isMessage(msg, MessageTransport) {
		return 0, 0, false
	}
	return binary.LittleEndian.Uint32(msg[transportReceiver:]),
		binary.LittleEndian.Uint64(msg[transportCounter:]), true
}

// SenderIndex is the index that the sender of an initiation or a response chose.
func SenderIndex(msg []byte) (index uint32, ok bool) {
	if t, ok := MessageType(msg); !ok || (t != MessageInitiation && t != MessageResponse) {
		return 0, false
	}
	return binary.LittleEndian.Uint32(msg[senderOffset:]), true
}

// ReceiverIndex is the index of ours that a response, a cookie reply or a
// transport message names: by it the handshake or the keypair is found.
func ReceiverIndex(msg []byte) (index uint32, ok bool) {
	switch t, ok := MessageType(msg); {
	case !ok || t == MessageInitiation:
		return 0, false
	case t == MessageResponse:
		return binary.LittleEndian.Uint32(msg[responseReceiver:]), true
	default:
		return binary.LittleEndian.Uint32(msg[transportReceiver:]), true
	}
}

// PaddedSize is the size of a payload of n bytes after padding: the next
// multiple of 16, but not above mtu (0 = no limit), so that padding never makes
// a packet too large. A payload that is larger than mtu already stays as it is.
func PaddedSize(n, mtu int) int {
	padded := (n + PaddingMultiple - 1) &^ (PaddingMultiple - 1)
	if mtu > 0 && padded > mtu {
		return max(n, mtu)
	}
	return padded
}
