package traffic

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// A runner is one flow as the client sees it. The client calls its methods one
// after the other, never two at a time.
type runner interface {
	open(ctx context.Context, port uint16) error
	// roundTrip sends a packet of the given length, IP header included, and
	// waits for one of the same length that answers it.
	roundTrip(ctx context.Context, inner int) (time.Duration, error)
	// load sends in the flow's part of the load, which is still to come.
	load(ctx context.Context, w window) error
	settle(ctx context.Context) error
	close()
	// result fills in what this end knows, after close, and tells how many
	// datagrams this end's socket dropped.
	result(f *Flow) (*samples, uint64)
}

// A window is a flow's part of the load.
type window struct {
	origin     time.Time // when the whole load begins
	from       int64     // origin by the clock in the headers
	start, end time.Time
}

// A client carries out a plan.
type client struct {
	plan  Plan
	epoch time.Time // when the clock in the headers was 0
	flows []*clientFlow
}

// A clientFlow is a flow with its place in the plan and its first failure,
// after which it is left alone.
type clientFlow struct {
	runner
	group, id int
	late      time.Duration // after the start of its group
	err       error
	elapsed   time.Duration // from the start of the load to its settlement
}

func newClient(plan Plan) *client {
	c := &client{plan: plan, epoch: time.Now()}
	clock := func() int64 { return int64(time.Since(c.epoch)) }
	run, floods := rand.Uint32(), new(floodRota)
	for i := range plan.Groups {
		g := &plan.Groups[i]
		for range g.Count {
			f := &clientFlow{group: i, id: len(c.flows)}
			h := header{run: run, flow: uint32(f.id), tos: g.TOS}
			switch g.Kind {
			case TCPBulk, TCPEcho:
				f.runner = newStreamFlow(&c.plan, g, h, clock)
			case TCPBurst:
				f.runner = newBurstFlow(&c.plan, g, h, clock)
			default:
				f.runner = newDatagramFlow(&c.plan, g, h, clock, floods)
			}
			c.flows = append(c.flows, f)
		}
	}
	c.stagger(rand.New(rand.NewPCG(plan.Seed, 0)))
	return c
}

// stagger says how late each flow begins: those of a group evenly apart in an
// interval, but bulk flows at random within [Plan.Stagger].
func (c *client) stagger(random *rand.Rand) {
	for _, f := range c.flows {
		g := &c.plan.Groups[f.group]
		switch {
		case g.Kind != TCPBulk:
			f.late = g.Interval * time.Duration(f.id%g.Count) / time.Duration(g.Count)
		case c.plan.Stagger > 0:
			f.late = time.Duration(random.Int64N(int64(c.plan.Stagger)))
		}
	}
}

func (c *client) run() (*Result, error) {
	ctx := context.Background()
	r := &Result{}
	c.each(ctx, c.plan.OpenTimeout, func(ctx context.Context, f *clientFlow) error { return f.open(ctx, c.plan.Port) })
	var idle samples
	c.probeIdle(ctx, &idle)
	r.Idle = summarize(&idle)
	if c.plan.RollCall {
		r.RollCalls = c.callRoll(ctx, false)
	}
	c.load(ctx, r)
	if c.plan.RollCall {
		r.RollCalls = append(r.RollCalls, c.callRoll(ctx, true)...)
	}
	c.collect(r)
	return r, nil
}

// each does the same with all flows that have not failed, at the same time.
func (c *client) each(ctx context.Context, patience time.Duration, do func(context.Context, *clientFlow) error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var wg sync.WaitGroup
	for _, f := range c.flows {
		if f.err == nil {
			wg.Go(func() { f.err = do(ctx, f) })
		}
	}
	wg.Wait()
}

// probeIdle measures round trips while nothing else is on the path.
func (c *client) probeIdle(ctx context.Context, s *samples) {
	var probe *clientFlow
	for _, f := range c.flows {
		if f.err == nil && !c.plan.Groups[f.group].Kind.tcp() {
			probe = f
			break
		}
	}
	if probe == nil {
		return
	}
	for range c.plan.IdleProbes {
		ctx, cancel := context.WithTimeout(ctx, roundTripPatience)
		rtt, err := probe.roundTrip(ctx, c.plan.Groups[probe.group].Size+maxOverhead)
		cancel()
		if err == nil {
			s.add(rtt)
		}
		sleep(ctx, 10*time.Millisecond)
	}
}

