package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kiloport/bench/lab"
	"kiloport/bench/labkernel"
	"kiloport/bench/netlab"
	"kiloport/bench/report"
	"kiloport/bench/stockkernel"
	"kiloport/bench/tunnels"
)

func init() { register(newRun) }

// runOptions are the flags of `bench run`.
type runOptions struct {
	tunnels []string
	// tunnelsNamed says that somebody asked for these tunnels.
	tunnelsNamed bool
	rates        []string
	rtt          time.Duration
	qdisc        string
	congestion   string
	ecn, ipv4    bool
	mtu          int
	loss         float64
	burst        time.Duration
	flows        []int
	ports        []int
	cases        []string
	settings     []string
	repeat       int
	seed         uint64
	seedDrawn    bool // nobody gave it
	seconds      int
	jobs         int
	kernel       string
	real         bool // in real time, and unless a kernel is named, in this one
	baseline     string
	out          string
	kiloport     string
	wireguardGo  string
}

func newRun() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [SCENARIO…]",
		Short: "Measure tunnels behind real gateways, in virtual time",
		Long: `Run lays out host – tunnel – gateway – internet – gateway – tunnel – host, runs
scenarios through each tunnel over each path, and writes report.json, a page and
plots. By default this happens in the lab kernel: Linux with fq_codel, cake and
netem in virtual time, where the processor costs nothing and figures repeat
whatever else the machine does. With --real it happens in this machine's kernel,
tunnels in turn, and ratios to one of them say more than the figures. Scenarios
"in real time" always do so, without a bottleneck or a delay.

With --kernel stock it happens in Debian's kernel in QEMU, in real time, too. Where
KVM does not work, the processor there is an emulated one: what runs is what users
run, but its clock is uneven, and all figures are more the emulation's than the
tunnels'.

Scenarios, with how often each is done and for how long:
` + scenarioHelp(),
		ValidArgs: lab.Names(),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.tunnelsNamed = cmd.Flags().Changed("tunnels")
			o.chooseSeed(rand.Uint32)
			plan, err := o.plan(args)
			if err != nil {
				return err
			}
			return runPlan(cmd.Context(), &o, plan, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.flags(cmd)
	return cmd
}

func (o *runOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&o.tunnels, "tunnels", []string{"none", "kiloport", "kernel-wireguard", "wireguard-go"}, "which, of "+strings.Join(tunnels.Names, ", ")+", or two ends such as \"kiloport>wireguard-go\"; of the default, what this machine cannot run is left out")
	f.StringSliceVar(&o.rates, "rates", []string{"20"}, "bottlenecks in Mbit/s, both ways or UP/DOWN, 0 for none")
	f.DurationVar(&o.rtt, "rtt", 20*time.Millisecond, "round-trip time of the idle path")
	f.DurationVar(&o.burst, "burst", netlab.ShaperBurst, "what a bottleneck saves up of its rate while it has nothing to send, but for cake; 0 makes it a wire")
	f.StringVar(&o.qdisc, "qdisc", netlab.KindFQCodel, "the gateways' queue: fq_codel, cake, codel, pfifo, fq_pie, …")
	f.BoolVar(&o.ecn, "ecn", false, "gateways mark instead of dropping, in every scenario")
	f.BoolVar(&o.ipv4, "ipv4", false, "outer packets are IPv4")
	f.IntVar(&o.mtu, "mtu", 0, "MTU of the path in bytes, 0 means 1500")
	f.Float64Var(&o.loss, "loss", 0, "share of packets that the internet loses each way, 0 to 1")
	f.StringVar(&o.congestion, "congestion", linuxCongestion, "congestion control of TCP flows, whatever this machine has by default")
	f.IntSliceVar(&o.flows, "flows", nil, "how many flows, in scenarios that leave it open, 1 to 2000")
	f.IntSliceVar(&o.ports, "ports", nil, "kiloport with pools of these sizes, such as 1,16,64,256,1024,4096")
	f.StringSliceVar(&o.cases, "cases", nil, `some of the loads of scenarios in real time, such as "tcp 8 up" (default all)`)
	f.StringArrayVar(&o.settings, "set", nil, `a line for the [Interface] section of kiloport's file, such as "Ports = 64"`)
	f.IntVar(&o.repeat, "repeat", 0, "repetitions, 0 means what the scenario needs to tell a difference from chance")
	f.Uint64Var(&o.seed, "seed", 1, "what decides everything random in the first repetition, in each of the others the next number; in virtual time the same makes the same report, and 0 means another one each time, which the report tells")
	f.IntVar(&o.seconds, "seconds", 0, "length of the load, 0 means what the scenario needs")
	f.IntVar(&o.jobs, "jobs", runtime.NumCPU(), "lab kernels at the same time")
	f.StringVar(&o.kernel, "kernel", kernelLab, "where: "+kernelLab+" or "+kernelStock)
	f.BoolVar(&o.real, "real", false, "in this machine's kernel, in real time")
	f.StringVar(&o.baseline, "baseline", "", "print ratios to this tunnel (default in real time: wireguard-go, if it is measured)")
	f.StringVar(&o.out, "out", "", "folder of the report (default bench/results/ and the time)")
	f.StringVar(&o.kiloport, "kiloport", "bin/kiloport", "the kiloport to measure")
	f.StringVar(&o.wireguardGo, "wireguard-go", "bin/wireguard-go", "the wireguard-go to measure")
}

func scenarioHelp() string {
	var b strings.Builder
	for _, s := range lab.Scenarios {
		fmt.Fprintf(&b, "  %-10s %d × %-5v  %s\n", s.Name, s.Repetitions, s.Load, s.Title)
	}
	return b.String()
}

