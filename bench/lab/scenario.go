package lab

import (
	"context"
	"slices"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/report"
)

// A Scenario says which flows there are.
type Scenario struct {
	// Name is short, Title says in a few words what it does.
	Name, Title string
	// Load is how long it takes, Repetitions how many it needs until a
	// difference of its medians can be told from chance: at least
	// [report.RepetitionsToTell].
	Load        time.Duration
	Repetitions int
	// ECN makes the hosts ask for ECN, and is the default for the gateways.
	ECN bool
	// CEThreshold is the gateways' default (L4S-style marking), 0 for none.
	CEThreshold time.Duration
	// Flows is the default of [Experiment.Flows].
	Flows int
	// RealTime says that it measures processors: it runs in the kernel of the
	// machine, one experiment at a time, between two sites without bottleneck,
	// delay or hosts, so that [Experiment.Path] counts for nothing.
	RealTime bool

	// Own says that it measures what only kiloport has, so that other tunnels are
	// left out.
	Own bool

	cases []loadCase
	// path makes of the path that was asked for the one that the scenario needs,
	// and settings are lines for kiloport's file; nil for none.
	path     func(p *netlab.Path)
	settings func(e *Experiment) []string
	groups   func(b *bench) []traffic.Group
	custom   func(ctx context.Context, b *bench) error
	// lasts is how long an experiment takes, nil for its load and what comes
	// before it.
	lasts func(e *Experiment) time.Duration
}

// What most scenarios need: a load that leaves 200 probes after the warm-up, and as
// many repetitions as it takes to tell a difference from chance (report.Compare).
// Four tunnels then take two to three minutes on two processors.
const (
	usualLoad        = 6 * time.Second
	usualRepetitions = report.RepetitionsToTell
)

// Scenarios are all that can be run.
var Scenarios = []Scenario{
	{
		Name: "rrul_be", Title: "4 TCP flows each way, a UDP probe every 20 ms and a ping",
		Load: usualLoad, Repetitions: usualRepetitions,
		groups: func(b *bench) []traffic.Group { return append(b.probes(), b.bulk(4, 0)...) },
	},
	{
		Name: "upload", Title: "4 TCP flows up, none down: what the headers leave of the rate",
		Load: usualLoad, Repetitions: usualRepetitions,
		groups: func(b *bench) []traffic.Group { return append(b.probes(), b.bulk(4, 0)[0]) },
	},
	{
		Name: "rrul", Title: "flent's rrul: 4 TCP flows each way and probes in CS0, CS1, CS5 and EF",
		Load: usualLoad, Repetitions: usualRepetitions, groups: rrul,
	},
	{
		Name: "sparse", Title: "one TCP flow each way against flows like DNS, SSH and VoIP",
		Load: usualLoad, Repetitions: usualRepetitions, groups: sparse,
	},
	{
		Name: "web", Title: "rrul_be with somebody who browses: 100 kB on a new connection every second",
		Load: usualLoad, Repetitions: usualRepetitions, groups: web,
	},
	{
		Name: "ecn", Title: "4 TCP flows each way with ECN through gateways that mark",
		Load: usualLoad, Repetitions: usualRepetitions, ECN: true,
		groups: func(b *bench) []traffic.Group { return append(b.probes(), b.bulk(4, 0)...) },
	},
	{
		Name: "l4s", Title: "2 DCTCP flows each way through gateways with ce_threshold 1 ms",
		Load: usualLoad, Repetitions: usualRepetitions, ECN: true, CEThreshold: time.Millisecond, groups: l4s,
	},
	{
		Name: "flows", Title: "many flows: how many have a gateway queue of their own, and how fairly TCP shares",
		Load: usualLoad, Repetitions: usualRepetitions, Flows: 100, custom: manyFlows, lasts: manyFlowsLast,
	},
	{
		Name: "throughput", Title: "as much as gets through, and what it costs: TCP flows and UDP floods, in real time",
		Load: 4 * time.Second, Repetitions: usualRepetitions, RealTime: true, cases: throughputCases, custom: throughput,
	},
	{
		Name: "overload", Title: "a UDP probe every 20 ms beside a load that saturates a daemon, in real time",
		Load: 5 * time.Second, Repetitions: usualRepetitions, RealTime: true, cases: overloadCases, custom: overload, lasts: overloadLasts,
	},
}

