package main

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"kiloport/bench/netlab/capture"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/tunnels"
)

// maxSightings bounds what a wiretap remembers, 64 MiB or so.
const maxSightings = 2 << 20

// transportOverhead is how much longer a transport message is than the padded
// inner packet: header 16, tag 16 (WireGuard white paper, section 5.4.6).
const transportOverhead = 32

// A wiretap remembers, from a capture, which outer flow carried messages of
// which length and when. It is what an outsider can know of an encrypted tunnel.
type wiretap struct {
	tuples    map[capture.Tuple]int32
	ordered   []capture.Tuple
	sightings []sighting
	missed    uint64
}

type sighting struct {
	at     int64 // Unix nanoseconds
	tuple  int32
	label  uint32
	length uint16
}

func newWiretap() *wiretap { return &wiretap{tuples: map[capture.Tuple]int32{}} }

// packet is for [capture.Config.OnPacket].
func (w *wiretap) packet(p *capture.Packet) {
	const udp = 17
	if p.Proto != udp {
		return
	}
	if len(w.sightings) >= maxSightings {
		w.missed++
		return
	}
	tuple, ok := w.tuples[p.Tuple]
	if !ok {
		tuple = int32(len(w.ordered))
		w.tuples[p.Tuple] = tuple
		w.ordered = append(w.ordered, p.Tuple)
	}
	w.sightings = append(w.sightings, sighting{p.Time.UnixNano(), tuple, p.Label, uint16(p.Payload)})
}

// A lane is the outer flow in which one inner flow went in one direction.
type lane struct {
	flow  int
	tuple capture.Tuple
	label uint32
}

// lanes finds the lane of every inner flow from its turns in the roll call,
// among what the given end sent. It fails if a flow was seen in several
// outer flows or labels, or not at all.
func (w *wiretap) lanes(calls []traffic.RollCall, from *tunnels.End) ([]lane, error) {
	if w.missed > 0 {
		return nil, fmt.Errorf("%d packets are beyond the %d that can be looked through; run fewer flows or less long", w.missed, maxSightings)
	}
	index := w.byLength(from)
	found := map[int]lane{}
	for _, call := range calls {
		l, err := w.laneOf(call, index[uint16(call.InnerLength+transportOverhead)])
		if err != nil {
			return nil, err
		}
		if before, ok := found[call.Flow]; ok && before != l {
			return nil, fmt.Errorf("inner flow %d moved under load from %v to %v", call.Flow, before, l)
		}
		found[call.Flow] = l
	}
	lanes := slices.Collect(maps.Values(found))
	slices.SortFunc(lanes, func(a, b lane) int { return a.flow - b.flow })
	return lanes, nil
}

// laneOf finds the lane of one turn among messages of its length. Control
// messages, between the listen ports, may happen to have that length too: they do not
// count if every packet of the turn was seen elsewhere, in one lane.
func (w *wiretap) laneOf(call traffic.RollCall, messages []sighting) (lane, error) {
	counts := map[lane]int{}
	for _, s := range between(messages, call.From, call.To) {
		counts[lane{flow: call.Flow, tuple: w.ordered[s.tuple], label: s.label}]++
	}
	zero := 0
	for l := range counts {
		if l.isLaneZero() {
			zero++
		}
	}
	switch {
	case len(counts) < 2:
	case zero == len(counts):
		maps.DeleteFunc(counts, func(_ lane, n int) bool { return n < call.Packets })
	default:
		maps.DeleteFunc(counts, func(l lane, _ int) bool { return l.isLaneZero() })
	}
	seen := slices.SortedFunc(maps.Keys(counts), func(a, b lane) int { return counts[b] - counts[a] })
	switch {
	case len(seen) > 1:
		return lane{}, fmt.Errorf("inner flow %d was seen both in %v and in %v", call.Flow, seen[0], seen[1])
	case len(seen) == 0:
		return lane{}, fmt.Errorf("inner flow %d was not seen in a packet of %d bytes; was the capture complete?", call.Flow, call.InnerLength)
	case counts[seen[0]] < call.Packets:
		return lane{}, fmt.Errorf("inner flow %d sent %d packets, of which %d were seen in %v", call.Flow, call.Packets, counts[seen[0]], seen[0])
	}
	return seen[0], nil
}

// isLaneZero tells whether this is the ordinary path between the listen ports.
func (l lane) isLaneZero() bool {
	return l.tuple.Src.Port() == tunnels.ListenPort && l.tuple.Dst.Port() == tunnels.ListenPort
}

// byLength sorts out what one end sent, in the order of time.
func (w *wiretap) byLength(from *tunnels.End) map[uint16][]sighting {
	index := map[uint16][]sighting{}
	for _, s := range w.sightings {
		if src := w.ordered[s.tuple].Src.Addr(); src == from.Outer || from.Sources.Contains(src) {
			index[s.length] = append(index[s.length], s)
		}
	}
	return index
}

// between is the part of the sightings from one time to another.
func between(s []sighting, from, to time.Time) []sighting {
	at := func(s sighting, t int64) int { return int(min(1, max(-1, s.at-t))) }
	first, _ := slices.BinarySearchFunc(s, from.UnixNano(), at)
	last, _ := slices.BinarySearchFunc(s, to.UnixNano(), at)
	return s[first:max(first, last)]
}

func (l lane) String() string {
	return fmt.Sprintf("%v to %v label %#05x", l.tuple.Src, l.tuple.Dst, l.label)
}

// A spreading sums up the lanes of one direction.
type spreading struct {
	// Flows are the inner flows, Tuples and Ports the different outer 5-tuples
	// and outer source ports that carried them.
	Flows, Tuples, Ports int
	// Labels are the different flow labels, the zero label not counted, and
	// Unlabelled the flows that had none. IPv4 has no labels.
	Labels, Unlabelled int
	// Alone are the flows that shared their outer flow with no other.
	Alone int
}

func spread(lanes []lane) spreading {
	tuples, ports, labels := map[capture.Tuple]int{}, map[uint16]bool{}, map[uint32]bool{}
	s := spreading{Flows: len(lanes)}
	for _, l := range lanes {
		tuples[l.tuple]++
		ports[l.tuple.Src.Port()] = true
		if l.label == 0 {
			s.Unlabelled++
		} else {
			labels[l.label] = true
		}
	}
	for _, l := range lanes {
		if tuples[l.tuple] == 1 {
			s.Alone++
		}
	}
	s.Tuples, s.Ports, s.Labels = len(tuples), len(ports), len(labels)
	return s
}

// check is nil if every flow had an outer flow, a source port and, on IPv6, a
// flow label of its own.
func (s spreading) check(ipv6 bool) error {
	switch {
	case s.Alone != s.Flows || s.Tuples != s.Flows:
		return fmt.Errorf("%d inner flows went in %d outer flows, and only %d of them had one to themselves", s.Flows, s.Tuples, s.Alone)
	case s.Ports != s.Flows:
		return fmt.Errorf("%d inner flows came from %d different outer source ports", s.Flows, s.Ports)
	case ipv6 && s.Unlabelled > 0:
		return fmt.Errorf("%d of %d inner flows went without a flow label", s.Unlabelled, s.Flows)
	case ipv6 && s.Labels != s.Flows:
		return fmt.Errorf("%d inner flows had %d different flow labels", s.Flows, s.Labels)
	}
	return nil
}
