package report

import (
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// A Selection picks what a headline is about. The zero value picks the scenario
// and path with most tunnels, the first of several.
type Selection struct {
	// Scenario is one scenario's name, empty for any.
	Scenario string
	// UpMbit is the bottleneck's rate up in Mbit/s, 0 for any.
	UpMbit float64
}

// Headline is the one plot for a README: what a sparse probe felt under load,
// over each tunnel, on a logarithmic axis. For each tunnel it shows where the
// middle half and nine tenths of all probes were, the median, the worst, and
// the median of each repetition.
func Headline(doc *Document, pick Selection) (*Figure, error) {
	best := headlined(doc, pick)
	if best == nil {
		return nil, fmt.Errorf("headline: no run of scenario %q at %v Mbit/s has a probe (empty and 0 are any)", pick.Scenario, pick.UpMbit)
	}
	f, err := headline(best, looks(doc))
	if err != nil {
		return nil, err
	}
	f.Name = "headline"
	return f, nil
}

// headlined is the section that a headline is about, nil if there is none.
func headlined(doc *Document, pick Selection) *section {
	var best *section
	for _, s := range sections(doc) {
		switch {
		case pick.Scenario != "" && s.scenario != pick.Scenario:
		case pick.UpMbit != 0 && s.path.UpMbit != pick.UpMbit:
		case len(s.probed()) == 0:
		case best == nil || len(s.probed()) > len(best.probed()):
			best = s
		}
	}
	return best
}

// probed are the cells that have induced latencies.
func (s *section) probed() []*cell {
	var cells []*cell
	for _, c := range s.cells {
		if len(c.latencies()) > 0 {
			cells = append(cells, c)
		}
	}
	return cells
}

// milliseconds is how the figures of a headline are shown.
var milliseconds = figureKind{unit: "ms"}

// rowHeight is how high each tunnel's row of a headline is.
const rowHeight = 44 * vg.Length(1)

func headline(s *section, looks map[string]look) (*Figure, error) {
	cells := s.probed()
	if len(cells) == 0 {
		return nil, errors.New("headline: no probes")
	}
	low, high := inducedRange(cells)
	p := newPlot("round-trip time added by the load (ms, logarithmic); further left is better", "")
	logAxis(&p.X, low, high)
	names := make([]string, len(cells))
	strips := &strips{}
	most := 0
	for i, c := range cells {
		row := len(cells) - 1 - i
		names[row] = c.tunnel
		strips.rows = append(strips.rows, newStrip(c, float64(row), looks[c.tunnel]))
		most = max(most, len(c.latencies()))
	}
	p.Add(strips)
	p.NominalY(names...)
	p.Y.Min, p.Y.Max = -0.5, float64(len(cells))-0.5
	p.Y.Tick.Label = sans(legendSize+0.5, ink)
	p.Y.Tick.Label.XAlign, p.Y.Tick.Label.YAlign = draw.XRight, draw.YCenter
	p.Y.Tick.Length, p.Y.LineStyle.Width = 0, 0
	return &Figure{
		Name:     "headline",
		Title:    "What a sparse flow feels while the line is full",
		Subtitle: s.conditions() + "; " + repetitions(most),
		width:    720, height: rowHeight*vg.Length(len(cells)) + 130,
		panels: []*plot.Plot{p},
		legend: stripLegend(),
	}, nil
}

// repetitions tells how many runs there are of each tunnel.
func repetitions(most int) string {
	if most == 1 {
		return "one run each"
	}
	return fmt.Sprintf("up to %d runs each", most)
}

// conditions say under what the section was measured.
func (s *section) conditions() string {
	if s.title == "" {
		return s.scenario + "; " + s.path.String()
	}
	return s.title + "; " + s.path.String()
}

// Limits of the axis of induced latency in ms.
const (
	axisLeast = 0.01
	axisMost  = 1e5
)

// inducedRange is the part of a logarithmic axis that the cells need: from the
// 1/5/10 below the lowest percentiles to that above the worst.
func inducedRange(cells []*cell) (low, high float64) {
	low, high = axisMost, axisLeast
	for _, c := range cells {
		d := c.pooled()
		if x := d.Quantile(0.05); x > 0 {
			low = min(low, x)
		}
		high = max(high, d.Quantile(1))
	}
	low, high = min(max(low, axisLeast), 1), min(max(high, 10), axisMost)
	low = math.Pow(10, math.Floor(math.Log10(low)))
	return low, high * 1.6
}

// A strip is one row of a headline.
type strip struct {
	row               float64
	look              look
	p5, p25, p75, p95 float64
	median, worst     float64
	repetitions       []float64
}

func newStrip(c *cell, row float64, l look) strip {
	d := c.pooled()
	s := strip{row: row, look: l, p5: d.Quantile(0.05), p25: d.Quantile(0.25), p75: d.Quantile(0.75), p95: d.Quantile(0.95),
		worst: d.Quantile(1), repetitions: c.values(MetricInducedMedian)}
	s.median = median(s.repetitions)
	return s
}

// strips draws all rows of a headline.
type strips struct{ rows []strip }

// Plot implements [plot.Plotter].
func (s *strips) Plot(c draw.Canvas, p *plot.Plot) {
	toX, toY := p.Transforms(&c)
	at := logTo(&p.X, toX)
	for _, r := range s.rows {
		r.draw(c, at, toY(r.row))
	}
}

func (s strip) draw(c draw.Canvas, at func(float64) vg.Length, y vg.Length) {
	y -= 5 // room for the label above
	bar := func(from, to float64, height vg.Length, opacity float64) {
		c.SetColor(s.look.faint(opacity))
		r := vg.Rectangle{Min: vg.Point{X: at(from), Y: y - height/2}, Max: vg.Point{X: max(at(to), at(from)+1), Y: y + height/2}}
		c.Fill(r.Path())
	}
	solid := draw.LineStyle{Color: s.look.colour, Width: 1.2}
	c.StrokeLine2(solid, at(s.p5), y, at(s.worst), y)
	c.StrokeLine2(solid, at(s.worst), y-5, at(s.worst), y+5)
	bar(s.p5, s.p95, 11, 0.25)
	bar(s.p25, s.p75, 11, 0.5)
	for _, x := range s.repetitions {
		c.DrawGlyph(draw.GlyphStyle{Color: s.look.colour, Radius: 2.2, Shape: draw.RingGlyph{}}, vg.Point{X: at(x), Y: y})
	}
	c.DrawGlyph(draw.GlyphStyle{Color: s.look.colour, Radius: 5, Shape: draw.CircleGlyph{}}, vg.Point{X: at(s.median), Y: y})
	s.drawLabels(c, at, y)
}

// drawLabels writes the median over its point and the worst over its end, and
// moves the second away from the first where they would meet.
func (s strip) drawLabels(c draw.Canvas, at func(float64) vg.Length, y vg.Length) {
	style := bold(textSize, ink)
	style.XAlign, style.YAlign = draw.XCenter, draw.YBottom
	label := milliseconds.signed(s.median) + " ms"
	c.FillText(style, vg.Point{X: at(s.median), Y: y + 8}, label)
	worst := sans(textSize-1, muted)
	worst.XAlign, worst.YAlign = draw.XCenter, draw.YBottom
	text := "worst " + milliseconds.signed(s.worst)
	apart := (widthOf(label, style)+widthOf(text, worst))/2 + 6
	x := max(at(s.worst), at(s.median)+apart)
	if last := c.Max.X + margin - widthOf(text, worst)/2; x > last {
		x = last
		if x < at(s.median)+apart {
			x = at(s.median) - apart
		}
	}
	c.FillText(worst, vg.Point{X: x, Y: y + 8}, text)
}

// stripLegend explains the parts of a strip.
func stripLegend() []legendEntry {
	grey := look{colour: muted}
	return []legendEntry{
		{text: "median of the runs", glyph: draw.GlyphStyle{Color: muted, Radius: 5, Shape: draw.CircleGlyph{}}},
		{text: "each run", glyph: draw.GlyphStyle{Color: muted, Radius: 2.2, Shape: draw.RingGlyph{}}},
		{text: "half of all probes", style: draw.LineStyle{Color: grey.faint(0.6), Width: 9}},
		{text: "nine tenths", style: draw.LineStyle{Color: grey.faint(0.25), Width: 9}},
		{text: "to the worst", style: draw.LineStyle{Color: muted, Width: 1.2}},
	}
}
