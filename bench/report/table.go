package report

import (
	"fmt"
	"html/template"
	"slices"
)

// tableMetrics bounds the columns of a section's table to the metrics that have
// a meaning here; the others go into a table of their own.
func tableMetrics(names []string) (known, others []string) {
	for _, name := range names {
		if slices.ContainsFunc(figureKinds, func(k figureKind) bool { return k.metric == name }) {
			known = append(known, name)
		} else {
			others = append(others, name)
		}
	}
	return known, others
}

func (p *part) view() (partView, error) {
	s := p.section
	known, others := tableMetrics(s.metrics())
	title := s.title
	if title == "" {
		title = s.scenario
	}
	v := partView{ID: slug(s.scenario + "-" + s.path.String()), Title: title, Path: s.path.String(), Notes: s.notes()}
	for _, name := range known {
		v.Head = append(v.Head, kindOf(name).title())
	}
	for _, c := range s.cells {
		v.Rows = append(v.Rows, c.row(known))
		v.More = append(v.More, c.tunnel)
	}
	for _, name := range others {
		v.Others = append(v.Others, s.otherRow(name))
	}
	figures := p.figures
	if p.induced != nil && !p.first {
		figures = append([]*Figure{p.induced}, figures...)
	}
	var err error
	if v.Figures, err = views(figures); err != nil {
		return v, err
	}
	v.Runs, err = views(p.runs)
	return v, err
}

func (c *cell) row(metrics []string) rowView {
	row := rowView{Tunnel: c.tunnel, Version: c.version(), Runs: runsOf(len(c.runs), len(c.failed))}
	for _, name := range metrics {
		row.Cells = append(row.Cells, cellOf(kindOf(name), c.values(name)))
	}
	return row
}

// runsOf tells how many runs a row is about.
func runsOf(succeeded, failed int) string {
	if failed == 0 {
		return fmt.Sprint(succeeded)
	}
	return fmt.Sprintf("%d (%d failed)", succeeded, failed)
}

// cellOf sums up the repetitions of a figure.
func cellOf(k figureKind, values []float64) cellView {
	s := NewSpread(values)
	view := cellView{Median: k.digits(s.Median)}
	if s.N > 1 {
		view.Range = k.digits(s.Min) + " – " + k.digits(s.Max)
	}
	return view
}

func (c *cell) version() string {
	for _, run := range slices.Concat(c.runs, c.failed) {
		if run.Tunnel.Version != "" {
			return run.Tunnel.Version
		}
	}
	return ""
}

func (s *section) otherRow(metric string) otherRow {
	k := kindOf(metric)
	row := otherRow{Metric: k.title()}
	for _, c := range s.cells {
		row.Cells = append(row.Cells, k.spread(NewSpread(c.values(metric))))
	}
	return row
}

// notes are those of the section's runs, each once, after what there is to say of
// how many there are.
func (s *section) notes() []string {
	var notes []string
	if fewest := s.fewest(); fewest < RepetitionsToTell {
		notes = append(notes, fmt.Sprintf("It takes %d repetitions of each tunnel to tell a difference from chance; here are %d.", RepetitionsToTell, fewest))
	}
	for _, c := range s.cells {
		for _, run := range slices.Concat(c.runs, c.failed) {
			note := c.tunnel + ": " + run.Notes
			if run.Notes != "" && !slices.Contains(notes, note) {
				notes = append(notes, note)
			}
		}
	}
	return notes
}

// fewest is how many repetitions that tunnel has which has the fewest.
func (s *section) fewest() int {
	least := len(s.cells[0].runs)
	for _, c := range s.cells {
		least = min(least, len(c.runs))
	}
	return least
}

func views(figures []*Figure) ([]figureView, error) {
	var all []figureView
	for _, f := range figures {
		svg, err := f.inline()
		if err != nil {
			return nil, err
		}
		all = append(all, figureView{f.Name, f.Title, template.HTML(svg)})
	}
	return all, nil
}
