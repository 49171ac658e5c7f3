package queue

// Splitter is a packet that may leave in parts, as a super-packet of several
// segments does.
type Splitter interface {
	Packet
	// Split takes the next part off the packet's front: as many segments as
	// have at most so many bytes, but one at least. It gives the size of the
	// part and whether anything is left. The sizes of all parts should add up to
	// the packet's Len.
	Split(most int) (size int, left bool)
}

// Part is what [DequeuePart] gives of a packet.
type Part[P Splitter] struct {
	Packet P
	// Size is what Split said.
	Size int
	// Last says that the packet has left with it. Until then it is queued, and
	// may yet be dropped for a limit, in the midst of an Enqueue.
	Last bool
}

// DequeuePart is Dequeue for a slow link, where a super-packet would keep all
// others waiting: it takes at most so many bytes of the packet that goes next
// (see [SplitAbove]), and leaves what is behind them at the head of its flow. A
// flow's turn ends with its deficit, in the middle of a packet or not. CoDel judges
// a packet once, before its first part.
func DequeuePart[P Splitter](q *FQ[P], now int64, most int) (part Part[P], ok bool) {
	f := q.turn(now)
	if f == nil {
		return part, false
	}
	n := &q.nodes[f.head]
	part.Packet = n.packet
	if n.size > int32(min(most, 1<<30)) || f.begun {
		size, left := n.packet.Split(most)
		part.Size = max(min(size, int(n.size)-1), 0)
		if left {
			q.leave(now, f, part.Size)
			return part, true
		}
	}
	_, part.Size = q.pop(f)
	part.Last = true
	q.stats.Dequeued++
	f.sent(now, part.Size)
	return part, true
}

// leave takes off bytes of the packet at a flow's head that have left.
func (q *FQ[P]) leave(now int64, f *flow, size int) {
	q.nodes[f.head].size -= int32(size)
	f.bytes -= size
	q.bytes -= size
	f.begun = true
	f.sent(now, size)
}
