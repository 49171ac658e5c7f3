package tunnel

import (
	"slices"
	"time"
)

// Sizes are those of outer IP packets, headers included, in bytes.
const (
	baseMTU   = 1280 // BASE_PLPMTU of RFC 8899: what every IPv6 path carries
	leastMTU4 = 576  // what every IPv4 host takes
	mtuGrain  = 4    // the search ends when it knows to within less than twice that

	mtuTries    = 3 // MAX_PROBES
	mtuAtOnce   = 6 // sizes tried in one round
	mtuForget   = int64(time.Second)
	mtuRaise    = int64(10 * time.Minute) // PMTU_RAISE_TIMER
	mtuConfirm  = int64(time.Minute)      // while data is sent
	mtuSoon     = int64(2 * time.Second)  // after a search that said nothing, doubled each time,
	mtuSeldom   = int64(5 * time.Minute)  // up to this
	mtuPatience = int64(250 * time.Millisecond)
	mtuAgain    = int64(20 * time.Millisecond) // between tries but the first two
)

// commonMTUs are tried first: those of ADSL and of tunnels of several kinds, of
// Ethernet, of FDDI, and of jumbo frames.
var commonMTUs = []int{1400, 1420, 1480, 1492, 1500, 4352, 9000}

// mtuState says what is known of the size that a path carries.
type mtuState uint8

const (
	mtuUnknown   mtuState = iota // no peer that answers probes
	mtuSearching                 // probes are on their way
	mtuFound                     // size was answered, and what is larger was not
	mtuNothing                   // not even the base was answered: size is a guess
)

var mtuStateNames = [...]string{"not tested", "searching", "found by probes", "too few probes came back"}

func (s mtuState) String() string { return mtuStateNames[s] }

// pathMTU finds the largest packet that the path to a peer carries, by probes of the
// packetisation layer (RFC 8899), which is the tunnel: pure, single-owner (behind the
// peer's mutex), time is an argument. ICMP is never believed.
//
// It differs from the RFC's machine in that it tries several sizes at once, so that
// it ends within a few round trips, and that data may have the size of the interface
// meanwhile: to begin with the base would tell every inner host that the path is
// narrow, and hosts keep that for ten minutes.
type pathMTU struct {
	state mtuState
	size  int // that data may have
	most  int // the interface's
	least int

	low, high int // largest answered, 0 if none; smallest that is taken to fail
	trials    []mtuTrial
	confirm   bool  // only whether size still holds is asked
	tried     int64 // when the round's last probes were sent
	witness   int64 // when one of them was answered, 0 = none
	tickAt    int64 // 0 = asleep
	checkAt   int64 // when size is to be confirmed
	raiseAt   int64 // when larger ones are tried again
	backoff   int64
	trip      int64 // the newest round trip
	used      int64
	lost      int64 // when data that was missed was last explained
}

// mtuTrial is one size that is tried.
type mtuTrial struct {
	size  int
	tries int
	heard bool
	ids   [mtuTries]uint64
	sent  int64
}

// mtuProbe is a probe to send.
type mtuProbe struct {
	id   uint64
	size int
	odd  bool // of every other try, that one lane does not decide alone
}

// mtuEvents is what a step asks the owner to do.
type mtuEvents struct {
	probes  []mtuProbe
	changed bool // size or state is another one
}

// begin starts anew on a path to a peer that answers probes. most is the size that
// the link allows.
func (m *pathMTU) begin(now int64, least, most int) {
	*m = pathMTU{state: mtuSearching, size: most, most: max(most, least), least: least, high: most + mtuGrain, trip: m.trip, used: m.used}
	m.search(now)
}

// stop forgets everything: the peer does not answer probes.
func (m *pathMTU) stop() { *m = pathMTU{} }

// search begins a round.
func (m *pathMTU) search(now int64) {
	m.trials, m.confirm = m.trials[:0], false
	for _, size := range m.sizes() {
		m.trials = append(m.trials, mtuTrial{size: size})
	}
	m.state, m.tried, m.witness, m.tickAt = mtuSearching, 0, 0, now
}

