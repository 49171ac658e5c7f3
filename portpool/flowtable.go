package portpool

// flowRec is one live flow. It has no pointers, so that the garbage collector
// never looks into a table of 100 000 flows, and is half a cache line.
type flowRec struct {
	hash uint64
	seen int64  // ns; renewed at most once per grain, see Lanes.grain
	prev uint32 // towards the longest idle, in list order
	next uint32 // towards the most recent; links the free records too
	lane uint16

	crammed bool // on a shared lane, because no other was in at the time
	placed  bool // on the lane that Place has chosen
}

// none ends a list of records.
const none = ^uint32(0)

// flowTable finds a flow by its hash and keeps all flows in the order of their
// last packet. Lookup, insertion, removal and "longest idle" take O(1).
//
// It is two arrays. recs holds the flows and never moves one while it lives,
// so list links are positions in it. index finds them: open addressing with
// linear probing, at most half full; a cell is the hash's upper half, spread
// once more, over position + 1. Removal shifts the cells behind it back, which
// leaves no tombstones for a table of short flows to choke on.
type flowTable struct {
	recs   []flowRec
	index  []uint64 // length a power of two, or nil
	free   uint32   // first free record
	oldest uint32
	newest uint32
	n      int
}

func newFlowTable() flowTable { return flowTable{free: none, oldest: none, newest: none} }

// minIndex is the smallest index: 8 flows, a peer's first allocation.
const minIndex = 16

// spread makes all bits of a cell's tag depend on all bits of the hash, so
// that the table does not rely on which of them the caller's hash does best.
func spread(hash uint64) uint32 { return uint32(hash * 0x9e3779b97f4a7c15 >> 32) }

func cell(tag uint32, rec uint32) uint64 { return uint64(tag)<<32 | uint64(rec+1) }

func cellTag(c uint64) uint32 { return uint32(c >> 32) }

func cellRec(c uint64) uint32 { return uint32(c) - 1 }

// find gives a flow's record.
func (t *flowTable) find(hash uint64) (rec uint32, ok bool) {
	if t.n == 0 {
		return none, false
	}
	tag := spread(hash)
	mask := uint32(len(t.index) - 1)
	for i := tag & mask; ; i = (i + 1) & mask {
		c := t.index[i]
		if c == 0 {
			return none, false
		}
		if cellTag(c) == tag && t.recs[cellRec(c)].hash == hash {
			return cellRec(c), true
		}
	}
}

// insert adds a flow that find did not find, as the most recent.
func (t *flowTable) insert(hash uint64, now int64, lane uint16) (rec uint32) {
	if 2*(t.n+1) > len(t.index) {
		t.reindex(max(minIndex, 2*len(t.index)))
	}
	rec = t.free
	if rec != none {
		t.free = t.recs[rec].next
	} else {
		rec = uint32(len(t.recs))
		t.recs = append(t.recs, flowRec{})
	}
	t.recs[rec] = flowRec{hash: hash, seen: now, lane: lane}
	t.place(cell(spread(hash), rec))
	t.push(rec)
	t.n++
	return rec
}

// place puts a cell into the first empty place of its probe sequence.
func (t *flowTable) place(c uint64) {
	mask := uint32(len(t.index) - 1)
	i := cellTag(c) & mask
	for t.index[i] != 0 {
		i = (i + 1) & mask
	}
	t.index[i] = c
}

func (t *flowTable) reindex(size int) {
	old := t.index
	t.index = make([]uint64, size)
	for _, c := range old {
		if c != 0 {
			t.place(c)
		}
	}
}

// remove forgets a flow.
func (t *flowTable) remove(rec uint32) {
	t.unindex(rec)
	t.unlink(rec)
	t.recs[rec].next = t.free
	t.free = rec
	t.n--
}

// unindex empties the record's cell and moves back each cell behind it that
// would else no longer be reached from its own start.
func (t *flowTable) unindex(rec uint32) {
	mask := uint32(len(t.index) - 1)
	hole := spread(t.recs[rec].hash) & mask
	for cellRec(t.index[hole]) != rec {
		hole = (hole + 1) & mask
	}
	for i := (hole + 1) & mask; t.index[i] != 0; i = (i + 1) & mask {
		start := cellTag(t.index[i]) & mask
		if (i-start)&mask >= (i-hole)&mask {
			t.index[hole] = t.index[i]
			hole = i
		}
	}
	t.index[hole] = 0
}

// touch makes a flow the most recent.
func (t *flowTable) touch(rec uint32, now int64) {
	t.recs[rec].seen = now
	if rec != t.newest {
		t.unlink(rec)
		t.push(rec)
	}
}

func (t *flowTable) push(rec uint32) {
	r := &t.recs[rec]
	r.prev, r.next = t.newest, none
	if t.newest == none {
		t.oldest = rec
	} else {
		t.recs[t.newest].next = rec
	}
	t.newest = rec
}

func (t *flowTable) unlink(rec uint32) {
	r := &t.recs[rec]
	if r.prev == none {
		t.oldest = r.next
	} else {
		t.recs[r.prev].next = r.next
	}
	if r.next == none {
		t.newest = r.prev
	} else {
		t.recs[r.next].prev = r.prev
	}
}

// compact gives memory back after many flows have gone. It keeps the order.
func (t *flowTable) compact() {
	if t.n == 0 {
		*t = newFlowTable()
		return
	}
	small := newFlowTable()
	size := minIndex
	for size < 4*t.n {
		size *= 2
	}
	small.index = make([]uint64, size)
	small.recs = make([]flowRec, 0, size/2)
	for i := t.oldest; i != none; i = t.recs[i].next {
		r := &t.recs[i]
		small.recs[small.insert(r.hash, r.seen, r.lane)].crammed = r.crammed
	}
	*t = small
}
