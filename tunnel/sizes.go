package tunnel

// sizeWatch finds that large datagrams do not arrive while smaller ones do, by what
// the peer's lists say of the largest: a black hole (RFC 8899 section 4.3) that costs
// no probes to look for. It is behind the peer's mutex.
type sizeWatch struct {
	lists [sizeLists]sizeList // the newest first
	known int
}

const sizeLists = 64

type sizeList struct {
	at        int64
	sent, got uint16 // the largest sent before this list and after the one before, and in it
}

// missed takes a list and what was sent since the one before. It reports whether
// something large was sent that must have arrived by now, and only smaller ones have.
func (w *sizeWatch) missed(now, trip int64, sent, got int) bool {
	copy(w.lists[1:], w.lists[:])
	w.lists[0] = sizeList{now, uint16(min(sent, 1<<16-1)), uint16(got)}
	w.known = min(w.known+1, sizeLists)
	most := uint16(0)
	for i := range w.known {
		l := &w.lists[i]
		most = max(most, l.got)
		if i > 0 && l.at <= now-trip-spreadSoon {
			return l.sent > most
		}
	}
	return false
}
