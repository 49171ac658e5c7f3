package lab

import (
	"context"
	"fmt"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/report"
	"kiloport/bench/tunnels"
)

const (
	watchQueue = 100 * time.Millisecond
	watchLanes = time.Second
)

// A watcher looks at the gateways' queues and at kiloport's lanes while traffic
// runs.
type watcher struct {
	bench  *bench
	cancel context.CancelFunc
	done   chan struct{}
	seen   *watched
	err    error
}

// watched is what a watcher saw.
type watched struct {
	before, after [2]netlab.QdiscStats
	at            []time.Time
	backlog       [2][]float64
	passed        []uint64 // bytes up
	laneAt        []time.Time
	lanes         []float64
}

func (b *bench) watch(ctx context.Context) *watcher {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{bench: b, cancel: cancel, done: make(chan struct{}), seen: &watched{}}
	go func() {
		defer close(w.done)
		w.err = w.run(ctx)
	}()
	return w
}

func (w *watcher) run(ctx context.Context) (err error) {
	if w.seen.before, err = w.queues(); err != nil {
		return err
	}
	next := time.Now()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			w.seen.after, err = w.queues()
			return err
		case <-time.After(time.Until(next)):
		}
		next = next.Add(watchQueue)
		now, err := w.queues()
		if err != nil {
			return err
		}
		w.seen.at = append(w.seen.at, time.Now())
		w.seen.passed = append(w.seen.passed, now[0].Bytes)
		for i := range now {
			w.seen.backlog[i] = append(w.seen.backlog[i], float64(now[i].Backlog))
		}
		if n%int(watchLanes/watchQueue) == 0 {
			w.look(ctx)
		}
	}
}

func (w *watcher) queues() (both [2]netlab.QdiscStats, err error) {
	both[0], both[1], err = w.bench.sites.Bottlenecks()
	return both, err
}

// look counts the lanes in use. A daemon that does not answer is left out; its
// silence shows in the traffic.
func (w *watcher) look(ctx context.Context) {
	binary, ok := w.bench.kiloport()
	if !ok {
		return
	}
	end := w.bench.tunnel.A
	s, err := tunnels.Show(ctx, end.Site.Node, binary, end.Dev)
	if err != nil {
		return
	}
	if peer, err := s.Peer(); err == nil {
		w.seen.laneAt = append(w.seen.laneAt, time.Now())
		w.seen.lanes = append(w.seen.lanes, float64(peer.Lanes.InUse))
	}
}

func (w *watcher) stop() (*watched, error) {
	w.cancel()
	<-w.done
	if w.err != nil {
		return nil, fmt.Errorf("watch the gateways: %w", w.err)
	}
	return w.seen, nil
}

// put adds the series, with times since the load, and the queues' counters.
func (s *watched) put(run *report.Run, load time.Time) {
	for i, direction := range []string{report.Up, report.Down} {
		queue := report.Series{Name: "gateway queue", Kind: report.KindQueue, Unit: report.UnitBytes, Direction: direction}
		for k, at := range s.at {
			queue.T = append(queue.T, at.Sub(load).Seconds())
			queue.V = append(queue.V, s.backlog[i][k])
		}
		run.Series = append(run.Series, queue)
		a, b := s.before[i], s.after[i]
		run.Metrics["gateway_drops_"+direction+"_count"] = float64(b.Drops - a.Drops)
		run.Metrics["gateway_marks_"+direction+"_count"] = float64(b.ECNMarks + b.CEMarks - a.ECNMarks - a.CEMarks)
		run.Metrics["gateway_packets_"+direction+"_count"] = float64(b.Packets - a.Packets)
		run.Metrics["gateway_longest_packet_"+direction+"_bytes"] = float64(b.MaxPacket)
	}
	if len(s.lanes) == 0 {
		return
	}
	lanes := report.Series{Name: "lanes in use", Kind: report.KindLanes, Unit: report.UnitCount}
	for k, at := range s.laneAt {
		lanes.T = append(lanes.T, at.Sub(load).Seconds())
		lanes.V = append(lanes.V, s.lanes[k])
	}
	run.Series = append(run.Series, lanes)
}
