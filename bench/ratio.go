package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"kiloport/bench/lab"
	"kiloport/bench/report"
)

// ratioColumns are the figures of which a ratio to another tunnel says something.
var ratioColumns = []struct{ metric, head string }{
	{report.MetricGoodputUp, "goodput up"},
	{report.MetricGoodputDown, "goodput down"},
	{lab.MetricPackets, "packets/s"},
	{lab.MetricCPUPerGB, "CPU per GB"},
	{lab.MetricCPUPerPacket, "CPU per packet"},
	{lab.MetricMemoryA, "memory A"},
	{lab.MetricMemoryB, "memory B"},
	{lab.MetricProbeMedian, "probe median"},
	{lab.MetricProbeP99, "probe p99"},
}

// A ratio compares a figure of one tunnel with that of another.
type ratio struct {
	// ofMedians is the ratio of the medians over the repetitions.
	ofMedians float64
	// least and most are of the ratios within one repetition, whose runs
	// followed each other: what else the machine did meets both sides of it.
	least, most float64
}

// ratioOf compares figures by repetition, ok if both tunnels have some and none
// of the base is 0.
func ratioOf(figures, base map[int]float64) (r ratio, ok bool) {
	var values, bases, pairs []float64
	for repetition, b := range base {
		if b == 0 {
			return r, false
		}
		bases = append(bases, b)
		if v, both := figures[repetition]; both {
			pairs = append(pairs, v/b)
		}
	}
	for _, v := range figures {
		values = append(values, v)
	}
	if len(pairs) == 0 {
		return r, false
	}
	r.ofMedians = report.NewSpread(values).Median / report.NewSpread(bases).Median
	r.least, r.most = slices.Min(pairs), slices.Max(pairs)
	return r, true
}

func (r ratio) String() string {
	return fmt.Sprintf("%.2f (%.2f–%.2f)", r.ofMedians, r.least, r.most)
}

// A ratioRow is one tunnel in one scenario over one path.
type ratioRow struct {
	scenario string
	path     report.Path
	tunnel   report.Tunnel
	figures  map[string]map[int]float64 // by metric and repetition
}

// ratioRows sorts runs into rows, in the order of the runs.
func ratioRows(runs []report.Run) (rows []*ratioRow) {
	for i := range runs {
		r := &runs[i]
		row := findRow(rows, r.Scenario, r.Path, func(t report.Tunnel) bool { return t.String() == r.Tunnel.String() })
		if row == nil {
			row = &ratioRow{r.Scenario, r.Path, r.Tunnel, map[string]map[int]float64{}}
			rows = append(rows, row)
		}
		for metric, v := range report.Figures(*r) {
			if row.figures[metric] == nil {
				row.figures[metric] = map[int]float64{}
			}
			row.figures[metric][r.Repetition] = v
		}
	}
	return rows
}

// findRow is the first row of a scenario and path whose tunnel is right,
// nil if there is none.
func findRow(rows []*ratioRow, scenario string, path report.Path, right func(report.Tunnel) bool) *ratioRow {
	i := slices.IndexFunc(rows, func(r *ratioRow) bool { return r.scenario == scenario && r.path == path && right(r.tunnel) })
	if i < 0 {
		return nil
	}
	return rows[i]
}

// writeRatios prints how tunnels compare with the one whose name is base: a
// table for each scenario and path, a line for each of the scenario's cases.
func writeRatios(w io.Writer, runs []report.Run, base string) {
	rows := ratioRows(runs)
	for len(rows) > 0 {
		family, path := familyOf(rows[0].scenario), rows[0].path
		other := func(r *ratioRow) bool { return familyOf(r.scenario) != family || r.path != path }
		mine := slices.DeleteFunc(slices.Clone(rows), other)
		rows = slices.DeleteFunc(rows, func(r *ratioRow) bool { return !other(r) })
		fmt.Fprintf(w, "\n%s, %s: ratios to %s, of the medians (least to most within a repetition)\n", family, path, base)
		writeRatioTable(w, mine, base)
	}
}

// familyOf is the scenario's name without its case.
func familyOf(scenario string) string {
	first, _, _ := strings.Cut(scenario, " ")
	return first
}

func writeRatioTable(w io.Writer, rows []*ratioRow, base string) {
	columns := slices.DeleteFunc(slices.Clone(ratioColumns), func(c struct{ metric, head string }) bool {
		return !slices.ContainsFunc(rows, func(r *ratioRow) bool { return r.figures[c.metric] != nil })
	})
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "scenario\ttunnel\t")
	for _, c := range columns {
		fmt.Fprint(t, c.head, "\t")
	}
	fmt.Fprintln(t)
	for _, row := range rows {
		of := findRow(rows, row.scenario, row.path, func(t report.Tunnel) bool { return t.Name == base })
		if of == nil || of == row {
			continue
		}
		fmt.Fprint(t, row.scenario, "\t", row.tunnel.String(), "\t")
		for _, c := range columns {
			if r, ok := ratioOf(row.figures[c.metric], of.figures[c.metric]); ok {
				fmt.Fprint(t, r)
			}
			fmt.Fprint(t, "\t")
		}
		fmt.Fprintln(t)
	}
	t.Flush()
}
