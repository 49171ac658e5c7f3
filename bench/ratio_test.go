package main

import (
	"strings"
	"testing"

	"kiloport/bench/lab"
	"kiloport/bench/report"
)

func TestRatioOf(t *testing.T) {
	type byRepetition = map[int]float64
	for _, test := range []struct {
		name          string
		figures, base byRepetition
		want          string // empty: there is no ratio
	}{
		{"pairs", byRepetition{1: 10, 2: 30, 3: 20}, byRepetition{1: 10, 2: 10, 3: 5}, "2.00 (1.00–4.00)"},
		{"a repetition failed", byRepetition{1: 10, 3: 20}, byRepetition{1: 10, 2: 40}, "0.60 (1.00–1.00)"},
		{"no repetition in common", byRepetition{1: 10}, byRepetition{2: 10}, ""},
		{"by nothing", byRepetition{1: 10}, byRepetition{1: 0}, ""},
		{"no figures", nil, byRepetition{1: 10}, ""},
		{"no base", byRepetition{1: 10}, nil, ""},
	} {
		r, ok := ratioOf(test.figures, test.base)
		if ok != (test.want != "") || ok && r.String() != test.want {
			t.Errorf("%s: %v, %v; want %q", test.name, r, ok, test.want)
		}
	}
}

func TestWriteRatios(t *testing.T) {
	run := func(scenario, tunnel string, repetition int, metrics map[string]float64) report.Run {
		return report.Run{Scenario: scenario, Tunnel: report.Tunnel{Name: tunnel}, Repetition: repetition, Duration: 1, Metrics: metrics}
	}
	failed := run("throughput a", "kiloport", 3, map[string]float64{lab.MetricPackets: 99})
	failed.Error = "broken"
	var out strings.Builder
	writeRatios(&out, []report.Run{
		run("throughput a", "kiloport", 1, map[string]float64{lab.MetricPackets: 10}),
		run("throughput a", "wireguard-go", 1, map[string]float64{lab.MetricPackets: 20}),
		run("throughput a", "kiloport", 2, map[string]float64{lab.MetricPackets: 30}),
		run("throughput a", "wireguard-go", 2, map[string]float64{lab.MetricPackets: 20}),
		failed,
		run("overload b", "kiloport", 1, map[string]float64{lab.MetricProbeP99: 3, "others_count": 1}),
		run("overload b", "wireguard-go", 1, map[string]float64{lab.MetricProbeP99: 4}),
		run("throughput c", "kiloport", 1, map[string]float64{lab.MetricPackets: 1}),
	}, "wireguard-go")
	const want = `
throughput, no bottleneck: ratios to wireguard-go, of the medians (least to most within a repetition)
      scenario    tunnel         packets/s
  throughput a  kiloport  1.00 (0.50–1.50)

overload, no bottleneck: ratios to wireguard-go, of the medians (least to most within a repetition)
    scenario    tunnel         probe p99
  overload b  kiloport  0.75 (0.75–0.75)
`
	if out.String() != want {
		t.Errorf("%s\nwant\n%s", out.String(), want)
	}
}
