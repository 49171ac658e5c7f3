package queue

// Packet is what an [FQ] holds.
type Packet interface {
	// Len is the size in bytes, the same for as long as it is queued.
	Len() int
	// MarkCE sets Congestion Experienced (RFC 3168) and reports whether the
	// packet could carry it; if not, it is dropped instead.
	MarkCE() bool
}

// DropReason says why a packet was dropped.
type DropReason uint8

const (
	// DropCoDel: its flow had a standing queue.
	DropCoDel DropReason = iota
	// DropOverlimit: a limit was passed, and its flow had the most bytes.
	DropOverlimit
)

// String gives the reason in one word.
func (r DropReason) String() string {
	if r == DropCoDel {
		return "codel"
	}
	return "overlimit"
}

// Stats counts since the FQ was made. Enqueued is at all times Dequeued plus
// both kinds of dropped plus what waits.
type Stats struct {
	Enqueued         uint64
	Dequeued         uint64 // marked ones included
	DroppedCoDel     uint64
	DroppedOverlimit uint64
	Marked           uint64 // by CoDel
	MarkedThreshold  uint64 // by CEThreshold
	NewFlows         uint64 // times that a flow began with an empty queue
	Shared           uint64 // packets that came to the queue of another flow, for want of one
}

// FQ is FQ-CoDel over packets of type P. It has one owner.
type FQ[P Packet] struct {
	config    Config
	law       law
	threshold int64
	drop      func(P, DropReason)

	flows  []flow
	tags   []uint32 // of each flow, see find
	ways   int32    // flows of a set
	sets   uint64
	last   *flow // that sent last, if its turn is not over
	newest list  // flows that just began: they go first, once
	oldest list

	nodes  []node[P] // every packet that waits, linked by index
	free   int32     // first unused node, -1 = none
	count  int
	active int // flows in the round
	bytes  int
	stats  Stats
}

const none = int32(-1)

// node is one packet in the queue of a flow.
type node[P Packet] struct {
	packet P
	since  int64
	size   int32
	next   int32
}

// flow is one queue, and where it stands in the round. It fills a cache line.
type flow struct {
	head, tail int32 // nodes
	next       int32 // flow after it in its list
	active     bool  // in one of the lists
	bulk       bool  // it has used up a turn since it began
	shared     bool  // since it began, flows that found no queue came to it
	deficit    int32 // bytes it may still send in this turn
	packets    int32
	bytes      int
	codel      codel
}

// list is a queue of flows.
type list struct{ head, tail int32 }

// New makes an empty FQ. The configuration must be valid; drop is told each
// packet that is dropped, and must not call the FQ.
func New[P Packet](c Config, drop func(P, DropReason)) *FQ[P] {
	ways := min(c.Flows, setWays)
	q := &FQ[P]{
		config: c, law: law{int64(c.Target), int64(c.Interval)}, threshold: int64(c.CEThreshold), drop: drop,
		flows: make([]flow, c.Flows), tags: make([]uint32, c.Flows), ways: int32(ways), sets: uint64(c.Flows / ways),
		newest: list{none, none}, oldest: list{none, none}, free: none,
	}
	for i := range q.flows {
		q.flows[i].head, q.flows[i].tail = none, none
	}
	return q
}

// SetQuantum changes [Config.Quantum], from the next turns on. It must be valid.
func (q *FQ[P]) SetQuantum(bytes int) { q.config.Quantum = bytes }

// Len is how many packets wait.
func (q *FQ[P]) Len() int { return q.count }

// Bytes is how many bytes wait.
func (q *FQ[P]) Bytes() int { return q.bytes }

// Stats gives the counters.
func (q *FQ[P]) Stats() Stats { return q.stats }

// Active is how many flows are in the round: by it a rate can be shared between
// several FQs so that all flows get the same.
func (q *FQ[P]) Active() int { return q.active }

// Enqueue adds a packet to the flow that hash stands for; both halves of that
// must be random. If a limit is passed, packets at the head of the fattest flow
// are dropped, which need not be this one.
func (q *FQ[P]) Enqueue(now int64, hash uint64, p P) {
	at := q.find(hash)
	f := &q.flows[at]
	size := max(p.Len(), 1)
	q.push(f, node[P]{packet: p, since: now, size: int32(size), next: none})
	q.stats.Enqueued++
	if !f.active {
		f.active, f.bulk, f.deficit = true, false, int32(q.config.Quantum)
		q.newest.push(q.flows, at)
		q.active++
		q.stats.NewFlows++
	}
	for q.count > q.config.Limit || q.bytes > q.config.MemoryLimit {
		q.shed()
	}
}

