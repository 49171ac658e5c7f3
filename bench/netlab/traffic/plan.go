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
// For the course of the load, rather than its sum, see [Plan.Series]; for loads
// that start one after the other, [Group.Start].
//
// Limits: 65 536 flows, 2^26 datagrams a flow, one server address for a group of
// flows. Senders wait for timers of the Go runtime, so an interval under a
// millisecond is kept on average only. All waits sleep or block, so that it also
// runs where the clock stands still while a program computes; see [Plan.Virtual].
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
	// TCPBurst opens a new connection in every interval, whether or not the
	// one before is through, asks for [Group.Size] bytes and closes it: the
	// load of somebody who browses. What took longer than [Plan.Linger], or
	// failed, counts as lost.
	TCPBurst Kind = "tcp-burst"
)

// A Group is a number of flows that are alike.
type Group struct {
	Kind  Kind
	Count int
	// To is the server's address; its family decides the flows'.
	To netip.Addr
	// Size is the length of a datagram's or message's payload in bytes, 48 to
	// 1400; 0 means 200. A TCPBurst gets 48 bytes to 64 MiB; 0 means 100 000.
	// Bulk flows ignore it.
	Size int
	// Interval is the time between a flow's datagrams or messages; 0 means
	// 100 ms, except for TCPBurst, where it means 1 s, and for UDPStream,
	// where it means without a pause (but see [Plan.Virtual]).
	Interval time.Duration
	// Jitter, at most Interval, delays each datagram of an echo by a random time
	// less than it, drawn with [Plan.Seed]. What beats as regularly as the load,
	// whose packets come around once in a round-trip time, meets the queue in the
	// same state each time: what it finds is no sample of what others find
	// (RFC 2330, section 11.1).
	Jitter time.Duration
	// Start and Stop bound the group's part of the load, counted from the
	// start of the whole load; a Stop of 0 means to the end of it. The flows of
	// a group start evenly apart in an interval, bulk flows by [Plan.Stagger].
	Start, Stop time.Duration
	// Down makes the server the sender of a TCPBulk flow.
	Down bool
	// TOS is the IPv4 type of service or IPv6 traffic class, of both ends'
	// packets: what opens a TCP connection at the server has none yet.
	TOS uint8
	// Congestion is the congestion control of both ends of TCP flows, one of
	// the nodes' net.ipv4.tcp_available_congestion_control; empty means the
	// nodes' default. A flow fails if a kernel does not have it.
	Congestion string
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
	// Series keeps the course of every flow's load in [Flow.Series], 24 bytes
	// a probe, and for bulk flows the bytes received in every Bin, 0 meaning
	// 200 ms.
	Series bool
	Bin    time.Duration
	// Stagger is the time in which bulk flows begin, each at a random moment of
	// it; with 0 all flows of a group begin in one instant. On a machine that
	// instant has a length. In virtual time it has none, and flows in step stay
	// so: their packets travel as one heap, behind which everything else waits in
	// a queue that they share.
	Stagger time.Duration
	// Seed is what those moments and [Group.Jitter] are drawn with: the same one
	// gives the same.
	Seed uint64
	// Abandon cuts bulk flows off at the end of their load. What had been
	// received until then counts, to the byte, and nothing counts as lost or
	// as a failure. Without it a bulk flow ends when the receiver has got, and
	// confirmed, all that the sender's socket had taken.
	Abandon bool
	// Virtual says that the nodes' clock moves only when everything sleeps,
	// as User-Mode Linux has it with time-travel: a UDPStream without a pause
	// would stop it, and sends a datagram every 10 µs instead.
	Virtual bool
	// Prompt makes the processes of both ends real-time ones (SCHED_RR of
	// sched(7)), that wait for no other: what they measure beside a load is then
	// the tunnel, and not how long a processor is awaited before and after it.
	// Not for plans that load anything.
	Prompt bool
}

const (
	defaultPort   = 5201
	minSize       = headerSize + 8
	maxSize       = 1400
	maxBurst      = 64 << 20
	maxFlows      = 1 << 16
	bulkFrameSize = 16 << 10
	// virtualInterval is a UDPStream's where it must not send without a pause.
	virtualInterval = 10 * time.Microsecond
)

