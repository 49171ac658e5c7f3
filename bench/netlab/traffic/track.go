package traffic

import "math/bits"

// maxNumber bounds the sequence numbers, and so what a tracker can be made to
// allocate: 8 MiB.
const maxNumber = 1 << 26

// A tracker counts what arrives of one flow in one direction. It remembers every
// number, so that a duplicate is told from a late first copy however late.
type tracker struct {
	seen                            []uint64
	top                             uint64 // one more than the highest number seen
	received, duplicated, reordered uint64
	bytes                           uint64
}

// add counts the arrival of a number below maxNumber, with size bytes of payload.
func (t *tracker) add(number uint64, size int) {
	word, bit := int(number/64), uint64(1)<<(number%64)
	if word >= len(t.seen) {
		t.seen = append(t.seen, make([]uint64, word+1-len(t.seen)+len(t.seen)/2)...)
	}
	if t.seen[word]&bit != 0 {
		t.duplicated++
		return
	}
	t.seen[word] |= bit
	t.received++
	t.bytes += uint64(size)
	if number < t.top {
		t.reordered++
		return
	}
	t.top = number + 1
}

// firstMissing is the lowest number that has not been seen.
func (t *tracker) firstMissing() uint64 {
	for i, word := range t.seen {
		if word != ^uint64(0) {
			return uint64(64*i + bits.TrailingZeros64(^word))
		}
	}
	return uint64(64 * len(t.seen))
}

// direction is the verdict, given how many were sent.
func (t *tracker) direction(sent uint64) Direction {
	d := Direction{Received: t.received, Duplicated: t.duplicated, Reordered: t.reordered, Bytes: t.bytes, FirstMissing: t.firstMissing()}
	d.account(sent)
	return d
}

// account sets how many were sent, and so how many were lost.
func (d *Direction) account(sent uint64) {
	d.Sent, d.Lost = sent, 0
	if sent > d.Received {
		d.Lost = sent - d.Received
	}
}
