package tunnel

import (
	"time"

	"kiloport/flowhash"
	"kiloport/tunnel/noise"
)

const (
	flowSets = 256
	flowWays = 4

	// flowRecent is how long after its last packet a flow is still shown. A
	// flow without packets keeps its lane for as long.
	flowRecent = int64(30 * time.Second)
	// bulkFor is how long a flow counts as bulk after it last had more in the
	// queue than a sparse one has.
	bulkFor = int64(time.Second)
	// sparseMost is how many packets of a sparse flow may come within sparseSpan, for
	// somebody to be thought to wait for each. A flood whose every packet is taken at
	// once has no more in the queue than a call.
	sparseMost = 20
	sparseSpan = int64(100 * time.Millisecond)
)

// flowTable knows the flows of late of one transmitter. It has a fixed size,
// about 190 kB, and no pointers: a flow that is new replaces the one that has
// been still for longest of the four that share its place.
type flowTable struct {
	// sparse is how many bytes a flow may have in the queue and still be
	// sparse: one turn's worth, so that it never waits for a second turn of
	// the others. On a slow line, where a turn is shorter, it may wait for one
	// or two, if these are several packets.
	sparse     int
	sparseSeen int64                       // when a packet of a flow came that was neither bulk nor brisk before, 0 = never
	hashes     [flowSets * flowWays]uint64 // of the entries, next to each other: one cache line for a look-up
	entries    [flowSets * flowWays]flowEntry
}

// flowEntry is one flow. Packets are counted as they leave the host, datagrams
// of a super-packet each.
type flowEntry struct {
	hash    uint64 // keyed
	seen    int64  // when its last packet came, 0 = there is no flow here
	key     flowhash.Key
	peer    noise.PublicKey
	lane    uint16
	packets uint64 // that left the queue
	bytes   uint64 // of these, inside
	marks   uint64 // of these, that our CoDel marked CE
	drops   uint64 // that the queue dropped
	waiting int    // in the queue now: packets
	backlog int    // and bytes
	bulk    int64  // when it last had more in the queue than a sparse flow, 0 = never
	sojourn int64  // ns, smoothed over about eight packets
	worst   int64  // the longest sojourn
	since   int64  // from then on packets that came are counted, for sparseSpan
	came    int    // that many,
	calm    bool   // and were few before
}

// enqueued counts a packet, and writes down in it where its flow is.
func (t *flowTable) enqueued(now int64, pkt *packet, key *flowhash.Key) {
	pkt.note.slot = t.find(pkt, key)
	e := &t.entries[pkt.note.slot]
	e.seen = now
	e.waiting += int(pkt.note.packets)
	e.backlog += int(pkt.note.bytes)
	if e.backlog > t.sparse {
		e.bulk = now
	}
	if now-e.since >= sparseSpan {
		e.calm = e.since != 0 && e.came <= sparseMost
		e.since, e.came = now, 0
	}
	e.came += int(pkt.note.packets)
	if e.calm && e.came <= sparseMost && (e.bulk == 0 || now-e.bulk > bulkFor) {
		t.sparseSeen = now
	}
}

// find gives the flow's place, which may just have been made. A flow that now
// goes to another peer is another flow.
func (t *flowTable) find(pkt *packet, key *flowhash.Key) uint16 {
	first := uint16(pkt.hash%flowSets) * flowWays
	for i := first; i < first+flowWays; i++ {
		if t.hashes[i] == pkt.hash && t.entries[i].peer == pkt.peer.key {
			return i
		}
	}
	oldest := first
	for i := first + 1; i < first+flowWays; i++ {
		if t.entries[i].seen < t.entries[oldest].seen {
			oldest = i
		}
	}
	t.hashes[oldest] = pkt.hash
	t.entries[oldest] = flowEntry{hash: pkt.hash, key: *key, peer: pkt.peer.key}
	return oldest
}

// of gives the flow of a packet, nil if another has taken its place.
func (t *flowTable) of(pkt *packet) *flowEntry {
	if e := &t.entries[pkt.note.slot]; e.hash == pkt.hash {
		return e
	}
	return nil
}

// left counts a packet that is no longer in the queue. A flow that lost its place
// and got one again may have had packets in the queue before.
func (e *flowEntry) left(n *note) {
	e.waiting = max(e.waiting-int(n.packets), 0)
	e.backlog = max(e.backlog-int(n.bytes), 0)
}

func (t *flowTable) dequeued(now, sojourn int64, pkt *packet) {
	e := t.of(pkt)
	if e == nil {
		return
	}
	e.left(&pkt.note)
	if e.packets == 0 {
		e.sojourn = sojourn
	}
	e.sojourn += (sojourn - e.sojourn) / 8
	e.worst = max(e.worst, sojourn)
	e.packets += uint64(pkt.note.packets)
	e.bytes += uint64(pkt.note.bytes)
	if pkt.note.marked {
		e.marks += uint64(pkt.note.packets)
	}
}

func (t *flowTable) dropped(pkt *packet) {
	if e := t.of(pkt); e != nil {
		e.left(&pkt.note)
		e.drops += uint64(pkt.note.packets)
	}
}

func (t *flowTable) onLane(pkt *packet, lane uint16) {
	if e := t.of(pkt); e != nil {
		e.lane = lane
	}
}

// recent appends the flows of late.
func (t *flowTable) recent(now int64, to []flowEntry) []flowEntry {
	for i := range t.entries {
		if e := &t.entries[i]; e.seen != 0 && (e.waiting > 0 || now-e.seen < flowRecent) {
			to = append(to, *e)
		}
	}
	return to
}
