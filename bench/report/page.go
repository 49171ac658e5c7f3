package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
)

//go:embed page.html
var pageSource string

//go:embed page.css
var pageStyle string

var pageTemplate = template.Must(template.New("page").Parse(pageSource))

// A page is index.html before it is written: everything as text and figures.
type page struct {
	doc      *Document
	headline *Figure // nil where no run has a probe
	parts    []*part
	sweeps   []*sweepPart
}

// A sweepPart of the page is about one sweep.
type sweepPart struct {
	sweep   *sweep
	figures []*Figure
}

// A part of the page is about one section.
type part struct {
	section *section
	induced *Figure   // as the headline, of this section; nil where there is no probe
	first   bool      // whether the headline is of this section, too
	figures []*Figure // what compares the tunnels
	runs    []*Figure // one run of each tunnel over time
}

func newPage(doc *Document) (*page, error) {
	p := &page{doc: doc}
	looks := looks(doc)
	best := headlined(doc, Selection{})
	swept, rest := sweeps(sections(doc))
	for _, s := range rest {
		part := &part{section: s, first: best != nil && s.scenario == best.scenario && s.path == best.path}
		if err := part.compareTunnels(looks); err != nil {
			return nil, err
		}
		part.showRuns(looks)
		p.parts = append(p.parts, part)
	}
	for _, w := range swept {
		p.sweeps = append(p.sweeps, &sweepPart{w, w.figures(looks)})
	}
	if best != nil {
		var err error
		if p.headline, err = Headline(doc, Selection{}); err != nil {
			return nil, err
		}
	}
	p.distinguish()
	return p, nil
}

// add appends a figure, named after its section, unless there is none.
func (p *part) add(to *[]*Figure, f *Figure, name string) {
	if f == nil {
		return
	}
	f.Name = p.name(name)
	*to = append(*to, f)
}

// name is that of one of the section's figures.
func (p *part) name(figure string) string {
	return slug(p.section.scenario + "-" + p.section.path.String() + "-" + figure)
}

func (p *part) compareTunnels(looks map[string]look) error {
	if len(p.section.probed()) > 0 {
		f, err := headline(p.section, looks)
		if err != nil {
			return err
		}
		f.Name = p.name("induced")
		p.induced = f
		p.add(&p.figures, cdf(p.section, looks), "cdf")
		p.add(&p.figures, boxes(p.section, looks), "box")
		p.add(&p.figures, scatter(p.section, looks), "goodput-latency")
	}
	p.add(&p.figures, pageLoads(p.section, looks), "pages")
	p.add(&p.figures, lanesOverTime(p.section, looks), "lanes")
	return nil
}

func (p *part) showRuns(looks map[string]look) {
	for _, c := range p.section.cells {
		run := c.typical()
		if run == nil {
			continue
		}
		if f := overTime(run, looks); len(f.panels) > 0 {
			p.add(&p.runs, f, "time-"+c.tunnel)
		}
	}
}

// figures are all figures of the page, to be saved by themselves, too.
func (p *page) figures() []*Figure {
	var all []*Figure
	if p.headline != nil {
		all = append(all, p.headline)
	}
	for _, part := range p.parts {
		if part.induced != nil {
			all = append(all, part.induced)
		}
		all = append(append(all, part.figures...), part.runs...)
	}
	for _, part := range p.sweeps {
		all = append(all, part.figures...)
	}
	return all
}

// distinguish numbers figures whose names came out the same, because names of
// files have fewer letters than those of tunnels.
func (p *page) distinguish() {
	seen := map[string]int{}
	for _, f := range p.figures() {
		seen[f.Name]++
		if n := seen[f.Name]; n > 1 {
			f.Name = fmt.Sprintf("%s-%d", f.Name, n)
		}
	}
}

// render writes the page.
func (p *page) render(w io.Writer) error {
	view, err := p.view()
	if err != nil {
		return err
	}
	return pageTemplate.Execute(w, view)
}

// What the template sees.
type (
	pageView struct {
		Style    template.CSS
		Facts    [][2]string
		Command  string
		Headline template.HTML
		Parts    []partView
		Failed   []string
		Schema   string
	}
	partView struct {
		ID, Title, Path string
		Head            []string
		Rows            []rowView
		Notes           []string
		Figures, Runs   []figureView
		More            []string   // tunnels
		Others          []otherRow // metrics that are not in the table
	}
	rowView struct {
		Tunnel, Version, Runs string
		Cells                 []cellView
	}
	cellView struct{ Median, Range string }
	otherRow struct {
		Metric string
		Cells  []string
	}
	figureView struct {
		Name, Title string
		SVG         template.HTML
	}
)

func (p *page) view() (*pageView, error) {
	v := &pageView{Style: template.CSS(pageStyle), Facts: p.doc.facts(), Command: shellCommand(p.doc.Command), Schema: Schema}
	if p.headline != nil {
		svg, err := p.headline.inline()
		if err != nil {
			return nil, err
		}
		v.Headline = template.HTML(svg)
	}
	for _, part := range p.parts {
		view, err := part.view()
		if err != nil {
			return nil, err
		}
		v.Parts = append(v.Parts, view)
	}
	for _, part := range p.sweeps {
		view, err := part.sweep.view(part.figures)
		if err != nil {
			return nil, err
		}
		v.Parts = append(v.Parts, view)
	}
	for i := range p.doc.Runs {
		if run := &p.doc.Runs[i]; run.Error != "" {
			v.Failed = append(v.Failed, run.name()+": "+run.Error)
		}
	}
	return v, nil
}

// facts are the environment, as pairs of what and what it is.
func (d *Document) facts() [][2]string {
	e := d.Environment
	clock := "real time"
	if e.Virtual {
		clock = "virtual time: the processor costs nothing, the clock moves when everything sleeps"
	}
	processor := orUnknown(e.CPU)
	switch {
	case e.Cores == 1:
		processor += ", 1 core"
	case e.Cores > 1:
		processor += fmt.Sprintf(", %d cores", e.Cores)
	}
	return [][2]string{
		{"Measured", d.Created.UTC().Format("2 January 2006, 15:04 UTC")},
		{"Kiloport", orUnknown(e.Kiloport)},
		{"Kernel", orUnknown(e.Kernel) + ", " + orUnknown(e.KernelOf)},
		{"Clock", clock},
		{"Processor", processor},
		{"Go", orUnknown(e.Go)},
	}
}

// shellCommand prints a command so that a shell takes it as it was.
func shellCommand(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = arg
		if arg == "" || strings.ContainsAny(arg, " \t\n\"'\\$`*?[]{}()<>|&;#~!") {
			quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
