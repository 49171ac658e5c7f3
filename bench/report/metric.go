package report

import (
	"fmt"
	"math"
	"strings"
)

// A figureKind is how a metric is shown and judged.
type figureKind struct {
	metric, label, unit string
	// better is +1 where more is better, -1 where less is, 0 where neither.
	better int
	// Differences of at most floor, and of at most share of the first value,
	// are of no importance.
	floor, share float64
}

// figureKinds are the metrics with a meaning here, in the order in which they
// are shown.
var figureKinds = []figureKind{
	{MetricInducedMedian, "induced RTT, median", "ms", -1, 0.25, 0.05},
	{MetricInducedP99, "induced RTT, 99th percentile", "ms", -1, 0.5, 0.05},
	{MetricInducedWorst, "induced RTT, worst", "ms", -1, 1, 0.1},
	{MetricLost, "probes lost", "%", -1, 0.2, 0.05},
	{MetricGoodputUp, "goodput up", "Mbit/s", 1, 0, 0.03},
	{MetricGoodputDown, "goodput down", "Mbit/s", 1, 0, 0.03},
	{MetricPageMedian, "page load, median", "ms", -1, 1, 0.05},
	{MetricPageP99, "page load, 99th percentile", "ms", -1, 2, 0.05},
	{MetricPageWorst, "page load, worst", "ms", -1, 5, 0.1},
	{MetricPagesLost, "pages lost", "%", -1, 0.5, 0.05},
	{MetricFlowsAlone, "alone in their queue", "%", 1, 1, 0.03},
	{MetricJainUp, "Jain's index up", "", 1, 0.01, 0.01},
	{MetricJainDown, "Jain's index down", "", 1, 0.01, 0.01},
	{MetricLanesPeak, "lanes, most at once", "", 0, 0, 0.05},
	{MetricBaseRTT, "RTT without load", "ms", -1, 0.25, 0.05},
}

// unitEndings are the endings of other metrics' names.
var unitEndings = []struct {
	ending, unit string
	better       int
}{
	{"_mbit_s", "Mbit/s", 1},
	{"_packets_s", "packets/s", 1},
	{"_percent", "%", 0},
	{"_ms", "ms", -1},
	{"_us", "µs", -1},
	{"_ns", "ns", -1},
	{"_seconds", "s", -1},
	{"_mib", "MiB", -1},
	{"_bytes", "bytes", -1},
	{"_count", "", 0},
	{"_ratio", "", 0},
}

// kindOf is how to show and judge a metric. Of one that is not known the name's
// ending gives the unit, and whether more is better: rates are, times and sizes
// are not, and of anything else it cannot be said.
func kindOf(metric string) figureKind {
	for _, k := range figureKinds {
		if k.metric == metric {
			return k
		}
	}
	k := figureKind{metric: metric, label: strings.ReplaceAll(metric, "_", " "), share: 0.05}
	for _, e := range unitEndings {
		if name, ok := strings.CutSuffix(metric, e.ending); ok {
			k.label, k.unit, k.better = strings.ReplaceAll(name, "_", " "), e.unit, e.better
			break
		}
	}
	if strings.Contains(metric, "lost") || strings.Contains(metric, "dropped") {
		k.better = -1
	}
	return k
}

// digits prints a figure of this kind without its unit.
func (k figureKind) digits(x float64) string {
	switch {
	case k.unit == "" && x == math.Trunc(x):
		return fmt.Sprintf("%.0f", x) // a count
	case k.unit == "" && math.Abs(x) < 1:
		return fmt.Sprintf("%.3f", x) // an index, of which what it lacks to 1 matters
	}
	return digits(x)
}

// Digits prints a figure of a metric as the page does, without its unit.
func Digits(metric string, x float64) string { return kindOf(metric).digits(x) }

// title is the label with the unit.
func (k figureKind) title() string {
	if k.unit == "" {
		return k.label
	}
	return k.label + ", " + k.unit
}

// spread prints the median, and the range where there is one.
func (k figureKind) spread(s Spread) string {
	if s.N == 0 || s.Min == s.Max {
		return k.digits(s.Median)
	}
	return fmt.Sprintf("%s (%s to %s)", k.digits(s.Median), k.digits(s.Min), k.digits(s.Max))
}

// signed prints a difference.
func (k figureKind) signed(x float64) string {
	text := k.digits(x)
	if x > 0 && strings.ContainsAny(text, "123456789") {
		return "+" + text
	}
	return text
}

// digits prints a figure with three significant digits, and with two places
// after the point at most.
func digits(x float64) string {
	size := math.Abs(x)
	if size < 0.005 && x < 0 {
		x = 0 // or it would read -0.00
	}
	switch {
	case math.IsNaN(x):
		return "–"
	case size >= 99.95 || size == 0:
		return fmt.Sprintf("%.0f", x)
	case size >= 9.995:
		return fmt.Sprintf("%.1f", x)
	default:
		return fmt.Sprintf("%.2f", x)
	}
}
