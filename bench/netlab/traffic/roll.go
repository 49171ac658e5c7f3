package traffic

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Lengths of the inner packets that tell flows apart. WireGuard pads what it
// encrypts to a multiple of 16 bytes, so only multiples survive as different
// lengths; the smallest is longer than a bare TCP acknowledgement with options,
// and the largest fits an inner MTU of 1280.
const (
	rollSmallest = 160
	rollLargest  = 1280
	rollStep     = 16

	// rollProbe is that of a probe of the path's size in WireGuard, 1280 bytes outside,
	// which every IPv6 path carries: a daemon may send those at any time.
	rollProbe = 1280 - 40 - 8 - 32
)

// rollTrips is how many packets a flow sends, and gets back, in its turn.
const rollTrips = 3

// rollPatience bounds one turn, and rollGap the silence after it.
const (
	rollPatience = 5 * time.Second
	rollGap      = 20 * time.Millisecond
)

// maxOverhead is the longest header of a flow's packets: IPv6 and TCP with
// timestamps.
const maxOverhead = 40 + 32

// rollLengths are the lengths to be given away in one turn.
var rollLengths = func() (lengths []int) {
	for n := rollSmallest; n <= rollLargest; n += rollStep {
		if n != rollProbe {
			lengths = append(lengths, n)
		}
	}
	return lengths
}()

// callRoll lets as many flows as there are lengths have their turn at a time.
func (c *client) callRoll(ctx context.Context, after bool) []RollCall {
	var calls []RollCall
	for first := 0; first < len(c.flows); first += len(rollLengths) {
		turn := c.flows[first:min(first+len(rollLengths), len(c.flows))]
		from := time.Now()
		takeTurn(ctx, turn)
		// A repeated question may still be on its way.
		time.Sleep(rollGap)
		to := time.Now()
		for i, f := range turn {
			if f.err == nil {
				calls = append(calls, RollCall{Flow: f.id, After: after, InnerLength: rollLengths[i], Packets: rollTrips, From: from, To: to})
			}
		}
	}
	return calls
}

func takeTurn(ctx context.Context, turn []*clientFlow) {
	ctx, cancel := context.WithTimeout(ctx, rollPatience)
	defer cancel()
	var wg sync.WaitGroup
	for i, f := range turn {
		if f.err != nil {
			continue
		}
		wg.Go(func() {
			for range rollTrips {
				if _, err := f.roundTrip(ctx, rollLengths[i]); err != nil {
					f.err = fmt.Errorf("answer the roll call: %w", err)
					return
				}
			}
		})
	}
	wg.Wait()
}
