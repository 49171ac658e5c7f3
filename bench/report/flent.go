package report

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// flentFormat is the version of flent's data format that is written: what
// flent 0.15 and everything since reads.
const flentFormat = 4

// flentStep is the seconds between two points of flent's results, as flent
// itself has it.
const flentStep = 0.2

// flentEpoch is the time that a run's zero is given in a flent file. A run in
// virtual time has no other, and files that differ only in the date are of no
// use to anyone.
var flentEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// A flentFile is what is in a .flent.gz.
type flentFile struct {
	Version  int                     `json:"version"`
	Metadata map[string]any          `json:"metadata"`
	X        []float64               `json:"x_values"`
	Results  map[string]Values       `json:"results"`
	Raw      map[string][]flentPoint `json:"raw_values"`
}

// A flentPoint is one sample as it was taken.
type flentPoint struct {
	T   float64 `json:"t"`
	Val float64 `json:"val"`
}

// flentClasses are the classes of service that flent's rrul test has a flow
// for, by what Series.DSCP says.
var flentClasses = map[string]string{"": "BE", "CS0": "BE", "CS1": "BK", "CS5": "CS5", "EF": "EF"}

// ExportFlent writes a run as a .flent.gz that flent 1.0 to 2.x and flent-gui
// open. The flows become "TCP upload BE::1" and so on of flent's
// rrul_be_nflows, or, where there is one flow of each class both ways, the
// "TCP upload EF" and so on of its rrul; the sums "TCP upload sum", "TCP
// download sum" and "TCP totals". The probe becomes "Ping (ms) UDP BE", the
// series "ping" "Ping (ms) ICMP". All samples are there as raw values, which
// is what flent takes its statistics from. Round trips are whole, as flent has
// them: nothing is taken off. It is an error if the run failed or has nothing
// that flent knows, histograms included.
func ExportFlent(run Run, w io.Writer) error {
	file, err := newFlentFile(&run)
	if err != nil {
		return fmt.Errorf("export %s to flent: %w", run.name(), err)
	}
	zipped := gzip.NewWriter(w)
	err = errors.Join(json.NewEncoder(zipped).Encode(file), zipped.Close())
	if err != nil {
		return fmt.Errorf("export %s to flent: %w", run.name(), err)
	}
	return nil
}

func newFlentFile(run *Run) (*flentFile, error) {
	if run.Error != "" {
		return nil, fmt.Errorf("the run failed: %s", run.Error)
	}
	first, last := run.extent()
	if last <= first {
		return nil, errors.New("no samples that flent has a series for: neither flows nor probes, or only as histograms")
	}
	f := &flentFile{Version: flentFormat, Results: map[string]Values{}, Raw: map[string][]flentPoint{}}
	for i := 0; ; i++ {
		x := float64(i) * flentStep
		if x > last-first+flentStep/2 {
			break
		}
		f.X = append(f.X, math.Round(x*1000)/1000)
	}
	meta := map[string]any{}
	test := run.flentTest()
	for i := range run.Series {
		s := &run.Series[i]
		if name := test.series(s); name != "" && len(s.T) > 0 {
			meta[name] = f.add(name, s, first)
		}
	}
	for name, of := range test.sums(f.Results) {
		f.Results[name] = f.combine(of, strings.HasSuffix(name, "avg"))
		meta[name] = map[string]any{"UNITS": flentUnit(of[0]), "COMPUTED_LATE": false}
	}
	f.Metadata = test.metadata(run, last-first)
	f.Metadata["SERIES_META"] = meta
	return f, nil
}

// extent is the time of the first and of the last sample.
func (r *Run) extent() (first, last float64) {
	first, last = math.Inf(1), math.Inf(-1)
	for _, s := range r.Series {
		if (s.Kind == KindRTT || s.Kind == KindGoodput) && len(s.T) > 0 {
			first, last = min(first, s.T[0]), max(last, s.T[len(s.T)-1])
		}
	}
	return first, last
}

// add puts a series in, once as it is and once at flent's steps, and returns
// what flent wants to know of it.
func (f *flentFile) add(name string, s *Series, first float64) map[string]any {
	at := make([]float64, len(f.X))
	for i, x := range f.X {
		at[i] = x + first
	}
	f.Results[name] = resample(s.T, s.V, at)
	for i, t := range s.T {
		if !math.IsNaN(s.V[i]) {
			f.Raw[name] = append(f.Raw[name], flentPoint{float64(flentEpoch.Unix()) + t - first, s.V[i]})
		}
	}
	return map[string]any{"UNITS": flentUnit(name)}
}

// combine adds up series, or gives their mean.
func (f *flentFile) combine(names []string, mean bool) Values {
	total := make(Values, len(f.X))
	for i := range total {
		n := 0
		for _, name := range names {
			if v := f.Results[name][i]; !math.IsNaN(v) {
				total[i] += v
				n++
			}
		}
		switch {
		case n == 0:
			total[i] = math.NaN()
		case mean:
			total[i] /= float64(n)
		}
	}
	return total
}
