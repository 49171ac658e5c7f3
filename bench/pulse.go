package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A beatFunc hears that an experiment is alive, and how long it has been going on
// by its own clock.
type beatFunc func(at time.Duration)

// beatInterval is the time between two beats, by the experiment's clock.
const beatInterval = 100 * time.Millisecond

// beat calls f from time to time until it is stopped.
func beat(f beatFunc) (stop func()) {
	done := make(chan struct{})
	var ended sync.WaitGroup
	start := time.Now()
	ended.Go(func() {
		ticker := time.NewTicker(beatInterval)
		defer ticker.Stop()
		for {
			f(time.Since(start))
			select {
			case <-ticker.C:
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		ended.Wait()
	}
}

const beatWord = "beat "

// writeBeat is how a guest beats: a line of its output.
func writeBeat(to io.Writer, at time.Duration) {
	fmt.Fprintf(to, "%s%d\n", beatWord, at.Milliseconds()) // if nobody hears it, it will be ended
}

// errSilent ends a guest that has given no sign of life.
var errSilent = errors.New("it has stopped: nothing was heard of it")

// A pulse is taken of a guest: it is the writer of its output, and ends it when
// that has been silent for too long.
type pulse struct {
	heard  beatFunc
	cancel context.CancelCauseFunc
	ended  chan struct{}
	silent atomic.Int64 // looks since the last sign of life
	line   []byte       // not complete yet
}

var _ io.Writer = (*pulse)(nil)

const (
	// longestBeat bounds a line that is no beat.
	longestBeat = 64
	// lookInterval is between two looks whether a guest is silent. Looks are what
	// counts, not the clock: a host that stood still did so for the guest, too.
	lookInterval = time.Second
)

// takePulse begins. The context that it gives ends with [errSilent] as its cause
// when nothing is written for as long as patience. The caller calls stop.
func takePulse(ctx context.Context, patience time.Duration, heard beatFunc) (context.Context, *pulse) {
	ctx, cancel := context.WithCancelCause(ctx)
	p := &pulse{heard: heard, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		p.look(ctx, patience)
	}()
	return ctx, p
}

// look ends the context when the guest has been silent for too long.
func (p *pulse) look(ctx context.Context, patience time.Duration) {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for p.silent.Load() < int64(patience/lookInterval) {
		select {
		case <-ticker.C:
			p.silent.Add(1)
		case <-ctx.Done():
			return
		}
	}
	p.cancel(fmt.Errorf("%w for %v", errSilent, patience))
}

// Write implements io.Writer; it does not fail.
func (p *pulse) Write(b []byte) (int, error) {
	p.silent.Store(0)
	p.line = append(p.line, b...)
	for {
		end := bytes.IndexByte(p.line, '\n')
		if end < 0 {
			break
		}
		if ms, ok := strings.CutPrefix(string(p.line[:end]), beatWord); ok {
			if n, err := strconv.ParseInt(ms, 10, 32); err == nil && n >= 0 {
				p.heard(time.Duration(n) * time.Millisecond)
			}
		}
		p.line = append(p.line[:0], p.line[end+1:]...)
	}
	p.line = p.line[:min(len(p.line), longestBeat)]
	return len(b), nil
}

// stop ends it, and its context.
func (p *pulse) stop() {
	p.cancel(nil)
	<-p.ended
}
