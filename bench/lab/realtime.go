package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/report"
)

// Metrics of the scenarios in real time.
const (
	// MetricPackets counts UDP datagrams that arrived, or TCP segments that
	// were acknowledged, in every second of the load.
	MetricPackets = "delivered_packets_s"
	// MetricCPUPerGB is the processor time of both daemons for every 10⁹ bytes
	// of payload that arrived.
	MetricCPUPerGB = "daemons_cpu_per_gb_seconds"
	// MetricCPUPerPacket is that time for every datagram that arrived, or for
	// every segment that TCP sent, acknowledgements without data as well.
	MetricCPUPerPacket = "daemons_cpu_per_packet_us"
	// MetricMemoryA and MetricMemoryB are the most that a site's daemon had
	// resident at once, since it was started.
	MetricMemoryA = "daemon_a_memory_peak_mib"
	MetricMemoryB = "daemon_b_memory_peak_mib"
	// MetricProbeMedian and MetricProbeP99 are round trips under load.
	MetricProbeMedian = "probe_rtt_median_ms"
	MetricProbeP99    = "probe_rtt_p99_ms"
	// MetricAlone is the load's goodput without a probe beside it.
	MetricAlone = "goodput_alone_mbit_s"
)

// A loadCase is one of the loads that a scenario in real time has.
type loadCase struct {
	name string
	// groups lack the address that they go to.
	groups []traffic.Group
	// down makes site B the client.
	down bool
}

// throughputCases ask how much gets through, of the load that is easiest for a
// tunnel and of those that are hardest.
var throughputCases = []loadCase{
	{name: "tcp 1 up", groups: streams(1, 0)},
	{name: "tcp 8 up", groups: streams(8, 0)},
	{name: "tcp 64 both", groups: streams(32, 32)},
	{name: "tcp 1000 up", groups: streams(1000, 0)},
	{name: "udp 100 bytes 1 flow", groups: flood(1, 100)},
	{name: "udp 100 bytes 256 flows", groups: flood(256, 100)},
	{name: "udp 1380 bytes 1 flow", groups: flood(1, 1380)},
	{name: "udp 1380 bytes 256 flows", groups: flood(256, 1380)},
}

// overloadCases saturate a daemon, the sending or the receiving one.
var overloadCases = []loadCase{
	{name: "udp up", groups: flood(1, floodSize)},
	{name: "udp down", groups: flood(1, floodSize), down: true},
	{name: "tcp 8 up", groups: streams(8, 0)},
	{name: "tcp 8 down", groups: streams(8, 0), down: true},
	{name: "tcp 1000 up", groups: streams(1000, 0)},
	{name: "tcp 1000 down", groups: streams(1000, 0), down: true},
}

// floodSize is the payload of a flood's datagrams in bytes, where it is not said.
const floodSize = 1000

func streams(there, back int) (groups []traffic.Group) {
	if there > 0 {
		groups = append(groups, traffic.Group{Kind: traffic.TCPBulk, Count: there})
	}
	if back > 0 {
		groups = append(groups, traffic.Group{Kind: traffic.TCPBulk, Count: back, Down: true})
	}
	return groups
}

func flood(flows, size int) []traffic.Group {
	return []traffic.Group{{Kind: traffic.UDPStream, Count: flows, Size: size}}
}

// Cases are the names of the scenario's cases, of which an experiment does one;
// none if it has no such choice.
func (s *Scenario) Cases() (names []string) {
	for _, c := range s.cases {
		names = append(names, c.name)
	}
	return names
}

// check tells what hinders the experiment.
func (s *Scenario) check(e *Experiment) error {
	switch {
	case s.RealTime && Virtual():
		return fmt.Errorf("scenario %s measures processors, which cost nothing in virtual time: run it in another kernel", s.Name)
	case len(s.cases) == 0 && e.Case != "":
		return fmt.Errorf("scenario %s has no cases, so no %q", s.Name, e.Case)
	case len(s.cases) > 0 && !slices.Contains(s.Cases(), e.Case):
		return fmt.Errorf("scenario %s has no case %q: choose among %s", s.Name, e.Case, strings.Join(s.Cases(), ", "))
	}
	return nil
}

