package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// A sweep is sections that differ only in how many flows they have: figures are
// plotted over that, a line for each tunnel.
type sweep struct {
	scenario, title string
	path            Path
	steps           []sweepStep // fewest flows first
	tunnels         []string
}

// A sweepStep is the section with one number of flows.
type sweepStep struct {
	flows   float64
	section *section
}

// sweeps puts those sections together that say how many flows they had, and leaves
// the rest.
func sweeps(all []*section) (found []*sweep, rest []*section) {
	for _, s := range all {
		flows, ok := s.flows()
		if !ok {
			rest = append(rest, s)
			continue
		}
		sweepOf(&found, s).add(flows, s)
	}
	return found, rest
}

func sweepOf(all *[]*sweep, s *section) *sweep {
	scenario, _, _ := strings.Cut(s.scenario, " ")
	for _, w := range *all {
		if w.scenario == scenario && w.path == s.path {
			return w
		}
	}
	w := &sweep{scenario: scenario, title: s.title, path: s.path}
	*all = append(*all, w)
	return w
}

func (w *sweep) add(flows float64, s *section) {
	w.steps = append(w.steps, sweepStep{flows, s})
	slices.SortStableFunc(w.steps, func(a, b sweepStep) int { return cmp.Compare(a.flows, b.flows) })
	for _, c := range s.cells {
		if !slices.Contains(w.tunnels, c.tunnel) {
			w.tunnels = append(w.tunnels, c.tunnel)
		}
	}
}

// flows is how many there were in the section's runs, not ok if they do not say.
func (s *section) flows() (float64, bool) {
	return s.metric(MetricFlows)
}

// metric is a metric that all of the section's runs have in common, as the first
// that succeeded has it.
func (s *section) metric(name string) (float64, bool) {
	for _, c := range s.cells {
		for _, run := range c.runs {
			v, ok := run.Metrics[name]
			return v, ok
		}
	}
	return 0, false
}

// values are a metric's figures over one tunnel with one number of flows.
func (step *sweepStep) values(tunnel, metric string) []float64 {
	c := step.section.cell(tunnel)
	if c == nil {
		return nil
	}
	return c.values(metric)
}

// title names a metric with one number of flows.
func (step *sweepStep) title(metric string) string {
	flows := "flows"
	if step.flows == 1 {
		flows = "flow"
	}
	return fmt.Sprintf("%.0f %s: %s", step.flows, flows, kindOf(metric).title())
}

// A course is one tunnel's figure over the number of flows.
type course struct {
	points []coursePoint
	look   look
}

// A coursePoint is its repetitions with one number of flows.
type coursePoint struct {
	flows  float64
	spread Spread
}

// courses has one for each tunnel that has the metric.
func (w *sweep) courses(metric string, looks map[string]look) (all []course, names []string) {
	for _, tunnel := range w.tunnels {
		k := course{look: looks[tunnel]}
		for _, step := range w.steps {
			if v := step.values(tunnel, metric); len(v) > 0 {
				k.points = append(k.points, coursePoint{step.flows, NewSpread(v)})
			}
		}
		if len(k.points) > 0 {
			all, names = append(all, k), append(names, tunnel)
		}
	}
	return all, names
}

// Plot implements [plot.Plotter]: the medians, joined, and the range of each.
func (k course) Plot(c draw.Canvas, p *plot.Plot) {
	toX, toY := p.Transforms(&c)
	x := logTo(&p.X, toX)
	y := func(v float64) vg.Length { return toY(min(max(v, p.Y.Min), p.Y.Max)) }
	var line []vg.Point
	for _, point := range k.points {
		at := x(point.flows)
		line = append(line, vg.Point{X: at, Y: y(point.spread.Median)})
		c.StrokeLine2(draw.LineStyle{Color: k.look.colour, Width: 1}, at, y(point.spread.Min), at, y(point.spread.Max))
		c.DrawGlyph(draw.GlyphStyle{Color: k.look.colour, Radius: 2.6, Shape: draw.CircleGlyph{}}, line[len(line)-1])
	}
	c.StrokeLines(k.look.line(1.6), line)
}

// figures are what is plotted over the number of flows.
func (w *sweep) figures(looks map[string]look) (all []*Figure) {
	for _, f := range []*Figure{
		w.figure("Flows that have a gateway's queue of their own", "% of the flows", MetricFlowsAlone, 100, looks),
		w.figure("How fairly bulk flows share the line", "Jain's index of goodput", MetricJainUp, 1, looks),
	} {
		if f != nil {
			all = append(all, f)
		}
	}
	if len(all) > 0 {
		w.addChance(all[0])
	}
	return all
}

