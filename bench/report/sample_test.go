package report

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// sampleCreated is when the sample document says that it was measured.
var sampleCreated = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A sampleTunnel is what a tunnel of the sample document does to a probe.
type sampleTunnel struct {
	tunnel                  Tunnel
	added, wobble, lost, up float64
	lanes                   int
}

var sampleTunnels = []sampleTunnel{
	{Tunnel{Name: "no tunnel"}, 0.6, 0.25, 0, 18.1, 0},
	{Tunnel{Name: "kiloport", Version: "0.1"}, 0.75, 0.3, 0, 17.6, 9},
	{Tunnel{Name: "kernel WireGuard", Version: "6.12"}, 23, 6, 0.012, 15.9, 0},
	{Tunnel{Name: "wireguard-go", Version: "0.0.20250522", Flags: nil}, 27, 7, 0.01, 16, 0},
	{Tunnel{Name: "tinc", Version: "1.0.36"}, 43, 12, 0.007, 16.3, 0},
}

// sampleDocument makes up a document like those of the lab: five tunnels, two
// rates, and a few repetitions; the same for the same seed.
func sampleDocument(seed uint64, repetitions int) *Document {
	random := rand.New(rand.NewPCG(seed, 1))
	doc := &Document{
		Schema: Schema, Created: sampleCreated,
		Command: []string{"bench", "lab", "--rate", "20", "--note", "it's a sample"},
		Environment: Environment{Kernel: "6.12.48", KernelOf: KernelLab, Virtual: true, CPU: "Sample CPU",
			Cores: 2, Go: "go1.26.8", Kiloport: "v0.1.0"},
	}
	for _, rate := range []float64{20, 100} {
		for _, t := range sampleTunnels {
			for repetition := range repetitions {
				doc.Runs = append(doc.Runs, sampleRun(random, t, rate, repetition+1))
			}
		}
	}
	return doc
}

func sampleRun(random *rand.Rand, t sampleTunnel, rate float64, repetition int) Run {
	run := Run{
		Scenario: "rrul", Title: "4 TCP flows up and 4 down", Tunnel: t.tunnel, Repetition: repetition,
		Path:     Path{UpMbit: rate, DownMbit: rate, Qdisc: "fq_codel", RTTMs: 20},
		Duration: 12, WarmUp: 1,
		Metrics: map[string]float64{"processor_seconds": 2 + t.added/10 + random.Float64()},
	}
	shift := 1 + 0.25*random.NormFloat64()*t.wobble/6
	run.Series = append(run.Series, sampleProbe(random, t, math.Abs(shift)*20/rate))
	for _, direction := range []string{Up, Down} {
		for flow := range 4 {
			run.Series = append(run.Series, sampleFlow(random, direction, flow+1, t.up*rate/20/4))
		}
	}
	if t.lanes > 0 {
		lanes := Series{Name: "lanes", Kind: KindLanes, Unit: UnitCount, Direction: Up}
		for i := range 14 {
			lanes.T = append(lanes.T, float64(i)-1)
			lanes.V = append(lanes.V, float64(min(1+i*3, t.lanes)))
		}
		run.Series = append(run.Series, lanes)
	}
	return run
}

func sampleProbe(random *rand.Rand, t sampleTunnel, shift float64) Series {
	s := Series{Name: ProbeName, Kind: KindRTT, Unit: UnitMs}
	for i := range 650 {
		at := float64(i)*0.02 - 1
		s.T = append(s.T, math.Round(at*1000)/1000)
		switch {
		case at < 0:
			s.V = append(s.V, 20)
		case random.Float64() < t.lost:
			s.V = append(s.V, math.NaN())
		default:
			saw := 0.35 * t.added * math.Sin(at*1.7+shift)
			added := max(t.added+saw+t.wobble*0.5*random.NormFloat64(), 0.01) * shift
			s.V = append(s.V, math.Round((20+added)*1000)/1000)
		}
	}
	return s
}

func sampleFlow(random *rand.Rand, direction string, flow int, mean float64) Series {
	s := Series{Name: fmt.Sprintf("tcp %s %d", direction, flow), Kind: KindGoodput, Unit: UnitMbit, Direction: direction, Flow: flow}
	for i := range 60 {
		s.T = append(s.T, float64(i)*0.2+0.2)
		s.V = append(s.V, math.Round(1000*max(mean*(1+0.15*random.NormFloat64()), 0))/1000)
	}
	return s
}
