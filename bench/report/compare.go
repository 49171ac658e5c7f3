package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
)

// What Difference.Verdict says.
const (
	Same   = "same"        // no difference that matters
	Better = "better"      // b is better than a
	Worse  = "worse"       // b is worse than a
	Differ = "differs"     // they differ, and neither can be called better
	Agree  = "agree"       // no more apart than chance has them; there may be a difference within their interval
	Unsure = "cannot tell" // too few repetitions
)

// RepetitionsToTell is how many repetitions each side needs for a verdict. With
// fewer, a bootstrap over them promises more than it keeps: of two sides that do not
// differ, four against four, it finds 6 to 7 of 100 to differ where 5 were promised;
// five against five, 3 to 4.
const RepetitionsToTell = 5

// A Difference is one metric of two documents, for one scenario, path and
// tunnel.
type Difference struct {
	Scenario, Path, Tunnel, Metric string
	// A and B sum up the repetitions of either side; N is 0 where a side has
	// none.
	A, B Spread
	// Change is how much larger B's median is than A's; Low and High are its
	// 95 % confidence interval by a seeded bootstrap over the repetitions.
	// They are NaN where a side is missing.
	Change, Low, High float64
	// Verdict is Same, Agree, Better, Worse, Differ or Unsure.
	Verdict string
}

// Differences compares all figures of two documents, scenario by scenario, in
// the order of the first. What only one of them has is there too, with an empty
// Spread for the other. Failed runs count nowhere.
func Differences(a, b *Document) []Difference {
	var all []Difference
	for _, p := range pairs(a, b) {
		for _, metric := range metrics(p.a, p.b) {
			d := difference(kindOf(metric), p.a.values(metric), p.b.values(metric))
			d.Scenario, d.Path, d.Tunnel = p.scenario, p.path.String(), p.a.tunnel
			all = append(all, d)
		}
	}
	return all
}

// A pair is the same cell of two documents.
type pair struct {
	scenario string
	path     Path
	a, b     *cell
}

func pairs(a, b *Document) []pair {
	var all []pair
	add := func(s *section, c *cell) *pair {
		for i, p := range all {
			if p.scenario == s.scenario && p.path == s.path && p.a.tunnel == c.tunnel {
				return &all[i]
			}
		}
		all = append(all, pair{s.scenario, s.path, &cell{tunnel: c.tunnel}, &cell{tunnel: c.tunnel}})
		return &all[len(all)-1]
	}
	for _, s := range sections(a) {
		for _, c := range s.cells {
			add(s, c).a = c
		}
	}
	for _, s := range sections(b) {
		for _, c := range s.cells {
			add(s, c).b = c
		}
	}
	return all
}

func difference(k figureKind, a, b []float64) Difference {
	d := Difference{Metric: k.metric, A: NewSpread(a), B: NewSpread(b), Verdict: Unsure}
	d.Change, d.Low, d.High = math.NaN(), math.NaN(), math.NaN()
	if len(a) == 0 || len(b) == 0 {
		return d
	}
	d.Change, d.Low, d.High = medianDifference(a, b)
	if min(len(a), len(b)) >= RepetitionsToTell {
		d.Verdict = k.judge(d)
	}
	return d
}

// judge says what a difference means: that there is none where its interval
// lies within what is of no importance, that there is one where it is itself of
// importance and its interval does not contain zero, and else that the two agree
// within their interval, which one run that is unlike the others makes wide.
func (k figureKind) judge(d Difference) string {
	margin := max(k.floor, k.share*math.Abs(d.A.Median))
	switch {
	case d.Low >= -margin && d.High <= margin:
		return Same
	case d.Low <= 0 && d.High >= 0, math.Abs(d.Change) <= margin:
		return Agree
	case k.better == 0:
		return Differ
	case (d.Change > 0) == (k.better > 0):
		return Better
	default:
		return Worse
	}
}

