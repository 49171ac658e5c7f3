package lab

import (
	"testing"
	"time"

	"kiloport/bench/netlab/traffic"
	"kiloport/bench/report"
)

// TestPages counts the pages that were asked for after the warm-up.
func TestPages(t *testing.T) {
	const ms = time.Millisecond
	sample := func(at time.Duration, took time.Duration) traffic.Sample {
		return traffic.Sample{At: quiet + at, RTT: took, Lost: took == 0}
	}
	burst := func(samples ...traffic.Sample) traffic.Flow {
		return traffic.Flow{Kind: traffic.TCPBurst, Series: &traffic.Series{Probes: samples}}
	}
	for _, test := range []struct {
		name  string
		flows []traffic.Flow
		want  map[string]float64
	}{
		{"no pages", []traffic.Flow{{Kind: traffic.UDPEcho, Series: &traffic.Series{Probes: []traffic.Sample{sample(5*time.Second, ms)}}}}, nil},
		{"only in the warm-up", []traffic.Flow{burst(sample(0, ms))}, nil},
		{"two browsers", []traffic.Flow{
			burst(sample(time.Second, 900*ms), sample(2*time.Second, 100*ms), sample(3*time.Second, 0)),
			burst(sample(2500*ms, 300*ms), sample(3500*ms, 200*ms)),
		}, map[string]float64{report.MetricPageMedian: 200, report.MetricPageP99: 298, report.MetricPageWorst: 300, report.MetricPagesLost: 25}},
		{"none came", []traffic.Flow{burst(sample(3*time.Second, 0))}, map[string]float64{report.MetricPagesLost: 100}},
	} {
		b := &bench{run: &report.Run{Metrics: map[string]float64{}}}
		b.pages(&traffic.Result{Flows: test.flows})
		if len(b.run.Metrics) != len(test.want) {
			t.Errorf("%s: %v, want %v", test.name, b.run.Metrics, test.want)
		}
		for name, want := range test.want {
			if got := b.run.Metrics[name]; got < want-1e-9 || got > want+1e-9 {
				t.Errorf("%s: %s is %v, want %v", test.name, name, got, want)
			}
		}
	}
}

// TestEverythingLasts: an experiment of every scenario takes longer than its load.
func TestEverythingLasts(t *testing.T) {
	for _, s := range Scenarios {
		e := Experiment{Scenario: s.Name, Load: s.Load, Flows: s.Flows}
		if e.Lasts() <= s.Load {
			t.Errorf("%s lasts %v, its load alone %v", s.Name, e.Lasts(), s.Load)
		}
	}
}
