package traffic

import (
	"slices"
	"sync"
	"time"
)

// A Series is the course of a flow's load; times count from [Result.LoadFrom].
type Series struct {
	// Probes are the datagrams or messages of UDPEcho, ICMPEcho and TCPEcho
	// flows and the bursts of TCPBurst flows, in the order they were sent.
	Probes []Sample `json:",omitempty"`
	// Bytes are the bytes of a TCPBulk flow that its receiver got in the
	// first [Plan.Bin] of the load, in the second and so on, up to the end of
	// the load or the last that brought any. The two ends' clocks need not
	// agree: the client, where a Down flow arrives, counts time from LoadFrom;
	// the server counts it from there plus what the flow's first packet took.
	// Without [Plan.Abandon] the 56 bytes that end a transfer are among them.
	Bytes []uint64 `json:",omitempty"`
}

// A Sample is what became of one probe.
type Sample struct {
	// At is when it was sent, or when the burst began.
	At time.Duration
	// RTT is how long its answer took, 0 if it was lost.
	RTT time.Duration
	// Lost says that the answer did not come, or came after [Plan.Linger] or,
	// except for bursts, after 2 s if that is less.
	Lost bool `json:",omitempty"`
}

// maxBins bounds what a meter can be made to allocate: 512 KiB.
const maxBins = 1 << 16

// complete fills the bins up to the end of the load.
func (s *Series) complete(p *Plan) {
	bins := int((p.Duration + p.Bin - 1) / p.Bin)
	if missing := bins - len(s.Bytes); missing > 0 {
		s.Bytes = append(s.Bytes, make([]uint64, missing)...)
	}
}

// A probeLog keeps when probes were sent and when they were answered, by the
// clock in the headers. Its owner locks it.
type probeLog struct {
	on       bool
	patience time.Duration // a later answer does not count
	sent     []int64
	rtt      []time.Duration // 0 until the answer comes
}

func (p *probeLog) send(at int64) {
	if p.on {
		p.sent = append(p.sent, at)
		p.rtt = append(p.rtt, 0)
	}
}

// answer notes the first answer to the probe that was sent at the given time.
func (p *probeLog) answer(at int64, rtt time.Duration) {
	if rtt > p.patience {
		return
	}
	i, _ := slices.BinarySearch(p.sent, at)
	for ; i < len(p.sent) && p.sent[i] == at; i++ {
		if p.rtt[i] == 0 {
			p.rtt[i] = max(rtt, 1)
			return
		}
	}
}

// series is nil if no log was wanted; from is when the load began.
func (p *probeLog) series(from int64) *Series {
	if !p.on {
		return nil
	}
	s := &Series{Probes: make([]Sample, len(p.sent))}
	for i, at := range p.sent {
		s.Probes[i] = Sample{At: time.Duration(at - from), RTT: p.rtt[i], Lost: p.rtt[i] == 0}
	}
	return s
}

// A meter counts the bytes of a stream by the time of their arrival, once it has
// been started. The zero value is ready.
type meter struct {
	mu    sync.Mutex
	on    bool
	from  time.Time
	until time.Time // what comes then or later does not count; zero means all counts
	bin   time.Duration
	bins  []uint64
	total uint64
}

func (m *meter) start(from, until time.Time, bin time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on, m.from, m.until, m.bin = true, from, until, bin
	m.bins, m.total = []uint64{}, 0
}

// add counts n bytes that arrived at now.
func (m *meter) add(now time.Time, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.on || n <= 0 || !m.until.IsZero() && !now.Before(m.until) {
		return
	}
	bin := min(max(int(now.Sub(m.from)/m.bin), 0), maxBins-1)
	if missing := bin + 1 - len(m.bins); missing > 0 {
		m.bins = append(m.bins, make([]uint64, missing)...)
	}
	m.bins[bin] += uint64(n)
	m.total += uint64(n)
}

// wait sleeps until nothing more will count, if there is a time limit.
func (m *meter) wait() {
	m.mu.Lock()
	until := m.until
	m.mu.Unlock()
	if !until.IsZero() {
		time.Sleep(time.Until(until))
	}
}

// read is what was counted so far; cut tells that there was a time limit. The
// bins are nil if the meter was never started.
func (m *meter) read() (bins []uint64, total uint64, cut bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.bins), m.total, !m.until.IsZero()
}
