package report

import "slices"

// A section is the runs of one scenario over one path: what may be compared.
type section struct {
	scenario, title string
	path            Path
	cells           []*cell
}

// A cell is the repetitions of a section over one tunnel.
type cell struct {
	tunnel string
	runs   []Run // those that succeeded
	failed []Run
}

// sections puts the runs together, in the order in which they came.
func sections(doc *Document) []*section {
	var all []*section
	for _, run := range doc.Runs {
		s := findSection(&all, run)
		c := s.cell(run.Tunnel.String())
		if c == nil {
			c = &cell{tunnel: run.Tunnel.String()}
			s.cells = append(s.cells, c)
		}
		if run.Error != "" {
			c.failed = append(c.failed, run)
		} else {
			c.runs = append(c.runs, run)
		}
	}
	return all
}

func findSection(all *[]*section, run Run) *section {
	for _, s := range *all {
		if s.scenario == run.Scenario && s.path == run.Path {
			return s
		}
	}
	s := &section{scenario: run.Scenario, title: run.Title, path: run.Path}
	*all = append(*all, s)
	return s
}

// cell is the one of a tunnel, nil if there is none.
func (s *section) cell(tunnel string) *cell {
	i := slices.IndexFunc(s.cells, func(c *cell) bool { return c.tunnel == tunnel })
	if i < 0 {
		return nil
	}
	return s.cells[i]
}

// values are a metric's figures, one for each repetition that has it.
func (c *cell) values(metric string) []float64 {
	var values []float64
	for _, run := range c.runs {
		if v, ok := Figures(run)[metric]; ok {
			values = append(values, v)
		}
	}
	return values
}

// latencies are those of the repetitions that have a probe.
func (c *cell) latencies() []Latency {
	var all []Latency
	for _, run := range c.runs {
		if l, err := Induced(run); err == nil {
			all = append(all, l)
		}
	}
	return all
}

// pooled is what all repetitions together induced.
func (c *cell) pooled() Distribution {
	var all []Distribution
	for _, l := range c.latencies() {
		all = append(all, l.Induced)
	}
	return merge(all)
}

// typical is the repetition whose induced median is the middle one of all; the
// first where there is no probe, nil where none succeeded.
func (c *cell) typical() *Run {
	type ranked struct {
		run    *Run
		median float64
	}
	var all []ranked
	for i := range c.runs {
		if l, err := Induced(c.runs[i]); err == nil {
			all = append(all, ranked{&c.runs[i], l.Median()})
		}
	}
	if len(all) == 0 {
		if len(c.runs) == 0 {
			return nil
		}
		return &c.runs[0]
	}
	slices.SortStableFunc(all, func(a, b ranked) int {
		switch {
		case a.median < b.median:
			return -1
		case a.median > b.median:
			return 1
		}
		return 0
	})
	return all[(len(all)-1)/2].run
}

// metrics are the names of all figures of some cells, the known ones first and
// the others in alphabetical order.
func metrics(cells ...*cell) []string {
	seen := map[string]bool{}
	for _, c := range cells {
		for _, run := range c.runs {
			for name := range Figures(run) {
				seen[name] = true
			}
		}
	}
	var names, others []string
	for _, f := range figureKinds {
		if seen[f.metric] {
			names = append(names, f.metric)
			delete(seen, f.metric)
		}
	}
	for name := range seen {
		others = append(others, name)
	}
	slices.Sort(others)
	return append(names, others...)
}
