package noise

// The transport counter of a peer that speaks kiloport is
//
//	63        62    48 to 61   0 to 47
//	vouched   aes   lane       sequence
//
// It is the nonce, so all of it is authenticated with the packet, and nonces stay
// unique although the lanes count independently. A lane's sequence number is used
// once, whatever the two bits say. Lane 0 without the bits counts as WireGuard
// does.
const (
	// LaneShift is how many bits of the counter hold the sequence number.
	LaneShift = 48
	// MaxLane is the greatest lane, which has 14 bits.
	MaxLane = 1<<14 - 1
	// CounterVouched says that the transport checksum of the packet inside was
	// not computed: the AEAD vouches for the packet as the sending host had it.
	CounterVouched = 1 << 63
	// CounterAES says that the message is sealed with AES-256-GCM.
	CounterAES = 1 << 62
	// RekeyLaneAfter is the sequence number on a lane after which a new handshake
	// is wanted.
	RekeyLaneAfter = 1 << 47
	// RejectLaneAfter is the sequence number from which nothing is sent or
	// accepted on a lane of a keypair with lanes: the next lane's nonces follow.
	RejectLaneAfter = 1<<LaneShift - 1<<13 - 1
)

// SplitCounter takes a transport counter apart. flags are [CounterVouched] and
// [CounterAES], or 0.
func SplitCounter(c uint64) (lane uint16, seq, flags uint64) {
	return uint16(c>>LaneShift) & MaxLane, c & (1<<LaneShift - 1), c & (CounterVouched | CounterAES)
}

// JoinCounter puts a transport counter together. lane must be at most [MaxLane]
// and seq below [RejectLaneAfter]; bits that would run into others are cut off.
func JoinCounter(lane uint16, seq, flags uint64) uint64 {
	return flags | uint64(lane&MaxLane)<<LaneShift | seq&(1<<LaneShift-1)
}
