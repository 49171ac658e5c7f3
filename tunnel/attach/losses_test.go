package attach

import (
	"testing"
	"time"
)

// arriving lets a peer send at 10 000 messages a second, of which a share is lost
// between the program and WireGuard, with some always on their way.
type arriving struct {
	losses
	now             time.Time
	below, accepted uint64
}

func (a *arriving) run(d time.Duration, share float64) {
	for until := a.now.Add(d); a.now.Before(until); a.now = a.now.Add(refreshEvery) {
		const bytes = 10_000 * messageSize
		a.below += bytes
		a.accepted += uint64(bytes * (1 - share))
		onTheirWay := uint64(a.now.Unix()%7) * 20 * messageSize
		a.received(a.now, a.below+onTheirWay, a.accepted)
	}
}

func TestLossNarrows(t *testing.T) {
	a := &arriving{now: time.Unix(1000, 0)}
	a.run(time.Minute, 0)
	if a.limit != 0 || a.lost > 7*20*messageSize {
		t.Fatalf("without loss: limit %d, %d bytes lost", a.limit, a.lost)
	}
	a.run(2*lossWindow, 0.01)
	if a.limit == 0 || a.limit > DefaultPorts/2 {
		t.Errorf("with loss the limit is %d", a.limit)
	}
	a.run(2*time.Minute, 0.01)
	if a.limit != leastPorts {
		t.Errorf("where loss goes on the limit is %d, want %d", a.limit, leastPorts)
	}
	if want := 0.01 * 10_000 * messageSize * 130; float64(a.lost) < 0.9*want || float64(a.lost) > 1.1*want {
		t.Errorf("%d bytes lost, want about %.0f", a.lost, want)
	}
	a.run(calmFor+4*lossWindow, 0)
	if a.limit != 2*leastPorts {
		t.Errorf("after a calm minute the limit is %d, want %d", a.limit, 2*leastPorts)
	}
	a.run(30*time.Minute, 0)
	if a.limit != 0 {
		t.Errorf("after half an hour without loss the limit is %d", a.limit)
	}
}

// TestChanceDoesNotNarrow: a few lost in a window, or few of many, are not the
// doing of ports.
func TestChanceDoesNotNarrow(t *testing.T) {
	a := &arriving{now: time.Unix(1000, 0)}
	a.run(5*time.Minute, 0.0005)
	if a.limit != 0 {
		t.Errorf("limit %d", a.limit)
	}
}
