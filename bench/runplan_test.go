package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"kiloport/bench/lab"
)

// TestPlanTakesTurns wants the tunnels to take turns in real time, and one after
// the other in virtual time, where it does not matter.
func TestPlanTakesTurns(t *testing.T) {
	for _, test := range []struct {
		scenario string
		real     bool
		want     string
	}{
		{"throughput", true, "none:tcp 8 up:1 tinc:tcp 8 up:1 none:tcp 8 up:2 tinc:tcp 8 up:2"},
		{"rrul_be", false, "none::1 none::2 tinc::1 tinc::2"},
		{"rrul_be", true, "none::1 tinc::1 none::2 tinc::2"},
	} {
		o := &runOptions{tunnels: []string{"none", "tinc"}, rates: []string{"20"}, qdisc: "fq_codel", repeat: 2, real: test.real, cases: []string{"tcp 8 up"}}
		plan, err := o.plan([]string{test.scenario})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range plan {
			got = append(got, fmt.Sprintf("%s:%s:%d", e.Tunnel, e.Case, e.Repetition))
		}
		if s := strings.Join(got, " "); s != test.want {
			t.Errorf("%s, real %v: %s, want %s", test.scenario, test.real, s, test.want)
		}
	}
}

// TestSeedsOfRepetitions wants a seed for each repetition, the same for all tunnels,
// drawn anew for each plan, and then in the report's command line, or given.
func TestSeedsOfRepetitions(t *testing.T) {
	for _, test := range []struct {
		given uint64
		want  []uint64
		line  string
	}{
		{0, []uint64{9, 10, 9, 10}, "bench run --seed 9"},
		{5, []uint64{5, 6, 5, 6}, "bench run"},
	} {
		o := &runOptions{tunnels: []string{"none", "tinc"}, rates: []string{"20"}, qdisc: "fq_codel", repeat: 2, seed: test.given}
		o.chooseSeed(func() uint32 { return 9 })
		plan, err := o.plan([]string{"rrul_be"})
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		for _, e := range plan {
			got = append(got, e.Seed)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("--seed %d: seeds %v, want %v", test.given, got, test.want)
		}
		if line := strings.Join(o.command([]string{"run"}), " "); line != test.line {
			t.Errorf("--seed %d: command %q, want %q", test.given, line, test.line)
		}
	}
	drawn := &runOptions{}
	if drawn.chooseSeed(func() uint32 { return 0 }); drawn.seed == 0 {
		t.Error("a seed of 0 was drawn, which means none")
	}
}

