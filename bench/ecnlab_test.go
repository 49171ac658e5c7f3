package main

import (
	"slices"
	"testing"
	"time"

	"kiloport/bench/lab"
	"kiloport/bench/netlab"
	"kiloport/bench/report"
)

// TestMarksOfRealGateways fills lines between fq_codel gateways that mark, with ECN
// flows and with DCTCP through a shallow threshold. Every mark comes out inside, no
// segment is lost and sent again, and a sparse flow feels no tunnel. Acknowledgements,
// which are not ECN-capable, may be dropped where their flow shares a queue by chance.
func TestMarksOfRealGateways(t *testing.T) {
	classic := netlab.Path{Qdisc: netlab.Qdisc{ECN: true}}
	shallow := netlab.Path{Qdisc: netlab.Qdisc{ECN: true, CEThreshold: time.Millisecond}}
	runs := labRuns(t, []lab.Experiment{
		{Scenario: "marks", Seed: 1, Tunnel: "none", Load: 6 * time.Second, Path: classic},
		{Scenario: "marks", Seed: 1, Tunnel: "kiloport", Load: 6 * time.Second, Path: classic},
		{Scenario: "marks-l4s", Seed: 1, Tunnel: "none", Load: 6 * time.Second, Path: shallow},
		{Scenario: "marks-l4s", Seed: 1, Tunnel: "kiloport", Load: 6 * time.Second, Path: shallow},
	})
	for i, r := range runs {
		m := r.Metrics
		for _, way := range []string{"up", "down"} {
			outside, inside := m["marks_outside_"+way+"_count"], m["marks_inside_"+way+"_count"]
			if outside != inside || outside < 40 {
				t.Errorf("%s through %s, %s: %v marks outside, %v inside", r.Scenario, r.Tunnel, way, outside, inside)
			}
		}
		if !slices.ContainsFunc(r.Series, func(s report.Series) bool { return s.Begins > 0 }) {
			t.Errorf("%s through %s: all flows began at the same moment", r.Scenario, r.Tunnel)
		}
		if n := m["retransmits_count"]; n > 0 {
			t.Errorf("%s through %s: %v segments were sent again", r.Scenario, r.Tunnel, n)
		}
		if i%2 == 0 {
			continue
		}
		native, ours := induced(t, runs[i-1]), induced(t, r)
		if ours.Median() > native.Median()+0.2 || ours.Worst() > native.Worst()+1 || ours.Lost > 0 {
			t.Errorf("%s: kiloport adds %.2f ms, %.2f at worst, and loses %d; no tunnel %.2f and %.2f",
				r.Scenario, ours.Median(), ours.Worst(), ours.Lost, native.Median(), native.Worst())
		}
	}
}

func induced(t *testing.T, r report.Run) report.Latency {
	t.Helper()
	l, err := report.Induced(r)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
