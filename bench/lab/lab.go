// Package lab runs experiments: one scenario, through one tunnel, over one path,
// once, and puts down what was measured in the words of package report.
//
// Start with [Experiment] and its Run, which works in whatever kernel it is
// called in: in the lab kernel, where the clock is virtual and all figures repeat,
// or on a machine's own. [Scenarios] lists what can be run; a new scenario is an
// entry there, with a function that says which flows it has.
//
// Scenarios that say RealTime measure processors rather than queues: what a
// tunnel carries, what that costs, and how it behaves when there is too much. All
// senders and receivers share the processors with the daemons, so their figures
// are worth something beside those of another tunnel, measured in turn. All others
// measure queues, best in virtual time, where the processor costs nothing: figures
// then repeat, and say nothing of what a daemon can carry.
//
// What is subtracted, left out and counted is the same everywhere: probes begin
// before the load and tell the idle round trip; the first seconds of the load are
// in the series but not in the figures; rates count Ethernet frames. TCP flows that
// share a queue are chaotic: [Scenario.Repetitions] is for that.
//
// Limits: host A is always the client, but for loads in real time that are called
// down. Probes and flows inside the tunnel are IPv6, except through a tunnel that
// carries IPv4 alone.
package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/report"
	"kiloport/bench/tunnels"
)

// An Experiment is one repetition of one scenario through one tunnel. It is
// written as JSON to carry it into the lab kernel.
type Experiment struct {
	// Scenario is a name of [Scenarios], Tunnel one of [tunnels.Names].
	Scenario string `json:"scenario"`
	// Case is one of [Scenario.Cases], where there are any.
	Case   string `json:"case,omitempty"`
	Tunnel string `json:"tunnel"`
	// Settings are lines for the [Interface] section of kiloport's file.
	Settings []string    `json:"settings,omitempty"`
	Path     netlab.Path `json:"path"`
	// IPv4 makes the outer packets IPv4 instead of IPv6.
	IPv4 bool `json:"ipv4,omitempty"`
	// Load is how long the load lasts.
	Load time.Duration `json:"load_ns"`
	// Flows is how many flows there are, in scenarios that leave it open.
	Flows int `json:"flows,omitempty"`
	// Congestion is the congestion control of TCP flows, but for those of scenarios
	// that choose one; empty is the kernel's own.
	Congestion string `json:"congestion,omitempty"`
	// Repetition counts from 1.
	Repetition int `json:"repetition"`
	// Seed is what everything random is drawn with: in virtual time an experiment
	// with the same seed and the same programs is the same to the last digit.
	Seed uint64 `json:"seed"`
	// Binaries are the programs under test.
	Binaries tunnels.Binaries `json:"binaries"`
}

// warmUp is left out of the figures: bulk flows begin within half of it, and their
// slow starts are over by its end.
const warmUp = 2 * time.Second

// Patience of an experiment. Probes begin before the load, because one that has
// to start under overload gets its first packet through when that is over.
const (
	quiet     = 2 * time.Second // from the first probe to the load
	idleProbe = 20              // round trips that tell the base
	linger    = 5 * time.Second
	bin       = 200 * time.Millisecond
)

// Lasts is about how long the experiment takes, by the clock of the kernel that it
// runs in.
func (e *Experiment) Lasts() time.Duration {
	const setUp = 2 * time.Second
	s, ok := find(e.Scenario)
	if !ok || s.lasts == nil {
		return setUp + quiet + e.Load
	}
	return setUp + s.lasts(e)
}

// Virtual tells whether this kernel's clock moves only when everything sleeps.
func Virtual() bool {
	line, err := os.ReadFile("/proc/cmdline")
	return err == nil && strings.Contains(string(line), "time-travel")
}

// A StartError says that a tunnel or the network around it could not be set up, so
// that there is nothing to report, and probably will not be next time.
type StartError struct {
	// Tunnel is its name, Reason what went wrong.
	Tunnel, Reason string
}

// Error implements error.
func (e *StartError) Error() string {
	return fmt.Sprintf("set up the network and the tunnel %s: %s", e.Tunnel, e.Reason)
}

