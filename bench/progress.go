package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"kiloport/bench/host"
	"kiloport/bench/lab"
	"kiloport/bench/report"
)

// A runProgress tells how far a run is: a line for every experiment that has
// ended, and, see [host.Reporter], how much there is left.
type runProgress struct {
	reporter *host.Reporter
	now      func() time.Time
	plan     []lab.Experiment
	start    time.Time
	quiet    bool // leaves out the lines for experiments that have ended

	mu      sync.Mutex
	ended   int
	done    float64         // share of all the work, 0 to 1, that has ended
	running map[int]float64 // share of an experiment's own, by its place in the plan
}

// newRunProgress reports to a writer on what is named; nil discards it. The caller
// calls close.
func newRunProgress(to io.Writer, what string, plan []lab.Experiment) *runProgress {
	p := &runProgress{reporter: host.NewReporter(to, what), now: time.Now, plan: plan, running: map[int]float64{}}
	p.start = p.now()
	p.reporter.Follow(p.state)
	return p
}

func (p *runProgress) close() { p.reporter.Close() }

func (p *runProgress) begin(i int) { p.beat(i, 0) }

// beat notes how long an experiment has been going on, by its own clock.
func (p *runProgress) beat(i int, at time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	const most = 0.99 // it has not ended
	p.running[i] = min(most, float64(at)/float64(p.plan[i].Lasts()))
}

// weight is an experiment's share of all the work. What an experiment in virtual
// time takes is one part its time, and one part its packets.
func (p *runProgress) weight(i int) float64 {
	const packets = 10e6 // bit/s that take as long again
	of := func(e *lab.Experiment) float64 {
		return e.Lasts().Seconds() * (1 + float64(max(e.Path.RateUp, e.Path.RateDown))/packets)
	}
	total := 0.0
	for k := range p.plan {
		total += of(&p.plan[k])
	}
	return of(&p.plan[i]) / total
}

func (p *runProgress) end(i int, r *report.Run) {
	p.mu.Lock()
	p.ended++
	p.done += p.weight(i)
	delete(p.running, i)
	head := fmt.Sprintf("[%d/%d, %s] ", p.ended, len(p.plan), p.left())
	p.mu.Unlock()
	if p.quiet {
		return
	}
	p.reporter.Say("%s%s: %s", head, nameOf(r), outcomeOf(r))
}

// nameOf is what a run is called where there is one line for it.
func nameOf(r *report.Run) string {
	return fmt.Sprintf("%s, %s, %s, no. %d", r.Scenario, r.Tunnel, r.Path, r.Repetition)
}

// outcomeOf is what became of a run, in a few words.
func outcomeOf(r *report.Run) string {
	if r.Error != "" {
		return "failed: " + r.Error
	}
	if l, err := report.Induced(*r); err == nil {
		return fmt.Sprintf("probe +%.2f ms median, +%.2f ms worst, %.1f %% lost", l.Median(), l.Worst(), l.LostPercent())
	}
	return "done"
}

// left is how long the rest will take, if it goes on as before.
func (p *runProgress) left() string {
	share := p.share()
	const little = 0.02
	if share < little {
		return "no telling how long"
	}
	elapsed := p.now().Sub(p.start)
	left := time.Duration(float64(elapsed) * (1 - share) / share)
	return left.Round(time.Second).String() + " left"
}

func (p *runProgress) share() float64 {
	share := p.done
	for i, own := range p.running {
		share += own * p.weight(i)
	}
	return min(share, 1)
}

// state is how far the run is, in one line.
func (p *runProgress) state() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	const width = 20
	share := p.share()
	full := int(share * width)
	bar := strings.Repeat("#", full) + strings.Repeat(".", width-full)
	line := fmt.Sprintf("[%s] %.0f %%, %d of %d done, %s", bar, 100*share, p.ended, len(p.plan), p.left())
	var at []int
	for i := range p.running {
		at = append(at, i)
	}
	slices.Sort(at)
	for _, i := range at {
		line += fmt.Sprintf("; %s %.0f %%", &p.plan[i], 100*p.running[i])
	}
	return line
}
