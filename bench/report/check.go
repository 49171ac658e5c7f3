package report

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
)

// units are the kinds of series, with the units that each may have.
var units = map[string][]string{
	KindRTT:     {UnitMs},
	KindGoodput: {UnitMbit},
	KindLanes:   {UnitCount},
	KindQueue:   {UnitMs, UnitBytes, UnitCount},
	KindCount:   {UnitCount},
}

// metricName is what a metric may be called.
var metricName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// check finds what makes a document impossible to read as it was meant.
func (d *Document) check() error {
	if d.Created.IsZero() {
		return errors.New("created is missing")
	}
	seen := map[string]bool{}
	for i := range d.Runs {
		run := &d.Runs[i]
		if err := run.check(); err != nil {
			return fmt.Errorf("runs[%d] (%s): %w", i, run.name(), err)
		}
		if seen[run.name()] {
			return fmt.Errorf("runs[%d] (%s): the same run is there twice; number the repetitions", i, run.name())
		}
		seen[run.name()] = true
	}
	return nil
}

func (r *Run) check() error {
	switch {
	case r.Scenario == "":
		return errors.New("scenario is missing")
	case r.Tunnel.Name == "":
		return errors.New("tunnel.name is missing")
	case r.Repetition < 1:
		return fmt.Errorf("repetition is %d, they count from 1", r.Repetition)
	case r.Error == "" && !(r.Duration > 0 && finite(r.Duration)):
		return fmt.Errorf("duration_s is %v, want the seconds that the load lasted", r.Duration)
	case !(r.WarmUp >= 0 && r.WarmUp <= r.Duration):
		return fmt.Errorf("warm_up_s is %v, want 0 to duration_s", r.WarmUp)
	}
	for name, value := range r.Metrics {
		if !metricName.MatchString(name) {
			return fmt.Errorf("metric %q: a name is lower-case letters, digits and _, and ends in the unit", name)
		}
		if !finite(value) {
			return fmt.Errorf("metric %q is %v: leave out what was not measured", name, value)
		}
	}
	return r.checkSeries()
}

func (r *Run) checkSeries() error {
	type key struct {
		name, kind, direction, dscp string
		flow                        int
	}
	seen := map[key]bool{}
	for i := range r.Series {
		s := &r.Series[i]
		if err := s.check(); err != nil {
			return fmt.Errorf("series[%d] %q: %w", i, s.Name, err)
		}
		k := key{s.Name, s.Kind, s.Direction, s.DSCP, s.Flow}
		if seen[k] {
			return fmt.Errorf("series[%d] %q: the same name, kind, direction, class and flow are there twice", i, s.Name)
		}
		seen[k] = true
	}
	return nil
}

func (s *Series) check() error {
	allowed, known := units[s.Kind]
	switch {
	case s.Name == "":
		return errors.New("name is missing")
	case !known:
		return fmt.Errorf("kind %q is not known", s.Kind)
	case !slices.Contains(allowed, s.Unit):
		return fmt.Errorf("unit %q, but kind %q has %q", s.Unit, s.Kind, allowed)
	case s.Direction != "" && s.Direction != Up && s.Direction != Down:
		return fmt.Errorf("direction %q, want %q, %q or none", s.Direction, Up, Down)
	case s.Flow < 0 || s.Lost < 0:
		return errors.New("flow and lost cannot be negative")
	case s.Histogram != "" && len(s.T)+len(s.V) > 0:
		return errors.New("both samples and a histogram: want one of them")
	case len(s.T) != len(s.V):
		return fmt.Errorf("%d times for %d values", len(s.T), len(s.V))
	case s.Histogram != "":
		_, err := decodeHistogram(s.Histogram)
		return err
	}
	return s.checkSamples()
}

func (s *Series) checkSamples() error {
	for i, t := range s.T {
		switch {
		case !finite(t):
			return fmt.Errorf("t[%d] is %v", i, t)
		case i > 0 && t < s.T[i-1]:
			return fmt.Errorf("t[%d] is %v, before t[%d], %v: sort them", i, t, i-1, s.T[i-1])
		case math.IsInf(s.V[i], 0):
			return fmt.Errorf("v[%d] is infinite: what is lost is NaN", i)
		}
	}
	return nil
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
