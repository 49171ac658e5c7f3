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
	patience time.Duration
	heard    beatFunc
	silent   *time.Timer
	cancel   context.CancelCauseFunc
	line     []byte // not complete yet
}

var _ io.Writer = (*pulse)(nil)

// longestBeat bounds a line that is no beat.
const longestBeat = 64

// takePulse begins. The context that it gives ends with [errSilent] as its cause
// when nothing is written for as long as patience. The caller calls stop.
func takePulse(ctx context.Context, patience time.Duration, heard beatFunc) (context.Context, *pulse) {
	ctx, cancel := context.WithCancelCause(ctx)
	p := &pulse{patience: patience, heard: heard, cancel: cancel}
	p.silent = time.AfterFunc(patience, func() { cancel(fmt.Errorf("%w for %v", errSilent, patience)) })
	return ctx, p
}

// Write implements io.Writer; it does not fail.
func (p *pulse) Write(b []byte) (int, error) {
	p.silent.Reset(p.patience)
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
	p.silent.Stop()
	p.cancel(nil)
}
