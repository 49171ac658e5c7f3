package report

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"
)

// sampleSweep makes up runs of the scenario flows: no tunnel, and pools of some
// sizes that have a flow alone as chance has it.
func sampleSweep(repetitions int) *Document {
	doc := &Document{Created: sampleCreated, Environment: Environment{KernelOf: KernelLab, Virtual: true}}
	tunnels := []Tunnel{{Name: "none"}}
	for _, ports := range []int{1, 16, 1024} {
		tunnels = append(tunnels, Tunnel{Name: "kiloport", Version: "0.1", Flags: []string{fmt.Sprintf("Ports = %d", ports)}})
	}
	const queues = 1024
	for _, flows := range []float64{1000, 1, 10, 100} {
		for i, tunnel := range tunnels {
			lanes := []float64{math.Inf(1), 1, 16, queues}[i]
			alone := math.Pow(1-1/queues, flows-1)
			if flows > lanes {
				alone *= math.Pow(1-1/lanes, flows-1)
			}
			for n := range repetitions {
				run := Run{
					Scenario: fmt.Sprintf("flows %.0f", flows), Title: "many flows", Tunnel: tunnel, Repetition: n + 1,
					Path: Path{UpMbit: 20, DownMbit: 20, Qdisc: "fq_codel", RTTMs: 20}, Duration: 8,
					Metrics: map[string]float64{MetricFlows: flows, MetricFlowsAlone: 100*alone - float64(n), MetricGatewayQueues: queues},
				}
				if flows > 1 {
					run.Metrics[MetricJainUp] = 0.99 - float64(n)/100
				}
				doc.Runs = append(doc.Runs, run)
			}
		}
	}
	return doc
}

func TestSweeps(t *testing.T) {
	doc := sampleSweep(3)
	other := sampleDocument(1, 1).Runs[0]
	doc.Runs = append(doc.Runs, other)
	found, rest := sweeps(sections(doc))
	if len(found) != 1 || len(rest) != 1 || rest[0].scenario != other.Scenario {
		t.Fatalf("%d sweeps, %d other sections", len(found), len(rest))
	}
	w := found[0]
	var flows []float64
	for _, step := range w.steps {
		flows = append(flows, step.flows)
	}
	if fmt.Sprint(flows) != "[1 10 100 1000]" || len(w.tunnels) != 4 {
		t.Errorf("flows %v over %q", flows, w.tunnels)
	}
	courses, names := w.courses(MetricJainUp, looks(doc))
	if len(courses) != 4 || len(courses[0].points) != 3 || names[1] != "kiloport Ports = 1" {
		t.Errorf("%d courses of Jain's index, the first with %d points, over %q", len(courses), len(courses[0].points), names)
	}
	if s := courses[0].points[0].spread; s.Median != 0.98 || s.Min != 0.97 || s.Max != 0.99 {
		t.Errorf("Jain's index %+v", s)
	}
}

func TestSweepOnPage(t *testing.T) {
	doc := sampleSweep(2)
	doc.Runs[0].Error = "it <broke>"
	p, err := newPage(doc)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(p.figures()); n != 2 {
		t.Errorf("%d figures, want 2", n)
	}
	var page bytes.Buffer
	if err := p.render(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Flows that have a gateway", "How fairly bulk flows", "kiloport Ports = 1024", "expected of a random one of 1024 queues",
		"1000 flows: alone in their queue, %", "100 flows: Jain&#39;s index up", "7 (1 failed)", "it &lt;broke&gt;",
	} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, f := range p.figures() {
		var svg bytes.Buffer
		if err := f.WriteSVG(&svg); err != nil || !strings.Contains(svg.String(), "flows at the same time") {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
}
