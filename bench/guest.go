package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"kiloport/bench/guest"
	"kiloport/bench/lab"
	"kiloport/bench/report"
)

func init() { register(newGuest) }

// newGuest is what runs inside a kernel.
func newGuest() *cobra.Command {
	return &cobra.Command{
		Use: "guest EXPERIMENT RESULT", Hidden: true, Args: cobra.ExactArgs(2),
		Short: "Do one experiment, from file to file",
		RunE: func(cmd *cobra.Command, args []string) error {
			var e lab.Experiment
			text, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read the experiment: %w", err)
			}
			if err := json.Unmarshal(text, &e); err != nil {
				return fmt.Errorf("read the experiment %s: %w", args[0], err)
			}
			run, err := e.Run(cmd.Context())
			if err != nil {
				return err
			}
			if text, err = json.Marshal(run); err != nil {
				return fmt.Errorf("write the result: %w", err)
			}
			return os.WriteFile(args[1], text, 0o600)
		},
	}
}

// guests do experiments in kernels that boot for one experiment each.
type guests struct {
	kernel kernel
	// patience is how long an experiment may take in real time.
	patience func(e *lab.Experiment) time.Duration
	// tries is how often it is done again if it takes longer.
	tries int
}

// A guest of the lab kernel that takes longer than this has stopped its own clock:
// now and then the kernel inside spins where time would go on on a real machine. It
// is ended, and the experiment done again.
func inLabKernel(k kernel) *guests {
	return &guests{kernel: k, tries: 5, patience: func(e *lab.Experiment) time.Duration {
		const boot, perSecond, forEach = 40 * time.Second, 3, 10e6 // a load of 10 Mbit/s takes about its own time
		rate := float64(max(e.Path.RateUp, e.Path.RateDown))
		return boot + time.Duration(float64(e.Load)*(perSecond+rate/forEach))
	}}
}

// inStockKernel does experiments in real time, all but the load ten times as slowly
// as usual.
func inStockKernel(k kernel) *guests {
	return &guests{kernel: k, tries: 1, patience: func(e *lab.Experiment) time.Duration { return 4*time.Minute + 2*e.Load }}
}

func (g *guests) run(ctx context.Context, e *lab.Experiment) (run *report.Run, err error) {
	for range g.tries {
		bounded, cancel := context.WithTimeout(ctx, g.patience(e))
		run, err = g.try(bounded, e)
		stuck := bounded.Err() != nil && ctx.Err() == nil
		cancel()
		if !stuck {
			return run, err
		}
	}
	return nil, fmt.Errorf("%w (%d times)", err, g.tries)
}

func (g *guests) try(ctx context.Context, e *lab.Experiment) (run *report.Run, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	dir, err := os.MkdirTemp("", "kiloport-lab-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for an experiment: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	asked, told := filepath.Join(dir, "experiment.json"), filepath.Join(dir, "result.json")
	text, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(asked, text, 0o600); err != nil {
		return nil, fmt.Errorf("write the experiment: %w", err)
	}
	var said bytes.Buffer
	err = g.kernel.Run(ctx, guest.Guest{
		Command: []string{self, "guest", asked, told}, Stdout: &said, Stderr: &said,
		Share: []guest.Share{{Path: dir}},
	})
	if err != nil {
		return nil, fmt.Errorf("%s through %s: %w%s", e.Scenario, e.Tunnel, err, quoted(said.Bytes()))
	}
	if text, err = os.ReadFile(told); err != nil {
		return nil, fmt.Errorf("read the result: %w%s", err, quoted(said.Bytes()))
	}
	run = new(report.Run)
	return run, json.Unmarshal(text, run)
}

// quoted is the end of what a program said, as the tail of an error message.
func quoted(said []byte) string {
	const most = 2000
	said = bytes.TrimSpace(said)
	if len(said) == 0 {
		return ""
	}
	return "; it said: " + string(said[max(0, len(said)-most):])
}

// runAll does experiments, several at a time, and gives the results in the order
// of the plan. The first that cannot be done ends all.
func runAll(ctx context.Context, plan []lab.Experiment, jobs int, do runner, progress io.Writer) ([]report.Run, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	runs := make([]report.Run, len(plan))
	next := make(chan int)
	p := &runProgress{out: progress, total: len(plan), start: time.Now()}
	var workers sync.WaitGroup
	for range min(jobs, len(plan)) {
		workers.Go(func() {
			for i := range next {
				run, err := do(ctx, &plan[i])
				if err != nil {
					cancel(err)
					continue
				}
				runs[i] = *run
				p.done(run)
			}
		})
	}
	for i := range plan {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	workers.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return runs, nil
}

// A runProgress writes a line for every experiment that has ended.
type runProgress struct {
	mu    sync.Mutex
	out   io.Writer
	n     int
	total int
	start time.Time
}

func (p *runProgress) done(r *report.Run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n++
	left := time.Since(p.start) / time.Duration(p.n) * time.Duration(p.total-p.n)
	figure := "failed: " + r.Error
	if r.Error == "" {
		figure = "done"
		if l, err := report.Induced(*r); err == nil {
			figure = fmt.Sprintf("probe +%.2f ms median, +%.2f ms worst, %.1f %% lost", l.Median(), l.Worst(), l.LostPercent())
		}
	}
	fmt.Fprintf(p.out, "[%d/%d, %v left] %s, %s, %s, no. %d: %s\n", p.n, p.total, left.Round(time.Second), r.Scenario, r.Tunnel, r.Path, r.Repetition, figure)
}
