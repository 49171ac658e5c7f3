package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"kiloport/bench/lab"
	"kiloport/bench/report"
)

// summaryColumns are the figures that the summary shows, of those that a run has.
var summaryColumns = []struct{ metric, head string }{
	{report.MetricInducedMedian, "median +ms"},
	{report.MetricInducedP99, "p99 +ms"},
	{report.MetricInducedWorst, "worst +ms"},
	{report.MetricLost, "lost %"},
	{report.MetricBaseRTT, "idle ms"},
	{report.MetricGoodputUp, "up Mbit/s"},
	{report.MetricGoodputDown, "down Mbit/s"},
	{lab.MetricAlone, "alone Mbit/s"},
	{lab.MetricPackets, "packets/s"},
	{lab.MetricCPUPerGB, "CPU s/GB"},
	{lab.MetricCPUPerPacket, "CPU us/packet"},
	{lab.MetricMemoryA, "A MiB"},
	{lab.MetricMemoryB, "B MiB"},
	{report.MetricFlowsAlone, "alone %"},
	{report.MetricOuterFlows, "outer flows"},
	{report.MetricJainUp, "Jain up"},
	{report.MetricJainDown, "Jain down"},
	{report.MetricPageMedian, "page ms"},
	{report.MetricPageP99, "page p99 ms"},
	{report.MetricPagesLost, "pages lost %"},
	{lab.MetricLineUsed, "line used %"},
	{lab.MetricReachedFirst, "first s"},
	{lab.MetricSettled, "settled s"},
	{lab.MetricReached, "reached s"},
	{lab.MetricPaced, "paced %"},
	{lab.MetricSenderCPU, "A CPU %"},
	{"retransmits_count", "retransmits"},
	{"segments_delivered_ce_count", "CE delivered"},
}

// writeSummary prints the medians over the repetitions, a table for each
// scenario and path.
func writeSummary(w io.Writer, runs []report.Run) {
	type key struct {
		scenario string
		path     report.Path
	}
	var order []key
	tables := map[key][]*report.Run{}
	for i := range runs {
		k := key{runs[i].Scenario, runs[i].Path}
		if tables[k] == nil {
			order = append(order, k)
		}
		tables[k] = append(tables[k], &runs[i])
	}
	for _, k := range order {
		fmt.Fprintf(w, "\n%s, %s: medians of %s\n", k.scenario, k.path, repetitions(tables[k]))
		writeTable(w, tables[k])
	}
}

// repetitions tells how often each tunnel was measured, and whether that is often
// enough to compare.
func repetitions(runs []*report.Run) string {
	count, most := map[string]int{}, 0
	for _, r := range runs {
		name := r.Tunnel.String()
		count[name]++
		most = max(most, count[name])
	}
	switch {
	case most == 1:
		return fmt.Sprintf("one repetition; it takes %d to tell a difference from chance", report.RepetitionsToTell)
	case most < report.RepetitionsToTell:
		return fmt.Sprintf("%d repetitions; it takes %d to tell a difference from chance", most, report.RepetitionsToTell)
	}
	return fmt.Sprintf("%d repetitions", most)
}

func writeTable(w io.Writer, runs []*report.Run) {
	var names []string
	values := map[string]map[string][]float64{} // by tunnel and metric
	for _, r := range runs {
		name := r.Tunnel.String()
		if values[name] == nil {
			names = append(names, name)
			values[name] = map[string][]float64{}
		}
		for metric, v := range report.Figures(*r) {
			values[name][metric] = append(values[name][metric], v)
		}
	}
	columns := slices.DeleteFunc(slices.Clone(summaryColumns), func(c struct{ metric, head string }) bool {
		return !slices.ContainsFunc(names, func(n string) bool { return len(values[n][c.metric]) > 0 })
	})
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "tunnel\t")
	for _, c := range columns {
		fmt.Fprint(t, c.head, "\t")
	}
	fmt.Fprintln(t)
	for _, name := range names {
		fmt.Fprint(t, name, "\t")
		for _, c := range columns {
			if v := values[name][c.metric]; len(v) > 0 {
				fmt.Fprint(t, report.Digits(c.metric, report.NewSpread(v).Median), "\t")
			} else {
				fmt.Fprint(t, "\t")
			}
		}
		fmt.Fprintln(t)
	}
	t.Flush()
}
