// Package accord is what two kiloports say to each other through a tunnel that only
// carries IP: HELLO, of which at least one end has kernel WireGuard below it.
//
// Start with [Agreement], the state machine that decides what is said and what may
// be sent from other ports. [Hello] is what is said, [Packet] wraps one into the
// inner datagram that carries it, and [ParsePacket] reads it back.
//
// HELLO travels inside the tunnel, so WireGuard has authenticated it, and the inner
// source address tells by the allowed IPs which peer it is from. It is a UDP
// datagram to port 61937 (0xF1F1) of an address that the peer has in its allowed
// IPs; that the peer's host has it is not necessary, because who understands HELLO
// takes it before the host's stack sees it. Where nobody does, its hop limit of 1
// keeps it from getting any further. It is of [AskSize] or [AnswerSize], by which the
// eBPF programs tell it from the outside:
//
//	"kiloport" { id(1) length(1) value(length, big endian) } 0 … 0
//
// A field of unknown id is skipped, and so is one of another length than it has
// here: the version only grows. Id 0 ends the list.
//
// What is agreed on: the receiver of HELLO tells from which ports it takes data
// for data from the canonical one (Restores), and only then does the sender use
// these. It begins with HELLO itself, and goes on with data when the answer tells
// that one has come through (Restored). What the answer answers is told by
// Heard: a peer that hears nothing any more is not restoring.
//
// Limits: one range of ports in each direction.
package accord

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// Port is the inner UDP port to which HELLO goes.
const Port = 0xF1F1

// Version is that of this package's HELLO.
const Version = 1

const magic = "kiloport"

// ErrMalformed says that bytes are no HELLO, or a packet carries none.
var ErrMalformed = errors.New("malformed HELLO")

// A Range is the ports from Low to Low+Count-1; Count 0 is none.
type Range struct{ Low, Count uint16 }

// Contains tells whether a port is in the range.
func (r Range) Contains(port uint16) bool { return port-r.Low < r.Count }

// High is the last port of a range that has one.
func (r Range) High() uint16 { return r.Low + r.Count - 1 }

// valid tells whether all ports of the range are ports.
func (r Range) valid() bool {
	return r.Count == 0 || r.Low > 0 && int(r.Low)+int(r.Count) <= 1<<16
}

// A Hello says what its sender does and what it has seen of the receiver.
type Hello struct {
	Version uint8
	// Instance is drawn at random by each process.
	Instance uint64
	// Sequence counts the HELLOs of an instance, from 1.
	Sequence uint32
	// Heard is the highest Sequence of HeardFrom, the receiver's instance, that
	// the sender has got.
	Heard     uint32
	HeardFrom uint64
	// Port is the canonical one, on which the sender listens.
	Port uint16
	// Sends are the ports from which the sender's data may come.
	Sends Range
	// Restores are the receiver's ports for which the sender takes the canonical
	// one.
	Restores Range
	// Seen is the receiver's endpoint, as the sender's WireGuard has it.
	Seen netip.AddrPort
	// Restored counts the receiver's messages that came from such ports.
	Restored uint32
	// Limit is how many ports the receiver should use at most, 0 for any number.
	Limit uint16
	Flags Flags
}

// Flags are what is true of a HELLO or of its sender.
type Flags uint8

const (
	// Ask wants an answer.
	Ask Flags = 1 << iota
	// Leaving says that the sender will not put ports back for much longer.
	Leaving
	// Origin says that the sender writes whether a packet was ECN-capable when it
	// left into the lowest bit of its source port, counted from the first of the
	// range, and reads it of what it gets.
	Origin
	// Spreading says that the sender's data comes from its range.
	Spreading
)

// Has tells whether all of some flags are set.
func (f Flags) Has(some Flags) bool { return f&some == some }

const (
	fieldEnd       = 0
	fieldVersion   = 1
	fieldInstance  = 2
	fieldSequence  = 3
	fieldHeard     = 4 // sequence and instance
	fieldPort      = 5
	fieldSends     = 6
	fieldRestores  = 7
	fieldSeen      = 8
	fieldRestored  = 9
	fieldLimit     = 10
	fieldFlags     = 11
	lengthRange    = 4
	lengthAddrPort = 18
)

// Append adds the encoded HELLO to b. An invalid Seen is left out.
func (h *Hello) Append(b []byte) []byte {
	be := binary.BigEndian
	b = append(b, magic...)
	b = append(b, fieldVersion, 1, h.Version)
	b = be.AppendUint64(append(b, fieldInstance, 8), h.Instance)
	b = be.AppendUint32(append(b, fieldSequence, 4), h.Sequence)
	b = be.AppendUint64(be.AppendUint32(append(b, fieldHeard, 12), h.Heard), h.HeardFrom)
	b = be.AppendUint16(append(b, fieldPort, 2), h.Port)
	b = h.Sends.append(append(b, fieldSends, lengthRange))
	b = h.Restores.append(append(b, fieldRestores, lengthRange))
	if h.Seen.IsValid() {
		a := h.Seen.Addr().As16()
		b = append(append(b, fieldSeen, lengthAddrPort), a[:]...)
		b = be.AppendUint16(b, h.Seen.Port())
	}
	b = be.AppendUint32(append(b, fieldRestored, 4), h.Restored)
	b = be.AppendUint16(append(b, fieldLimit, 2), h.Limit)
	return append(b, fieldFlags, 1, byte(h.Flags))
}

func (r Range) append(b []byte) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, r.Low), r.Count)
}

// Parse reads a HELLO; what follows its last field is ignored. The error is
// [ErrMalformed].
func Parse(b []byte) (h Hello, err error) {
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return Hello{}, ErrMalformed
	}
	for b = b[len(magic):]; len(b) > 0 && b[0] != fieldEnd; {
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return Hello{}, ErrMalformed
		}
		h.set(b[0], b[2:2+int(b[1])])
		b = b[2+int(b[1]):]
	}
	if h.Version == 0 || h.Instance == 0 || !h.Sends.valid() || !h.Restores.valid() {
		return Hello{}, ErrMalformed
	}
	return h, nil
}

// set takes one field.
func (h *Hello) set(id byte, value []byte) {
	be := binary.BigEndian
	switch n := len(value); {
	case id == fieldVersion && n == 1:
		h.Version = value[0]
	case id == fieldInstance && n == 8:
		h.Instance = be.Uint64(value)
	case id == fieldSequence && n == 4:
		h.Sequence = be.Uint32(value)
	case id == fieldHeard && n == 12:
		h.Heard, h.HeardFrom = be.Uint32(value), be.Uint64(value[4:])
	case id == fieldPort && n == 2:
		h.Port = be.Uint16(value)
	case id == fieldSends && n == lengthRange:
		h.Sends = parseRange(value)
	case id == fieldRestores && n == lengthRange:
		h.Restores = parseRange(value)
	case id == fieldSeen && n == lengthAddrPort:
		h.Seen = netip.AddrPortFrom(netip.AddrFrom16([16]byte(value[:16])).Unmap(), be.Uint16(value[16:]))
	case id == fieldRestored && n == 4:
		h.Restored = be.Uint32(value)
	case id == fieldLimit && n == 2:
		h.Limit = be.Uint16(value)
	case id == fieldFlags && n == 1:
		h.Flags = Flags(value[0])
	}
}

func parseRange(b []byte) Range {
	return Range{Low: binary.BigEndian.Uint16(b), Count: binary.BigEndian.Uint16(b[2:])}
}
