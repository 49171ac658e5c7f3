package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"kiloport/bench/host"
	"kiloport/bench/netlab"
	"kiloport/bench/netlab/capture"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/tunnels"
)

func init() { register(newDemo) }

// demoOptions are the flags of the demonstration.
type demoOptions struct {
	kiloport string
	flows    int
	seconds  int
	ports    int
	ipv4     bool
	latency  bool
}

func newDemo() *cobra.Command {
	var o demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run hundreds of flows between two sites and show what the wire saw",
		Long: `Demo makes two sites with a router between them out of network namespaces,
brings kiloport up on both, sends hundreds of flows through the tunnel, watches
the wire at the router, and says what it saw. It fails if that is not what
kiloport promises: an outer flow for every inner flow, and no packet lost,
doubled or out of order. Last it shows what a sparse flow feels of a full line,
with 1 port and with 1024, where gateways with fq_codel can be had: on this
machine's kernel, or in the lab kernel if that has been built.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), o.bound())
			defer cancel()
			return runDemo(ctx, o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.kiloport, "kiloport", "bin/kiloport", "the binary to show")
	flags.IntVar(&o.flows, "flows", 500, "TCP and UDP flows at the same time, 4 to 2000")
	flags.IntVar(&o.seconds, "seconds", 5, "how long they talk, 1 to 60")
	flags.IntVar(&o.ports, "ports", 1024, "source ports of each kiloport")
	flags.BoolVar(&o.ipv4, "ipv4", false, "an outer path of IPv4, which has no flow labels, instead of IPv6")
	flags.BoolVar(&o.latency, "latency", true, "show the latency under load, too: half a minute more")
	return cmd
}

func (o *demoOptions) check() error {
	switch {
	case o.flows < 4 || o.flows > 2000:
		return fmt.Errorf("--flows %d is not within 4 to 2000", o.flows)
	case o.seconds < 1 || o.seconds > 60:
		return fmt.Errorf("--seconds %d is not within 1 to 60", o.seconds)
	case o.flows+demoPings > o.ports:
		return fmt.Errorf("--flows %d and %d pings do not fit in --ports %d", o.flows, demoPings, o.ports)
	}
	o.kiloport = absolute(o.kiloport)
	return tunnels.Installed(tunnelKiloport, tunnels.Binaries{Kiloport: o.kiloport})
}

// bound is when the demonstration can only have got stuck.
func (o *demoOptions) bound() time.Duration {
	bound := 2*time.Minute + 2*time.Duration(o.seconds)*time.Second
	if o.latency {
		bound += 5 * time.Minute // on a machine that is busy
	}
	return bound
}

// Sizes of the demonstration.
const (
	demoPings     = 2
	demoProbes    = 100
	demoBulkFlows = 4
	demoInterval  = 100 * time.Millisecond
	demoPingPort  = 5202 // of the ping's own pair of processes; the flows have traffic's
)

// A demo is a running demonstration.
type demo struct {
	options  demoOptions
	out      io.Writer
	progress io.Writer
	reporter *host.Reporter // to progress
	tunnel   *tunnels.Tunnel
}

func runDemo(ctx context.Context, o demoOptions, out, progress io.Writer) error {
	if err := tunnels.Supported(ctx, tunnelKiloport); err != nil {
		return err
	}
	d := &demo{options: o, out: out, progress: progress, reporter: host.NewReporter(progress, "demo")}
	defer d.reporter.Close()
	if err := d.showFlows(ctx); err != nil || !o.latency {
		return err
	}
	return d.latency(ctx)
}

// showFlows is the first part: hundreds of flows, and what the wire saw.
func (d *demo) showFlows(ctx context.Context) (err error) {
	o, out := d.options, d.out
	sites, err := netlab.NewSites(ctx, netlab.SitesConfig{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sites.Close()) }()
	family := "IPv6"
	if o.ipv4 {
		family = "IPv4"
	}
	fmt.Fprintf(out, "Two sites in network namespaces, a router between them, %s outside, kiloport on both.\n\n", family)
	bare, err := d.idle(ctx, sites.A.End(), sites.B.End(), d.outer(sites))
	if err != nil {
		return err
	}
	k := tunnels.Kiloport{Binary: o.kiloport, Settings: []string{fmt.Sprintf("Ports = %d", o.ports)}}
	if d.tunnel, err = tunnels.Start(ctx, sites, k, k, tunnels.Config{IPv6: !o.ipv4}); err != nil {
		return err
	}
	if err := d.tunnel.AwaitLanes(ctx, o.kiloport); err != nil {
		return err
	}
	return errors.Join(d.spread(ctx), d.roundTrips(ctx, bare))
}

func (d *demo) outer(s *netlab.Sites) netip.Addr {
	if d.options.ipv4 {
		return s.B.Addr4
	}
	return s.B.Addr6
}

// idle measures round trips by ping while nothing else is on the path.
func (d *demo) idle(ctx context.Context, from, to *netlab.Node, addr netip.Addr) (traffic.RTT, error) {
	r, err := traffic.Between(ctx, from, to, traffic.Plan{
		IdleProbes: demoProbes, Groups: []traffic.Group{{Kind: traffic.ICMPEcho, Count: 1, To: addr}},
	})
	if err != nil {
		return traffic.RTT{}, err
	}
	return r.Idle, r.Check()
}

// flowsPlan is the given number of TCP and UDP flows, over IPv4 and IPv6, and
// pings beside, with a roll call to tell them apart outside.
func flowsPlan(t *tunnels.Tunnel, flows int, duration, interval time.Duration) traffic.Plan {
	v4, v6 := t.B.Site.Inner4(1).Addr(), t.B.Site.Inner6(1).Addr()
	quarter := flows / 4
	return traffic.Plan{
		Duration: duration, RollCall: true,
		Groups: []traffic.Group{
			{Kind: traffic.TCPEcho, Count: quarter, To: v4, Interval: interval},
			{Kind: traffic.TCPEcho, Count: quarter, To: v6, Interval: interval},
			{Kind: traffic.UDPEcho, Count: quarter, To: v4, Interval: interval},
			{Kind: traffic.UDPEcho, Count: flows - 3*quarter, To: v6, Interval: interval},
			{Kind: traffic.ICMPEcho, Count: demoPings / 2, To: v4, Interval: interval},
			{Kind: traffic.ICMPEcho, Count: demoPings - demoPings/2, To: v6, Interval: interval},
		},
	}
}

// An observation is what became of a plan inside the tunnel, and what the router
// saw of it outside.
type observation struct {
	result   *traffic.Result
	wire     *capture.Report
	up, down []lane
}

// observe runs a plan through the tunnel while a capture watches the router's
// interface towards site A.
func observe(ctx context.Context, t *tunnels.Tunnel, plan traffic.Plan) (*observation, error) {
	return observeCalls(ctx, t, plan, func(all []traffic.RollCall) []traffic.RollCall { return all })
}

// observeCalls looks only at those turns of the roll call that are chosen.
func observeCalls(ctx context.Context, t *tunnels.Tunnel, plan traffic.Plan, choose func(all []traffic.RollCall) []traffic.RollCall) (*observation, error) {
	tap := newWiretap()
	c, err := capture.Start(t.Sites.Router, t.Sites.A.RouterDev, capture.Config{OnPacket: tap.packet})
	if err != nil {
		return nil, err
	}
	o := &observation{}
	o.result, err = traffic.Between(ctx, t.A.Site.End(), t.B.Site.End(), plan)
	wire, stopErr := c.Stop()
	if err := errors.Join(err, stopErr); err != nil {
		return nil, err
	}
	if wire.KernelDrops > 0 {
		return nil, fmt.Errorf("the capture missed %d packets; the machine is too busy to say what was on the wire", wire.KernelDrops)
	}
	o.wire = wire
	if err := o.result.Check(); err != nil {
		return o, fmt.Errorf("traffic through the tunnel: %w%s", err, t.Unread())
	}
	calls := choose(o.result.RollCalls)
	if o.up, err = tap.lanes(calls, &t.A); err != nil {
		return o, fmt.Errorf("from site A: %w", err)
	}
	if o.down, err = tap.lanes(calls, &t.B); err != nil {
		return o, fmt.Errorf("from site B: %w", err)
	}
	return o, nil
}

// spread shows which outer flows hundreds of inner flows take.
func (d *demo) spread(ctx context.Context) error {
	o, t := d.options, d.tunnel
	d.reporter.Step(fmt.Sprintf("%d flows talk for %d s, and tell the router who they are", o.flows+demoPings, o.seconds))
	seen, err := observe(ctx, t, flowsPlan(t, o.flows, time.Duration(o.seconds)*time.Second, demoInterval))
	if err != nil {
		return err
	}
	peer, err := d.peer(ctx)
	if err != nil {
		return err
	}
	up, down := spread(seen.up), spread(seen.down)
	total := seen.result.Total()
	d.line("flows inside the tunnel", "%d: %d TCP and UDP, half IPv4, half IPv6, and %d pings", total.Flows, o.flows, demoPings)
	d.line("outer flows on the wire", "%d from site A, %d from site B (different 5-tuples in a capture at the router)", up.Tuples, down.Tuples)
	d.line("source ports", "%d and %d different", up.Ports, down.Ports)
	if !o.ipv4 {
		d.line("flow labels", "%d and %d different, none zero on %d and %d flows", up.Labels, down.Labels, up.Flows-up.Unlabelled, down.Flows-down.Unlabelled)
	}
	d.line("an outer flow of its own", "%d of %d flows one way, %d of %d the other (told apart by packet length)", up.Alone, up.Flows, down.Alone, down.Flows)
	d.line("kiloport show", "%d of %d lanes in use, %d shared, %d flows had to move", peer.Lanes.InUse, peer.Lanes.Agreed, peer.Lanes.Shared, peer.Lanes.Moved)
	d.line("datagrams and messages", "%d sent, none lost, doubled or out of order in its flow", total.Up.Sent+total.Down.Sent)
	if err := errors.Join(up.check(t.IPv6()), down.check(t.IPv6())); err != nil {
		return err
	}
	if peer.Lanes.InUse < up.Tuples {
		return fmt.Errorf("kiloport show knows of %d lanes in use, but the capture saw %d", peer.Lanes.InUse, up.Tuples)
	}
	return nil
}

func (d *demo) peer(ctx context.Context) (*tunnels.PeerStatus, error) {
	s, err := tunnels.Show(ctx, d.tunnel.A.Site.Node, d.options.kiloport, d.tunnel.A.Dev)
	if err != nil {
		return nil, err
	}
	return s.Peer()
}

// roundTrips shows throughput, and what a ping feels of it.
func (d *demo) roundTrips(ctx context.Context, bare traffic.RTT) error {
	d.reporter.Step(fmt.Sprintf("%d TCP flows fill the tunnel", demoBulkFlows))
	a, b := d.tunnel.A.Site.End(), d.tunnel.B.Site.End()
	to := d.tunnel.B.Site.Inner4(1).Addr()
	idle, err := d.idle(ctx, a, b, to)
	if err != nil {
		return err
	}
	// The ping has a process of its own, so that it does not wait behind what the
	// flows' have to do, and that waits for no processor.
	duration := time.Duration(max(1, d.options.seconds/2)) * time.Second
	var pings *traffic.Result
	pinged := make(chan error, 1)
	go func() {
		var err error
		pings, err = traffic.Between(ctx, a, b, traffic.Plan{
			Duration: duration, Port: demoPingPort, Prompt: true,
			Groups: []traffic.Group{{Kind: traffic.ICMPEcho, Count: 1, To: to, Interval: 20 * time.Millisecond}},
		})
		pinged <- err
	}()
	r, err := traffic.Between(ctx, a, b, traffic.Plan{
		Duration: duration, Linger: 10 * time.Second,
		Groups: []traffic.Group{{Kind: traffic.TCPBulk, Count: demoBulkFlows, To: to}},
	})
	if err := errors.Join(err, <-pinged); err != nil {
		return err
	}
	bulk, ping := r.Groups[0], pings.Groups[0]
	d.line("throughput", "%.0f Mbit/s with %d TCP flows one way, all of this on one machine", bulk.Goodput/1e6, demoBulkFlows)
	d.line("ping without tunnel", "%s", describe(bare))
	d.line("ping through the tunnel", "%s", describe(idle))
	d.line("ping beside the TCP flows", "%s, %d of %d answered", describe(ping.RTT), ping.Down.Received, ping.Down.Sent)
	if bulk.Failed > 0 {
		return fmt.Errorf("throughput: %w", r.Check())
	}
	return nil
}

func describe(r traffic.RTT) string {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return fmt.Sprintf("median %.2f ms, worst %.2f ms", ms(r.Median), ms(r.Worst))
}

func (d *demo) line(what, format string, args ...any) {
	d.reporter.Step("")
	fmt.Fprintf(d.out, "  %-26s %s\n", what, fmt.Sprintf(format, args...))
}
