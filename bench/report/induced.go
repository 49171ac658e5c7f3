package report

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// A Latency is what a load did to the round trips of a sparse probe.
type Latency struct {
	// Base is the round trip of the idle path that was taken off, in ms.
	Base float64
	// Induced are the round trips above Base, in ms, of the probes that were
	// sent under load and came back.
	Induced Distribution
	// Sent is how many were sent under load, Lost how many did not come back.
	Sent, Lost int64
}

// Median is the median of what was added to the round trip, in ms.
func (l Latency) Median() float64 { return l.Induced.Quantile(0.5) }

// P99 is its 99th percentile, in ms.
func (l Latency) P99() float64 { return l.Induced.Quantile(0.99) }

// Worst is the most that was added, in ms.
func (l Latency) Worst() float64 { return l.Induced.Quantile(1) }

// LostPercent is how many of 100 probes were lost.
func (l Latency) LostPercent() float64 { return 100 * float64(l.Lost) / float64(l.Sent) }

// quietProbes is how many probes before the load it takes to know the base.
const quietProbes = 5

// Induced works out what the load added to the round trips of the run's probe.
// The base is the metric base_rtt_ms; where it is missing, the median of the
// probes before the load; where there are fewer than five, the path's RTT. It
// is an error if the run failed, has no probe, or no probe came back.
func Induced(run Run) (Latency, error) {
	l, err := induced(&run)
	if err != nil {
		return Latency{}, fmt.Errorf("induced latency of %s: %w", run.name(), err)
	}
	return l, nil
}

func induced(run *Run) (Latency, error) {
	if run.Error != "" {
		return Latency{}, fmt.Errorf("the run failed: %s", run.Error)
	}
	probe := run.probe()
	if probe == nil {
		return Latency{}, fmt.Errorf("there is no series %q of kind %q", ProbeName, KindRTT)
	}
	base, err := run.base(probe)
	if err != nil {
		return Latency{}, err
	}
	d, lost, err := probe.distribution(run.WarmUp, run.Duration)
	if err != nil {
		return Latency{}, err
	}
	if d.Count() == 0 {
		return Latency{}, fmt.Errorf("no probe came back under load, %d were lost", lost)
	}
	return Latency{Base: base, Induced: d.shift(-base), Sent: d.Count() + lost, Lost: lost}, nil
}

// name is how messages call a run.
func (r *Run) name() string {
	return fmt.Sprintf("%s over %s, %s, repetition %d", r.Scenario, r.Tunnel, r.Path, r.Repetition)
}

func (r *Run) probe() *Series {
	for _, name := range []string{ProbeName, PingName} {
		for i, s := range r.Series {
			if s.Kind == KindRTT && s.Name == name {
				return &r.Series[i]
			}
		}
	}
	return nil
}

// base is the round trip of the idle path in ms.
func (r *Run) base(probe *Series) (float64, error) {
	if base, ok := r.Metrics[MetricBaseRTT]; ok {
		return base, nil
	}
	var quiet []float64
	for i, t := range probe.T {
		if t < 0 && !math.IsNaN(probe.V[i]) {
			quiet = append(quiet, probe.V[i])
		}
	}
	if len(quiet) >= quietProbes {
		return median(quiet), nil
	}
	if r.Path.RTTMs > 0 {
		return r.Path.RTTMs, nil
	}
	return 0, errors.New("the idle round trip is not known: set the metric base_rtt_ms, the path's rtt_ms, or probe before the load")
}

// Figures are the run's metrics, and those that its series give where the
// metrics lack them: induced round trips, lost probes, goodput, lanes. What
// cannot be worked out is left out. Of a failed run there are none.
func Figures(run Run) map[string]float64 {
	figures := map[string]float64{}
	if run.Error != "" {
		return figures
	}
	if l, err := induced(&run); err == nil {
		figures[MetricInducedMedian] = l.Median()
		figures[MetricInducedP99] = l.P99()
		figures[MetricInducedWorst] = l.Worst()
		figures[MetricLost] = l.LostPercent()
	}
	for direction, metric := range map[string]string{Up: MetricGoodputUp, Down: MetricGoodputDown} {
		if mean, ok := run.goodput(direction); ok {
			figures[metric] = mean
		}
	}
	if most, ok := run.lanesPeak(); ok {
		figures[MetricLanesPeak] = most
	}
	maps.Copy(figures, run.Metrics)
	return figures
}

// flows are the goodput series of a direction: each flow, and the series that
// is their sum where the run has one.
func (r *Run) flows(direction string) (flows []*Series, sum *Series) {
	for i := range r.Series {
		s := &r.Series[i]
		switch {
		case s.Kind != KindGoodput || s.Direction != direction:
		case s.Flow == 0:
			sum = s
		default:
			flows = append(flows, s)
		}
	}
	return flows, sum
}

// goodput is the mean of a direction's sum in Mbit/s.
func (r *Run) goodput(direction string) (float64, bool) {
	flows, sum := r.flows(direction)
	if sum != nil {
		flows = []*Series{sum}
	}
	total := 0.0
	for _, s := range flows {
		d, _, err := s.distribution(r.WarmUp, r.Duration)
		if err != nil {
			return 0, false
		}
		if d.Count() > 0 {
			total += d.Mean()
		}
	}
	return total, len(flows) > 0
}

func (r *Run) lanesPeak() (most float64, ok bool) {
	for _, s := range r.Series {
		if s.Kind != KindLanes {
			continue
		}
		// A histogram that cannot be read was refused when it was checked.
		if d, _, err := s.distribution(math.Inf(-1), math.Inf(1)); err == nil && d.Count() > 0 {
			most, ok = max(most, d.Quantile(1)), true
		}
	}
	return most, ok
}

// total is a direction's sum over time: the series that is the sum, or the
// flows' values added up at the times of the first.
func (r *Run) total(direction string) (t, v []float64) {
	flows, sum := r.flows(direction)
	if sum != nil {
		return sum.T, sum.V
	}
	if len(flows) == 0 {
		return nil, nil
	}
	longest := slices.MaxFunc(flows, func(a, b *Series) int { return len(a.T) - len(b.T) })
	t, v = longest.T, make([]float64, len(longest.T))
	for _, s := range flows {
		for i, x := range resample(s.T, s.V, t) {
			if !math.IsNaN(x) {
				v[i] += x
			}
		}
	}
	return t, v
}

// resample gives the values at other times, by linear interpolation between
// two values; next to a NaN and outside of the series it gives NaN.
func resample(t, v, at []float64) []float64 {
	values := make([]float64, len(at))
	for i, x := range at {
		values[i] = interpolate(t, v, x)
	}
	return values
}

func interpolate(t, v []float64, x float64) float64 {
	const rounding = 1e-9 // what sums of times may be off by
	after, _ := slices.BinarySearch(t, x-rounding)
	switch {
	case after < len(t) && t[after] <= x+rounding:
		return v[after]
	case after == 0 || after == len(t):
		return math.NaN()
	}
	share := (x - t[after-1]) / (t[after] - t[after-1])
	return v[after-1] + (v[after]-v[after-1])*share
}
