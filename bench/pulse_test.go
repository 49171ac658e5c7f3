package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPulse(t *testing.T) {
	var heard []time.Duration
	_, p := takePulse(t.Context(), time.Hour, func(at time.Duration) { heard = append(heard, at) })
	defer p.stop()
	for _, piece := range []string{"beat 100\nbe", "at 2", "00\n", "beat -1\nbeat x\nbeat\n", strings.Repeat("x", 1000), "\nbeat 300\nbeat 99999999999999\n"} {
		if n, err := p.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	want := []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond}
	if !slices.Equal(heard, want) {
		t.Errorf("heard %v, want %v", heard, want)
	}
}

// TestSilence ends a guest two minutes after it was last heard, and not before.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, p := takePulse(t.Context(), 2*time.Minute, func(time.Duration) {})
		defer p.stop()
		start := time.Now()
		stop := beat(func(at time.Duration) { writeBeat(p, at) })
		time.Sleep(10 * time.Minute)
		if err := ctx.Err(); err != nil {
			t.Fatalf("ended while it was heard: %v", context.Cause(ctx))
		}
		stop()
		<-ctx.Done()
		if took := time.Since(start); took < 12*time.Minute-lookInterval || took > 12*time.Minute+lookInterval || !errors.Is(context.Cause(ctx), errSilent) {
			t.Errorf("ended after %v: %v", took, context.Cause(ctx))
		}
	})
}