// Path makes of a path that was asked for the one that the scenario needs.
func (s *Scenario) Path(p *netlab.Path) {
	if s.path != nil {
		s.path(p)
	}
}

// Shortest is the shortest load that leaves anything to look at after the warm-up, in
// whole seconds.
func (s *Scenario) Shortest() time.Duration {
	if s.RealTime || s.Flows > 0 {
		return time.Second
	}
	return warmUp + time.Second
}

// Settings are the lines that the scenario wants in the [Interface] section of
// kiloport's file.
func (s *Scenario) Settings(e *Experiment) []string {
	if s.settings == nil {
		return nil
	}
	return s.settings(e)
}

// Names are the names of all scenarios.
func Names() (names []string) {
	for _, s := range Scenarios {
		names = append(names, s.Name)
	}
	return names
}

func find(name string) (*Scenario, bool) {
	i := slices.IndexFunc(Scenarios, func(s Scenario) bool { return s.Name == name })
	if i < 0 {
		return nil, false
	}
	return &Scenarios[i], true
}

// Traffic classes: DSCP in the upper six bits (RFC 2474, RFC 8622 for the words).
const (
	classCS1 = 8 << 2
	classCS5 = 40 << 2
	classEF  = 46 << 2
)

var classNames = map[uint8]string{0: "", classCS1: "CS1", classCS5: "CS5", classEF: "EF"}

const (
	probeSize = 100 // bytes of payload
	// probeJitter is how much later than its beat a probe may be sent: a round trip
	// has the length of an interval, and whatever comes around once in a round trip,
	// as the acknowledgements of a full window do, would meet each probe alike.
	probeJitter = 10 * time.Millisecond
)

// probes are the sparse flows whose round trips are the result: they begin
// before the load.
func (b *bench) probes() []traffic.Group {
	return []traffic.Group{
		{Kind: traffic.UDPEcho, Count: 1, To: b.to(), Interval: 20 * time.Millisecond, Jitter: probeJitter, Size: probeSize},
		{Kind: traffic.ICMPEcho, Count: 1, To: b.to(), Interval: 200 * time.Millisecond, Jitter: probeJitter, Size: 56},
	}
}

// bulk is a number of TCP flows each way.
func (b *bench) bulk(each int, tos uint8) []traffic.Group {
	return []traffic.Group{
		{Kind: traffic.TCPBulk, Count: each, To: b.to(), Start: quiet, TOS: tos},
		{Kind: traffic.TCPBulk, Count: each, To: b.to(), Start: quiet, TOS: tos, Down: true},
	}
}

func rrul(b *bench) []traffic.Group {
	groups := b.probes()
	for _, class := range []uint8{classCS1, classEF} {
		groups = append(groups, traffic.Group{Kind: traffic.UDPEcho, Count: 1, To: b.to(), Interval: 200 * time.Millisecond, Jitter: probeJitter, Size: probeSize, TOS: class})
	}
	for _, class := range []uint8{0, classCS1, classCS5, classEF} {
		groups = append(groups, b.bulk(1, class)...)
	}
	return groups
}

func sparse(b *bench) []traffic.Group {
	groups := append(b.probes(),
		// A question and its answer now and then, keystrokes, and 50 frames of
		// speech in a second.
		traffic.Group{Kind: traffic.UDPEcho, Count: 4, To: b.to(), Interval: 500 * time.Millisecond, Size: 80},
		traffic.Group{Kind: traffic.TCPEcho, Count: 1, To: b.to(), Interval: 150 * time.Millisecond, Size: 64},
		traffic.Group{Kind: traffic.UDPEcho, Count: 2, To: b.to(), Interval: 20 * time.Millisecond, Size: 172, TOS: classEF})
	return append(groups, b.bulk(1, 0)...)
}

func web(b *bench) []traffic.Group {
	browse := traffic.Group{Kind: traffic.TCPBurst, Count: 3, To: b.to(), Interval: time.Second, Size: 100_000, Start: quiet}
	return append(append(b.probes(), browse), b.bulk(4, 0)...)
}

func l4s(b *bench) []traffic.Group {
	groups := append(b.probes(), b.bulk(2, 0)...)
	for i := range groups {
		if groups[i].Kind == traffic.TCPBulk {
			groups[i].Congestion = "dctcp"
		}
	}
	return groups
}
