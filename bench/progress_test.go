package main

import (
	"strings"
	"testing"
	"time"

	"kiloport/bench/lab"
	"kiloport/bench/netlab"
	"kiloport/bench/report"
)

// newTestProgress reports to nobody.
func newTestProgress(t *testing.T, plan []lab.Experiment) *runProgress {
	t.Helper()
	p := newRunProgress(nil, "test", plan)
	t.Cleanup(p.close)
	return p
}

func TestRunProgress(t *testing.T) {
	var out strings.Builder
	path := netlab.Path{RateUp: 20e6, RateDown: 20e6}
	plan := []lab.Experiment{
		{Scenario: "rrul_be", Tunnel: "none", Load: 10 * time.Second, Path: path},
		{Scenario: "rrul_be", Tunnel: "tinc", Load: 10 * time.Second, Path: path},
	}
	p := newRunProgress(&out, "test", plan)
	defer p.close()
	p.now = func() time.Time { return p.start.Add(30 * time.Second) }
	p.begin(0)
	p.begin(1)
	if s := p.state(); !strings.Contains(s, "0 of 2 done, no telling how long; rrul_be none 0 %; rrul_be tinc 0 %") {
		t.Errorf("at first: %q", s)
	}
	p.beat(0, plan[0].Lasts())
	p.beat(1, plan[1].Lasts()/4)
	if s := p.state(); !strings.Contains(s, "62 %") || !strings.Contains(s, "rrul_be none 99 %; rrul_be tinc 25 %") {
		t.Errorf("later: %q", s)
	}
	p.end(0, &report.Run{Scenario: "rrul_be", Tunnel: report.Tunnel{Name: "none"}, Repetition: 1, Error: "it broke"})
	if s := p.state(); !strings.Contains(s, "[############........] 62 %, 1 of 2 done, 18s left; rrul_be tinc 25 %") {
		t.Errorf("at last: %q", s)
	}
	if s := out.String(); !strings.Contains(s, "[1/2, 18s left] rrul_be, none, no bottleneck, no. 1: failed: it broke") {
		t.Errorf("told: %q", s)
	}
}

func TestProgressCountsPackets(t *testing.T) {
	p := newTestProgress(t, []lab.Experiment{
		{Scenario: "rrul_be", Load: 10 * time.Second, Path: netlab.Path{RateUp: 100e6}},
		{Scenario: "rrul_be", Load: 10 * time.Second, Path: netlab.Path{RateUp: 10e6}},
	})
	if w := p.weight(0) / p.weight(1); w != 5.5 {
		t.Errorf("100 Mbit/s weigh %.2f times as much as 10", w)
	}
}
