package tunnel

import (
	"encoding/binary"
	"time"
)

// HEARD says on which lanes something has arrived since the list before. It is
// small, so it is sent often: by it the sender finds a lane that has gone silent
// while others deliver, within two round trips and two of these intervals. Of what
// arrives without data nothing is listed, or two ends would list each other's lists
// for ever.
//
//	HEARD = number(4) largest(2) lanes, a bit for each, lane 0 the highest of the first byte
//
// largest is the size of the largest datagram of the interval. Trailing zeros are
// left out; the lanes from heardCovers on are in no list.
const (
	heardEvery    = int64(50 * time.Millisecond)
	heardTwice    = 24 // packets in an interval: then a list goes on two lanes
	heardHeader   = 6
	heardMaxBytes = 1024
	heardCovers   = 8 * heardMaxBytes
)

// heardList is the body of HEARD.
type heardList struct {
	Number  uint32
	Largest uint16
	Lanes   []byte
}

func (l *heardList) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, l.Number)
	b = binary.BigEndian.AppendUint16(b, l.Largest)
	return append(b, l.Lanes...)
}

// parseHeard reads a list, which lies in b.
func parseHeard(b []byte) (l heardList, err error) {
	if len(b) < heardHeader || len(b) > heardHeader+heardMaxBytes {
		return heardList{}, errControl
	}
	l.Number = binary.BigEndian.Uint32(b)
	l.Largest = binary.BigEndian.Uint16(b[4:])
	l.Lanes = b[heardHeader:]
	return l, nil
}

func (l *heardList) has(lane uint16) bool {
	at := int(lane / 8)
	return at < len(l.Lanes) && l.Lanes[at]>>(7-lane%8)&1 == 1
}

func (l *heardList) add(lane uint16) {
	for int(lane/8) >= len(l.Lanes) {
		l.Lanes = append(l.Lanes, 0)
	}
	l.Lanes[lane/8] |= 1 << (7 - lane%8)
}

// others says whether lanes above 0 are in the list, beside one.
func (l *heardList) others(lane uint16) bool {
	for i, b := range l.Lanes {
		if i == 0 {
			b &^= 0x80
		}
		if i == int(lane/8) {
			b &^= 1 << (7 - lane%8)
		}
		if b != 0 {
			return true
		}
	}
	return false
}

// limit is above all lanes in the list.
func (l *heardList) limit() int { return 8 * len(l.Lanes) }

// lister says when a list is due: shortly after data arrived. It is behind the
// peer's mutex.
type lister struct {
	wanted  bool  // the peer reads lists
	at      int64 // when the next is due, 0 = not before data arrives
	last    int64
	number  uint32
	packets uint64 // that had arrived then
	newest  uint32 // number of the peer's newest list
	listed  bool   // there was one
}

// arrived is told that data has arrived.
func (l *lister) arrived(now int64) {
	if l.at == 0 && l.wanted {
		l.at = max(now+heardEvery/2, l.last+heardEvery)
	}
}

// sendHeard sends the list that is due. The caller holds mu, here and below.
func (p *peer) sendHeard(now int64, s *session) {
	l := &p.lister
	if l.at == 0 || now < l.at {
		return
	}
	l.at, l.last = 0, now
	l.number++
	busy := p.rx.packets.Load() - l.packets
	l.packets += busy
	list := heardList{Number: l.number, Largest: uint16(p.largestIn.Swap(0))}
	p.arrivals.from(0, func(lane uint16, a *arrivals) bool {
		if n := a.packets.Load(); n != a.listed && lane < heardCovers {
			a.listed = n
			list.add(lane)
		}
		return true
	})
	p.sendCertain(now, s, appendControl(nil, controlHeard, &list), busy >= heardTwice)
}

// goodLane is a lane above 0 that the peer has listed of late, another one each time;
// any if there is none, and 0 where no other is open.
func (p *peer) goodLane(now int64, s *session) uint16 {
	within := func(lane uint16) bool { return uint32(lane) <= s.limit.Load() }
	if lane := p.spread.goodLane(now, within); lane != 0 {
		return lane
	}
	if lane := p.spread.anyLane(); within(lane) {
		return lane
	}
	return 0
}

// heardHeard takes a list of the peer's.
func (p *peer) heardHeard(now int64, body []byte) {
	list, err := parseHeard(body)
	if err != nil {
		p.drops.add(dropControl)
		return
	}
	l := &p.lister
	if l.listed && int32(list.Number-l.newest) <= 0 {
		return
	}
	l.listed, l.newest = true, list.Number
	p.spreadEvents(now, p.spread.heard(now, &list, p))
	if p.sizes == nil {
		p.sizes = new(sizeWatch)
	}
	if p.sizes.missed(now, p.spread.last, int(p.largestOut.Swap(0)), int(list.Largest)) {
		p.pathSilent(now)
	}
}

// sendEcho answers a probe.
func (p *peer) sendEcho(now int64, s *session, echo *probeEcho) {
	p.sendCertain(now, s, appendControl(nil, controlProbeEcho, echo), false)
}

// sendCertain sends on lane 0, and on another lane too while that is not known to get
// through, or where another packet does not matter.
func (p *peer) sendCertain(now int64, s *session, payload []byte, twice bool) {
	times := ternary(p.spread.zeroDoubtful(now), 2, ternary(twice, 1, 0))
	for range times {
		if lane := p.goodLane(now, s); lane != 0 {
			p.sendPayload(now, s, lane, payload, p.device.controlClass())
		}
	}
	p.sendControl(now, s, payload)
}

// noteSize keeps the largest of the datagrams that arrived.
func (p *peer) noteSize(n int) {
	if uint32(n) > p.largestIn.Load() {
		p.largestIn.Store(uint32(n))
	}
}

// noteSent keeps the largest of the datagrams that were sent.
func (p *peer) noteSent(n int) {
	if uint32(n) > p.largestOut.Load() {
		p.largestOut.Store(uint32(n))
	}
}