// runPlan does all experiments and writes the report.
func runPlan(ctx context.Context, o *runOptions, plan []lab.Experiment, out, progress io.Writer) error {
	plan, err := o.preflight(ctx, plan, progress)
	if err != nil {
		return err
	}
	dir := o.folder()
	release, err := reserve(dir)
	if err != nil {
		return err
	}
	defer release()
	doc, err := o.measure(ctx, plan, progress)
	if err != nil {
		return err
	}
	if err := report.Write(doc, dir); err != nil {
		return err
	}
	writeSummary(out, doc.Runs)
	if base := o.base(); base != "" {
		writeRatios(out, doc.Runs, base)
	}
	fmt.Fprintf(out, "\n%s\n", filepath.Join(dir, "index.html"))
	return brokenRuns(doc.Runs)
}

// folder is where the report goes.
func (o *runOptions) folder() string {
	if o.out != "" {
		return o.out
	}
	return filepath.Join("bench", "results", time.Now().Format("2006-01-02-150405"))
}

// measure does all experiments.
func (o *runOptions) measure(ctx context.Context, plan []lab.Experiment, progress io.Writer) (*report.Document, error) {
	do, environment, err := o.runner(ctx, progress)
	if err != nil {
		return nil, err
	}
	p := newRunProgress(progress, "bench run", plan)
	defer p.close()
	runs, err := runAll(ctx, plan, o.parallel(), do, p)
	if err != nil {
		return nil, err
	}
	p.reporter.Say("writing the report")
	doc := &report.Document{
		Created: time.Now().UTC().Truncate(time.Second), Command: o.command(os.Args[1:]),
		Environment: environment(), Runs: runs,
	}
	doc.Environment.Kiloport = kiloportVersion(runs)
	return doc, nil
}

// chooseSeed draws a seed where another one each time is asked for.
func (o *runOptions) chooseSeed(random func() uint32) {
	if o.seed == 0 {
		o.seed, o.seedDrawn = max(1, uint64(random())), true
	}
}

// command is the command line that makes the same report again.
func (o *runOptions) command(args []string) []string {
	line := append([]string{"bench"}, args...)
	if o.seedDrawn {
		line = append(line, "--seed", strconv.FormatUint(o.seed, 10))
	}
	return line
}

// kiloportVersion is that of the kiloport that was measured, empty if none was.
func kiloportVersion(runs []report.Run) string {
	for i := range runs {
		if t := &runs[i].Tunnel; strings.HasPrefix(t.Name, tunnelKiloport) && t.Version != "" {
			return strings.TrimPrefix(t.Version, tunnelKiloport+" ")
		}
	}
	return ""
}

func (o *runOptions) parallel() int {
	if o.real {
		return 1
	}
	return max(1, o.jobs)
}

// base is the tunnel that the others are compared with, empty for none.
func (o *runOptions) base() string {
	const usual = "wireguard-go"
	if o.baseline == "" && o.real && slices.Contains(o.tunnels, usual) {
		return usual
	}
	return o.baseline
}

func brokenRuns(runs []report.Run) error {
	var errs []error
	for i := range runs {
		if r := &runs[i]; r.Error != "" {
			errs = append(errs, fmt.Errorf("%s, %s, %s, repetition %d: %s", r.Scenario, r.Tunnel, r.Path, r.Repetition, r.Error))
		}
	}
	return errors.Join(errs...)
}

// Kernels that --kernel knows.
const (
	kernelLab   = "lab"
	kernelStock = "stock"
)

// chooseKernel checks what --kernel names. The stock kernel knows real time only.
func (o *runOptions) chooseKernel() error {
	switch {
	case o.kernel == "" || o.kernel == kernelLab:
		return nil
	case o.kernel != kernelStock:
		return fmt.Errorf("--kernel %s: there are %s and %s, and this machine's with --real", o.kernel, kernelLab, kernelStock)
	case o.real:
		return errors.New("--real is this machine's kernel, --kernel stock another one: leave out one of them")
	}
	o.real = true
	return nil
}

// runner chooses where experiments are done.
func (o *runOptions) runner(ctx context.Context, progress io.Writer) (runner, func() report.Environment, error) {
	switch {
	case o.kernel == kernelStock:
		return stockRunner(ctx, progress)
	case o.real:
		return here, func() report.Environment { return lab.Environment(report.KernelHere) }, nil
	}
	k, err := labkernel.Ensure(ctx, progress)
	if err != nil {
		return nil, nil, err
	}
	environment := func() report.Environment {
		e := environmentOf(report.KernelLab, k.Manifest.Release)
		e.Virtual = true
		return e
	}
	return inLabKernel(k).run, environment, nil
}

// stockRunner does experiments in the stock kernel. What executed it is known when
// one has been done.
func stockRunner(ctx context.Context, progress io.Writer) (runner, func() report.Environment, error) {
	k, err := stockkernel.Ensure(ctx, progress)
	if err != nil {
		return nil, nil, err
	}
	environment := func() report.Environment {
		of := report.KernelStock
		if k.Accelerator() == stockkernel.TCG {
			of = report.KernelEmulated
		}
		return environmentOf(of, k.Manifest.Release)
	}
	return inStockKernel(k).run, environment, nil
}

// environmentOf describes a kernel that boots for one experiment on this machine.
func environmentOf(kernelOf, release string) report.Environment {
	e := lab.Environment(kernelOf)
	e.Kernel, e.Cores = release, 1
	return e
}
