package netlab

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Path is everything between two sites, in one value:
//
//	host – site – gateway – internet – gateway – site – host
//
// Each gateway's way out to the internet is a bottleneck with a queue; the
// internet adds delay, loss and disorder. The zero value is a path without a
// bottleneck and without a delay. [NewPath] builds it.
//
// Rates count whole Ethernet frames without preamble and checksum, as HTB and
// cake do: an IPv4 packet of 1500 bytes is 1514. Of that, a TCP segment with
// timestamps carries 1448 bytes over IPv4 and 1428 over IPv6, so goodput is
// bounded by 0.956 or 0.943 of the rate, less the acknowledgements of what
// flows the other way.
type Path struct {
	// RateUp is that of gateway A, what flows from A to B, and RateDown that
	// of gateway B, in bit/s; 0 means no limit. The least is 8 kbit/s.
	RateUp   int64 `json:"rate_up_bps,omitempty"`
	RateDown int64 `json:"rate_down_bps,omitempty"`
	// RTT is the delay there and back, half of it each way.
	RTT time.Duration `json:"rtt_ns,omitempty"`
	// Qdisc is the queue of both gateways.
	Qdisc Qdisc `json:"qdisc,omitzero"`
	// MTU in bytes of every link but the hosts', which have 1500; 0 means 1500.
	MTU int `json:"mtu,omitempty"`
	// Burst is how much of its rate a bottleneck saves up while it has nothing
	// to send: what the rate carries in so long it then sends at once. 0 makes
	// it a wire: a packet behind another one waits until that has been sent.
	// This needs exact timers, as in virtual time; in real time allow at least
	// as much as timers are late, or the rate is not reached. cake has its own
	// shaper and no burst. [ShaperBurst] is what experiments have.
	Burst time.Duration `json:"burst_ns,omitempty"`
	// Loss is the probability that the internet loses a packet, each way.
	Loss float64 `json:"loss,omitempty"`
	// Jitter is how much the delay of a packet differs from RTT/2 at most, each
	// way, evenly distributed. Packets overtake each other by it.
	Jitter time.Duration `json:"jitter_ns,omitempty"`
	// Reorder is the probability that a packet has no delay at all, and so
	// overtakes all that are on the way.
	Reorder float64 `json:"reorder,omitempty"`
	// Seed makes loss, jitter and disorder repeatable, if not 0, on Linux 6.7
	// or newer.
	Seed uint64 `json:"seed,omitempty"`
}

// ShaperBurst is the burst of a shaper where the clock ticks 100 times in a second:
// what tc-tbf(8) calls the least for TBF there, and what tc gives HTB without finer
// timers. It is a choice among others that are as real: with finer timers tc gives
// HTB 1600 bytes, sqm-scripts have 1 ms, the token buckets of access networks tens
// of ms, a modem's line none.
//
// It matters where TCP flows in both directions share one queue each way, as in a
// tunnel. Acknowledgements that wait behind data arrive in heaps and release
// heaps of data, so that either queue is empty at times and full at others. What a
// shaper saves up while its queue is empty takes off the next heap: as much as the
// burst at most, in each direction. The median probe of a run, beside 4 TCP flows
// each way, least to most of 5 to 10 runs:
//
//	burst        kernel WireGuard          wireguard-go
//	             20 Mbit/s   100 Mbit/s    20 Mbit/s   100 Mbit/s
//	10 ms        20 to 28    8 to 29       19 to 29    8 to 19 ms
//	5 ms         22 to 43    14 to 30      22 to 43    12 to 28 ms
//	1600 bytes   28 to 44                  26 to 69 ms
//
// At 100 Mbit/s there are two states, of 9 and of 20 to 30 ms, and a run may stay in
// either: with 10 ms half of the runs or more are below 14 ms. So this burst is the
// kindest of the three to tunnels that have but one queue.
const ShaperBurst = 10 * time.Millisecond

// A Qdisc is a queueing discipline and its parameters. A parameter that is 0 is
// left to the kernel; one that the discipline does not have is an error.
type Qdisc struct {
	// Kind is the name that tc knows it by: one of the Kind constants. Empty
	// means pfifo.
	Kind string `json:"kind,omitempty"`
	// Limit is the longest queue in packets.
	Limit int `json:"limit_packets,omitempty"`
	// Memory is the longest queue in bytes of kernel memory.
	Memory int `json:"memory_bytes,omitempty"`
	// ECN marks packets that can be marked instead of dropping them. cake does
	// so always, whatever is said here.
	ECN bool `json:"ecn,omitempty"`
	// Target, Interval and CEThreshold are CoDel's parameters (RFC 8289), in
	// whole microseconds. cake calls its interval rtt.
	Target      time.Duration `json:"target_ns,omitempty"`
	Interval    time.Duration `json:"interval_ns,omitempty"`
	CEThreshold time.Duration `json:"ce_threshold_ns,omitempty"`
	// Flows is the number of hash buckets.
	Flows int `json:"flows,omitempty"`
	// Quantum is how many bytes a flow may send in its turn.
	Quantum int `json:"quantum_bytes,omitempty"`
	// FlowMode is what cake takes for a flow, in tc's words: flowblind,
	// srchost, dsthost, hosts, flows, dual-srchost, dual-dsthost or
	// triple-isolate (cake's default).
	FlowMode string `json:"flow_mode,omitempty"`
	// DiffServ is how cake makes tins of DSCPs, in tc's words: diffserv3
	// (cake's default), diffserv4, diffserv8, besteffort or precedence.
	DiffServ string `json:"diffserv,omitempty"`
}