func (e *Experiment) startError(err error) error { return &StartError{e.Tunnel, err.Error()} }

// Failed is what to report of an experiment that could not be done.
func (e *Experiment) Failed(why error) *report.Run {
	s, ok := find(e.Scenario)
	if !ok {
		s = &Scenario{Name: e.Scenario}
	}
	run := e.describe(s)
	run.Error = why.Error()
	return run
}

// Run does the experiment. What the tunnel or the traffic did wrong is in the
// report's Error. An error means that there is nothing to report; it is a
// [*StartError] if it did not get so far that there was traffic.
func (e *Experiment) Run(ctx context.Context) (*report.Run, error) {
	s, ok := find(e.Scenario)
	if !ok {
		return nil, fmt.Errorf("there is no scenario %q: choose among %s", e.Scenario, strings.Join(Names(), ", "))
	}
	if err := s.check(e); err != nil {
		return nil, err
	}
	run := e.describe(s)
	err := e.measure(ctx, s, run)
	var start *StartError
	switch {
	case err == nil:
	case ctx.Err() != nil || errors.As(err, &start):
		return nil, err
	default:
		run.Error = err.Error()
	}
	return run, nil
}

// String names the experiment in a few words.
func (e *Experiment) String() string {
	return fmt.Sprintf("%s %s", e.scenarioName(), e.tunnelLabel())
}

// scenarioName is the scenario's with what else tells its experiments apart.
func (e *Experiment) scenarioName() string {
	name := e.Scenario
	if s, ok := find(e.Scenario); ok && s.Flows != 0 {
		name = fmt.Sprintf("%s %d", name, e.Flows)
	}
	if e.Case != "" {
		name += " " + e.Case
	}
	return name
}

func (e *Experiment) tunnelLabel() report.Tunnel {
	return report.Tunnel{Name: e.Tunnel, Flags: e.Settings}
}

// describe fills in what is known before the run.
func (e *Experiment) describe(s *Scenario) *report.Run {
	run := &report.Run{
		Scenario: e.scenarioName(), Title: s.Title, Repetition: e.Repetition,
		Seed: e.Seed, Tunnel: e.tunnelLabel(),
		Path: report.Path{
			UpMbit: float64(e.Path.RateUp) / 1e6, DownMbit: float64(e.Path.RateDown) / 1e6,
			Qdisc: e.Path.Qdisc.String(), RTTMs: milliseconds(e.Path.RTT),
			ECN: e.Path.Qdisc.ECN && s.ECN, MTU: e.Path.MTU, LossPercent: 100 * e.Path.Loss,
		},
		Duration: e.Load.Seconds(), Metrics: map[string]float64{},
	}
	if e.Path.Qdisc.Kind != netlab.KindCake {
		run.Path.BurstMs = milliseconds(e.Path.Burst)
	}
	if !s.RealTime {
		run.WarmUp = warmUp.Seconds()
	}
	return run
}

func (e *Experiment) measure(ctx context.Context, s *Scenario, run *report.Run) (err error) {
	sites, err := e.build(ctx, s)
	if err != nil {
		return e.startError(err)
	}
	defer func() { err = errors.Join(err, sites.Close()) }()
	b := &bench{Experiment: e, scenario: s, sites: sites, run: run}
	if err := b.prepare(ctx); err != nil {
		return e.startError(err)
	}
	if s.custom != nil {
		return s.custom(ctx, b)
	}
	return b.traffic(ctx, s.groups(b))
}

// build makes the network.
func (e *Experiment) build(ctx context.Context, s *Scenario) (*netlab.Sites, error) {
	if s.RealTime {
		return netlab.NewSites(ctx, netlab.SitesConfig{Offload: true})
	}
	return netlab.NewPath(ctx, e.Path)
}

// A bench is an experiment with its network in place.
type bench struct {
	*Experiment
	scenario *Scenario
	sites    *netlab.Sites
	run      *report.Run
	tunnel   *tunnels.Tunnel // nil without one
	loadFrom time.Time       // when the load of traffic began
}

