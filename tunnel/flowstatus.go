package tunnel

import (
	"cmp"
	"net/netip"
	"slices"

	"kiloport/flowhash"
)

// FlowDetail is one inner flow on its way out: what went to the peer within the
// last half minute. What comes from the peer is a flow there.
type FlowDetail struct {
	// Flow is for people: "tcp 10.0.0.1:80 > 10.0.0.2:1234".
	Flow string `json:"flow"`
	// Protocol is the IP protocol's number; Source and Destination are
	// addresses, with ports if that is what flows of the protocol are told by.
	Protocol    uint8  `json:"protocol"`
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Peer        string `json:"peer"` // public key
	Lane        uint16 `json:"lane"` // of the last packet
	// Packets and Bytes have left the queue to be sent, as the host made them:
	// without what the tunnel adds. They begin at 0 again when the flow has
	// not been heard of for some time.
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	// BacklogPackets and Backlog, bytes, wait in the queue now.
	BacklogPackets int `json:"backlog_packets"`
	Backlog        int `json:"backlog"`
	// SojournMs is how long its packets waited in the queue, in ms: the mean of
	// the last few; SojournMaxMs the longest of all.
	SojournMs    float64 `json:"sojourn_ms"`
	SojournMaxMs float64 `json:"sojourn_max_ms"`
	Marks        uint64  `json:"marks"` // packets that our own CoDel marked CE
	Drops        uint64  `json:"drops"` // packets that the queue dropped
	// Sparse tells that within the last second the flow never had more in the
	// queue than it may send in one turn, so that FQ-CoDel sends it before
	// all those that had. The others are bulk.
	Sparse bool `json:"sparse"`
	// IdleMs is how long ago its last packet came.
	IdleMs float64 `json:"idle_ms"`
}

// flowDetailMax bounds an answer: of more flows, those that were active last are
// told.
const flowDetailMax = 1024

// flowDetails lists the flows of late, those that sent most first.
func (d *Device) flowDetails() []FlowDetail {
	now := d.clock.Now()
	var all []flowEntry
	for _, t := range d.transmit {
		all = slices.Grow(all, flowSets*flowWays)
		t.watch.mu.Lock()
		all = t.watch.flows.recent(now, all)
		t.watch.mu.Unlock()
	}
	all = joinFlows(all)
	if len(all) > flowDetailMax {
		slices.SortFunc(all, func(a, b flowEntry) int { return cmp.Compare(b.seen, a.seen) })
		all = all[:flowDetailMax]
	}
	details := make([]FlowDetail, 0, len(all))
	for i := range all {
		details = append(details, all[i].detail(now))
	}
	slices.SortFunc(details, func(a, b FlowDetail) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Flow, b.Flow))
	})
	return details
}

// joinFlows makes one of what several transmitters know of a flow: the kernel may
// move it from one queue of the TUN device to another.
func joinFlows(all []flowEntry) []flowEntry {
	slices.SortFunc(all, func(a, b flowEntry) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), slices.Compare(a.peer[:], b.peer[:]), cmp.Compare(b.seen, a.seen))
	})
	joined := all[:0]
	for _, e := range all {
		if n := len(joined) - 1; n >= 0 && joined[n].hash == e.hash && joined[n].peer == e.peer {
			joined[n].join(&e)
			continue
		}
		joined = append(joined, e)
	}
	return joined
}

// join adds what another transmitter knows, which saw the flow earlier.
func (e *flowEntry) join(o *flowEntry) {
	e.packets += o.packets
	e.bytes += o.bytes
	e.marks += o.marks
	e.drops += o.drops
	e.waiting += o.waiting
	e.backlog += o.backlog
	e.bulk = max(e.bulk, o.bulk)
	e.worst = max(e.worst, o.worst)
}

func (e *flowEntry) detail(now int64) FlowDetail {
	return FlowDetail{
		Flow: e.key.String(), Protocol: e.key.Protocol(),
		Source: end(&e.key, e.key.Source(), e.key.ID()>>16), Destination: end(&e.key, e.key.Destination(), e.key.ID()),
		Peer: e.peer.String(), Lane: e.lane,
		Packets: e.packets, Bytes: e.bytes, Marks: e.marks, Drops: e.drops,
		BacklogPackets: e.waiting, Backlog: e.backlog,
		SojournMs: *milliseconds(e.sojourn), SojournMaxMs: *milliseconds(e.worst),
		Sparse: e.bulk == 0 || now-e.bulk >= bulkFor,
		IdleMs: *milliseconds(max(now-e.seen, 0)),
	}
}

func end(k *flowhash.Key, addr netip.Addr, port uint32) string {
	if k.Kind() != flowhash.KindPorts {
		return addr.String()
	}
	return netip.AddrPortFrom(addr, uint16(port)).String()
}
