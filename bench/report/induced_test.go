package report

import (
	"math"
	"strings"
	"testing"
)

// probeOf is a series of a probe once a second from the time from on.
func probeOf(from float64, rtts ...float64) Series {
	s := Series{Name: ProbeName, Kind: KindRTT, Unit: UnitMs, V: rtts}
	for i := range rtts {
		s.T = append(s.T, from+float64(i))
	}
	return s
}

func TestInduced(t *testing.T) {
	histogram, err := HistogramSeries(Series{Name: ProbeName, Kind: KindRTT, Unit: UnitMs}, []float64{21, 22, 23, nan})
	if err != nil {
		t.Fatal(err)
	}
	quiet := probeOf(-5, 19, 19, 20, 21, 21, 25, 26, 27)
	ping := probeOf(0, 20, 30)
	ping.Name = PingName
	for name, test := range map[string]struct {
		run                 Run
		base, median, worst float64
		sent, lost          int64
	}{
		"base of the path": {Run{Duration: 9, Path: Path{RTTMs: 20}, Series: []Series{probeOf(0, 21, nan, 22, 29)}}, 20, 2, 9, 4, 1},
		"base was measured": {Run{Duration: 9, Path: Path{RTTMs: 20}, Metrics: map[string]float64{MetricBaseRTT: 21},
			Series: []Series{probeOf(0, 21, 22, 29)}}, 21, 1, 8, 3, 0},
		"base before the load":            {Run{Duration: 9, Path: Path{RTTMs: 18}, Series: []Series{quiet}}, 20, 6, 7, 3, 0},
		"too few before the load":         {Run{Duration: 9, Path: Path{RTTMs: 20}, Series: []Series{probeOf(-2, 90, 90, 25, 26)}}, 20, 5.5, 6, 2, 0},
		"warm-up and what follows do not": {Run{Duration: 4, WarmUp: 2, Path: Path{RTTMs: 20}, Series: []Series{probeOf(0, 99, nan, 21, 22, 23, 99, nan)}}, 20, 2, 3, 3, 0},
		"histogram":                       {Run{Duration: 4, Path: Path{RTTMs: 20}, Series: []Series{histogram}}, 20, 2, 3, 4, 1},
		"ping in place of the probe":      {Run{Duration: 4, Path: Path{RTTMs: 20}, Series: []Series{ping}}, 20, 5, 10, 2, 0},
		"probe before ping":               {Run{Duration: 4, Path: Path{RTTMs: 20}, Series: []Series{ping, probeOf(0, 21)}}, 20, 1, 1, 1, 0},
	} {
		got, err := Induced(test.run)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		tolerance := 0.02 // a histogram has three digits
		if got.Base != test.base || math.Abs(got.Median()-test.median) > tolerance || math.Abs(got.Worst()-test.worst) > tolerance ||
			got.Sent != test.sent || got.Lost != test.lost {
			t.Errorf("%s: base %v, median %v, worst %v, sent %d, lost %d; want %+v", name, got.Base, got.Median(), got.Worst(), got.Sent, got.Lost, test)
		}
	}
}

func TestInducedCannotBe(t *testing.T) {
	path := Path{RTTMs: 20}
	for want, run := range map[string]Run{
		"the run failed: no route":           {Error: "no route", Duration: 1, Path: path, Series: []Series{probeOf(0, 21)}},
		`no series "probe"`:                  {Duration: 1, Path: path},
		"no probe came back under load, 2":   {Duration: 9, Path: path, Series: []Series{probeOf(0, nan, nan)}},
		"set the metric base_rtt_ms":         {Duration: 9, Series: []Series{probeOf(0, 21)}},
		"rrul over tinc, no bottleneck, rep": {Scenario: "rrul", Tunnel: Tunnel{Name: "tinc"}},
	} {
		if _, err := Induced(run); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want it to say %q", err, want)
		}
	}
}

func TestFigures(t *testing.T) {
	flow := func(direction string, number int, values ...float64) Series {
		s := Series{Name: "tcp", Kind: KindGoodput, Unit: UnitMbit, Direction: direction, Flow: number, V: values}
		for i := range values {
			s.T = append(s.T, float64(i))
		}
		return s
	}
	run := Run{Duration: 3, WarmUp: 1, Path: Path{RTTMs: 20},
		Metrics: map[string]float64{MetricLost: 7, "other_ms": 1},
		Series: []Series{
			probeOf(0, 50, 21, nan, 23),
			flow(Up, 1, 100, 2, 4, 6), flow(Up, 2, 100, 1, 1, nan),
			flow(Down, 1, 1, 1, 1, 1), flow(Down, 0, 9, 9, 9, 9), // the sum wins
			{Name: "lanes", Kind: KindLanes, Unit: UnitCount, Direction: Up, T: []float64{0, 1}, V: Values{3, 2}},
			{Name: "lanes", Kind: KindLanes, Unit: UnitCount, Direction: Down, T: []float64{0, 1}, V: Values{1, 5}},
		}}
	want := map[string]float64{MetricInducedMedian: 2, MetricInducedP99: 2.98, MetricInducedWorst: 3, MetricLost: 7,
		MetricGoodputUp: 5, MetricGoodputDown: 9, MetricLanesPeak: 5, "other_ms": 1}
	got := Figures(run)
	for name, x := range want {
		if !near(got[name], x) {
			t.Errorf("%s is %v, want %v", name, got[name], x)
		}
	}
	if len(got) != len(want) {
		t.Errorf("figures are %v, want %v", got, want)
	}
	run.Error = "no"
	if got := Figures(run); len(got) != 0 {
		t.Errorf("a failed run has figures: %v", got)
	}
}
