package noise

// The transport counter of a peer that speaks kiloport is lane << 48 | sequence.
// It is the nonce, so the lane is authenticated with the packet, and nonces stay
// unique although the lanes count independently. Lane 0 counts as WireGuard does.
const (
	// LaneShift is how many bits of the counter hold the sequence number.
	LaneShift = 48
	// RekeyLaneAfter is the sequence number on a lane after which a new handshake
	// is wanted.
	RekeyLaneAfter = 1 << 47
	// RejectLaneAfter is the sequence number from which nothing is sent or
	// accepted on a lane of a keypair with lanes: the next lane's nonces follow.
	RejectLaneAfter = 1<<LaneShift - 1<<13 - 1
)

// SplitCounter takes a transport counter apart.
func SplitCounter(c uint64) (lane uint16, seq uint64) {
	return uint16(c >> LaneShift), c & (1<<LaneShift - 1)
}

// JoinCounter puts a transport counter together. seq must be below
// [RejectLaneAfter]; bits that would run into the lane are cut off.
func JoinCounter(lane uint16, seq uint64) uint64 {
	return uint64(lane)<<LaneShift | seq&(1<<LaneShift-1)
}
