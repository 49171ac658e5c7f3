package queue

// setWays is how many queues a flow chooses from. With one, as RFC 8290 has it, of
// 64 flows in 1024 queues four on the average share one and get half of what the
// others get; with 8, none does.
const setWays = 8

// find gives the queue of a flow, by its hash: the upper half says which set, the
// lower half is its tag there. A flow has the queue that bears its tag; else it
// takes one that is idle, best the one that its hash names. Where none is, it goes
// into that one together with the flow that has it, and stays while that is busy,
// so that its packets keep their order.
func (q *FQ[P]) find(hash uint64) int32 {
	set := int32(hash >> 32 * q.sets >> 32 * uint64(q.ways))
	tag := uint32(hash)
	home := set + int32(tag%uint32(q.ways))
	if q.tags[home] == tag {
		return home
	}
	for at := set; at < set+q.ways; at++ {
		if q.tags[at] == tag {
			return at
		}
	}
	if f := &q.flows[home]; f.active && !f.shared {
		for at := set; at < set+q.ways; at++ {
			if !q.flows[at].active {
				return q.claim(at, tag)
			}
		}
		f.shared = true
	} else if !f.active {
		return q.claim(home, tag)
	}
	q.stats.Shared++
	return home
}

// claim gives an idle queue to another flow, which begins without a past.
func (q *FQ[P]) claim(at int32, tag uint32) int32 {
	q.tags[at] = tag
	q.flows[at].codel = codel{}
	return at
}