// sizes are those of the next round, ascending.
func (m *pathMTU) sizes() (sizes []int) {
	if m.low == 0 {
		sizes = append(sizes, m.least, min(baseMTU, m.most))
		for _, size := range commonMTUs {
			if size < min(m.most, m.high) {
				sizes = append(sizes, size)
			}
		}
		if m.most < m.high {
			sizes = append(sizes, m.most)
		}
	} else {
		for _, size := range commonMTUs {
			if size > m.low && size < m.high {
				sizes = append(sizes, size)
			}
		}
		// What is common is likely to be it.
		sizes = append(sizes, min(m.low+2*mtuGrain-1, m.high-1))
		step := max((m.high-m.low)/(mtuAtOnce+1), mtuGrain)
		for size := m.low + step; size < m.high && len(sizes) < 2*mtuAtOnce; size += step {
			sizes = append(sizes, size)
		}
		if m.most < m.high {
			sizes = append(sizes, m.most)
		}
	}
	slices.Sort(sizes)
	sizes = slices.DeleteFunc(sizes, func(size int) bool { return size <= m.low })
	return slices.Compact(sizes)
}

// doubt has the size confirmed at once, because packets of it seem to get lost.
func (m *pathMTU) doubt(now int64) {
	if m.state == mtuSearching || m.state == mtuUnknown || now-m.lost < mtuForget && m.lost != 0 {
		return
	}
	m.lost = now
	m.check(now)
}

// check asks whether size still holds, and the base, as a witness.
func (m *pathMTU) check(now int64) {
	m.trials = append(m.trials[:0], mtuTrial{size: m.least})
	if base := min(baseMTU, m.most); base > m.least {
		m.trials = append(m.trials, mtuTrial{size: base})
	}
	if m.size > m.trials[len(m.trials)-1].size {
		m.trials = append(m.trials, mtuTrial{size: m.size})
	}
	m.confirm, m.low, m.tried, m.witness, m.tickAt = true, 0, 0, 0, now
}

// active is told that data was sent to the peer: it wakes the machine.
func (m *pathMTU) active(now int64) {
	m.used = now
	if m.tickAt == 0 && m.state >= mtuFound {
		m.tickAt = max(m.dueAt(), now)
	}
}

// raises says whether there are larger sizes to be tried, or all of them again.
func (m *pathMTU) raises() bool { return m.size < m.most || m.state == mtuNothing }

// dueAt is when the timers ask for something.
func (m *pathMTU) dueAt() int64 {
	if m.raises() {
		return min(m.checkAt, m.raiseAt)
	}
	return m.checkAt
}

func (m *pathMTU) next() int64 { return m.tickAt }

// step sends what is due and draws conclusions.
func (m *pathMTU) step(now int64, id func() uint64) (ev mtuEvents) {
	if m.tickAt == 0 || now < m.tickAt {
		return ev
	}
	m.tickAt = 0
	if len(m.trials) == 0 {
		m.whenDue(now)
	}
	if len(m.trials) == 0 {
		return ev
	}
	before, size := m.state, m.size
	if m.over(now) {
		m.conclude(now)
	}
	if len(m.trials) > 0 && m.due(now) {
		m.probe(now, id, &ev)
	}
	if len(m.trials) > 0 {
		m.tickAt = now + m.patience()
		if m.again() {
			m.tickAt = now + mtuAgain
		} else if m.witness != 0 {
			m.tickAt = max(m.witness+m.grace(), now+spreadSoon)
		}
	}
	ev.changed = m.state != before || m.size != size
	return ev
}

// whenDue begins what the timers ask for.
func (m *pathMTU) whenDue(now int64) {
	switch {
	case now-m.used > spreadIdle:
	case now >= m.raiseAt && m.raises():
		m.low, m.high = m.size, m.most+mtuGrain
		if m.state == mtuNothing {
			m.low = 0
		}
		m.search(now)
	case now >= m.checkAt:
		m.check(now)
	default:
		m.tickAt = m.dueAt()
	}
}

func (m *pathMTU) grace() int64 { return max(suspectGrace, m.trip/4) }

func (m *pathMTU) patience() int64 {
	if m.trip == 0 {
		return mtuPatience
	}
	return max(2*m.trip, mtuPatience/2)
}

// due says whether the open trials are to be tried again: when an answer to another
// probe of the try has come and theirs has not, or none has for long.
func (m *pathMTU) due(now int64) bool {
	if m.tried == 0 || m.waited(now) {
		return true
	}
	return m.again() && now-m.tried >= mtuAgain
}