// ethernetHeader is what a frame has above its packet, as queues count it.
const ethernetHeader = 14

const (
	defaultMTU = 1500
	minMTU     = 1280 // RFC 8200, section 5
	maxMTU     = 65535
	minRate    = 8000
	maxRate    = int64(1e12)
	maxDelay   = time.Hour
	maxCount   = 1 << 30 // parameters are 32 bits wide in the kernel
)

// complete fills in the defaults.
func (p *Path) complete() {
	if p.MTU == 0 {
		p.MTU = defaultMTU
	}
	if p.Qdisc.Kind == "" {
		p.Qdisc.Kind = KindPfifo
	}
}

// frame is the length in bytes of the largest frame.
func (p *Path) frame() int { return p.MTU + ethernetHeader }

// Validate tells everything about the path that cannot be. Whether the kernel
// is able to do it, [Missing] tells.
func (p Path) Validate() error {
	p.complete()
	errs := []error{
		within("upward rate", p.RateUp, minRate, maxRate, "bit/s"),
		within("downward rate", p.RateDown, minRate, maxRate, "bit/s"),
		within("RTT", p.RTT, 0, maxDelay, ""),
		within("jitter", p.Jitter, 0, p.RTT/2, ", half the RTT"),
		within("MTU", p.MTU, minMTU, maxMTU, "bytes"),
		within("burst", p.Burst, time.Microsecond, maxDelay/2, ""),
		probability("loss", p.Loss),
		probability("reorder", p.Reorder),
		p.Qdisc.validate(),
	}
	if p.Reorder > 0 && p.RTT == 0 {
		errs = append(errs, errors.New("reorder needs an RTT: without a delay nothing can be overtaken"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("path: %w", err)
	}
	return nil
}

// within is nil for 0 and for what lies between low and high.
func within[T int | int64 | time.Duration](name string, value, low, high T, unit string) error {
	if value == 0 || value >= low && value <= high {
		return nil
	}
	if unit != "" && unit[0] != ',' {
		unit = " " + unit
	}
	return fmt.Errorf("%s %v is not within %v to %v%s", name, value, low, high, unit)
}

func probability(name string, p float64) error {
	if p >= 0 && p <= 1 {
		return nil
	}
	return fmt.Errorf("%s %v is not a probability, 0 to 1", name, p)
}

// String is the path in one line.
func (p Path) String() string {
	p.complete()
	parts := []string{formatRate(p.RateUp) + " up", formatRate(p.RateDown) + " down", "RTT " + p.RTT.String(), p.Qdisc.String(), fmt.Sprintf("MTU %d", p.MTU)}
	parts = appendIf(parts, p.Burst != 0, "burst %v", p.Burst)
	parts = appendIf(parts, p.Jitter != 0, "jitter %v", p.Jitter)
	parts = appendIf(parts, p.Loss != 0, "loss %.4g %%", 100*p.Loss)
	parts = appendIf(parts, p.Reorder != 0, "reorder %.4g %%", 100*p.Reorder)
	parts = appendIf(parts, p.Seed != 0, "seed %d", p.Seed)
	return strings.Join(parts, ", ")
}

// String is the discipline with those of its parameters that are set.
func (q Qdisc) String() string {
	var parts []string
	parts = appendIf(parts, q.Limit != 0, "limit %d", q.Limit)
	parts = appendIf(parts, q.Memory != 0, "memory %d", q.Memory)
	parts = appendIf(parts, q.ECN, "%s", "ecn")
	parts = appendIf(parts, q.Target != 0, "target %v", q.Target)
	parts = appendIf(parts, q.Interval != 0, "interval %v", q.Interval)
	parts = appendIf(parts, q.CEThreshold != 0, "ce_threshold %v", q.CEThreshold)
	parts = appendIf(parts, q.Flows != 0, "flows %d", q.Flows)
	parts = appendIf(parts, q.Quantum != 0, "quantum %d", q.Quantum)
	parts = appendIf(parts, q.FlowMode != "", "%s", q.FlowMode)
	parts = appendIf(parts, q.DiffServ != "", "%s", q.DiffServ)
	if len(parts) == 0 {
		return q.Kind
	}
	return q.Kind + " (" + strings.Join(parts, ", ") + ")"
}

func appendIf(parts []string, condition bool, format string, value any) []string {
	if !condition {
		return parts
	}
	return append(parts, fmt.Sprintf(format, value))
}

func formatRate(rate int64) string {
	switch {
	case rate == 0:
		return "unlimited"
	case rate >= 1e9:
		return fmt.Sprintf("%.4g Gbit/s", float64(rate)/1e9)
	case rate >= 1e6:
		return fmt.Sprintf("%.4g Mbit/s", float64(rate)/1e6)
	default:
		return fmt.Sprintf("%.4g kbit/s", float64(rate)/1e3)
	}
}
