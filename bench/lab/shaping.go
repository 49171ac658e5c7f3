package lab

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/report"
	"kiloport/bench/tunnels"
)

// These scenarios are about kiloport's shaper: before a gateway with a FIFO that
// nobody manages, before a line whose rate is not constant, and what it costs.
func init() {
	Scenarios = append(Scenarios,
		Scenario{
			Name: "shaper", Title: "TCP flows each way before a FIFO of 1000 packets, kiloport shaping to 0.98 of the line",
			Load: 20 * time.Second, Repetitions: usualRepetitions, Flows: 4, path: dumb, settings: shapedToLine,
			groups: func(b *bench) []traffic.Group { return append(b.probes(), b.bulk(b.Flows, 0)...) },
		},
		Scenario{
			Name: "fair", Title: "equal TCP flows up with kiloport's shaper as the bottleneck: how fairly they share it",
			Load: 30 * time.Second, Repetitions: usualRepetitions, Flows: 64, path: dumb, settings: shapedToLine,
			groups: func(b *bench) []traffic.Group { return append(b.probes(), b.bulk(b.Flows, 0)[0]) },
		},
		Scenario{
			Name: "autorate", Title: "4 TCP flows up before a FIFO of 1000 packets whose line goes from 50 to 10 to 30 Mbit/s",
			Load: 75 * time.Second, Repetitions: usualRepetitions, path: steppedPath, settings: func(*Experiment) []string { return []string{"Autorate = 2mbit-100mbit", overheadOfFrames} },
			custom: autorate,
		},
		Scenario{
			Name: "pacing", Title: "how exactly kiloport keeps a rate, and what that costs: 4 flows up, in real time",
			Load: 6 * time.Second, Repetitions: usualRepetitions, RealTime: true, Own: true, cases: pacingCases, settings: paced, custom: pacing,
		})
}

// fifoLength is that of a gateway that nobody has tuned, in packets.
const fifoLength = 1000

// dumb makes the gateways' queues FIFOs. Lines are wires: what a shaper would save
// up in a pause hides what a burst does.
func dumb(p *netlab.Path) {
	p.Qdisc = netlab.Qdisc{Kind: netlab.KindPfifo, Limit: fifoLength}
	p.Burst = 0
}

// overheadOfFrames is what the lab's lines count of a packet above IP.
const overheadOfFrames = "Overhead = overhead 14"

// belowLine is how much of the line a shaper is set to, in percent. With all of it, a
// queue that was there once would never go.
const belowLine = 98

func shapedToLine(e *Experiment) []string {
	return []string{"Bandwidth = " + shapedTo(e.Path.RateUp) + "/" + shapedTo(e.Path.RateDown), overheadOfFrames}
}

// shapedTo is the rate for a line as kiloport's files have it.
func shapedTo(line int64) string {
	if line == 0 {
		return "off"
	}
	return fmt.Sprintf("%dkbit", line*belowLine/100/1000)
}

// The line that is not constant: a third of the load at each rate.
var lineSteps = [...]int64{50e6, 10e6, 30e6}

func steppedPath(p *netlab.Path) {
	dumb(p)
	p.RateUp, p.RateDown = lineSteps[0], lineSteps[0]
}

// Metrics of the shaper.
const (
	// MetricSettled is how long after the line became slower the probe's round
	// trip was 10 ms above base or more, before it was below for a second.
	MetricSettled = "settled_after_step_down_seconds"
	// MetricReached is how long after the line became faster less than 0.85 of it
	// was used, in any second, and MetricReachedFirst likewise after the load
	// began.
	MetricReached      = "reached_after_step_up_seconds"
	MetricReachedFirst = "reached_after_start_seconds"
	// MetricLineUsed is how much of the line up was used after the warm-up, with
	// headers, where the line is constant.
	MetricLineUsed = "line_used_up_percent"
	// MetricPaced is the rate of what kiloport sent, as its shaper counts it, in
	// percent of the rate that it was given.
	MetricPaced = "paced_percent"
	// MetricSenderCPU is the processor time of the daemon that sends, in percent
	// of one processor.
	MetricSenderCPU = "daemon_a_cpu_percent"
)

const (
	goodDelay  = 10 // ms above base
	goodShare  = 0.85
	lookAtLine = 50 * time.Millisecond
)

