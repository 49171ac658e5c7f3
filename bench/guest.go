package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"kiloport/bench/guest"
	"kiloport/bench/host"
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
			stop := beat(func(at time.Duration) { writeBeat(cmd.OutOrStdout(), at) })
			run, err := e.Run(cmd.Context())
			stop()
			result := guestResult{Run: run}
			if err != nil && !errors.As(err, &result.NotStarted) {
				return err
			}
			if text, err = json.Marshal(result); err != nil {
				return fmt.Errorf("write the result: %w", err)
			}
			return os.WriteFile(args[1], text, 0o600)
		},
	}
}

// A guestResult is what a guest tells of an experiment: one or the other.
type guestResult struct {
	Run        *report.Run
	NotStarted *lab.StartError
}

// guests do experiments in kernels that boot for one experiment each.
type guests struct {
	kernel kernel
	// patience is how long a guest may give no sign of life.
	patience time.Duration
	// tries is how often an experiment is done whose guest does not, or whose
	// kernel panics. It is the same experiment, with the same seed.
	tries int
}

// A guest of the lab kernel that is silent for so long has stopped its own clock:
// something inside spins where time would go on on a real machine. On a busy host
// a tenth of a virtual second may take many real ones.
func inLabKernel(k kernel) *guests { return &guests{kernel: k, patience: 2 * time.Minute, tries: 3} }

// inStockKernel does experiments in real time, all but the load ten times as slowly
// as usual.
func inStockKernel(k kernel) *guests { return &guests{kernel: k, patience: 4 * time.Minute, tries: 1} }

func (g *guests) run(ctx context.Context, e *lab.Experiment, beat beatFunc) (run *report.Run, err error) {
	for range g.tries {
		run, err = g.try(ctx, e, beat)
		if !errors.Is(err, errSilent) && !errors.Is(err, guest.ErrDied) {
			return run, err
		}
	}
	return nil, fmt.Errorf("%w (tried %d times)", err, g.tries)
}

func (g *guests) try(ctx context.Context, e *lab.Experiment, beat beatFunc) (run *report.Run, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	dir, err := host.TempFolder("", "kiloport-lab-")
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
	ctx, pulse := takePulse(ctx, g.patience, beat)
	defer pulse.stop()
	var said bytes.Buffer
	err = g.kernel.Run(ctx, guest.Guest{
		Command: []string{self, "guest", asked, told}, Env: guestEnv(), Stdout: pulse, Stderr: &said,
		Share: []guest.Share{{Path: dir}}, Seed: e.Seed,
	})
	if err != nil {
		return nil, fmt.Errorf("%s through %s: %w%s", e.Scenario, e.Tunnel, err, quoted(said.Bytes()))
	}
	if text, err = os.ReadFile(told); err != nil {
		return nil, fmt.Errorf("read the result: %w%s", err, quoted(said.Bytes()))
	}
	var result guestResult
	if err := json.Unmarshal(text, &result); err != nil {
		return nil, fmt.Errorf("read the result: %w", err)
	}
	if result.NotStarted != nil {
		return nil, result.NotStarted
	}
	return result.Run, nil
}

// guestEnv is the environment of experiments, which is none of this process's but for
// where programs are: its size alone, which takes memory, would shift by some
// nanoseconds what a garbage collector does.
func guestEnv() []string {
	return []string{"HOME=/root", "LANG=C.UTF-8", "PATH=" + os.Getenv("PATH")}
}

// quoted is the end of what a program said, as the tail of an error message.
func quoted(said []byte) string {
	const most = 4000
	said = bytes.TrimSpace(said)
	if len(said) == 0 {
		return ""
	}
	return "; it said: " + string(said[max(0, len(said)-most):])
}
