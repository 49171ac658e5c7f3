package lab

import (
	"context"
	"fmt"
	"math"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/report"
)

// Inner flows are told apart outside by the length of their packets, multiples of
// 16 because WireGuard pads to that. All are longer than what a tunnel sends of
// its own accord.
const (
	lengthStep   = 16
	firstLength  = 240 // of the inner IP packet
	lengths      = 72
	meanLength   = firstLength + lengths/2*lengthStep
	udpHeaders   = 48 // of IPv6 and UDP; with IPv4, packets are 20 bytes shorter
	fewest       = 3  // packets of a length that make it a flow and not a stray
	gatewayFlows = 1024
)

// All sparse flows together leave most of the bottleneck to others, and each sends
// often enough to be seen.
const (
	sparseInterval = 500 * time.Millisecond
	sparseShare    = 4 // of the bottleneck, they get one part in so many
	fewestSent     = 6
)

// Not all of the flows can be bulk flows where the bottleneck has less than
// bulkLeast bit/s for each: TCP sends no less than a packet in a round trip, and
// what it does with losses at that is more about its timers than about the queue.
// Without a bottleneck bulkUnlimited flows are enough for a processor.
const bulkLeast, bulkUnlimited = 200_000, 100

// The bulk flows of a second part start when those of the first are forgotten: a
// flow keeps its lane for 30 s. They do not start all at once, because so many
// initial windows are more than what a queue can take.
const (
	forgotten  = 35 * time.Second
	mostStarts = 50
)

// manyFlows asks two things of a number of flows. First, how many of them are
// alone in their queue of gateway A: each sends now and then, and the gateway
// notes by which hash its queue sorts which lengths. Second, how fairly TCP flows
// share the bottleneck, as many of the flows as it has room for, among the others,
// which send now and then.
func manyFlows(ctx context.Context, b *bench) error {
	if err := b.countAlone(ctx); err != nil || !b.sharesOut() {
		return err
	}
	select {
	case <-time.After(forgotten):
	case <-ctx.Done():
		return ctx.Err()
	}
	return b.traffic(ctx, b.fairGroups())
}

// sharesOut tells whether there is a second part: one flow shares with none, and a
// load that is no longer than the warm-up leaves nothing to look at.
func (e *Experiment) sharesOut() bool { return e.Flows > 1 && e.Load > warmUp }

// manyFlowsLast is the time of both parts.
func manyFlowsLast(e *Experiment) time.Duration {
	first := max(e.Load, fewestSent*e.sparseInterval())
	if !e.sharesOut() {
		return first
	}
	return first + forgotten + quiet + e.Load
}

// countAlone is the first part.
func (b *bench) countAlone(ctx context.Context) error {
	counter, err := b.sites.GatewayA.CountHashes(netlab.GatewayWan)
	if err != nil {
		return err
	}
	r, err := traffic.Between(ctx, b.sites.A.Host, b.sites.B.Host, traffic.Plan{
		Groups: b.lengthGroups(b.Flows), Duration: max(b.Load, fewestSent*b.sparseInterval()), Linger: linger, Virtual: Virtual(),
	})
	if err != nil {
		return err
	}
	if err := failed(r); err != nil {
		return err
	}
	counts, err := counter.Read()
	if err != nil {
		return err
	}
	q := queues(counts, b.queueCount(), packetsOfEach(r))
	if q.kinds < min(b.Flows, lengths) {
		return fmt.Errorf("only %d kinds of %d flows were seen at the gateway", q.kinds, b.Flows)
	}
	m := b.run.Metrics
	m[report.MetricFlows] = float64(b.Flows)
	m[report.MetricFlowsAlone] = 100 * float64(q.alone) / float64(b.Flows)
	m[report.MetricOuterFlows] = float64(q.outer)
	m[report.MetricGatewayQueues] = float64(b.queueCount())
	m[report.MetricQueuesUsed] = float64(q.used)
	return nil
}

// sparseInterval is how often each sparse flow sends.
func (e *Experiment) sparseInterval() time.Duration {
	rate := slower(e.Path)
	if rate == 0 {
		return sparseInterval
	}
	load := float64(e.Flows) * meanLength * 8 * sparseShare // of a packet each, in bit, as a share of the rate
	return max(sparseInterval, time.Duration(load/float64(rate)*float64(time.Second)))
}

// slower is the lower of the path's rates in bit/s, 0 if neither is limited.
func slower(p netlab.Path) int64 {
	if p.RateUp == 0 || p.RateDown == 0 {
		return max(p.RateUp, p.RateDown)
	}
	return min(p.RateUp, p.RateDown)
}

// bulkFlows is how many of the flows are bulk flows in the second part.
func (b *bench) bulkFlows() int {
	if b.Path.RateUp == 0 {
		return min(b.Flows, bulkUnlimited)
	}
	return min(b.Flows, max(2, int(b.Path.RateUp/bulkLeast)))
}

// fairGroups are the flows of the second part.
func (b *bench) fairGroups() []traffic.Group {
	bulk := b.bulkFlows()
	groups := append(b.probes(), b.lengthGroups(b.Flows-bulk)...)
	starts := min(bulk, mostStarts)
	for i := range starts {
		groups = append(groups, traffic.Group{
			Kind: traffic.TCPBulk, Count: countOf(bulk, starts, i), To: b.to(),
			Start: quiet + warmUp/2*time.Duration(i)/time.Duration(starts),
		})
	}
	return groups
}

// countOf shares a number out over parts that are as equal as can be: it gives
// that of part i.
func countOf(total, parts, i int) int {
	n := total / parts
	if i < total%parts {
		n++
	}
	return n
}

func (b *bench) queueCount() int {
	if n := b.Path.Qdisc.Flows; n != 0 {
		return n
	}
	return gatewayFlows
}

// lengthGroups share a number of sparse flows out over the lengths.
func (b *bench) lengthGroups(flows int) (groups []traffic.Group) {
	kinds := min(lengths, flows)
	for i := range kinds {
		groups = append(groups, traffic.Group{
			Kind: traffic.UDPEcho, Count: countOf(flows, kinds, i), To: b.to(), Interval: b.sparseInterval(),
			Size: firstLength + i*lengthStep - udpHeaders,
		})
	}
	return groups
}

// packetsOfEach is how many packets each flow sent, in the mean.
func packetsOfEach(r *traffic.Result) float64 {
	sent := uint64(0)
	for i := range r.Flows {
		sent += r.Flows[i].Up.Sent
	}
	return float64(sent) / float64(len(r.Flows))
}

// A queueing is how flows are spread over a fair queue.
type queueing struct {
	kinds int // different pairs of outer flow and length
	outer int // different hashes
	used  int // queues with at least one
	alone int // flows that share their queue with none
}

// queues sorts hashes into queues as fq_codel does. Flows of one length in one
// outer flow look alike; how many there are is told by how many packets they
// sent, of which a single flow sends each. Whoever sent less than half of that, or only
// short packets, is none of them: the connection by which the ends talk is not.
func queues(counts map[netlab.FlowSize]uint64, n int, each float64) (q queueing) {
	inQueue, hashes := map[int]int{}, map[uint32]bool{}
	for kind, packets := range counts {
		if float64(packets) < max(fewest, each/2) || kind.Length < firstLength-20 {
			continue
		}
		q.kinds++
		hashes[kind.Hash] = true
		inQueue[kind.Bucket(n)] += max(1, int(math.Round(float64(packets)/each)))
	}
	for _, flows := range inQueue {
		if flows == 1 {
			q.alone++
		}
	}
	q.outer, q.used = len(hashes), len(inQueue)
	return q
}
