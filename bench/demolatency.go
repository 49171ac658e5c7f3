package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"kiloport/bench/lab"
	"kiloport/bench/labkernel"
	"kiloport/bench/netlab"
	"kiloport/bench/report"
	"kiloport/bench/tunnels"
)

// The load of the demonstration's last part: short, because it only shows.
const (
	demoLoad = 5 * time.Second
	demoRate = 20e6 // bit/s
	demoRTT  = 20 * time.Millisecond
)

// demoTunnels are set side by side.
var demoTunnels = []struct{ name, head string }{{"kiloport-1port", "with 1 port"}, {tunnelKiloport, "with 1024 ports"}}

// latency shows what a sparse flow feels of a full line, with one port and with
// many: in this kernel if it has the queues that gateways have, else in the lab
// kernel if that has been built.
func (d *demo) latency(ctx context.Context) error {
	plan := demoPlan(d.options.kiloport)
	var do runner
	jobs, where := len(plan), ""
	missing := netlab.Missing(plan[0].Path)
	var lacks *netlab.MissingError
	switch kernel, built := labkernel.Built(); {
	case missing == nil:
		// In turn, or they would share the processors.
		do, jobs, where = here, 1, "this kernel, in real time"
	case !errors.As(missing, &lacks):
		return missing
	case built:
		do, where = inLabKernel(kernel).run, "the lab kernel, Linux "+kernel.Manifest.Release+" in virtual time"
	default:
		d.line("latency under load", "not shown: %v", missing)
		d.line("", "`make bench` builds the lab kernel, once (7 minutes), and measures it")
		return nil
	}
	p := newRunProgress(d.progress, "latency under load", plan)
	p.quiet = true
	runs, err := runAll(ctx, plan, jobs, do, p)
	p.close()
	if err != nil {
		return err
	}
	if err := brokenRuns(runs); err != nil {
		return err
	}
	return d.sideBySide(where, runs)
}

// demoPlan has an experiment for each of demoTunnels.
func demoPlan(kiloport string) (plan []lab.Experiment) {
	for _, t := range demoTunnels {
		plan = append(plan, lab.Experiment{
			Scenario: "rrul_be", Tunnel: t.name, Load: demoLoad, Repetition: 1, Binaries: tunnels.Binaries{Kiloport: kiloport},
			Path: netlab.Path{RateUp: demoRate, RateDown: demoRate, RTT: demoRTT, Burst: netlab.ShaperBurst, Qdisc: netlab.Qdisc{Kind: netlab.KindFQCodel}},
		})
	}
	return plan
}

// sideBySide prints what the runs of demoTunnels felt.
func (d *demo) sideBySide(where string, runs []report.Run) error {
	fmt.Fprintf(d.out, "\nWhat a sparse flow feels beside 4 TCP flows each way that fill a line of %.0f Mbit/s\nbetween fq_codel gateways (%s):\n\n", demoRate/1e6, where)
	t := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	rows := [][]string{{""}, {"added to the round trip, median"}, {"99th percentile"}, {"worst"}, {"probes lost"}, {"goodput up and down, Mbit/s"}}
	for i := range runs {
		l, err := report.Induced(runs[i])
		if err != nil {
			return err
		}
		figures := report.Figures(runs[i])
		for row, cell := range []string{
			demoTunnels[i].head, added(l.Median()), added(l.P99()), added(l.Worst()), fmt.Sprintf("%d of %d", l.Lost, l.Sent),
			fmt.Sprintf("%.1f, %.1f", figures[report.MetricGoodputUp], figures[report.MetricGoodputDown]),
		} {
			rows[row] = append(rows[row], cell)
		}
	}
	for _, row := range rows {
		fmt.Fprint(t, "  ")
		for _, cell := range row {
			fmt.Fprint(t, cell, "\t")
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

// added is a time in ms that was added to another.
func added(ms float64) string { return fmt.Sprintf("+%.1f ms", ms) }