// Compare prints two documents side by side, figure by figure, with the
// difference of the medians over the repetitions, its 95 % confidence interval,
// and what it means.
func Compare(a, b *Document, w io.Writer) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, line := range compareHead(a, b) {
		fmt.Fprintln(out, line)
	}
	counts := map[string]int{}
	for _, p := range pairs(a, b) {
		fmt.Fprintf(out, "\n%s, %s, over %s%s\n", p.scenario, p.path, p.a.tunnel, failures(p))
		if len(p.a.runs) == 0 || len(p.b.runs) == 0 {
			fmt.Fprintf(out, "  nothing to compare: %s\n", missing(p))
			continue
		}
		fmt.Fprintf(out, "  \tA\tB\tB − A\t95 %%\t\n")
		for _, metric := range metrics(p.a, p.b) {
			k := kindOf(metric)
			d := difference(k, p.a.values(metric), p.b.values(metric))
			counts[d.Verdict]++
			d.print(out, k)
		}
	}
	fmt.Fprintf(out, "\n%d better, %d worse, %d the same, %d agree, %d cannot be told, %d differ\n",
		counts[Better], counts[Worse], counts[Same], counts[Agree], counts[Unsure], counts[Differ])
	if err := out.Flush(); err != nil {
		return fmt.Errorf("compare reports: %w", err)
	}
	return nil
}

// compareHead says what is compared, and what the two do not have in common.
func compareHead(a, b *Document) []string {
	lines := []string{"A: " + a.summary(), "B: " + b.summary(),
		"Figures are medians over repetitions (lowest to highest).",
		"same: no difference that matters. agree: no more apart than chance has them, within an interval that is wider than that."}
	if a.Environment.KernelOf != b.Environment.KernelOf || a.Environment.CPU != b.Environment.CPU {
		lines = append(lines, "Note: A and B are not from the same kind of machine, so differences may be the machine's.")
	}
	if ofA, ofB := durations(a, b); ofA != ofB {
		lines = append(lines, fmt.Sprintf("Note: loads of A last %s s and those of B %s s, so what is counted over a load differs.", number(ofA), number(ofB)))
	}
	if run := copied(a, b); run != nil {
		lines = append(lines, fmt.Sprintf("Note: A and B have the same run through %s, no. %d (seed %d), to the last digit, as virtual time repeats it. That copies agree says nothing: measure again with another --seed.", run.Tunnel.Name, run.Repetition, run.Seed))
	}
	return lines
}

// durations are those of the first runs that a and b both have, but for the length
// of the load; 0 where there are none whose lengths differ.
func durations(a, b *Document) (ofA, ofB float64) {
	for _, p := range pairs(a, b) {
		if len(p.a.runs) > 0 && len(p.b.runs) > 0 && p.a.runs[0].Duration != p.b.runs[0].Duration {
			return p.a.runs[0].Duration, p.b.runs[0].Duration
		}
	}
	return 0, 0
}

// copied finds a run of a that was done again in b with the same seed, and came out
// the same.
func copied(a, b *Document) *Run {
	for _, p := range pairs(a, b) {
		for i := range p.a.runs {
			run := &p.a.runs[i]
			again := func(r Run) bool { return r.Seed == run.Seed && sameSamples(&r, run) }
			if run.Seed != 0 && slices.ContainsFunc(p.b.runs, again) {
				return run
			}
		}
	}
	return nil
}

// sameSamples compares them as they are written: two probes that were lost are the
// same.
func sameSamples(a, b *Run) bool {
	ofA, errA := json.Marshal(a.Series)
	ofB, errB := json.Marshal(b.Series)
	return errA == nil && errB == nil && bytes.Equal(ofA, ofB)
}

func (d *Document) summary() string {
	e := d.Environment
	return fmt.Sprintf("%s, kiloport %s, kernel %s of %s, %s",
		d.Created.UTC().Format("2006-01-02 15:04"), orUnknown(e.Kiloport), orUnknown(e.Kernel), orUnknown(e.KernelOf), orUnknown(e.CPU))
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func failures(p pair) string {
	if len(p.a.failed)+len(p.b.failed) == 0 {
		return ""
	}
	return fmt.Sprintf(" (failed runs: %d of A, %d of B)", len(p.a.failed), len(p.b.failed))
}

func missing(p pair) string {
	side, c := "A", p.a
	if len(c.runs) > 0 {
		side, c = "B", p.b
	}
	if len(c.failed) > 0 {
		return "all runs of " + side + " failed"
	}
	return side + " has none"
}

func (d Difference) print(w io.Writer, k figureKind) {
	verdict := d.Verdict
	if n := min(d.A.N, d.B.N); n < RepetitionsToTell {
		verdict = fmt.Sprintf("%s (%d repetitions, need %d)", Unsure, n, RepetitionsToTell)
	}
	fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\n", k.title(), k.spread(d.A), k.spread(d.B), k.signed(d.Change), k.interval(d.Low, d.High), verdict)
}

func (k figureKind) interval(low, high float64) string {
	if math.IsNaN(low) {
		return "–"
	}
	return k.signed(low) + " to " + k.signed(high)
}
