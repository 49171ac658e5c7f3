package tunnel

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"kiloport/portpool"
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
// for each lane. It is used by all workers: the sending half is atomic, and of the
// receiving half each lane has a lock, which is free as long as the kernel gives
// a lane's datagrams to one receiver.
type session struct {
	peer    *peer
	keypair *noise.Keypair

	confirmed    atomic.Bool   // something arrived on it: the responder may send
	decapsulates atomic.Bool   // the peer does, by RFC 6040
	vouches      atomic.Bool   // the peer takes packets without transport checksums
	sealFlags    atomic.Uint64 // of every counter: noise.CounterAES or 0
	offers       atomic.Uint64 // flags of counters that may arrive: none until we told the peer

	// Sending. limit is how many lanes above 0 the peer accepts on this
	// keypair, 0 until HELLO was answered on it; chunks is complete before.
	limit  atomic.Uint32
	first  txLane
	chunks []atomic.Pointer[[laneChunk]txLane]

	// Receiving. offered is how many lanes above 0 may arrive: none until
	// we told the peer.
	offered atomic.Uint32
	rxLanes atomic.Uint32 // how many lanes above 0 something arrived on
	rxFirst rxLane
	rx      atomic.Pointer[rxTable] // the lanes above 0, nil until there is one

	hello helloState // behind the peer's mutex
}

// txLane is what sending on a lane needs.
type txLane struct {
	next atomic.Uint64 // sequence of the next packet
	last atomic.Int64  // when data was last sent,
	dscp atomic.Uint32 // and with which DSCP outside
}

// used notes that data is sent with an outer traffic class.
func (t *txLane) used(now int64, class uint8) {
	if t.last.Load() != now {
		t.last.Store(now)
	}
	if dscp := uint32(class >> 2); t.dscp.Load() != dscp {
		t.dscp.Store(dscp)
	}
}

// rxTable has a place for each lane above 0 that may arrive.
type rxTable [(maxLanes + laneChunk) / laneChunk]atomic.Pointer[[laneChunk]atomic.Pointer[rxLane]]

// rxLane is what receiving on a lane needs. It is made by the first packet that
// the peer authenticated, so that only a peer can make us spend memory.
type rxLane struct {
	mu     sync.Mutex
	window *noise.Window  // nil until the first packet
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
	s.limit.Store(uint32(max(min(int(limit), len(s.chunks)*laneChunk-1), 0)))
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
	if lane == 0 {
		return s.first.last.Load()
	}
	if t := s.sentLane(lane); t != nil {
		return t.last.Load()
	}
	return 0
}

// sentOn reports whether anything was sent on a lane. It makes no state.
func (s *session) sentOn(lane uint16) bool { return s.sentNumber(lane) > 0 }

// sentNumber is how many messages were sent on a lane. It makes no state.
func (s *session) sentNumber(lane uint16) uint64 {
	if lane == 0 {
		return s.first.next.Load()
	}
	if t := s.sentLane(lane); t != nil {
		return t.next.Load()
	}
	return 0
}

// sentLane gives the sending state of a lane above 0, nil if there is none yet.
func (s *session) sentLane(lane uint16) *txLane {
	if uint32(lane) > s.limit.Load() {
		return nil
	}
	lanes := s.chunks[lane/laneChunk].Load()
	if lanes == nil {
		return nil
	}
	return &lanes[lane%laneChunk]
}

// reserve takes the sequence numbers of the next n packets on a lane of 0 to limit
// and gives the first. It reports false when the lane's are used up.
func (s *session) reserve(lane uint16, n uint64) (first uint64, ok bool) {
	t := s.lane(lane)
	first = t.next.Add(n) - n
	if first+n > messageLimit {
		t.next.Store(messageLimit) // far from wrapping, however often it is tried
		return 0, false
	}
	return first, true
}

// seal makes a transport message in place: buf has headerSize bytes of room,
// then n bytes of payload, then room for tagSize. Lane is 0 to limit. It reports
// false when the lane's sequence is used up.
func (s *session) seal(buf []byte, n int, lane uint16) ([]byte, bool) {
	sequence, ok := s.reserve(lane, 1)
	if !ok {
		return nil, false
	}
	datagram := s.keypair.SealInPlace(buf, n, noise.JoinCounter(lane, sequence, s.sealFlags.Load()))
	return datagram, datagram != nil
}

// accepts reports whether a lane may arrive on this session.
func (s *session) accepts(lane uint16) bool {
	return lane == 0 || uint32(lane) <= s.offered.Load()
}

// receiving gives the state of a lane on which something was authenticated.
func (s *session) receiving(lane uint16) *rxLane {
	if lane == 0 {
		return &s.rxFirst
	}
	table := s.rx.Load()
	if table == nil {
		s.rx.CompareAndSwap(nil, new(rxTable))
		table = s.rx.Load()
	}
	chunk := table[lane/laneChunk].Load()
	if chunk == nil {
		table[lane/laneChunk].CompareAndSwap(nil, new([laneChunk]atomic.Pointer[rxLane]))
		chunk = table[lane/laneChunk].Load()
	}
	at := &chunk[lane%laneChunk]
	l := at.Load()
	if l == nil {
		if at.CompareAndSwap(nil, new(rxLane)) {
			s.rxLanes.Add(1)
		}
		l = at.Load()
	}
	return l
}

// record takes an authenticated counter, of n bytes in one of m's datagrams, and
// counts it; fresh is false for a replay. moved tells that the lane has come from
// elsewhere before, or for the first time.
func (s *session) record(now int64, lane uint16, sequence uint64, n int, m *portpool.Message) (fresh, moved bool) {
	l := s.receiving(lane)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.window == nil {
		w := noise.NewWindow(ternary(lane == 0, listenWindow, laneWindow))
		l.window, l.counts = &w, s.peer.arrivals.lane(lane)
	}
	if !l.window.Accept(sequence, messageLimit) {
		return false, false
	}
	if moved = l.source != m.Addr; moved {
		l.source = m.Addr
	}
	l.counts.count(now, n, l.ahead(sequence), m.TrafficClass, m.HopLimit)
	return true, moved
}

// forgetSources makes all lanes count as if they had not come from anywhere yet.
func (s *session) forgetSources() {
	table := s.rx.Load()
	if table == nil {
		return
	}
	for i := range table {
		chunk := table[i].Load()
		if chunk == nil {
			continue
		}
		for j := range chunk {
			if l := chunk[j].Load(); l != nil {
				l.mu.Lock()
				l.source = netip.AddrPort{}
				l.mu.Unlock()
			}
		}
	}
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
