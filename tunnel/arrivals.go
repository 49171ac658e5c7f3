package tunnel

import (
	"sync/atomic"
	"time"

	"kiloport/tunnel/ecn"
)

// arrivals is what has arrived from a peer on one lane, over all keypairs. The
// receiver of the lane counts, everybody reads.
type arrivals struct {
	packets, bytes atomic.Uint64
	expected       atomic.Uint64    // that the sequence numbers tell of, arrived or not
	marks          [4]atomic.Uint64 // by codepoint but Not-ECT
	last           atomic.Int64     // when something arrived, to within lastGrain,
	inner          atomic.Int64     // and when a packet of others did, while that matters
	hop            atomic.Uint32    // hop limit of the outer header, 0 = not known
	hops           atomic.Uint32    // how often it became another

	// Behind the peer's mutex.
	way      delay  // of the peer's probes
	low      int64  // the least of these since the last report
	lowKnown bool   // there was one
	reported uint64 // packets at the last report,
	listed   uint64 // and at the last HEARD
}

// lastGrain spares the packet path a write for most packets.
const lastGrain = int64(time.Second)

// count is for one message of n bytes, whose lane's sequence the keypair has made
// known up to and including, by ahead more than before it.
func (a *arrivals) count(now int64, n int, ahead uint64, class, hop uint8) {
	a.packets.Add(1)
	a.bytes.Add(uint64(n))
	if ahead > 0 {
		a.expected.Add(ahead)
	}
	if cp := class & 3; cp != uint8(ecn.NotECT) {
		a.marks[cp].Add(1)
	}
	if uint8(a.hop.Load()) != hop {
		if a.hop.Swap(uint32(hop)) != 0 {
			a.hops.Add(1)
		}
	}
	if now-a.last.Load() >= lastGrain {
		a.last.Store(now)
	}
}

// carried notes that an inner packet arrived.
func (a *arrivals) carried(now int64) {
	if now-a.inner.Load() >= lastGrain {
		a.inner.Store(now)
	}
}

// lost is how many have not arrived, or not yet.
func (a *arrivals) lost() uint64 {
	arrived := a.packets.Load() // first, so that the difference is not below 0
	return max(a.expected.Load(), arrived) - arrived
}

// arrivalTable is the arrivals of all lanes of a peer. It is made by what the
// peer has authenticated, so that nobody else can make us spend memory.
type arrivalTable struct {
	first arrivals
	lanes atomic.Pointer[[maxLanes/laneChunk + 1]atomic.Pointer[[laneChunk]arrivals]]
}

// lane gives the arrivals of a lane of 0 to maxLanes, and makes them. It may be
// called by several goroutines.
func (t *arrivalTable) lane(lane uint16) *arrivals {
	if lane == 0 {
		return &t.first
	}
	chunks := t.lanes.Load()
	if chunks == nil {
		t.lanes.CompareAndSwap(nil, new([maxLanes/laneChunk + 1]atomic.Pointer[[laneChunk]arrivals]))
		chunks = t.lanes.Load()
	}
	chunk := &chunks[lane/laneChunk]
	if chunk.Load() == nil {
		chunk.CompareAndSwap(nil, new([laneChunk]arrivals))
	}
	return &chunk.Load()[lane%laneChunk]
}

// find gives the arrivals of a lane, nil if nothing has arrived on it.
func (t *arrivalTable) find(lane uint16) *arrivals {
	if lane == 0 {
		return &t.first
	}
	chunks := t.lanes.Load()
	if chunks == nil {
		return nil
	}
	if chunk := chunks[lane/laneChunk].Load(); chunk != nil {
		return &chunk[lane%laneChunk]
	}
	return nil
}

// from yields the lanes on which something has arrived, beginning at a lane and
// going round once.
func (t *arrivalTable) from(lane uint16, yield func(lane uint16, a *arrivals) bool) {
	const lanes = maxLanes + 1
	chunks := t.lanes.Load()
	for n := 0; n < lanes; n++ {
		at := (int(lane) + n) % lanes
		a := &t.first
		if at > 0 {
			var chunk *[laneChunk]arrivals
			if chunks != nil {
				chunk = chunks[at/laneChunk].Load()
			}
			if chunk == nil { // go to the end of it
				n += min(laneChunk-1-at%laneChunk, lanes-1-at)
				continue
			}
			a = &chunk[at%laneChunk]
		}
		if a.packets.Load() > 0 && !yield(uint16(at), a) {
			return
		}
	}
}
