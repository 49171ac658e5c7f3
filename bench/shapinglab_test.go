package main

import (
	"testing"
	"time"

	"kiloport/bench/lab"
	"kiloport/bench/report"
)

// TestShaperBeforeADumbFIFO: before gateways with FIFOs of 1000 packets, to 0.98 of
// whose lines kiloport shapes, a sparse flow beside 4 TCP flows, or beside 4 each way,
// feels fq_codel's latency, and nearly all of the line is used. 64 flows get the same
// of it.
func TestShaperBeforeADumbFIFO(t *testing.T) {
	runs := labRuns(t, []lab.Experiment{
		{Scenario: "fair", Tunnel: "kiloport", Flows: 4, Load: 8 * time.Second},
		{Scenario: "shaper", Tunnel: "kiloport", Flows: 4, Load: 8 * time.Second},
		{Scenario: "fair", Tunnel: "kiloport", Flows: 64, Load: 20 * time.Second},
	})
	for _, r := range runs[:2] {
		if probe := induced(t, r); probe.Median() >= 1 || probe.Worst() >= 3 || probe.Lost > 0 {
			t.Errorf("%s: the shaper adds %.2f ms, %.2f at worst, and loses %d probes", r.Scenario, probe.Median(), probe.Worst(), probe.Lost)
		}
	}
	for _, r := range runs {
		if used := r.Metrics[lab.MetricLineUsed]; used < 95 || used > 100.5 {
			t.Errorf("%s: %.1f %% of the line are used", r.Scenario, used)
		}
	}
	if jain := runs[2].Metrics[report.MetricJainUp]; jain < 0.98 {
		t.Errorf("64 flows share with an index of %.4f", jain)
	}
}
