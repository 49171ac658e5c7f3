package lab

import (
	"context"
	"fmt"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
)

// Inner flows are told apart outside by the length of their packets, multiples of
// 16 because WireGuard pads to that. All are longer than what a tunnel sends of
// its own accord.
const (
	lengthStep   = 16
	firstLength  = 240 // of the inner IP packet
	lengths      = 72
	udpHeaders   = 48 // of IPv6 and UDP; with IPv4, packets are 20 bytes shorter
	fewest       = 3  // packets of a length that make it a flow and not a stray
	gatewayFlows = 1024
)

// manyFlows asks how many of the flows are alone in their queue of gateway A:
// every flow sends now and then, and the gateway notes by which hash its queue
// sorts which lengths.
func manyFlows(ctx context.Context, b *bench) error {
	counter, err := b.sites.GatewayA.CountHashes(netlab.GatewayWan)
	if err != nil {
		return err
	}
	if err := b.traffic(ctx, b.lengthGroups()); err != nil {
		return err
	}
	counts, err := counter.Read()
	if err != nil {
		return err
	}
	q := queues(counts, b.queueCount())
	if q.flows < min(b.Flows, lengths) {
		return fmt.Errorf("only %d kinds of %d flows were seen at the gateway", q.flows, b.Flows)
	}
	b.run.Metrics["flows_count"] = float64(b.Flows)
	b.run.Metrics["flows_alone_percent"] = 100 * float64(q.alone) / float64(b.Flows)
	b.run.Metrics["gateway_queues_used_count"] = float64(q.used)
	b.run.Metrics["outer_flows_count"] = float64(q.outer)
	return nil
}

func (b *bench) queueCount() int {
	if n := b.Path.Qdisc.Flows; n != 0 {
		return n
	}
	return gatewayFlows
}

// lengthGroups share the flows out over the lengths.
func (b *bench) lengthGroups() (groups []traffic.Group) {
	for i := range min(lengths, b.Flows) {
		n := b.Flows / lengths
		if i < b.Flows%lengths {
			n++
		}
		groups = append(groups, traffic.Group{
			Kind: traffic.UDPEcho, Count: n, To: b.to(), Interval: 500 * time.Millisecond,
			Size: firstLength + i*lengthStep - udpHeaders,
		})
	}
	return groups
}

// A queueing is how flows are spread over a fair queue.
type queueing struct {
	flows int // kinds of packets seen, at least: two flows of one length in one outer flow count once
	outer int // different hashes
	used  int // queues with at least one
	alone int // flows that share their queue with none
}

// queues sorts hashes into queues as fq_codel does.
func queues(counts map[netlab.FlowSize]uint64, n int) (q queueing) {
	inQueue, hashes := map[int]int{}, map[uint32]bool{}
	for kind, packets := range counts {
		if packets < fewest || kind.Length < firstLength-20 {
			continue
		}
		q.flows++
		hashes[kind.Hash] = true
		inQueue[kind.Bucket(n)]++
	}
	for _, flows := range inQueue {
		if flows == 1 {
			q.alone++
		}
	}
	q.outer, q.used = len(hashes), len(inQueue)
	return q
}