// to is the address of host B that the flows go to.
func (b *bench) to() netip.Addr {
	if tunnels.OnlyIPv4(b.Tunnel) {
		return b.sites.B.Inner4(2).Addr()
	}
	return b.sites.B.Inner6(2).Addr()
}

// kiloport is the binary if it is kiloport that is measured.
func (b *bench) kiloport() (string, bool) {
	return b.Binaries.Kiloport, tunnels.Lanes(b.Tunnel)
}

// prepare joins the two sites.
func (b *bench) prepare(ctx context.Context) error {
	ecn := "0"
	if b.scenario.ECN {
		ecn = "1"
	}
	for _, host := range []*netlab.Node{b.sites.A.End(), b.sites.B.End()} {
		if err := host.Sysctl("net/ipv4/tcp_ecn", ecn); err != nil {
			return err
		}
		// What one run learned of the path must not help the next.
		if err := host.Sysctl("net/ipv4/tcp_no_metrics_save", "1"); err != nil {
			return err
		}
		if err := b.congest(host); err != nil {
			return err
		}
	}
	atA, atB, err := tunnels.Ends(b.Tunnel, b.Binaries, b.Settings)
	if err != nil {
		return err
	}
	if atA == nil {
		return b.native()
	}
	if b.run.Tunnel.Version, err = atA.Version(ctx); err != nil {
		return err
	}
	if b.tunnel, err = tunnels.Start(ctx, b.sites, atA, atB, tunnels.Config{IPv6: !b.IPv4}); err != nil {
		return err
	}
	if binary, ok := b.kiloport(); ok {
		return b.tunnel.AwaitLanes(ctx, binary)
	}
	return nil
}

// congest gives a host its congestion control.
func (b *bench) congest(host *netlab.Node) error {
	if b.Congestion == "" {
		return nil
	}
	err := host.Sysctl("net/ipv4/tcp_congestion_control", b.Congestion)
	if err != nil {
		// Nothing is known where this cannot be read.
		known, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
		err = fmt.Errorf("%w: choose another --congestion; this kernel has %s", err, strings.TrimSpace(string(known)))
	}
	return err
}

// native joins the sites' networks without a tunnel. Sites that have no hosts
// reach each other as they are.
func (b *bench) native() error {
	if b.scenario.RealTime {
		return nil
	}
	return b.sites.RouteNative()
}

// traffic runs groups of flows while the gateways and the lanes are watched.
func (b *bench) traffic(ctx context.Context, groups []traffic.Group) error {
	plan := traffic.Plan{
		Groups: groups, Duration: quiet + b.Load, Linger: linger, IdleProbes: idleProbe,
		Series: true, Bin: bin, Abandon: true, Virtual: Virtual(),
		Stagger: min(warmUp, b.Load) / 2, Seed: b.Seed,
	}
	w := b.watch(ctx)
	result, err := traffic.Between(ctx, b.sites.A.Host, b.sites.B.Host, plan)
	watched, watchErr := w.stop()
	if err := errors.Join(err, watchErr); err != nil {
		return err
	}
	b.loadFrom = result.LoadFrom.Add(quiet)
	b.put(result, groups)
	watched.put(b.run, b.loadFrom)
	watched.lineUsed(b.run, b.loadFrom, b.Path.RateUp)
	return errors.Join(failed(result), b.putDrops(ctx))
}

// failed names the first flow that did not run. Losses are no failure here.
func failed(r *traffic.Result) error {
	for _, f := range r.Flows {
		if f.Error != "" {
			return fmt.Errorf("flow %d (%s): %s", f.ID, f.Kind, f.Error)
		}
	}
	return nil
}

// Environment describes the kernel that the caller runs in.
func Environment(kernelOf string) report.Environment {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease") // empty where there is no /proc
	return report.Environment{
		Kernel: strings.TrimSpace(string(release)), KernelOf: kernelOf, Virtual: Virtual(),
		CPU: processor(), Cores: runtime.NumCPU(), Go: runtime.Version(),
	}
}

// processor is the name of this machine's processor, empty where it has none.
func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	_, name, _ := strings.Cut(lineOf(string(info), "model name"), ":")
	return strings.TrimSpace(name)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
