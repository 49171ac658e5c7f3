// Package traffic sends hundreds of flows at a time between two nodes of a lab
// and tells exactly what became of them: every datagram carries its flow and
// sequence number, every byte stream a checksum, so that loss, duplication,
// reordering within a flow and corruption are counted, not estimated.
//
// Start with [Between], which runs a [Plan] and returns a [Result]. Each side is
// one helper process inside its node: the program calls [RunIfHelper] first in
// its main function (a test in TestMain), and is then started again in that
// role. No other program is needed.
//
// A roll call ([Plan.RollCall]) makes each flow known to somebody who watches an
// encrypted tunnel from outside: the flows take turns to send packets of lengths
// that no other flow has at that time. See [RollCall].
//
// Limits: 65 536 flows, 2^26 datagrams a flow, one server address for a group of
// flows. Senders wait for timers of the Go runtime, so an interval under a
// millisecond is kept on average only.
package traffic

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// A Kind is what the flows of a group do.
type Kind string

// The kinds of flows.
const (
	// TCPBulk sends as much as it can, from client to server or, with
	// [Group.Down], the other way.
	TCPBulk Kind = "tcp-bulk"
	// TCPEcho sends a message in every interval, which the server sends back.
	TCPEcho Kind = "tcp-echo"
	// UDPEcho sends a datagram in every interval, which the server sends back.
	UDPEcho Kind = "udp-echo"
	// UDPStream sends a datagram in every interval and gets no answer.
	UDPStream Kind = "udp-stream"
	// ICMPEcho sends an echo request (ping) in every interval.
	ICMPEcho Kind = "icmp-echo"
)

// A Group is a number of flows that are alike.
type Group struct {
	Kind  Kind
	Count int
	// To is the server's address; its family decides the flows'.
	To netip.Addr
	// Size is the length of a datagram's or message's payload in bytes, at
	// least 48; 0 means 200. Bulk flows ignore it.
	Size int
	// Interval is the time between a flow's datagrams or messages; 0 means
	// 100 ms, except for UDPStream, where it means without a pause.
	Interval time.Duration
	// Down makes the server the sender of a TCPBulk flow.
	Down bool
	// TOS is the IPv4 type of service or IPv6 traffic class.
	TOS uint8
}

// A Plan is what a client does, in this order: open every flow and wait until
// each is answered, probe the idle path, call the roll, load the path for
// Duration, wait for what is still on its way, call the roll again.
type Plan struct {
	Groups []Group
	// Port is the server's port for TCP and UDP; 0 means 5201.
	Port uint16
	// Duration of the load.
	Duration time.Duration
	// Linger bounds the wait for late answers after the load; 0 means 2 s.
	Linger time.Duration
	// OpenTimeout bounds the opening of all flows; 0 means 15 s.
	OpenTimeout time.Duration
	// IdleProbes is how many round trips are measured before the load, on
	// the first UDP or ICMP flow.
	IdleProbes int
	// RollCall makes the flows tell themselves apart before and after the load.
	RollCall bool
}

const (
	defaultPort   = 5201
	minSize       = headerSize + 8
	maxSize       = 1400
	maxFlows      = 1 << 16
	bulkFrameSize = 16 << 10
)

// complete fills in the defaults and checks the rest.
func (p *Plan) complete() error {
	if p.Port == 0 {
		p.Port = defaultPort
	}
	if p.Linger == 0 {
		p.Linger = 2 * time.Second
	}
	if p.OpenTimeout == 0 {
		p.OpenTimeout = 15 * time.Second
	}
	groups := make([]Group, len(p.Groups))
	copy(groups, p.Groups)
	p.Groups = groups
	total := 0
	for i := range groups {
		if err := groups[i].complete(); err != nil {
			return fmt.Errorf("traffic plan: group %d: %w", i, err)
		}
		total += groups[i].Count
	}
	if total == 0 || total > maxFlows {
		return fmt.Errorf("traffic plan: %d flows; have 1 to %d", total, maxFlows)
	}
	return nil
}

func (g *Group) complete() error {
	if g.Size == 0 {
		g.Size = 200
	}
	if g.Interval == 0 && g.Kind != UDPStream {
		g.Interval = 100 * time.Millisecond
	}
	switch g.Kind {
	case TCPBulk, TCPEcho, UDPEcho, UDPStream, ICMPEcho:
	default:
		return fmt.Errorf("unknown kind %q", g.Kind)
	}
	switch {
	case !g.To.IsValid():
		return errors.New("no server address")
	case g.Count < 0:
		return fmt.Errorf("count %d is negative", g.Count)
	case g.Size < minSize || g.Size > maxSize:
		return fmt.Errorf("size %d is not within %d to %d", g.Size, minSize, maxSize)
	}
	return nil
}

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
	// Src and Dst are its inner addresses. The port of an ICMP flow is its
	// echo identifier, at the source.
	Src, Dst netip.AddrPort
	// Up is from client to server, Down back. Bulk flows count frames of
	// 16 KiB. An ICMP flow has all of it in Down, because the kernel that
	// answers keeps no count: what was lost there was lost on either way.
	Up, Down Direction
	// RTT is the flow's round trips under load.
	RTT RTT
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
	// Elapsed is how long the group took from the start of the load until its
	// last answer or, with bulk flows, until the last byte had arrived.
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