// figure plots a metric that cannot be more than most; nil where no run has it.
func (w *sweep) figure(title, label, metric string, most float64, looks map[string]look) *Figure {
	courses, names := w.courses(metric, looks)
	if len(courses) == 0 {
		return nil
	}
	p := newPlot("flows at the same time (logarithmic)", label)
	f := &Figure{Name: slug(w.name() + "-" + metric), Title: title, Subtitle: w.conditions(), width: 720, height: 380, panels: []*plot.Plot{p}}
	for i, k := range courses {
		p.Add(k)
		f.legend = append(f.legend, legendEntry{text: names[i], style: k.look.line(1.6)})
	}
	first, last := w.steps[0].flows, w.steps[len(w.steps)-1].flows
	logAxis(&p.X, first/1.15, last*1.15)
	p.Y.Min, p.Y.Max = 0, most*1.03
	p.Y.Tick.Marker = numbers{}
	return f
}

// addChance adds the line of flows that each have a random queue: as good as a
// tunnel, or none, can be.
func (w *sweep) addChance(f *Figure) {
	queues, ok := w.steps[0].section.metric(MetricGatewayQueues)
	if !ok || queues < 1 {
		return
	}
	const steps = 200
	first, last := w.steps[0].flows, w.steps[len(w.steps)-1].flows
	var points plotter.XYs
	for i := range steps + 1 {
		n := first * math.Pow(last/first, float64(i)/steps)
		points = append(points, plotter.XY{X: math.Log10(n), Y: 100 * math.Pow(1-1/queues, n-1)})
	}
	line, err := plotter.NewLine(points)
	if err != nil {
		return // it has points
	}
	line.LineStyle = baseLine
	f.panels[0].Add(line)
	f.legend = append(f.legend, legendEntry{text: fmt.Sprintf("expected of a random one of %.0f queues", queues), style: baseLine})
}

func (w *sweep) name() string { return w.scenario + "-" + w.path.String() }

func (w *sweep) conditions() string { return cmp.Or(w.title, w.scenario) + "; " + w.path.String() }

// view is the sweep's part of the page: its figures, and a table of what they show.
func (w *sweep) view(figures []*Figure) (partView, error) {
	v := partView{ID: slug(w.name()), Title: cmp.Or(w.title, w.scenario), Path: w.path.String(), More: w.tunnels}
	var columns []sweepColumn
	for _, metric := range []string{MetricFlowsAlone, MetricJainUp} {
		for i := range w.steps {
			if step := &w.steps[i]; step.section.has(metric) {
				columns = append(columns, sweepColumn{metric, step})
				v.Head = append(v.Head, step.title(metric))
			}
		}
	}
	for _, tunnel := range w.tunnels {
		v.Rows = append(v.Rows, w.row(tunnel, columns))
	}
	for _, step := range w.steps {
		v.Notes = append(v.Notes, step.section.notes()...)
		for _, metric := range step.section.metrics() {
			if metric != MetricFlowsAlone && metric != MetricJainUp {
				v.Others = append(v.Others, step.otherRow(metric, w.tunnels))
			}
		}
	}
	var err error
	v.Figures, err = views(figures)
	return v, err
}

// A sweepColumn is one metric with one number of flows.
type sweepColumn struct {
	metric string
	step   *sweepStep
}

func (s *section) has(metric string) bool { return slices.Contains(s.metrics(), metric) }

func (s *section) metrics() []string { return metrics(s.cells...) }

func (w *sweep) row(tunnel string, columns []sweepColumn) rowView {
	row := rowView{Tunnel: tunnel}
	runs, failed := 0, 0
	for _, step := range w.steps {
		if c := step.section.cell(tunnel); c != nil {
			row.Version = cmp.Or(row.Version, c.version())
			runs += len(c.runs)
			failed += len(c.failed)
		}
	}
	row.Runs = runsOf(runs, failed)
	for _, column := range columns {
		row.Cells = append(row.Cells, cellOf(kindOf(column.metric), column.step.values(tunnel, column.metric)))
	}
	return row
}

func (step *sweepStep) otherRow(metric string, tunnels []string) otherRow {
	k := kindOf(metric)
	row := otherRow{Metric: step.title(metric)}
	for _, tunnel := range tunnels {
		row.Cells = append(row.Cells, k.spread(NewSpread(step.values(tunnel, metric))))
	}
	return row
}
