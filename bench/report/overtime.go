package report

import (
	"fmt"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// mostPoints bounds the points of a line; of more, each stretch keeps its
// lowest and highest.
const mostPoints = 1500

// mostFlowLines bounds the flows that are drawn one by one; of more, nobody could
// tell them apart.
const mostFlowLines = 16

// overTime is one run as flent's all_scaled shows it: goodput up, goodput down
// and round trips, one above the other, with lost probes marked.
func overTime(run *Run, looks map[string]look) *Figure {
	l := looks[run.Tunnel.String()]
	f := &Figure{
		Title:    fmt.Sprintf("%s: goodput and round trips over time", run.Tunnel),
		Subtitle: fmt.Sprintf("%s, %s; repetition %d", run.Scenario, run.Path, run.Repetition),
		width:    720, height: 90,
	}
	for _, direction := range []string{Up, Down} {
		if p := goodputOverTime(run, direction); p != nil {
			f.panels = append(f.panels, p)
			f.height += 140
		}
	}
	if len(f.panels) > 0 {
		f.legend = append(f.legend, legendEntry{text: "all flows", style: totalLine})
		if up, _ := run.flows(Up); len(up) <= mostFlowLines {
			f.legend = append(f.legend, legendEntry{text: "each flow", style: flowLine(0)})
		}
	}
	if probe := run.probe(); probe != nil && len(probe.T) > 0 {
		f.panels = append(f.panels, rttOverTime(run, probe, l))
		f.height += 170
		f.legend = append(f.legend, legendEntry{text: "round trip of the probe", style: draw.LineStyle{Color: l.colour, Width: 1.2}},
			legendEntry{text: "without load", style: baseLine}, legendEntry{text: "lost probe", style: lostLine})
	}
	sameX(f.panels)
	return f
}

// Lines that are the same in all figures over time.
var (
	totalLine = draw.LineStyle{Color: ink, Width: 1.9}
	baseLine  = draw.LineStyle{Color: muted, Width: 1, Dashes: []vg.Length{4, 3}}
	lostLine  = draw.LineStyle{Color: ink, Width: 1.3}
)

func flowLine(i int) draw.LineStyle {
	shades := []look{{colour: kiloportColour}, {colour: palette[1]}, {colour: nativeColour}, {colour: palette[2]}}
	return draw.LineStyle{Color: shades[i%len(shades)].faint(0.75), Width: 0.8}
}

func goodputOverTime(run *Run, direction string) *plot.Plot {
	flows, _ := run.flows(direction)
	t, v := run.total(direction)
	if len(t) == 0 {
		return nil
	}
	p := newPlot("", "Mbit/s "+direction)
	if len(flows) <= mostFlowLines {
		for i, s := range flows {
			addLine(p, s.T, s.V, flowLine(i))
		}
	}
	addLine(p, t, v, totalLine)
	linearFromZero(p)
	return p
}

func rttOverTime(run *Run, probe *Series, l look) *plot.Plot {
	p := newPlot("", "round trip (ms)")
	addLine(p, probe.T, probe.V, draw.LineStyle{Color: l.colour, Width: 1})
	if base, err := run.base(probe); err == nil {
		addLine(p, []float64{probe.T[0], probe.T[len(probe.T)-1]}, []float64{base, base}, baseLine)
	}
	linearFromZero(p)
	p.Add(lostMarks{probe})
	return p
}

// linearFromZero makes a plot start at zero and end above its highest value.
func linearFromZero(p *plot.Plot) {
	p.Y.Min, p.Y.Max = 0, max(p.Y.Max*1.08, 1e-3)
	p.X.Tick.Marker, p.Y.Tick.Marker = numbers{}, numbers{}
}

// sameX gives all panels the same time axis, labelled below the last.
func sameX(panels []*plot.Plot) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, p := range panels {
		low, high = min(low, p.X.Min), max(high, p.X.Max)
	}
	for i, p := range panels {
		p.X.Min, p.X.Max = low, high
		if i == len(panels)-1 {
			p.X.Label.Text = "seconds since the load started"
		}
	}
}

// addLine adds a line that is broken where a value is missing.
func addLine(p *plot.Plot, t, v []float64, style draw.LineStyle) {
	for _, piece := range pieces(t, v) {
		line, err := plotter.NewLine(thin(piece, mostPoints))
		if err != nil {
			continue // an empty piece, which pieces does not make
		}
		line.LineStyle = style
		p.Add(line)
	}
}

// pieces are the points without a missing value in between.
func pieces(t, v []float64) []plotter.XYs {
	var all []plotter.XYs
	var current plotter.XYs
	for i := range t {
		if math.IsNaN(v[i]) {
			if len(current) > 0 {
				all = append(all, current)
			}
			current = nil
			continue
		}
		current = append(current, plotter.XY{X: t[i], Y: v[i]})
	}
	if len(current) > 0 {
		all = append(all, current)
	}
	return all
}

// thin keeps the lowest and the highest of each stretch of points, in order, so
// that at most about that many are left and no peak is lost.
func thin(points plotter.XYs, most int) plotter.XYs {
	if len(points) <= most {
		return points
	}
	stretch := (2*len(points) + most - 1) / most
	var kept plotter.XYs
	for start := 0; start < len(points); start += stretch {
		part := points[start:min(start+stretch, len(points))]
		low, high := 0, 0
		for i, p := range part {
			if p.Y < part[low].Y {
				low = i
			}
			if p.Y > part[high].Y {
				high = i
			}
		}
		kept = append(kept, part[min(low, high)])
		if low != high {
			kept = append(kept, part[max(low, high)])
		}
	}
	return kept
}

// lostMarks draws a mark at the top of a plot for every lost probe.
type lostMarks struct{ probe *Series }

// Plot implements [plot.Plotter].
func (l lostMarks) Plot(c draw.Canvas, p *plot.Plot) {
	toX, _ := p.Transforms(&c)
	for i, t := range l.probe.T {
		if math.IsNaN(l.probe.V[i]) {
			c.StrokeLine2(lostLine, toX(t), c.Max.Y-7, toX(t), c.Max.Y)
		}
	}
}

// lanesOverTime is how many lanes each tunnel of a section used, nil where
// none says.
func lanesOverTime(s *section, looks map[string]look) *Figure {
	p := newPlot("seconds since the load started", "lanes in use")
	f := &Figure{Title: "Lanes in use over time", Subtitle: s.conditions(), width: 720, height: 280, panels: []*plot.Plot{p}}
	for _, c := range s.cells {
		run := c.typical()
		if run == nil {
			continue
		}
		style := looks[c.tunnel].line(1.6)
		found := false
		for _, series := range run.Series {
			if series.Kind == KindLanes && len(series.T) > 0 {
				addSteps(p, series.T, series.V, style)
				found = true
			}
		}
		if found {
			f.legend = append(f.legend, legendEntry{text: c.tunnel, style: style})
		}
	}
	if len(f.legend) == 0 {
		return nil
	}
	linearFromZero(p)
	return f
}

// addSteps adds a line that keeps each value until the next.
func addSteps(p *plot.Plot, t, v []float64, style draw.LineStyle) {
	for _, piece := range pieces(t, v) {
		line, err := plotter.NewLine(piece)
		if err != nil {
			continue // an empty piece, which pieces does not make
		}
		line.LineStyle, line.StepStyle = style, plotter.PostStep
		p.Add(line)
	}
}