// autorate changes the line's rate under load, and looks how soon that is followed.
func autorate(ctx context.Context, b *bench) error {
	line := b.followLine(ctx)
	err := b.traffic(ctx, append(b.probes(), b.bulk(4, 0)[0]))
	if err := errors.Join(err, line.stop()); err != nil {
		return err
	}
	return line.put(b)
}

// A lineCourse is a line's rate and what passed it.
type lineCourse struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	from   []time.Time // of each step
	looks  []lineLook
}

type lineLook struct {
	at    time.Time
	bytes uint64
}

// followLine makes the steps, a third of the load each, beginning when bytes flow.
func (b *bench) followLine(ctx context.Context) *lineCourse {
	ctx, cancel := context.WithCancel(ctx)
	l := &lineCourse{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.err = l.run(ctx, b)
	}()
	return l
}

// busyLine is how many bytes in one look are a load and no probes.
const busyLine = 20_000

func (l *lineCourse) run(ctx context.Context, b *bench) error {
	for {
		up, _, err := b.sites.Bottlenecks()
		if err != nil {
			return err
		}
		now := time.Now()
		if n := len(l.looks); n > 0 && len(l.from) == 0 && up.Bytes-l.looks[n-1].bytes > busyLine {
			l.from = append(l.from, now)
		}
		l.looks = append(l.looks, lineLook{now, up.Bytes})
		if n := len(l.from); n > 0 && n < len(lineSteps) && now.Sub(l.from[n-1]) >= b.Load/time.Duration(len(lineSteps)) {
			if err := b.sites.SetRateUp(lineSteps[n]); err != nil {
				return err
			}
			l.from = append(l.from, time.Now())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookAtLine):
		}
	}
}

func (l *lineCourse) stop() error {
	l.cancel()
	<-l.done
	if l.err != nil {
		return fmt.Errorf("change the line's rate: %w", l.err)
	}
	return nil
}

// put adds the metrics. The probe's times are since the load began, by its own
// clock, and the last step's is told by the course.
func (l *lineCourse) put(b *bench) error {
	if len(l.from) != len(lineSteps) {
		return fmt.Errorf("the line was to have %d rates, and had %d: the load was too short or too weak", len(lineSteps), len(l.from))
	}
	m := b.run.Metrics
	delete(m, MetricLineUsed) // it is of one rate
	m[MetricReachedFirst] = l.reached(0)
	m[MetricSettled] = l.settled(b, 1)
	m[MetricReached] = l.reached(2)
	for step, rate := range lineSteps {
		from, to := l.from[step].Add(settleTime), l.end(step)
		m[fmt.Sprintf("line_used_at_%d_mbit_percent", rate/1e6)] = 100 * l.passed(from, to) / (float64(rate) * to.Sub(from).Seconds())
	}
	return nil
}

// settleTime is left out of what is used of each rate.
const settleTime = 10 * time.Second

// end is when a step was over.
func (l *lineCourse) end(step int) time.Time {
	if step+1 < len(l.from) {
		return l.from[step+1]
	}
	return l.looks[len(l.looks)-1].at
}

// passed is how many bits passed between two times.
func (l *lineCourse) passed(from, to time.Time) float64 {
	first, last := -1, -1
	for i := range l.looks {
		if at := l.looks[i].at; first < 0 && !at.Before(from) {
			first = i
		} else if !at.After(to) {
			last = i
		}
	}
	if first < 0 || last <= first {
		return 0
	}
	return float64(l.looks[last].bytes-l.looks[first].bytes) * 8
}

// reached is how long after a step less than a good share is used in every second.
func (l *lineCourse) reached(step int) float64 {
	for at := l.from[step]; !at.Add(time.Second).After(l.end(step)); at = at.Add(lookAtLine) {
		if l.passed(at, at.Add(time.Second+lookAtLine)) >= goodShare*float64(lineSteps[step]) {
			return at.Sub(l.from[step]).Seconds()
		}
	}
	return l.end(step).Sub(l.from[step]).Seconds()
}

// settled is how long after a step the probe is late, before it is not for a second.
func (l *lineCourse) settled(b *bench, step int) float64 {
	base := b.run.Metrics[report.MetricBaseRTT]
	from, end := l.from[step].Sub(b.loadFrom).Seconds(), l.end(step).Sub(b.loadFrom).Seconds()
	good := from
	for _, s := range b.run.Series {
		if s.Name != report.ProbeName || s.Kind != report.KindRTT {
			continue
		}
		for i, at := range s.T {
			switch {
			case at < from || at > end:
			case math.IsNaN(s.V[i]) || s.V[i]-base >= goodDelay:
				good = at + lookAtLine.Seconds()
			case at-good >= 1:
				return good - from
			}
		}
	}
	return end - from
}

