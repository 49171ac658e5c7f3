package capture

import (
	"cmp"
	"slices"
	"time"
)

// A Flow is what was seen of one outer 5-tuple.
type Flow struct {
	Tuple
	Packets, Bytes uint64
	// MinLength and MaxLength bound the length of its IP packets in bytes.
	MinLength, MaxLength int
	// First and Last are the times of its first and its last packet.
	First, Last time.Time
	// Label is the flow label of its first packet, and Relabelled counts the
	// packets that carried another one.
	Label      uint32
	Relabelled uint64
	// ECN counts its packets by the ECN field: Not-ECT, ECT(1), ECT(0), CE.
	ECN [4]uint64
	// DSCPs is the set of codepoints seen, as a bit for each.
	DSCPs uint64
	// MinHopLimit and MaxHopLimit bound the hop limit or time to live.
	MinHopLimit, MaxHopLimit uint8
	// Fragments counts the packets that were parts of larger ones.
	Fragments uint64
	// Outgoing is whether the first packet left the node by the interface.
	Outgoing bool
}

// A Label is what was seen of one IPv6 flow label.
type Label struct {
	Label          uint32
	Packets, Bytes uint64
}

// A Report is what a capture saw.
type Report struct {
	// Packets and Bytes count the IP packets, fragments included.
	Packets, Bytes uint64
	// NotIP counts frames of other protocols, Malformed those whose headers
	// made no sense.
	NotIP, Malformed uint64
	// KernelDrops counts the frames that the kernel could not hand over because
	// the ring was full: if it is not 0, every other figure may be too small.
	KernelDrops uint64
	// Uncounted counts the packets of flows or labels beyond the limit.
	Uncounted uint64
	// Flows are the 5-tuples, most packets first.
	Flows []Flow
	// Labels are the IPv6 flow labels, most packets first; label 0 is among them.
	Labels []Label
}

// Where returns the flows for which keep holds.
func (r *Report) Where(keep func(*Flow) bool) []Flow {
	var kept []Flow
	for i := range r.Flows {
		if keep(&r.Flows[i]) {
			kept = append(kept, r.Flows[i])
		}
	}
	return kept
}

// counter adds packets up; it holds at most limit flows and as many labels.
type counter struct {
	limit  int
	report Report
	flows  map[Tuple]*Flow
	labels map[uint32]*Label
}

func newCounter(limit int) *counter {
	return &counter{limit: limit, flows: map[Tuple]*Flow{}, labels: map[uint32]*Label{}}
}

func (c *counter) add(p *Packet) {
	c.report.Packets++
	c.report.Bytes += uint64(p.Length)
	counted := c.addFlow(p)
	if p.Src.Addr().Is6() {
		counted = c.addLabel(p) && counted
	}
	if !counted {
		c.report.Uncounted++
	}
}

func (c *counter) addFlow(p *Packet) bool {
	f := c.flows[p.Tuple]
	if f == nil {
		if len(c.flows) >= c.limit {
			return false
		}
		f = &Flow{Tuple: p.Tuple, MinLength: p.Length, First: p.Time, Label: p.Label, MinHopLimit: p.HopLimit, Outgoing: p.Outgoing}
		c.flows[p.Tuple] = f
	}
	f.Packets++
	f.Bytes += uint64(p.Length)
	f.MinLength, f.MaxLength = min(f.MinLength, p.Length), max(f.MaxLength, p.Length)
	f.MinHopLimit, f.MaxHopLimit = min(f.MinHopLimit, p.HopLimit), max(f.MaxHopLimit, p.HopLimit)
	f.Last = p.Time
	f.ECN[p.ECN()]++
	f.DSCPs |= 1 << p.DSCP()
	if p.Label != f.Label {
		f.Relabelled++
	}
	if p.Fragment {
		f.Fragments++
	}
	return true
}

func (c *counter) addLabel(p *Packet) bool {
	l := c.labels[p.Label]
	if l == nil {
		if len(c.labels) >= c.limit {
			return false
		}
		l = &Label{Label: p.Label}
		c.labels[p.Label] = l
	}
	l.Packets++
	l.Bytes += uint64(p.Length)
	return true
}

// snapshot copies the counts into a report of their own.
func (c *counter) snapshot() *Report {
	r := c.report
	for _, f := range c.flows {
		r.Flows = append(r.Flows, *f)
	}
	for _, l := range c.labels {
		r.Labels = append(r.Labels, *l)
	}
	slices.SortFunc(r.Flows, func(a, b Flow) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), a.Src.Compare(b.Src), a.Dst.Compare(b.Dst))
	})
	slices.SortFunc(r.Labels, func(a, b Label) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.Label, b.Label))
	})
	return &r
}