// TestPlanOfPools wants kiloport once for each size of its pool and number of
// flows, and the others once for each number of flows.
func TestPlanOfPools(t *testing.T) {
	o := &runOptions{tunnels: []string{"none", "kiloport", "kiloport-1port"}, rates: []string{"20"}, qdisc: "fq_codel", repeat: 1,
		flows: []int{1, 10}, ports: []int{16, 64}, settings: []string{"DSCP = zero"}, kiloport: "/bin/true"}
	plan, err := o.plan([]string{"flows"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range plan {
		got = append(got, fmt.Sprintf("%d %s %s", e.Flows, e.Tunnel, strings.Join(e.Settings, ", ")))
	}
	want := "1 none ; 1 kiloport Ports = 16, DSCP = zero; 1 kiloport Ports = 64, DSCP = zero; 1 kiloport-1port DSCP = zero; " +
		"10 none ; 10 kiloport Ports = 16, DSCP = zero; 10 kiloport Ports = 64, DSCP = zero; 10 kiloport-1port DSCP = zero"
	if s := strings.Join(got, "; "); s != want {
		t.Errorf("%s\nwant\n%s", s, want)
	}
	for _, bad := range []runOptions{
		{tunnels: []string{"kiloport"}, ports: []int{0}},
		{tunnels: []string{"kiloport"}, ports: []int{16384}},
		{tunnels: []string{"none"}, ports: []int{16}},
		{tunnels: []string{"none"}, flows: []int{2001}},
		{tunnels: []string{"none"}, flows: []int{0}},
	} {
		if _, err := bad.plan([]string{"flows"}); err == nil {
			t.Errorf("%v, %v flows through %v is a plan", bad.ports, bad.flows, bad.tunnels)
		}
	}
}

func TestPlanForAKernel(t *testing.T) {
	for _, test := range []struct {
		kernel     string
		real       bool
		err        string
		inRealTime bool
	}{
		{"", false, "", false},
		{kernelLab, false, "", false},
		{kernelLab, true, "", true},
		{kernelStock, false, "", true},
		{kernelStock, true, "leave out one of them", true},
		{"other", false, "there are lab and stock, and this machine's with --real", false},
	} {
		o := &runOptions{tunnels: []string{"none"}, rates: []string{"20"}, qdisc: "fq_codel", jobs: 4, kernel: test.kernel, real: test.real}
		_, err := o.plan([]string{"rrul_be"})
		if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("kernel %q, real %v: error %v, want %q", test.kernel, test.real, err, test.err)
		}
		if o.real != test.inRealTime || (o.parallel() == 1) != test.inRealTime {
			t.Errorf("kernel %q, real %v: in real time %v, %d at the same time", test.kernel, test.real, o.real, o.parallel())
		}
	}
}

func TestPlanOfRealTime(t *testing.T) {
	o := &runOptions{tunnels: []string{"none", "kiloport"}, rates: []string{"20", "50"}, flows: []int{1, 2}, repeat: 1, jobs: 4}
	plan, err := o.plan([]string{"throughput", "overload", "pacing"})
	if err != nil {
		t.Fatal(err)
	}
	if !o.real || o.parallel() != 1 {
		t.Errorf("real %v, %d at the same time", o.real, o.parallel())
	}
	seen := map[string]int{}
	for _, e := range plan {
		seen[e.Scenario+" "+e.Case]++
		if e.Path.RateUp != 0 || e.Path.RTT != 0 || e.Load <= 0 {
			t.Errorf("%+v", e)
		}
	}
	for _, s := range lab.Scenarios {
		for _, c := range s.Cases() {
			want := 2
			if s.Own {
				want = 1
			}
			if n := seen[s.Name+" "+c]; n != want {
				t.Errorf("%s %s is there %d times", s.Name, c, n)
			}
		}
	}
}

// TestPlanOfShapers wants kiloport, and no other tunnel, to get what a scenario says
// of its path, before what was asked for.
func TestPlanOfShapers(t *testing.T) {
	o := &runOptions{tunnels: []string{"none", "kiloport"}, rates: []string{"20/5"}, qdisc: "fq_codel", repeat: 1, settings: []string{"Ports = 7"}}
	plan, err := o.plan([]string{"shaper"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range plan {
		if e.Path.Qdisc.Kind != "pfifo" || e.Path.Qdisc.Limit != 1000 || e.Path.RateUp != 20e6 || e.Path.RateDown != 5e6 || e.Flows != 4 {
			t.Errorf("%+v", e)
		}
		want := ""
		if e.Tunnel == "kiloport" {
			want = "Bandwidth = 19600kbit/4900kbit, Overhead = overhead 14, Ports = 7"
		}
		if got := strings.Join(e.Settings, ", "); got != want {
			t.Errorf("%s has %q, want %q", e.Tunnel, got, want)
		}
	}
}

func TestPlanMistakes(t *testing.T) {
	for _, test := range []struct {
		names, cases []string
		want         string
	}{
		{[]string{"frobnicate"}, nil, "no scenario"},
		{[]string{"rrul_be", "throughput"}, nil, "run them apart"},
		{[]string{"throughput"}, []string{"tcp 9 up"}, "tcp 8 up"},
	} {
		o := &runOptions{tunnels: []string{"none"}, rates: []string{"20"}, qdisc: "fq_codel", cases: test.cases}
		if _, err := o.plan(test.names); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q %q: %v, want %q", test.names, test.cases, err, test.want)
		}
	}
}

func TestBaseline(t *testing.T) {
	both := []string{"kiloport", "wireguard-go"}
	for _, test := range []struct {
		o    runOptions
		want string
	}{
		{runOptions{tunnels: both, real: true}, "wireguard-go"},
		{runOptions{tunnels: both}, ""},
		{runOptions{tunnels: both[:1], real: true}, ""},
		{runOptions{tunnels: both, real: true, baseline: "kiloport"}, "kiloport"},
	} {
		if got := test.o.base(); got != test.want {
			t.Errorf("%v, real %v, baseline %q: %q", test.o.tunnels, test.o.real, test.o.baseline, got)
		}
	}
	o := &runOptions{tunnels: both, baseline: "tinc"}
	if err := o.checkBaseline(); err == nil || !slices.Contains(strings.Fields(err.Error()), "tinc") {
		t.Errorf("a baseline that is not measured: %v", err)
	}
}

// TestCongestionOfThePlan wants TCP to be Linux's own wherever the kernel is one that
// somebody may have told otherwise, and what was asked for everywhere.
func TestCongestionOfThePlan(t *testing.T) {
	for _, test := range []struct {
		scenario, kernel, asked, want string
		real                          bool
	}{
		{"rrul_be", kernelLab, linuxCongestion, "", false},
		{"rrul_be", kernelLab, "bbr", "bbr", false},
		{"rrul_be", kernelStock, linuxCongestion, linuxCongestion, false},
		{"rrul_be", kernelLab, linuxCongestion, linuxCongestion, true},
		{"throughput", kernelLab, linuxCongestion, linuxCongestion, false},
		{"throughput", kernelLab, "bbr", "bbr", false},
	} {
		o := &runOptions{tunnels: []string{"none"}, rates: []string{"20"}, qdisc: "fq_codel", repeat: 1, kernel: test.kernel, congestion: test.asked, real: test.real}
		plan, err := o.plan([]string{test.scenario})
		if err != nil {
			t.Fatal(err)
		}
		if got := plan[0].Congestion; got != test.want {
			t.Errorf("%+v: %q", test, got)
		}
	}
}
