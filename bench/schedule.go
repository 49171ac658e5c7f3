package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"kiloport/bench/lab"
	"kiloport/bench/report"
)

// A runner does one experiment somewhere, and tells while it goes on.
type runner func(ctx context.Context, e *lab.Experiment, beat beatFunc) (*report.Run, error)

// here does an experiment in this kernel.
func here(ctx context.Context, e *lab.Experiment, heard beatFunc) (*report.Run, error) {
	defer beat(heard)()
	return e.Run(ctx)
}

// A schedule is a plan that is carried out.
type schedule struct {
	plan     []lab.Experiment
	do       runner
	progress *runProgress

	mu     sync.Mutex
	runs   []report.Run
	worked map[string]bool // tunnels that could be started
}

// runAll does experiments, several at a time, and gives the results in the order
// of the plan. The first that cannot be done ends all. One whose tunnel did not
// start is such, unless that tunnel has done so before.
func runAll(ctx context.Context, plan []lab.Experiment, jobs int, do runner, p *runProgress) ([]report.Run, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &schedule{plan: plan, do: do, progress: p, runs: make([]report.Run, len(plan)), worked: map[string]bool{}}
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(jobs, len(plan)) {
		workers.Go(func() {
			for i := range next {
				if err := s.one(ctx, i); err != nil {
					cancel(err)
				}
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
	return s.runs, nil
}

// one does experiment number i.
func (s *schedule) one(ctx context.Context, i int) error {
	if ctx.Err() != nil {
		return nil // the reason is known
	}
	e := &s.plan[i]
	s.progress.begin(i)
	run, err := s.do(ctx, e, func(at time.Duration) { s.progress.beat(i, at) })
	var start *lab.StartError
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.worked[e.Tunnel] = true
	case errors.As(err, &start) && s.worked[e.Tunnel]:
		run = e.Failed(err)
	default:
		return err
	}
	s.runs[i] = *run
	s.progress.end(i, run)
	return nil
}