// load is the experiment's case.
func (b *bench) load() *loadCase {
	i := slices.IndexFunc(b.scenario.cases, func(c loadCase) bool { return c.name == b.Case })
	return &b.scenario.cases[i]
}

// end is where a site's applications are reached: through the tunnel if there is
// one.
func (b *bench) end(s *netlab.Site) netip.Addr {
	if b.tunnel == nil {
		return s.Addr4
	}
	return s.Inner4(1).Addr()
}

// fill runs a case's flows for a time.
func (b *bench) fill(ctx context.Context, c *loadCase, d time.Duration) (*filled, error) {
	client, server := b.sites.A, b.sites.B
	if c.down {
		client, server = server, client
	}
	groups := slices.Clone(c.groups)
	for i := range groups {
		groups[i].To = b.end(server)
	}
	r, err := traffic.Between(ctx, client.End(), server.End(), traffic.Plan{
		Groups: groups, Duration: d, Linger: linger, Abandon: true,
	})
	if err != nil {
		return nil, err
	}
	f := tally(r, c, d)
	if err := failed(r); err != nil {
		if f.starved*mostStarved > len(r.Flows) || !bulk(groups) {
			return nil, err
		}
		b.run.Notes = err.Error()
	}
	return f, nil
}

// mostStarved is how many flows there must be for one of them to get nothing
// through without the experiment being a failure.
const mostStarved = 10

func bulk(groups []traffic.Group) bool {
	return !slices.ContainsFunc(groups, func(g traffic.Group) bool { return g.Kind != traffic.TCPBulk })
}

// filled is what a load brought.
type filled struct {
	from, to time.Time
	load     time.Duration
	bytes    [2]uint64 // of payload that arrived, up and down
	packets  uint64
	carried  uint64 // packets, or, if the flows were TCP, all its segments, both ways
	sent     uint64 // datagrams, 0 if the flows were TCP
	dropped  uint64 // datagrams that a receiver was too slow for
	starved  int    // flows that failed, or brought nothing
}

func tally(r *traffic.Result, c *loadCase, d time.Duration) *filled {
	f := &filled{from: r.LoadFrom, to: r.LoadTo, load: d, dropped: r.SocketDrops}
	for i := range r.Flows {
		flow := &r.Flows[i]
		way, got := 0, flow.Up
		back := c.groups[flow.Group].Down
		if back {
			got = flow.Down
		}
		if back != c.down {
			way = 1
		}
		f.bytes[way] += got.Bytes
		if flow.Error != "" || got.Bytes == 0 {
			f.starved++
		}
		if flow.Kind == traffic.TCPBulk {
			if flow.TCP != nil {
				f.packets += uint64(flow.TCP.Delivered)
				f.carried += uint64(flow.TCP.SegmentsOut) + uint64(flow.TCP.SegmentsIn)
			}
			continue
		}
		f.packets += got.Received
		f.carried += got.Received
		f.sent += got.Sent
	}
	return f
}

// total is the goodput both ways in Mbit/s.
func (f *filled) total() float64 {
	return float64(f.bytes[0]+f.bytes[1]) * 8 / f.load.Seconds() / 1e6
}

func (f *filled) put(metrics map[string]float64) {
	for way, name := range []string{report.MetricGoodputUp, report.MetricGoodputDown} {
		if f.bytes[way] > 0 {
			metrics[name] = float64(f.bytes[way]) * 8 / f.load.Seconds() / 1e6
		}
	}
	metrics["flows_starved_count"] = float64(f.starved)
	metrics[MetricPackets] = float64(f.packets) / f.load.Seconds()
	if f.sent > 0 {
		metrics["flood_sent_packets_s"] = float64(f.sent) / f.load.Seconds()
		metrics["flood_lost_percent"] = 100 * float64(f.sent-min(f.sent, f.packets)) / float64(f.sent)
		metrics["receiver_dropped_count"] = float64(f.dropped)
	}
}

