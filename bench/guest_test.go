package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"kiloport/bench/guest"
	"kiloport/bench/lab"
)

// A frailKernel fails in these ways, one after the other, and then does its job.
type frailKernel struct {
	fails []error
	boots int
}

func (k *frailKernel) Run(_ context.Context, g guest.Guest) error {
	k.boots++
	if k.boots <= len(k.fails) {
		return k.fails[k.boots-1]
	}
	return os.WriteFile(g.Command[len(g.Command)-1], []byte(`{"Run": {"scenario": "rrul_be"}}`), 0o600)
}

// TestFrailGuests wants an experiment done again whose guest was silent or whose
// kernel died, a few times, and no other.
func TestFrailGuests(t *testing.T) {
	died := fmt.Errorf("the lab kernel %w (signal: aborted)", guest.ErrDied)
	silent := fmt.Errorf("the guest was ended: %w", errSilent)
	refused := errors.New("it does not start")
	for name, test := range map[string]struct {
		fails []error
		boots int
		want  error
	}{
		"sound":                {nil, 1, nil},
		"dies and is silent":   {[]error{died, silent}, 3, nil},
		"dies again and again": {[]error{died, died, died, died}, 3, guest.ErrDied},
		"something else":       {[]error{refused}, 1, refused},
	} {
		k := &frailKernel{fails: test.fails}
		g := &guests{kernel: k, patience: time.Minute, tries: 3}
		run, err := g.run(t.Context(), &lab.Experiment{Scenario: "rrul_be"}, func(time.Duration) {})
		if k.boots != test.boots || !errors.Is(err, test.want) || (err == nil) != (run != nil) {
			t.Errorf("%s: %d boots, run %v, error %v; want %d boots, error %v", name, k.boots, run, err, test.boots, test.want)
		}
	}
}
