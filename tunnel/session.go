package tunnel

import (
	"net/netip"
	"sync/atomic"

	"kiloport/tunnel/noise"
)

// messageLimit is where a lane's sequence ends. To a stock peer the counter has
// 64 bits, but a session's three minutes are too short for these 48.
const messageLimit = noise.RejectLaneAfter

const (
	headerSize = noise.TransportHeaderSize
	tagSize    = noise.TagSize
)

const (
	listenWindow = 8128 // lane 0's replay window, packets: everything of a stock peer
	laneWindow   = 1984 // reordering within one lane is that of one outer flow
	laneChunk    = 64
)

// session is one keypair in use: WireGuard's, with a counter and a replay window
// for each lane. The sending half is used by several goroutines and atomic, the
// receiving half belongs to the receiver.
type session struct {
	peer    *peer
	keypair *noise.Keypair

	confirmed    atomic.Bool // something arrived on it: the responder may send
	decapsulates atomic.Bool // the peer does, by RFC 6040

	// Sending. limit is how many lanes above 0 the peer accepts on this
	// keypair, 0 until HELLO was answered on it; chunks is complete before.
	limit  atomic.Uint32
	first  txLane
	chunks []atomic.Pointer[[laneChunk]txLane]

	// Receiving. offered is how many lanes above 0 may arrive: none until
	// we told the peer.
	offered atomic.Uint32
	rxLanes atomic.Uint32 // how many lanes above 0 something arrived on
	rx      []*rxLane     // the receiver's

	hello helloState // behind the peer's mutex
}

// txLane is what sending on a lane needs.
type txLane struct {
	next atomic.Uint64 // sequence of the next packet
	last atomic.Int64  // when data was last sent
}

// rxLane is what receiving on a lane needs. It is made by the first packet that
// the peer authenticated, so that only a peer can make us spend memory.
type rxLane struct {
	window noise.Window
	source netip.AddrPort // the return address of the lane
	next   uint64         // sequence after the highest that arrived
	counts *arrivals      // the lane's over all keypairs
}

func newSession(p *peer, k *noise.Keypair) *session {
	return &session{peer: p, keypair: k}
}

// expired reports whether the keypair is too old to send or receive with.
func (s *session) expired(now int64) bool {
	return s.peer.device.constants.Expired(s.keypair, now)
}

// allowLanes lets data take lanes up to limit. It is called behind the peer's
// mutex.
func (s *session) allowLanes(limit uint16) {
	if n := (int(limit) + laneChunk) / laneChunk; s.chunks == nil && limit > 0 {
		s.chunks = make([]atomic.Pointer[[laneChunk]txLane], n)
	}
	s.limit.Store(uint32(min(int(limit), len(s.chunks)*laneChunk-1)))
}

// lane gives the sending state of a lane of 0 to limit.
func (s *session) lane(lane uint16) *txLane {
	if lane == 0 {
		return &s.first
	}
	chunk := &s.chunks[lane/laneChunk]
	lanes := chunk.Load()
	if lanes == nil {
		chunk.CompareAndSwap(nil, new([laneChunk]txLane))
		lanes = chunk.Load()
	}
	return &lanes[lane%laneChunk]
}

// lastSent is when data was last sent on a lane, 0 for never.
func (s *session) lastSent(lane uint16) int64 {
	if lane != 0 && uint32(lane) > s.limit.Load() {
		return 0
	}
	return s.lane(lane).last.Load()
}

// sentOn reports whether anything was sent on a lane. It makes no state.
func (s *session) sentOn(lane uint16) bool {
	if lane == 0 {
		return s.first.next.Load() > 0
	}
	if uint32(lane) > s.limit.Load() {
		return false
	}
	lanes := s.chunks[lane/laneChunk].Load()
	return lanes != nil && lanes[lane%laneChunk].next.Load() > 0
}

// seal makes a transport message in place: buf has headerSize bytes of room,
// then n bytes of payload, then room for tagSize. Lane is 0 to limit. It reports
// false when the lane's sequence is used up.
func (s *session) seal(buf []byte, n int, lane uint16) ([]byte, bool) {
	t := s.lane(lane)
	sequence := t.next.Add(1) - 1
	if sequence >= messageLimit {
		t.next.Store(messageLimit) // far from wrapping, however often it is tried
		return nil, false
	}
	datagram := s.keypair.SealInPlace(buf, n, noise.JoinCounter(lane, sequence))
	return datagram, datagram != nil
}

// accepts reports whether a lane may arrive on this session.
func (s *session) accepts(lane uint16) bool {
	return lane == 0 || uint32(lane) <= s.offered.Load()
}

// receiving gives the state of a lane, or nil if nothing arrived on it yet.
func (s *session) receiving(lane uint16) *rxLane {
	if int(lane) >= len(s.rx) {
		return nil
	}
	return s.rx[lane]
}

// startReceiving makes the state of a lane on which something was authenticated.
func (s *session) startReceiving(lane uint16) *rxLane {
	if int(lane) >= len(s.rx) {
		s.rx = append(s.rx, make([]*rxLane, int(lane)+1-len(s.rx))...)
	}
	size := laneWindow
	if lane == 0 {
		size = listenWindow
	} else {
		s.rxLanes.Add(1)
	}
	l := &rxLane{window: noise.NewWindow(size), counts: s.peer.arrivals.lane(lane)}
	s.rx[lane] = l
	return l
}

// fresh reports whether a counter that passes authentication would be accepted.
func (s *session) fresh(lane uint16, sequence uint64) bool {
	l := s.receiving(lane)
	return l == nil || l.window.Check(sequence, messageLimit)
}

// record takes an authenticated counter; false means that it is a replay.
func (s *session) record(lane uint16, sequence uint64) (*rxLane, bool) {
	l := s.receiving(lane)
	if l == nil {
		l = s.startReceiving(lane)
	}
	return l, l.window.Accept(sequence, messageLimit)
}

// ahead is how many more sequences than before a message makes known.
func (l *rxLane) ahead(sequence uint64) uint64 {
	if sequence < l.next {
		return 0
	}
	n := sequence + 1 - l.next
	l.next = sequence + 1
	return n
}
