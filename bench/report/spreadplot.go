package report

import (
	"math"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// cdf shows for each tunnel how many of all probes felt at most how much, all
// repetitions together as a thick line and each as a faint one.
func cdf(s *section, looks map[string]look) *Figure {
	low, high := inducedRange(s.probed())
	f := cumulated(s, looks, low, high, func(c *cell) (all []Distribution) {
		for _, l := range c.latencies() {
			all = append(all, l.Induced)
		}
		return all
	})
	f.Title = "How much the load added, cumulated"
	f.panels[0].X.Label.Text, f.panels[0].Y.Label.Text = "round-trip time added by the load (ms, logarithmic)", "% of the probes that came back"
	return f
}

// pageLoads is the same of pages, nil where none were loaded.
func pageLoads(s *section, looks map[string]look) *Figure {
	low, high := axisMost, axisLeast
	for _, c := range s.cells {
		for _, d := range c.pages() {
			low, high = min(low, d.Quantile(0)), max(high, d.Quantile(1))
		}
	}
	if low > high {
		return nil
	}
	low, high = labelled(max(low, axisLeast), high)
	f := cumulated(s, looks, low, high, (*cell).pages)
	f.Title = "How long pages took, cumulated"
	f.panels[0].X.Label.Text, f.panels[0].Y.Label.Text = "from the first packet to the last byte (ms, logarithmic)", "% of the pages that came"
	return f
}

// pages are the times of the pages of each repetition that has any.
func (c *cell) pages() (all []Distribution) {
	for i := range c.runs {
		run := &c.runs[i]
		var of []Distribution
		for k := range run.Series {
			s := &run.Series[k]
			if s.Kind != KindRTT || !strings.HasPrefix(s.Name, PageName) {
				continue
			}
			// What cannot be read was refused when it was checked.
			if d, _, err := s.distribution(run.WarmUp, run.Duration); err == nil && d.Count() > 0 {
				of = append(of, d)
			}
		}
		if len(of) > 0 {
			all = append(all, merge(of))
		}
	}
	return all
}

// cumulated shows cumulated distributions on a logarithmic axis, for each tunnel
// that has any: all repetitions together as a thick line and each as a faint one.
func cumulated(s *section, looks map[string]look, low, high float64, of func(*cell) []Distribution) *Figure {
	p := newPlot("", "")
	f := &Figure{Subtitle: s.conditions(), width: 720, height: 360, panels: []*plot.Plot{p}}
	for _, c := range s.cells {
		all := of(c)
		if len(all) == 0 {
			continue
		}
		l := looks[c.tunnel]
		for _, d := range all {
			addCumulated(p, d, 120, draw.LineStyle{Color: l.faint(0.35), Width: 0.7})
		}
		addCumulated(p, merge(all), 400, l.line(2))
		f.legend = append(f.legend, legendEntry{text: c.tunnel, style: l.line(2)})
	}
	logAxis(&p.X, low, high)
	p.Y.Min, p.Y.Max = 0, 100
	p.Y.Tick.Marker = plot.ConstantTicks{{Value: 0, Label: "0"}, {Value: 25, Label: "25"}, {Value: 50, Label: "50"},
		{Value: 75, Label: "75"}, {Value: 90, Label: "90"}, {Value: 100, Label: "100"}}
	return f
}

// addCumulated adds a distribution as steps, or as a line of about as many
// points where there are more.
func addCumulated(p *plot.Plot, d Distribution, steps int, style draw.LineStyle) {
	place := func(v float64) float64 { return math.Log10(max(v, axisLeast)) }
	points := plotter.XYs{{X: place(d.Quantile(0)), Y: 0}}
	for i, v := range d.values {
		points = append(points, plotter.XY{X: place(v), Y: 100 * float64(d.upTo[i]) / float64(d.Count())})
	}
	line, err := plotter.NewLine(thin(points, steps))
	if err != nil {
		return // no distribution here is empty
	}
	line.LineStyle = style
	if len(points) <= steps {
		line.StepStyle = plotter.PostStep // few values, such as those of virtual time
	}
	p.Add(line)
}

// boxes shows each repetition's distribution as a box of its own, side by side
// for each tunnel: how far one may trust a single run.
func boxes(s *section, looks map[string]look) *Figure {
	cells := s.probed()
	p := newPlot("", "added by the load (ms, logarithmic)")
	low, high := inducedRange(cells)
	logAxis(&p.Y, low, high)
	names := make([]string, len(cells))
	for i, c := range cells {
		names[i] = c.tunnel
		p.Add(boxGroup{float64(i), c.latencies(), looks[c.tunnel]})
	}
	p.NominalX(names...)
	p.X.Min, p.X.Max = -0.5, float64(len(cells))-0.5
	p.X.Tick.Label = sans(legendSize-0.5, ink)
	p.X.Tick.Label.XAlign, p.X.Tick.Label.YAlign = draw.XCenter, draw.YTop
	p.X.Tick.Length = 0
	box := draw.LineStyle{Color: look{colour: muted}.faint(0.4), Width: 9}
	return &Figure{
		Title: "Every run by itself", Subtitle: s.conditions(),
		width: 720, height: 360, panels: []*plot.Plot{p},
		legend: []legendEntry{{text: "half of the probes, with the median", style: box},
			{text: "1st to 99th percentile", style: draw.LineStyle{Color: muted, Width: 1}},
			{text: "worst", glyph: draw.GlyphStyle{Color: muted, Radius: 2.2, Shape: draw.RingGlyph{}}}},
	}
}

// A boxGroup draws the repetitions of one tunnel side by side around x.
type boxGroup struct {
	x    float64
	runs []Latency
	look look
}

// Plot implements [plot.Plotter].
func (b boxGroup) Plot(c draw.Canvas, p *plot.Plot) {
	toX, toY := p.Transforms(&c)
	y := logTo(&p.Y, toY)
	room := (toX(1) - toX(0)) * 0.8 / vg.Length(len(b.runs))
	width := min(room*0.7, 22)
	for i, run := range b.runs {
		center := toX(b.x) + room*(vg.Length(i)-vg.Length(len(b.runs)-1)/2)
		b.box(c, center, width, y, run.Induced)
	}
}

func (b boxGroup) box(c draw.Canvas, x, width vg.Length, y func(float64) vg.Length, d Distribution) {
	line := draw.LineStyle{Color: b.look.colour, Width: 1}
	q := func(share float64) vg.Length { return y(d.Quantile(share)) }
	c.StrokeLine2(line, x, q(0.01), x, q(0.25))
	c.StrokeLine2(line, x, q(0.75), x, q(0.99))
	r := vg.Rectangle{Min: vg.Point{X: x - width/2, Y: q(0.25)}, Max: vg.Point{X: x + width/2, Y: q(0.75)}}
	c.SetColor(b.look.faint(0.3))
	c.Fill(r.Path())
	c.SetLineStyle(line)
	c.Stroke(r.Path())
	line.Width = 2.2
	c.StrokeLine2(line, r.Min.X, q(0.5), r.Max.X, q(0.5))
	c.DrawGlyph(draw.GlyphStyle{Color: b.look.colour, Radius: 2.2, Shape: draw.RingGlyph{}}, vg.Point{X: x, Y: q(1)})
}

// scatter sets goodput against induced latency, one point for each run, and for
// each tunnel a cross from the lowest to the highest through the medians. It is
// nil where no run has both.
func scatter(s *section, looks map[string]look) *Figure {
	p := newPlot("goodput, up and down together (Mbit/s)", "added by the load (ms, logarithmic)")
	f := &Figure{Title: "Goodput against induced latency", Subtitle: s.conditions() + "; better is down and to the right",
		width: 720, height: 360, panels: []*plot.Plot{p}}
	least, most := math.Inf(1), math.Inf(-1)
	for _, c := range s.probed() {
		points := goodputAndLatency(c)
		if len(points) == 0 {
			continue
		}
		l := looks[c.tunnel]
		p.Add(cross{points, l})
		f.legend = append(f.legend, legendEntry{text: c.tunnel, style: draw.LineStyle{Color: l.colour, Width: 4}})
		for _, point := range points {
			least, most = min(least, point.X), max(most, point.X)
		}
	}
	if len(f.legend) == 0 {
		return nil
	}
	low, high := inducedRange(s.probed())
	logAxis(&p.Y, low, high)
	room := max((most-least)*0.1, most*0.01)
	p.X.Min, p.X.Max = max(least-room, 0), most+room
	p.X.Tick.Marker = numbers{}
	return f
}

// goodputAndLatency has a point for each repetition that has both.
func goodputAndLatency(c *cell) plotter.XYs {
	var points plotter.XYs
	for _, run := range c.runs {
		figures := Figures(run)
		up, isUp := figures[MetricGoodputUp]
		down, isDown := figures[MetricGoodputDown]
		added, ok := figures[MetricInducedMedian]
		if ok && (isUp || isDown) {
			points = append(points, plotter.XY{X: up + down, Y: added})
		}
	}
	return points
}

// A cross draws the points of one tunnel, and their medians and ranges.
type cross struct {
	points plotter.XYs
	look   look
}

// Plot implements [plot.Plotter].
func (k cross) Plot(c draw.Canvas, p *plot.Plot) {
	toX, toY := p.Transforms(&c)
	y := logTo(&p.Y, toY)
	var xs, ys []float64
	for _, point := range k.points {
		xs, ys = append(xs, point.X), append(ys, point.Y)
		c.DrawGlyph(draw.GlyphStyle{Color: k.look.faint(0.6), Radius: 3, Shape: draw.CircleGlyph{}}, vg.Point{X: toX(point.X), Y: y(point.Y)})
	}
	goodput, added := NewSpread(xs), NewSpread(ys)
	style := draw.LineStyle{Color: k.look.colour, Width: 1.6}
	c.StrokeLine2(style, toX(goodput.Min), y(added.Median), toX(goodput.Max), y(added.Median))
	c.StrokeLine2(style, toX(goodput.Median), y(added.Min), toX(goodput.Median), y(added.Max))
	c.DrawGlyph(draw.GlyphStyle{Color: k.look.colour, Radius: 5.5, Shape: draw.RingGlyph{}}, vg.Point{X: toX(goodput.Median), Y: y(added.Median)})
}
