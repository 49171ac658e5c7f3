package uapi

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"
)

// counted is a Backend that tells when it is asked.
type counted struct {
	fake
	asked chan struct{}
}

func (c *counted) State() DeviceState {
	select {
	case c.asked <- struct{}{}:
	default:
	}
	return c.fake.State()
}

func TestWaitForEnd(t *testing.T) {
	name := testName("s")
	listener := listen(t, name)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	backend, served := &counted{asked: make(chan struct{}, 1)}, make(chan error, 1)
	go func() { served <- Serve(ctx, listener, backend, slog.New(slog.DiscardHandler)) }()

	if err := dial(t, name).waitForEnd(time.Millisecond, time.Hour); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a daemon that stays: %v", err)
	}
	c, ended := dial(t, name), make(chan error, 1)
	go func() { ended <- c.waitForEnd(time.Hour, time.Millisecond) }()
	for range 3 {
		<-backend.asked
		if len(ended) != 0 {
			t.Fatalf("ended before the daemon: %v", <-ended)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
