package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// What Series.Kind says.
const (
	KindRTT     = "rtt"     // round trips of a probe
	KindGoodput = "goodput" // what one flow, or all of a direction, delivered
	KindLanes   = "lanes"   // lanes in use
	KindQueue   = "queue"   // a queue's length or delay
	KindCount   = "count"   // anything else that is counted
)

// What Series.Unit says.
const (
	UnitMs    = "ms"
	UnitMbit  = "Mbit/s"
	UnitBytes = "bytes"
	UnitCount = "count"
)

// What Series.Direction says: up is from site A to site B.
const (
	Up   = "up"
	Down = "down"
)

// ProbeName is the name of the series of the sparse UDP probe, and PingName
// that of an ICMP one. Induced takes the first, and the second if there is no
// first.
const (
	ProbeName = "probe"
	PingName  = "ping"
)

// PageName begins the names of the series of pages that were loaded, of the kind
// KindRTT: from opening a connection to the last byte.
const PageName = "page"

// A Series is one quantity over the time of a run: either samples (T and V) or,
// where they are too many, their distribution (Histogram).
type Series struct {
	Name      string `json:"name"`
	Kind      string `json:"kind"`
	Unit      string `json:"unit"`
	Direction string `json:"direction,omitempty"`
	// DSCP is the class that the packets were marked with, such as "EF"; empty
	// for best effort.
	DSCP string `json:"dscp,omitempty"`
	// Flow counts the flows of a kind from 1. Zero is not one flow: a probe,
	// or the sum of all flows of a direction.
	Flow int `json:"flow,omitempty"`
	// Begins is when the flow began, in seconds since the load started.
	Begins float64 `json:"begins_s,omitempty"`
	// T are seconds since the load started, in order; negative before it. Of a
	// round trip it is when the probe was sent.
	T []float64 `json:"t,omitempty"`
	// V are the values at T; NaN is a lost probe, or nothing measured.
	V Values `json:"v,omitempty"`
	// Histogram is an HdrHistogram in its V2 compressed encoding, in
	// thousandths of Unit.
	Histogram string `json:"histogram,omitempty"`
	// Lost is how many probes a histogram lacks because they were lost.
	Lost int64 `json:"lost,omitempty"`
}

// Values are samples; NaN is written to JSON as null.
type Values []float64

// MarshalJSON implements [json.Marshaler].
func (v Values) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('[')
	for i, x := range v {
		if i > 0 {
			b.WriteByte(',')
		}
		if math.IsNaN(x) {
			b.WriteString("null")
			continue
		}
		encoded, err := json.Marshal(x)
		if err != nil {
			return nil, err
		}
		b.Write(encoded)
	}
	b.WriteByte(']')
	return b.Bytes(), nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (v *Values) UnmarshalJSON(data []byte) error {
	var points []*float64
	if err := json.Unmarshal(data, &points); err != nil {
		return err
	}
	*v = make(Values, len(points))
	for i, p := range points {
		(*v)[i] = math.NaN()
		if p != nil {
			(*v)[i] = *p
		}
	}
	return nil
}

// histogramScale is how many units of a histogram make one unit of its series.
const histogramScale = 1000

// histogramMost bounds a histogram's values: an hour, where the unit is ms.
const histogramMost = 3600 * 1000 * histogramScale

// HistogramSeries makes a series out of samples that are too many to keep, to
// three significant digits. It takes name, kind, unit and the like from s, and
// counts NaN as lost. A value below zero or above 3.6 million is an error.
func HistogramSeries(s Series, samples []float64) (Series, error) {
	h := hdrhistogram.New(1, histogramMost, 3)
	s.T, s.V, s.Lost = nil, nil, 0
	for _, x := range samples {
		if math.IsNaN(x) {
			s.Lost++
			continue
		}
		if x < 0 || x*histogramScale > histogramMost {
			return Series{}, fmt.Errorf("histogram of series %q: %v is outside of 0 to %d", s.Name, x, histogramMost/histogramScale)
		}
		if err := h.RecordValue(int64(math.Round(x * histogramScale))); err != nil {
			return Series{}, fmt.Errorf("histogram of series %q: %w", s.Name, err)
		}
	}
	encoded, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return Series{}, fmt.Errorf("histogram of series %q: %w", s.Name, err)
	}
	s.Histogram = string(encoded)
	return s, nil
}

// distribution gives the values between two times, and how many were lost. A
// histogram has no times: it is taken whole.
func (s *Series) distribution(from, to float64) (Distribution, int64, error) {
	if s.Histogram != "" {
		d, err := decodeHistogram(s.Histogram)
		if err != nil {
			return Distribution{}, 0, fmt.Errorf("series %q: %w", s.Name, err)
		}
		return d, s.Lost, nil
	}
	var kept []float64
	lost := s.Lost
	for i, t := range s.T {
		switch {
		case t < from || t > to:
		case math.IsNaN(s.V[i]):
			lost++
		default:
			kept = append(kept, s.V[i])
		}
	}
	return NewDistribution(kept), lost, nil
}

func decodeHistogram(encoded string) (Distribution, error) {
	h, err := hdrhistogram.Decode([]byte(encoded))
	if err != nil {
		return Distribution{}, fmt.Errorf("histogram is not in the V2 compressed encoding: %w", err)
	}
	var d Distribution
	for _, bar := range h.Distribution() {
		if bar.Count > 0 {
			middle := float64(bar.From+bar.To) / 2
			d.add(middle/histogramScale, bar.Count)
		}
	}
	return d, nil
}