// push puts a node at the end of a flow.
func (q *FQ[P]) push(f *flow, n node[P]) {
	at := q.free
	if at == none {
		at = int32(len(q.nodes))
		q.nodes = append(q.nodes, n)
	} else {
		q.free = q.nodes[at].next
		q.nodes[at] = n
	}
	if f.head == none {
		f.head = at
	} else {
		q.nodes[f.tail].next = at
	}
	f.tail = at
	f.packets++
	f.bytes += int(n.size)
	q.bytes += int(n.size)
	q.count++
}

// pop takes the node at the head of a flow, which is not empty.
func (q *FQ[P]) pop(f *flow) (p P, size int) {
	at := f.head
	n := &q.nodes[at]
	f.head = n.next
	f.packets--
	p, size = n.packet, int(n.size)
	f.bytes -= size
	q.bytes -= size
	q.count--
	*n = node[P]{next: q.free}
	q.free = at
	return p, size
}

// shed drops from the head of the fattest flow, at most half of what it has: a
// flow that sends too much learns of it soonest there, and one look at all flows
// is paid back by many packets (RFC 8290 section 4.1.3). To CoDel these are
// signals like its own: it goes on from there when it acts next.
func (q *FQ[P]) shed() {
	fattest := &q.flows[0]
	for i := range q.flows {
		if q.flows[i].bytes > fattest.bytes {
			fattest = &q.flows[i]
		}
	}
	half := fattest.bytes / 2
	for range q.config.DropBatch {
		p, _ := q.pop(fattest)
		fattest.codel.count++
		q.stats.DroppedOverlimit++
		q.drop(p, DropOverlimit)
		if fattest.bytes <= half {
			return
		}
	}
}

// Dequeue gives the packet that goes next, and false if there is none.
func (q *FQ[P]) Dequeue(now int64) (p P, ok bool) {
	f := q.turn(now)
	if f == nil {
		return p, false
	}
	p, size := q.pop(f)
	q.stats.Dequeued++
	f.deficit -= int32(size)
	q.last = f
	return p, true
}

// turn gives the flow that sends next, with a packet at its head that CoDel lets
// pass, or nil if nothing waits.
func (q *FQ[P]) turn(now int64) *flow {
	for {
		from := &q.newest
		if from.head == none {
			from = &q.oldest
		}
		at := from.head
		if at == none {
			return nil
		}
		f := &q.flows[at]
		if f.deficit <= 0 && !q.bursting(f) {
			f.deficit += int32(q.config.Quantum)
			f.bulk, q.last = true, nil
			from.pop(q.flows)
			q.oldest.push(q.flows, at)
			continue
		}
		if q.judge(now, f) {
			return f
		}
		if f.deficit <= 0 {
			q.last = nil // its burst is over, its debt is not
			continue
		}
		q.emptied(from, at)
	}
}

// bursting tells whether a flow without deficit may go on nevertheless: it is the
// one that sent last, and has not had its burst.
func (q *FQ[P]) bursting(f *flow) bool {
	return f == q.last && f.bulk && f.deficit > -int32(q.config.Burst) && q.newest.head == none
}

// emptied takes a flow out of the round. One that was new goes through the old
// ones first, lest a flow that empties in each turn be new for ever.
func (q *FQ[P]) emptied(from *list, at int32) {
	from.pop(q.flows)
	if from == &q.newest && q.oldest.head != none {
		q.oldest.push(q.flows, at)
		return
	}
	q.flows[at].active, q.flows[at].shared = false, false
	q.active--
}

// judge lets CoDel drop from the head of a flow, and reports whether a packet is
// left there, which is marked perhaps.
//
// That no more than a full packet waits is asked of all flows together, as Linux
// does it, and not of this one (RFC 8289 section 5.1 knows one queue only). Else a
// flow could keep its packets waiting above the target for ever, one at a time,
// because it waits for many others; together they are a standing queue.
func (q *FQ[P]) judge(now int64, f *flow) bool {
	for f.head != none {
		n := &q.nodes[f.head]
		sojourn := now - n.since
		if f.codel.decide(q.law, now, sojourn, q.bytes-int(n.size), q.config.MTU) == signal {
			if !q.config.ECN || !n.packet.MarkCE() {
				p, _ := q.pop(f)
				q.stats.DroppedCoDel++
				q.drop(p, DropCoDel)
				continue
			}
			q.stats.Marked++
		} else if q.threshold > 0 && sojourn > q.threshold && n.packet.MarkCE() {
			q.stats.MarkedThreshold++
		}
		return true
	}
	f.codel.empty()
	return false
}

func (l *list) push(flows []flow, at int32) {
	flows[at].next = none
	if l.head == none {
		l.head = at
	} else {
		flows[l.tail].next = at
	}
	l.tail = at
}

func (l *list) pop(flows []flow) {
	l.head = flows[l.head].next
}
