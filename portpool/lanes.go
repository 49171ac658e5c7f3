package portpool

import (
	"math/bits"
	"time"
)

// LanesConfig describes one peer's Lanes.
type LanesConfig struct {
	// Limit is the number of lanes: flows get 1 to Limit, at most MaxPorts.
	// 0 gives every flow lane 0.
	Limit int
	// FlowIdle is how long, in nanoseconds, a flow without packets keeps
	// its lane; 0 means 30 s.
	FlowIdle int64
	// MaxFlows bounds the flows remembered, hence memory: at most 48 bytes
	// each. 0 means 131072, the most is 1<<24. One more flow replaces the
	// one that has been idle longest.
	MaxFlows int
	// Shut begins with all lanes taken out: SetDead brings in those that are
	// known to work.
	Shut bool
	// Yield has flows that share a lane with one that Place has put there move
	// to a free one, with their next packet. Where both ends put answers where the
	// questions came, and give their own flows the same lane in the same moment,
	// one of them should do so.
	Yield bool
}

const (
	defaultFlowIdle = int64(30 * time.Second)
	defaultMaxFlows = 131072
	maxMaxFlows     = 1 << 24

	// shareCandidates is how many lanes a flow that must share looks at.
	// Two already bring the fullest lane from log n/log log n down to
	// log log n flows above the mean; four cost one cache line more.
	shareCandidates = 4
	// forgetAfter idle times without any flow, a peer's lanes are history:
	// the pool has closed the sockets, and routers their mappings.
	forgetAfter = 4
)

// Lanes says which lane each flow of one peer gets. A flow is known by a 64-bit
// hash; use a keyed one, so that nobody outside can aim at a lane.
//
// A new flow takes the free lane that has been idle longest. If none of those
// that this peer used before is free, it takes a new one, the lowest first. If
// there is none either it shares: the least loaded of four that its hash picks.
// It keeps its lane while packets come at least every FlowIdle.
//
// Lanes has one owner and no locks. now is monotonic time in nanoseconds, and
// does not go backwards. Without flows it owns no memory beside itself.
type Lanes struct {
	table flowTable
	lanes []laneRec // [0] is lane 1; those that this peer ever used
	dead  []uint64  // bit n: lane n is dead

	leaving map[uint16]leaving // of the dead ones, those that flows leave in their own time

	idle     int64
	grain    int64 // how exact flowRec.seen is
	emptied  int64 // since when there has been no flow; 0: there are, or never were
	maxFlows int
	limit    int

	freeHead uint16 // longest idle free lane, 0 if none
	freeTail uint16

	yield   bool // LanesConfig.Yield
	crammed int  // flows that share a lane because no other was in
	usable  int  // lanes 1..limit that are not dead
	inUse   int  // lanes with flows
	shared  int  // lanes with more than one
	evicted uint64
	moved   uint64
}

// laneRec is one lane of a peer. It is in the free list if it can be taken.
type laneRec struct {
	flows      uint32
	prev, next uint16
	free       bool
}

// LanesStats is the present state of a peer's lanes.
type LanesStats struct {
	Limit  int // lanes that flows may get
	Flows  int // flows that hold a lane
	InUse  int // lanes with at least one flow
	Shared int // lanes with more than one
	Opened int // lanes that have had a flow since the peer last was idle for long
	Dead   int // lanes of 1 to Limit that SetDead has taken out

	Evicted uint64 // flows replaced because there were MaxFlows, in all
	Moved   uint64 // flows that changed lane because theirs died or fell above Limit, in all
}

// NewLanes makes the lanes of one peer. Values out of range are moved into it.
func NewLanes(cfg LanesConfig) *Lanes {
	l := &Lanes{table: newFlowTable(), idle: cfg.FlowIdle, maxFlows: cfg.MaxFlows}
	if l.idle <= 0 {
		l.idle = defaultFlowIdle
	}
	if l.maxFlows <= 0 {
		l.maxFlows = defaultMaxFlows
	}
	l.maxFlows = min(l.maxFlows, maxMaxFlows)
	l.grain = l.idle / 32
	l.yield = cfg.Yield
	l.SetLimit(cfg.Limit)
	if cfg.Shut {
		l.shutAll()
	}
	return l
}

// Assign gives the lane of a flow that has a packet now, and whether it is new
// to the flow. Lane 0 means that there is none: Limit is 0 or all are dead.
//
// It takes constant time and, once the tables have grown, does not allocate.
// It renews a flow's time only every FlowIdle/32, because a packet that only
// reads memory costs half of one that also moves its flow in a list; a flow
// may therefore hold its lane that much longer than FlowIdle, never shorter.
func (l *Lanes) Assign(now int64, flow uint64) (lane uint16, fresh bool) {
	rec, known := l.table.find(flow)
	if !known {
		if l.usable == 0 {
			return 0, false
		}
		return l.admit(now, flow), true
	}
	r := &l.table.recs[rec]
	fresh = !l.alive(r.lane) && !l.mayStay(now, rec) || r.crammed && l.mayMove(r) || l.yield && l.shared > 0 && l.yields(r)
	if fresh {
		if l.usable == 0 {
			return 0, false
		}
		l.moved++
		l.uncram(r)
		l.leave(r.lane)
		r.lane, r.crammed = l.take(flow)
	}
	if now-r.seen >= l.grain {
		l.table.touch(rec, now)
	}
	return r.lane, fresh
}

