package noise

// Window tells counters seen before from new ones, RFC 6479: a ring of 64-bit
// blocks, so that moving forward clears whole blocks and shifts nothing. It is
// for one goroutine at a time and does not allocate after [NewWindow].
type Window struct {
	last uint64   // highest counter recorded
	ring []uint64 // bit c%64 of block c/64%len: c was recorded; len is a power of two
}

const blockBits = 64

// NewWindow makes a window that remembers at least the last bits counters. One
// block more is needed than they fill, and the number of blocks is a power of
// two, so 64·(2ⁿ−1), as 1984 or 8128, uses the memory best: bits/8+8 bytes.
func NewWindow(bits int) Window {
	need := max(bits+blockBits-1, blockBits)/blockBits + 1
	blocks := 2
	for blocks < need {
		blocks *= 2
	}
	return Window{ring: make([]uint64, blocks)}
}

// Bits is how far behind the highest counter one may be and still be accepted.
func (w *Window) Bits() int { return (len(w.ring) - 1) * blockBits }

// Last is the highest counter accepted so far, 0 if none.
func (w *Window) Last() uint64 { return w.last }

// Check reports whether counter, which must be below limit, would be accepted.
func (w *Window) Check(counter, limit uint64) bool {
	if counter >= limit || len(w.ring) == 0 {
		return false
	}
	if counter > w.last {
		return true
	}
	if w.last-counter > uint64(w.Bits()) {
		return false
	}
	return *w.block(counter)&(1<<(counter%blockBits)) == 0
}

// Accept reports whether counter is new, below limit and not too far behind,
// and records it. Call it only for packets that authenticated: a forged counter
// would push the true ones out.
func (w *Window) Accept(counter, limit uint64) bool {
	if !w.Check(counter, limit) {
		return false
	}
	if counter > w.last {
		w.advance(counter)
	}
	*w.block(counter) |= 1 << (counter % blockBits)
	return true
}

func (w *Window) block(counter uint64) *uint64 {
	return &w.ring[counter/blockBits&uint64(len(w.ring)-1)]
}

// advance clears the blocks between the old highest counter and the new one.
func (w *Window) advance(counter uint64) {
	from, to := w.last/blockBits, counter/blockBits
	for i := range min(to-from, uint64(len(w.ring))) {
		*w.block((to - i) * blockBits) = 0
	}
	w.last = counter
}

// Reset forgets every counter.
func (w *Window) Reset() {
	w.last = 0
	clear(w.ring)
}