// load fills the path and waits for what is still on its way.
func (c *client) load(ctx context.Context, r *Result) {
	if c.plan.Duration <= 0 {
		return
	}
	r.LoadFrom = time.Now()
	r.LoadTo = r.LoadFrom.Add(c.plan.Duration)
	patience := c.plan.Duration + c.plan.Linger
	c.each(ctx, patience, func(ctx context.Context, f *clientFlow) error {
		w := c.window(f, r.LoadFrom)
		err := f.load(ctx, w)
		if err == nil {
			sleep(ctx, time.Until(w.end))
			err = f.settle(ctx)
		}
		g := &c.plan.Groups[f.group]
		f.elapsed = time.Since(r.LoadFrom.Add(g.Start))
		if g.Kind == TCPBulk && c.plan.Abandon {
			f.elapsed = g.stop(c.plan.Duration) - g.Start
		}
		return err
	})
}

// window is the flow's part of a load that begins at origin.
func (c *client) window(f *clientFlow, origin time.Time) window {
	g := &c.plan.Groups[f.group]
	return window{
		origin: origin, from: int64(origin.Sub(c.epoch)),
		start: origin.Add(g.Start + f.late), end: origin.Add(g.stop(c.plan.Duration)),
	}
}

// collect closes all flows and puts down what became of them.
func (c *client) collect(r *Result) {
	r.Flows = make([]Flow, len(c.flows))
	r.Groups = make([]GroupResult, len(c.plan.Groups))
	rtts := make([][]*samples, len(c.plan.Groups))
	for i, f := range c.flows {
		f.close()
		out := &r.Flows[i]
		out.Group, out.ID, out.Kind = f.group, f.id, c.plan.Groups[f.group].Kind
		out.Late = f.late
		rtt, dropped := f.result(out)
		out.RTT = summarize(rtt)
		r.SocketDrops += dropped
		rtts[f.group] = append(rtts[f.group], rtt)
		g := &r.Groups[f.group]
		g.Elapsed = max(g.Elapsed, f.elapsed)
		if f.err != nil {
			out.Error = f.err.Error()
		}
		if errors.Is(f.err, context.DeadlineExceeded) {
			out.Error = "it took too long: " + out.Error
		}
	}
	for i := range r.Groups {
		r.Groups[i].RTT = summarize(rtts[i]...)
	}
}

// merge adds what the server knows, and adds the groups up.
func (r *Result) merge(plan *Plan, report *serverReport) {
	r.SocketDrops += report.SocketDrops
	for i := range r.Flows {
		f := &r.Flows[i]
		if f.Kind != ICMPEcho {
			f.merge(plan, report.Flows[f.ID])
		}
		g := &r.Groups[f.Group]
		g.Kind = plan.Groups[f.Group].Kind
		g.Flows++
		if f.Error != "" {
			g.Failed++
		}
		g.Up.add(f.Up)
		g.Down.add(f.Down)
	}
	for i := range r.Groups {
		g := &r.Groups[i]
		if g.Elapsed > 0 {
			g.Goodput = float64(g.Up.Bytes+g.Down.Bytes) * 8 / g.Elapsed.Seconds()
		}
	}
}

// merge adds what the server knows of the flow.
func (f *Flow) merge(plan *Plan, served serverFlow) {
	up, down := f.Up.Sent, served.Sent
	f.Up = served.Received
	if f.Kind == TCPBulk && plan.Abandon {
		up, down = f.Up.Received, f.Down.Received // the rest was cut off, not lost
	}
	f.Up.account(up)
	f.Down.account(down)
	if f.Kind == TCPBurst {
		f.Up.Reordered, f.Down.Reordered = 0, 0 // connections have no order among them
	}
	// A flow that is cut off before anything of it has arrived is no failure: the
	// server could not know yet that it would be.
	cutOff := f.Kind == TCPBulk && plan.Abandon && served.Reset
	if f.Error == "" && !cutOff {
		f.Error = served.Error
	}
	if f.TCP == nil {
		f.TCP = served.TCP
	}
	if plan.Series && f.Series == nil && served.Bins != nil {
		f.Series = &Series{Bytes: served.Bins}
	}
	if f.Series != nil && f.Kind == TCPBulk {
		f.Series.complete(plan)
	}
}
