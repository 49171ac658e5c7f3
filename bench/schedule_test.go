package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	"kiloport/bench/lab"
	"kiloport/bench/report"
)

// TestRunAll wants a tunnel that never starts to end everything at once, and one
// that did not start one time to be reported.
func TestRunAll(t *testing.T) {
	plan := []lab.Experiment{
		{Scenario: "rrul_be", Tunnel: "good", Repetition: 1},
		{Scenario: "rrul_be", Tunnel: "bad", Repetition: 1},
		{Scenario: "rrul_be", Tunnel: "good", Repetition: 2},
	}
	for _, test := range []struct {
		name  string
		fails func(e *lab.Experiment) error
		want  string // the error, or that of a run
		ends  bool
		done  int
	}{
		{"all is well", func(*lab.Experiment) error { return nil }, "", false, 3},
		{"never started", func(e *lab.Experiment) error {
			if e.Tunnel == "bad" {
				return &lab.StartError{Tunnel: e.Tunnel, Reason: "no such program"}
			}
			return nil
		}, "set up the network and the tunnel bad: no such program", true, 2},
		{"not started once", func(e *lab.Experiment) error {
			if e.Tunnel == "good" && e.Repetition == 2 {
				return &lab.StartError{Tunnel: e.Tunnel, Reason: "too slow"}
			}
			return nil
		}, "set up the network and the tunnel good: too slow", false, 3},
		{"no kernel", func(*lab.Experiment) error { return errors.New("no kernel") }, "no kernel", true, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			done := 0
			do := func(_ context.Context, e *lab.Experiment, _ beatFunc) (*report.Run, error) {
				done++
				if err := test.fails(e); err != nil {
					return nil, err
				}
				return &report.Run{Scenario: e.Scenario}, nil
			}
			runs, err := runAll(t.Context(), plan, 1, do, newTestProgress(t, plan))
			said := ""
			if err != nil {
				said = err.Error()
			}
			for _, r := range runs {
				said += r.Error
			}
			if (err != nil) != test.ends || said != test.want || done != test.done {
				t.Errorf("error %v; runs say %q; %d were done", err, said, done)
			}
		})
	}
}

func TestRunAllInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	plan := make([]lab.Experiment, 5)
	do := func(ctx context.Context, _ *lab.Experiment, _ beatFunc) (*report.Run, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	_, err := runAll(ctx, plan, 2, do, newTestProgress(t, plan))
	if !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "set up") {
		t.Errorf("%v", err)
	}
}