// admit makes a new flow. It first frees up to two that have become idle, so
// that a busy peer does not depend on how often Expire is called.
func (l *Lanes) admit(now int64, flow uint64) uint16 {
	l.makeRoom(now)
	lane, crammed := l.take(flow)
	rec := l.table.insert(flow, now, lane)
	l.table.recs[rec].crammed = crammed
	l.emptied = 0
	return lane
}

func (l *Lanes) makeRoom(now int64) {
	l.free(now, 2)
	if l.table.n >= l.maxFlows {
		l.evicted++
		l.drop(l.table.oldest)
	}
}

// Expire frees the lanes of flows that have been idle for FlowIdle (up to
// FlowIdle/32 more) and returns when to call it again: a time after now, or 0
// if there is nothing to wait for until the next Assign. Its cost is that of
// the flows freed. After four times FlowIdle without any flow it forgets which
// lanes were used, and gives back the memory.
func (l *Lanes) Expire(now int64) (next int64) {
	l.free(now, l.table.n)
	if l.table.n > 0 {
		if cap(l.table.recs) > 1024 && l.table.n < cap(l.table.recs)/8 {
			l.table.compact()
		}
		return max(now+1, l.table.recs[l.table.oldest].seen+l.idle+l.grain)
	}
	if len(l.lanes) == 0 {
		return 0
	}
	if l.emptied == 0 {
		l.emptied = max(now, 1)
	}
	if forget := l.emptied + forgetAfter*l.idle; now < forget {
		return forget
	}
	l.table.compact()
	l.lanes, l.freeHead, l.freeTail, l.emptied = nil, 0, 0, 0
	return 0
}

// free ends at most n flows, the longest idle first, which also makes the list
// of free lanes one in order of their last packets.
func (l *Lanes) free(now int64, n int) {
	for ; n > 0 && l.table.n > 0; n-- {
		if now-l.table.recs[l.table.oldest].seen < l.idle+l.grain {
			return
		}
		l.drop(l.table.oldest)
	}
}

func (l *Lanes) drop(rec uint32) {
	l.uncram(&l.table.recs[rec])
	lane := l.table.recs[rec].lane
	l.table.remove(rec)
	l.leave(lane)
}

// SetLimit changes the number of lanes. Flows above it get another lane with
// their next packet.
func (l *Lanes) SetLimit(n int) {
	n = max(0, min(n, MaxPorts))
	old := l.limit
	l.limit = n
	l.usable = n - l.countDead()
	for i := n; i < len(l.lanes) && i < old; i++ {
		if l.lanes[i].free {
			l.unfree(uint16(i + 1))
		}
	}
	for i := old; i < len(l.lanes) && i < n; i++ {
		l.refree(uint16(i + 1))
	}
}

// SetDead takes a lane out, or back in. Flows on a dead lane get another one
// with their next packet. Lanes outside 1 to MaxPorts are ignored.
func (l *Lanes) SetDead(lane uint16, dead bool) {
	delete(l.leaving, lane)
	if lane == 0 || lane > MaxPorts || dead == l.isDead(lane) {
		return
	}
	if w := int(lane>>6) + 1; w > len(l.dead) {
		l.dead = append(l.dead, make([]uint64, w-len(l.dead))...)
	}
	l.dead[lane>>6] ^= 1 << (lane & 63)
	l.usable = l.limit - l.countDead()
	switch known := int(lane) <= len(l.lanes); {
	case known && dead && l.lanes[lane-1].free:
		l.unfree(lane)
	case known && !dead:
		l.refree(lane)
	case !dead && l.crammed > 0 && int(lane) <= l.limit:
		l.reach(lane)
	}
}

// countDead counts the dead lanes of 1 to limit.
func (l *Lanes) countDead() (n int) {
	for w, set := range l.dead {
		if above := w*64 + 63 - l.limit; above >= 64 {
			break
		} else if above > 0 {
			set &= ^uint64(0) >> above
		}
		n += bits.OnesCount64(set)
	}
	return n
}

func (l *Lanes) isDead(lane uint16) bool {
	w := int(lane >> 6)
	return w < len(l.dead) && l.dead[w]&(1<<(lane&63)) != 0
}

func (l *Lanes) alive(lane uint16) bool {
	return int(lane) <= l.limit && !l.isDead(lane)
}

// Stats gives the present state.
func (l *Lanes) Stats() LanesStats {
	return LanesStats{
		Limit: l.limit, Flows: l.table.n, InUse: l.inUse, Shared: l.shared,
		Opened: len(l.lanes), Dead: l.limit - l.usable,
		Evicted: l.evicted, Moved: l.moved,
	}
}

// FlowsOn is how many flows have a lane.
func (l *Lanes) FlowsOn(lane uint16) int {
	if lane == 0 || int(lane) > len(l.lanes) {
		return 0
	}
	return int(l.lanes[lane-1].flows)
}

// InUse yields the lanes that have flows, in ascending order, and how many.
func (l *Lanes) InUse(yield func(lane uint16, flows int) bool) {
	for i := range l.lanes {
		if n := l.lanes[i].flows; n > 0 && !yield(uint16(i+1), int(n)) {
			return
		}
	}
}
