package ecn

import "fmt"

// Codepoint is the value of the two bits of the ECN field (RFC 3168, section
// 5). Only the low two bits are looked at.
type Codepoint uint8

// The codepoints.
const (
	NotECT Codepoint = 0 // the transport does not understand ECN: drop, do not mark
	ECT1   Codepoint = 1 // ECN-capable, low-latency service (RFC 9331)
	ECT0   Codepoint = 2 // ECN-capable
	CE     Codepoint = 3 // congestion experienced
)

const mask = 3

// String is the codepoint as the RFCs write it.
func (c Codepoint) String() string {
	return [...]string{"Not-ECT", "ECT(1)", "ECT(0)", "CE"}[c&mask]
}

// Mode is how an ingress sets the outer field (RFC 6040, section 4.3).
type Mode uint8

const (
	// Compatibility leaves the outer field Not-ECT. It is safe with any egress,
	// and the only mode for one that may not bring CE back inside.
	Compatibility Mode = iota
	// Normal copies the inner field, for an egress known to follow RFC 6040.
	Normal
)

// String is "compatibility" or "normal".
func (m Mode) String() string {
	switch m {
	case Compatibility:
		return "compatibility"
	case Normal:
		return "normal"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// Encapsulate is the outer codepoint of a packet with the given inner one (RFC
// 6040, section 4.1, figure 3). An unknown mode counts as [Compatibility].
func Encapsulate(m Mode, inner Codepoint) (outer Codepoint) {
	if m != Normal {
		return NotECT
	}
	return inner & mask
}