// complete fills in the defaults and checks the rest.
func (p *Plan) complete() error {
	p.defaults()
	groups := make([]Group, len(p.Groups))
	copy(groups, p.Groups)
	p.Groups = groups
	total := 0
	for i := range groups {
		if err := groups[i].complete(p); err != nil {
			return fmt.Errorf("traffic plan: group %d: %w", i, err)
		}
		total += groups[i].Count
	}
	if total == 0 || total > maxFlows {
		return fmt.Errorf("traffic plan: %d flows; have 1 to %d", total, maxFlows)
	}
	if p.Bin < 0 || p.Duration/p.Bin >= maxBins {
		return fmt.Errorf("traffic plan: bins of %v; have at most %d in %v", p.Bin, maxBins, p.Duration)
	}
	if p.RollCall && p.Abandon {
		return errors.New("traffic plan: flows that are abandoned cannot answer a roll call; leave out one of the two")
	}
	return nil
}

func (p *Plan) defaults() {
	if p.Port == 0 {
		p.Port = defaultPort
	}
	if p.Linger == 0 {
		p.Linger = 2 * time.Second
	}
	if p.OpenTimeout == 0 {
		p.OpenTimeout = 15 * time.Second
	}
	if p.Bin == 0 {
		p.Bin = 200 * time.Millisecond
	}
}

// complete fills in the defaults of a group of plan p and checks the rest.
func (g *Group) complete(p *Plan) error {
	largest := maxSize
	size, interval := 200, 100*time.Millisecond
	switch g.Kind {
	case TCPBulk, TCPEcho, UDPEcho, ICMPEcho:
	case UDPStream:
		interval = 0
		if p.Virtual {
			interval = virtualInterval
		}
	case TCPBurst:
		size, interval, largest = 100_000, time.Second, maxBurst
	default:
		return fmt.Errorf("unknown kind %q", g.Kind)
	}
	if g.Size == 0 {
		g.Size = size
	}
	if g.Interval == 0 {
		g.Interval = interval
	}
	switch {
	case !g.To.IsValid():
		return errors.New("no server address")
	case g.Count < 0:
		return fmt.Errorf("count %d is negative", g.Count)
	case g.Size < minSize || g.Size > largest:
		return fmt.Errorf("size %d is not within %d to %d", g.Size, minSize, largest)
	case g.Kind == TCPBurst && p.RollCall:
		return errors.New("a tcp-burst has no lasting flow that could answer a roll call; leave out one of the two")
	}
	if err := g.checkCongestion(); err != nil {
		return err
	}
	return g.checkTimes(p)
}

func (g *Group) checkCongestion() error {
	switch {
	case g.Congestion != "" && !g.Kind.tcp():
		return fmt.Errorf("congestion control %q for %s, which has none", g.Congestion, g.Kind)
	case len(g.Congestion) > maxCongestion:
		return fmt.Errorf("congestion control %q is longer than %d bytes", g.Congestion, maxCongestion)
	}
	return nil
}

// checkTimes checks the group's part of the load of plan p.
func (g *Group) checkTimes(p *Plan) error {
	stop := g.stop(p.Duration)
	switch {
	case g.Jitter < 0 || g.Jitter > g.Interval:
		return fmt.Errorf("jitter %v is not within 0 and the interval of %v", g.Jitter, g.Interval)
	case g.Jitter > 0 && g.Kind != UDPEcho && g.Kind != ICMPEcho:
		return fmt.Errorf("jitter %v for %s: only the datagrams of echoes have one", g.Jitter, g.Kind)
	}
	if (g.Start != 0 || g.Stop != 0) && (g.Start < 0 || g.Start >= stop || stop > p.Duration) {
		return fmt.Errorf("a load from %v to %v does not fit into one of %v", g.Start, stop, p.Duration)
	}
	if g.Kind == TCPBulk && p.Stagger != 0 && (p.Stagger < 0 || g.Start+p.Stagger > stop) {
		return fmt.Errorf("flows that begin within %v do not fit into a load from %v to %v", p.Stagger, g.Start, stop)
	}
	return nil
}

// stop is when the group stops in a load of the given duration.
func (g *Group) stop(duration time.Duration) time.Duration {
	if g.Stop == 0 {
		return duration
	}
	return g.Stop
}

func (k Kind) tcp() bool { return k == TCPBulk || k == TCPEcho || k == TCPBurst }

// echoes tells the kinds whose packets are answered one by one.
func (k Kind) echoes() bool { return k == UDPEcho || k == ICMPEcho || k == TCPEcho }