// throughput fills the tunnel and looks what arrives, and what it costs.
func throughput(ctx context.Context, b *bench) error {
	m, err := b.meter()
	if err != nil {
		return err
	}
	f, err := b.fill(ctx, b.load(), b.Load)
	if err != nil {
		return err
	}
	f.put(b.run.Metrics)
	return m.put(b.run.Metrics, f)
}

// Times of an overload.
const (
	rest      = 500 * time.Millisecond // between the load alone and the probe
	launch    = 2 * time.Second        // most that the load may take to begin
	probePort = 5202                   // the load has traffic's own
)

func overloadLasts(e *Experiment) time.Duration { return e.Load/2 + rest + quiet + launch + e.Load }

// overload saturates a daemon, first by the load alone and then with a probe
// beside it, which has begun before.
func overload(ctx context.Context, b *bench) error {
	alone, err := b.fill(ctx, b.load(), b.Load/2)
	if err != nil {
		return fmt.Errorf("the load alone: %w", err)
	}
	time.Sleep(rest)
	m, err := b.meter()
	if err != nil {
		return err
	}
	probes := b.probe(ctx)
	time.Sleep(quiet)
	f, err := b.fill(ctx, b.load(), b.Load)
	p := <-probes
	if err := errors.Join(err, p.err); err != nil {
		return err
	}
	f.put(b.run.Metrics)
	b.run.Metrics[MetricAlone] = alone.total()
	b.run.Metrics["goodput_kept_percent"] = 100 * f.total() / alone.total()
	if err := m.put(b.run.Metrics, f); err != nil {
		return err
	}
	return b.putProbe(p.result, f)
}

// A probed is what became of the probe.
type probed struct {
	result *traffic.Result
	err    error
}

// probe sends a datagram from A to B and back every 20 ms. It has processes of
// its own, so that it does not wait behind what the load's have to do, and they
// wait for no processor: that is how the tunnel is seen alone.
func (b *bench) probe(ctx context.Context) <-chan probed {
	done := make(chan probed, 1)
	plan := traffic.Plan{
		Groups:   []traffic.Group{{Kind: traffic.UDPEcho, Count: 1, To: b.end(b.sites.B), Interval: 20 * time.Millisecond, Size: probeSize}},
		Duration: quiet + launch + b.Load, Port: probePort, Series: true, Prompt: true,
	}
	go func() {
		r, err := traffic.Between(ctx, b.sites.A.End(), b.sites.B.End(), plan)
		if err == nil {
			err = failed(r)
		}
		if err != nil {
			err = fmt.Errorf("the probe: %w", err)
		}
		done <- probed{r, err}
	}()
	return done
}

// putProbe adds the probe's round trips, with times since the load.
func (b *bench) putProbe(r *traffic.Result, f *filled) error {
	if r.LoadFrom.After(f.from) || r.LoadTo.Before(f.to) {
		return errors.New("the probe did not last as long as the load: this machine is too busy to start a process in time")
	}
	s := report.Series{Name: report.ProbeName, Kind: report.KindRTT, Unit: report.UnitMs}
	before, returned := f.from.Sub(r.LoadFrom), false
	for _, p := range r.Flows[0].Series.Probes {
		at := p.At - before
		s.T = append(s.T, at.Seconds())
		s.V = append(s.V, probeValue(p))
		returned = returned || !p.Lost && at >= 0 && at <= b.Load
	}
	b.run.Series = append(b.run.Series, s)
	if !returned {
		b.run.Metrics[report.MetricLost] = 100
		return nil
	}
	l, err := report.Induced(*b.run)
	if err != nil {
		return err
	}
	b.run.Metrics[report.MetricBaseRTT] = l.Base
	b.run.Metrics[MetricProbeMedian] = l.Base + l.Median()
	b.run.Metrics[MetricProbeP99] = l.Base + l.P99()
	return nil
}
