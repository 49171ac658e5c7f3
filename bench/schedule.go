package main

import (
	"context"
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

// runAll does experiments, several at a time, and gives the results in the order
// of the plan. The first that cannot be done ends all.
func runAll(ctx context.Context, plan []lab.Experiment, jobs int, do runner, p *runProgress) ([]report.Run, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	runs := make([]report.Run, len(plan))
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(jobs, len(plan)) {
		workers.Go(func() {
			for i := range next {
				p.begin(i)
				run, err := do(ctx, &plan[i], func(at time.Duration) { p.beat(i, at) })
				if err != nil {
					cancel(err)
					continue
				}
				runs[i] = *run
				p.end(i, run)
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