// again says whether the next try need not wait for the answers to this one: what
// was not answered once hardly ever is by accident.
func (m *pathMTU) again() bool {
	for i := range m.trials {
		if t := &m.trials[i]; !t.heard && t.size > m.low && t.tries < mtuTries && (t.tries >= 2 || m.confirm) {
			return true
		}
	}
	return false
}

func (m *pathMTU) waited(now int64) bool {
	return m.witness != 0 && now-m.witness >= m.grace() || now-m.tried >= m.patience()
}

// over says whether nothing more is to be expected of the round.
func (m *pathMTU) over(now int64) bool {
	if m.tried == 0 {
		return false
	}
	for i := range m.trials {
		if t := &m.trials[i]; !t.heard && t.size > m.low && (t.tries < mtuTries || !m.waited(now)) {
			return false
		}
	}
	return true
}

// probe sends the next try of all that are open, and of the largest that was
// answered, as a witness.
func (m *pathMTU) probe(now int64, id func() uint64, ev *mtuEvents) {
	m.tried, m.witness = now, 0
	witness := -1
	for i := range m.trials {
		t := &m.trials[i]
		if t.heard {
			witness = i
			continue
		}
		if t.tries < mtuTries && t.size > m.low {
			m.send(t, now, id, ev)
		}
	}
	if witness >= 0 {
		t := &m.trials[witness]
		t.tries = 0
		m.send(t, now, id, ev)
	}
}

func (m *pathMTU) send(t *mtuTrial, now int64, id func() uint64, ev *mtuEvents) {
	t.ids[t.tries] = id()
	ev.probes = append(ev.probes, mtuProbe{t.ids[t.tries], t.size, t.tries%2 == 1})
	t.tries++
	t.sent = now
}

// echoed takes an answer.
func (m *pathMTU) echoed(now int64, id uint64) (ev mtuEvents) {
	for i := range m.trials {
		t := &m.trials[i]
		if !slices.Contains(t.ids[:t.tries], id) {
			continue
		}
		t.heard = true
		if m.witness == 0 {
			m.witness, m.trip = now, max(now-t.sent, 1)
		}
		if t.size > m.low && !m.confirm {
			m.low = t.size
		}
		before, size := m.state, m.size
		if m.low > m.size && m.state == mtuSearching {
			m.size = m.low
		}
		if m.over(now) {
			m.conclude(now)
			m.tickAt = now
		} else if !m.again() {
			m.tickAt = now + m.grace()
		}
		ev.changed = m.state != before || m.size != size
		return ev
	}
	return ev
}

// conclude ends a round.
func (m *pathMTU) conclude(now int64) {
	if m.confirm {
		m.confirmed(now)
		return
	}
	for i := range m.trials {
		if t := &m.trials[i]; !t.heard && t.size > m.low {
			m.high = min(m.high, t.size)
		}
	}
	switch {
	case m.low == 0: // the path is at fault, or all of this is lost
		m.backoff = min(max(2*m.backoff, mtuSoon), mtuSeldom)
		m.settle(now, mtuNothing, now+m.backoff)
	case m.low >= m.most || m.high-m.low < 2*mtuGrain:
		m.size, m.backoff = m.low, 0
		m.settle(now, mtuFound, now+mtuRaise)
	default:
		if m.size >= m.high { // what is known to arrive is better than what is known not to
			m.size = m.low
		}
		m.search(now)
	}
}

func (m *pathMTU) settle(now int64, state mtuState, raise int64) {
	m.state, m.trials, m.confirm = state, m.trials[:0], false
	m.raiseAt, m.checkAt, m.tickAt = raise, now+mtuConfirm, 0
	if now-m.used <= spreadIdle || state == mtuNothing {
		m.tickAt = m.dueAt()
	}
}

// confirmed ends the check of the size: where the witness was answered and it was
// not, the path has become narrower (a black hole, RFC 8899 section 4.3).
func (m *pathMTU) confirmed(now int64) {
	witness, held := 0, false
	for i := range m.trials {
		if t := &m.trials[i]; t.heard {
			witness, held = t.size, t.size >= m.size
		}
	}
	if witness == 0 || held {
		m.settle(now, m.state, m.raiseAt)
		return
	}
	m.low, m.high = 0, m.size
	m.search(now)
}
