package netlab

import (
	"encoding/binary"
	"fmt"
	"iter"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// QdiscStats is what a queueing discipline has counted since it was made. What
// its kind does not count is 0.
type QdiscStats struct {
	// Kind is its name, Handle its own and Parent its parent's handle, in tc's
	// notation: "10:", "1:1", "root".
	Kind   string `json:"kind"`
	Handle string `json:"handle"`
	Parent string `json:"parent"`
	// Bytes and Packets that have left it, with Ethernet headers.
	Bytes   uint64 `json:"bytes"`
	Packets uint64 `json:"packets"`
	// Drops for whatever reason, and how many of them because the queue was
	// full (of the whole-queue disciplines, all of them are).
	Drops         uint64 `json:"drops"`
	DropOverlimit uint64 `json:"drop_overlimit"`
	// ECNMarks are packets marked CE by the control law, CEMarks those marked
	// by ce_threshold.
	ECNMarks uint64 `json:"ecn_marks"`
	CEMarks  uint64 `json:"ce_marks"`
	// Backlog is the queue's length now, in bytes, and QueueLen in packets.
	Backlog  uint64 `json:"backlog_bytes"`
	QueueLen uint64 `json:"backlog_packets"`
	// Overlimits is how often it had to wait for its rate.
	Overlimits uint64 `json:"overlimits"`
	// NewFlows is how often a packet came to an empty queue of its own: with
	// fq_codel and fq_pie new_flow_count, with cake way_misses, which count
	// flows that were not in its table.
	NewFlows uint64 `json:"new_flow_count"`
	// MaxPacket is the longest packet so far in bytes, Ethernet header
	// included: 1514 where the MTU is 1500 and nothing is bundled.
	MaxPacket uint64 `json:"maxpacket_bytes"`
	// Memory in use in bytes.
	Memory uint64 `json:"memory_bytes"`
}

// QdiscStats reads the statistics of every queueing discipline on the interface
// dev.
func (n *Node) QdiscStats(dev string) ([]QdiscStats, error) {
	link, err := n.Link(dev)
	if err != nil {
		return nil, err
	}
	ifindex := link.Attrs().Index
	request := nl.NewNetlinkRequest(unix.RTM_GETQDISC, unix.NLM_F_DUMP)
	request.AddRawData(words(0, uint32(ifindex), 0, 0, 0))
	var messages [][]byte
	err = n.Do(func() (err error) {
		messages, err = request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWQDISC)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("node %s: read the queues of %s: %w", n.Name, dev, err)
	}
	var all []QdiscStats
	for _, m := range messages {
		// The kernel tells of all interfaces, whatever was asked.
		if at, q, ok := parseQdisc(m); ok && at == ifindex {
			all = append(all, q)
		}
	}
	return all, nil
}

// Attributes of linux/rtnetlink.h and linux/gen_stats.h.
const (
	tcaStats2     = 7
	statsBasic    = 1 // struct gnet_stats_basic
	statsQueue    = 3 // struct gnet_stats_queue
	statsApp      = 4 // of the discipline's own
	statsPackets  = 8 // all 64 bits of the packet counter
	attrTypeMask  = 0x3fff
	attrHeaderLen = 4
)

// parseQdisc reads an RTM_NEWQDISC message without its netlink header: a struct
// tcmsg and attributes. It is false for what is too short to be one; of
// attributes that are not whole, it takes none.
func parseQdisc(b []byte) (ifindex int, q QdiscStats, ok bool) {
	if len(b) < tcmsgLen {
		return 0, q, false
	}
	ifindex = int(int32(binary.NativeEndian.Uint32(b[4:])))
	q.Handle = tcHandle(binary.NativeEndian.Uint32(b[8:]))
	q.Parent = tcHandle(binary.NativeEndian.Uint32(b[12:]))
	var stats []byte
	for kind, value := range attributes(b[tcmsgLen:]) {
		switch kind {
		case tcaKind:
			q.Kind = cString(value)
		case tcaStats2:
			stats = value
		}
	}
	q.parseStats(stats)
	return ifindex, q, true
}

func (q *QdiscStats) parseStats(b []byte) {
	var app []byte
	for kind, v := range attributes(b) {
		switch kind {
		case statsBasic:
			q.Bytes, q.Packets = uint64At(v, 0), max(q.Packets, uint32At(v, 2))
		case statsQueue:
			q.QueueLen, q.Backlog, q.Drops, q.Overlimits = uint32At(v, 0), uint32At(v, 1), uint32At(v, 2), uint32At(v, 4)
		case statsPackets:
			q.Packets = max(q.Packets, uint64At(v, 0))
		case statsApp:
			app = v
		}
	}
	q.parseApp(app)
}

// parseApp reads the structure of the discipline's own statistics
// (linux/pkt_sched.h, the struct is named at each). A kernel may send less or
// more of it than is known here.
func (q *QdiscStats) parseApp(b []byte) {
	switch q.Kind {
	case KindFQCodel: // tc_fq_codel_xstats
		const ofQdisc = 0 // rather than of a class
		if len(b) == 0 || uint32At(b, 0) != ofQdisc {
			return
		}
		q.MaxPacket, q.DropOverlimit, q.ECNMarks, q.NewFlows = uint32At(b, 1), uint32At(b, 2), uint32At(b, 3), uint32At(b, 4)
		q.CEMarks, q.Memory = uint32At(b, 7), uint32At(b, 8)
	case KindCodel: // tc_codel_xstats
		q.MaxPacket, q.DropOverlimit, q.ECNMarks, q.CEMarks = uint32At(b, 0), uint32At(b, 5), uint32At(b, 6), uint32At(b, 8)
	case KindFQPie: // tc_fq_pie_xstats
		q.DropOverlimit, q.ECNMarks, q.NewFlows, q.Memory = uint32At(b, 2), uint32At(b, 4), uint32At(b, 5), uint32At(b, 8)
	case KindPie: // tc_pie_xstats
		q.DropOverlimit, q.ECNMarks = uint32At(b, 7), uint32At(b, 9)
	case KindFQ: // tc_fq_qd_stats
		q.DropOverlimit, q.CEMarks = uint64At(b, 8*4), uint64At(b, 8*10)
	case KindPfifo, KindSFQ:
		q.DropOverlimit = q.Drops
	case KindCake:
		q.parseCake(b)
	}
}

// cake's statistics are attributes (TCA_CAKE_STATS_*, TCA_CAKE_TIN_STATS_*).
func (q *QdiscStats) parseCake(b []byte) {
	const memoryUsed, tins = 4, 10
	const marked, wayMisses, longest = 8, 16, 24
	for kind, v := range attributes(b) {
		switch kind {
		case memoryUsed:
			q.Memory = uint32At(v, 0)
		case tins:
			for _, tin := range attributes(v) {
				for kind, v := range attributes(tin) {
					switch kind {
					case marked:
						q.ECNMarks += uint32At(v, 0)
					case wayMisses:
						q.NewFlows += uint32At(v, 0)
					case longest:
						q.MaxPacket = max(q.MaxPacket, uint32At(v, 0))
					}
				}
			}
		}
	}
}

// attributes yields the netlink attributes in b, up to the first that is not
// whole.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= attrHeaderLen {
			size := int(binary.NativeEndian.Uint16(b))
			if size < attrHeaderLen || size > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&attrTypeMask, b[attrHeaderLen:size]) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

// uint32At is the 32-bit word number i of b, 0 if b is too short.
func uint32At(b []byte, i int) uint64 {
	if len(b) < 4*i+4 {
		return 0
	}
	return uint64(binary.NativeEndian.Uint32(b[4*i:]))
}

// uint64At is the 64-bit word at the offset in bytes, 0 if b is too short.
func uint64At(b []byte, offset int) uint64 {
	if len(b) < offset+8 {
		return 0
	}
	return binary.NativeEndian.Uint64(b[offset:])
}

func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// tcHandle writes a handle as tc does.
func tcHandle(h uint32) string {
	switch {
	case h == tcRoot:
		return "root"
	case h&0xffff == 0:
		return fmt.Sprintf("%x:", h>>16)
	default:
		return fmt.Sprintf("%x:%x", h>>16, h&0xffff)
	}
}