// lineUsed adds how much of a constant line was used, if there is one.
func (s *watched) lineUsed(run *report.Run, load time.Time, rate int64) {
	from, to := load.Add(warmUp), load.Add(time.Duration(run.Duration*float64(time.Second)))
	first, last := -1, -1
	for i, at := range s.at {
		if at.Before(from) || at.After(to) {
			continue
		}
		if first < 0 {
			first = i
		}
		last = i
	}
	if rate == 0 || last <= first {
		return
	}
	bits := float64(s.passed[last]-s.passed[first]) * 8
	run.Metrics[MetricLineUsed] = 100 * bits / s.at[last].Sub(s.at[first]).Seconds() / float64(rate)
}

// pacingCases are the rates at which pacing is measured. With hardly a round trip, TCP
// does not fill the lower ones all the time.
var pacingCases = []loadCase{
	{name: "1mbit", groups: excess(1e6)}, {name: "20mbit", groups: excess(20e6)}, {name: "100mbit", groups: streams(4, 0)},
	{name: "500mbit", groups: streams(4, 0)}, {name: "1gbit", groups: streams(4, 0)}, {name: "2gbit", groups: streams(4, 0)},
}

// excess is datagrams of four flows, a third more of them than a rate carries.
func excess(rate int64) []traffic.Group {
	const flows, size = 4, 1200
	interval := time.Duration(flows * size * 8 * 3 * int64(time.Second) / 4 / rate)
	return []traffic.Group{{Kind: traffic.UDPStream, Count: flows, Size: size, Interval: interval}}
}

var pacingRates = map[string]float64{"1mbit": 1e6, "20mbit": 20e6, "100mbit": 100e6, "500mbit": 500e6, "1gbit": 1e9, "2gbit": 2e9}

func paced(e *Experiment) []string { return []string{"Bandwidth = " + e.Case} }

// pacing fills the shaper, and looks at what leaves in the midst of the load.
func pacing(ctx context.Context, b *bench) error {
	done := make(chan error, 1)
	go func() {
		time.Sleep(launch)
		done <- b.pace(b.Load - launch - rest)
	}()
	f, err := b.fill(ctx, b.load(), b.Load)
	if err := errors.Join(err, <-done); err != nil {
		return err
	}
	f.put(b.run.Metrics)
	return nil
}

// pace measures for a time what the sender's shaper lets pass.
func (b *bench) pace(d time.Duration) error {
	binary, ok := b.kiloport()
	if !ok {
		return errors.New("only kiloport has a shaper: leave the other tunnels out")
	}
	m, err := b.meter()
	if err != nil {
		return err
	}
	before, from, err := b.sentBits(binary)
	if err != nil {
		return err
	}
	time.Sleep(d)
	after, to, err := b.sentBits(binary)
	if err != nil {
		return err
	}
	used, err := m.read()
	if err != nil {
		return err
	}
	took := to.Sub(from).Seconds()
	b.run.Metrics[MetricPaced] = 100 * (after - before) / took / pacingRates[b.Case]
	b.run.Metrics[MetricSenderCPU] = 100 * (used[0].cpu - m.before[0].cpu).Seconds() / took
	return nil
}

// outerHeaders are those of IPv4 and UDP, or IPv6 and UDP.
const outerHeaders4, outerHeaders6 = 28, 48

// sentBits is what the sender has sent in all, with the headers that its shaper
// counts, and when that was.
func (b *bench) sentBits(binary string) (float64, time.Time, error) {
	end := b.tunnel.A
	s, err := tunnels.Show(context.Background(), end.Site.Node, binary, end.Dev)
	if err != nil {
		return 0, time.Time{}, err
	}
	at := time.Now()
	p, err := s.Peer()
	if err != nil {
		return 0, at, err
	}
	headers := uint64(outerHeaders6)
	if b.IPv4 {
		headers = outerHeaders4
	}
	return float64(p.Sent.Bytes+p.Sent.Packets*headers) * 8, at, nil
}
