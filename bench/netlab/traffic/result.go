package traffic

import (
	"fmt"
	"net/netip"
	"time"
)

// A Direction is what became of a flow's datagrams or messages one way.
type Direction struct {
	// Sent and Received count datagrams or messages; Received counts each once.
	Sent, Received uint64
	// Lost is Sent less Received. Duplicated counts second and later copies.
	// Reordered counts datagrams that came after one with a higher number
	// (RFC 4737, section 3). Corrupted counts those whose checksum was wrong.
	Lost, Duplicated, Reordered, Corrupted uint64
	// FirstMissing is the lowest number that did not arrive, counted from 0;
	// if all did, it is Received. The sum of several flows has none.
	FirstMissing uint64
	// Bytes of payload received.
	Bytes uint64
}

// A Flow is the result of one flow.
type Flow struct {
	// Group is the index of its group in the plan, ID its number in the plan,
	// counted through all groups from 0.
	Group, ID int
	Kind      Kind
	// Late is how long after the start of its group the flow began.
	Late time.Duration
	// Src and Dst are its inner addresses. The port of an ICMP flow is its
	// echo identifier, at the source.
	Src, Dst netip.AddrPort
	// Up is from client to server, Down back. Bulk flows count frames of
	// 16 KiB. An ICMP flow has all of it in Down, because the kernel that
	// answers keeps no count: what was lost there was lost on either way. A
	// TCPBurst flow counts requests and complete answers; its Src has no port,
	// because every burst has another.
	Up, Down Direction
	// RTT is the flow's round trips under load, of a TCPBurst flow the times
	// that its bursts took.
	RTT RTT
	// Series is the course of the load; see [Plan.Series].
	Series *Series `json:",omitempty"`
	// TCP is the state of the sender of a TCPBulk flow when its load ended.
	TCP *TCPInfo `json:",omitempty"`
	// Error is why the flow failed, empty if it did not.
	Error string `json:",omitempty"`
}

// RTT sums up round-trip times.
type RTT struct {
	Count                   uint64
	Min, Median, P99, Worst time.Duration
}

// RollCall is one flow's turn in a roll call. Between From and To the flow, and
// no other, sent packets that were InnerLength bytes long, and the server sent
// packets of that length back; no two turns with the same length overlap. Only
// TCP's bare acknowledgements, all shorter, are not told apart.
type RollCall struct {
	Flow        int
	After       bool // after the load, rather than before
	InnerLength int  // of the inner IP packet in bytes, a multiple of 16
	Packets     int  // that each side sent at least, more if some got lost
	From, To    time.Time
}

// A Result is what became of a plan.
type Result struct {
	Flows []Flow
	// Groups are the results of whole groups, in the plan's order.
	Groups    []GroupResult
	RollCalls []RollCall
	// Idle is the round trips before the load.
	Idle RTT
	// LoadFrom and LoadTo are when the load began and ended.
	LoadFrom, LoadTo time.Time
	// SocketDrops counts the datagrams that reached a helper's socket and
	// were dropped there because the helper was too slow: the path did not
	// lose these, though they count as lost.
	SocketDrops uint64
}

// A GroupResult adds up the flows of a group.
type GroupResult struct {
	Kind     Kind
	Flows    int
	Failed   int
	Up, Down Direction
	RTT      RTT
	// Elapsed is how long the group took from the start of its load until its
	// last answer or, with bulk flows, until the last byte had arrived or, with
	// [Plan.Abandon], until the end of the load.
	Elapsed time.Duration
	// Goodput is payload received in that time, in bit/s, both directions.
	Goodput float64
}

// Check is nil if every flow went through without a failure and without a
// datagram lost, duplicated, reordered or corrupted; else it says how many were
// not, and names the first.
func (r *Result) Check() error {
	bad, first := 0, ""
	for i := range r.Flows {
		f := &r.Flows[i]
		fault := f.Error
		for _, d := range []Direction{f.Up, f.Down} {
			if fault == "" && d.Lost+d.Duplicated+d.Reordered+d.Corrupted != 0 {
				fault = d.fault()
			}
		}
		if fault == "" {
			continue
		}
		if bad++; bad == 1 {
			first = fmt.Sprintf("flow %d (%s, %v to %v): %s", f.ID, f.Kind, f.Src, f.Dst, fault)
		}
	}
	if bad == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d flows were not intact (%d datagrams were dropped by the receiving sockets); first %s", bad, len(r.Flows), r.SocketDrops, first)
}

func (d *Direction) fault() string {
	text := fmt.Sprintf("of %d sent %d lost, %d duplicated, %d reordered, %d corrupted", d.Sent, d.Lost, d.Duplicated, d.Reordered, d.Corrupted)
	if d.Lost > 0 {
		text += fmt.Sprintf(", the first missing is number %d", d.FirstMissing)
	}
	return text
}

// Total adds up all groups.
func (r *Result) Total() GroupResult {
	var t GroupResult
	for _, g := range r.Groups {
		t.Flows += g.Flows
		t.Failed += g.Failed
		t.Up.add(g.Up)
		t.Down.add(g.Down)
		t.Goodput += g.Goodput
	}
	return t
}

func (d *Direction) add(o Direction) {
	d.Sent += o.Sent
	d.Received += o.Received
	d.Lost += o.Lost
	d.Duplicated += o.Duplicated
	d.Reordered += o.Reordered
	d.Corrupted += o.Corrupted
	d.Bytes += o.Bytes
}
