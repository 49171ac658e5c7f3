package queue

import (
	"fmt"
	"time"
)

// Config is FQ-CoDel's parameters, RFC 8290 section 5.2. Start from [Default].
type Config struct {
	// Flows is the number of queues that packets are hashed into, 1 to 65536; of
	// more than 8, a multiple of 8 is used.
	Flows int
	// Quantum is how many bytes a flow may send in its turn, 64 to 1 MiB; it
	// ends its turn with the packet that takes the last of them. One full
	// packet is a good choice, and [SlowQuantum] for a slow line.
	Quantum int
	// Burst is how many bytes more a flow may send in its turn, into debt, if it
	// is bulk and no flow is new, 0 to 1 MiB: packets that leave together cost
	// less. It then waits for its debt's worth of turns, as after a
	// super-packet of that size, so that the shares stay the same. 0 is what
	// the RFC has.
	Burst int
	// MTU is the length of a full packet, 64 to 65536 bytes: where no more than
	// that waits, in all queues, there is no standing queue (RFC 8289 section
	// 5.1).
	MTU int
	// Target is the standing delay that CoDel allows, above 0 and below
	// Interval (RFC 8289 section 4.4).
	Target time.Duration
	// Interval is how long the delay may stay above Target before CoDel acts,
	// at most a minute: about the longest round trip of the flows (RFC 8289
	// section 4.3).
	Interval time.Duration
	// Limit is how many packets may wait in all queues, 1 to 1<<20.
	Limit int
	// MemoryLimit is how many bytes may wait in all queues, at least Quantum.
	MemoryLimit int
	// ECN makes CoDel mark packets that can be marked rather than drop them.
	ECN bool
	// CEThreshold marks every markable packet that waited longer, apart from
	// CoDel's own law, for transports that want shallow queues (DCTCP, RFC
	// 8257); 0 is off.
	CEThreshold time.Duration
	// DropBatch is the most packets dropped at once from the fattest flow when
	// a limit is passed, at least 1: finding it costs a look at all flows.
	DropBatch int
}

// Default gives the values that RFC 8290 recommends: 1024 flows, a quantum of
// 1514 bytes, 5 ms in 100 ms, 10240 packets, with ECN; and 16 MiB instead of
// 32, so that a daemon whose queues are full stays below 64 MB.
func Default() Config {
	return Config{
		Flows: 1024, Quantum: 1514, MTU: 1514,
		Target: 5 * time.Millisecond, Interval: 100 * time.Millisecond,
		Limit: 10240, MemoryLimit: 16 << 20,
		ECN: true, DropBatch: 64,
	}
}

// The least quantum, in bytes, and for how long a slow line sends one. The people of
// FQ-CoDel advise 300 below 100 Mbit/s (bufferbloat.net, "Best practices for
// benchmarking CoDel and FQ CoDel"); tc-cake(8) shows that cake goes from 300 to 1514
// with the rate, as this does.
const (
	leastQuantum = 300
	quantumLasts = 125 * time.Microsecond
)

// SlowQuantum is a quantum for a line of a rate, bit/s, on which a full packet has so
// many bytes: what the line sends in 125 µs, at most the packet, at least 300 bytes.
//
// A flow that begins sends a quantum before the others, and goes on until that is
// used up: with one of a few bytes more than a full packet, two of these, behind
// which a sparse flow waits for 1.2 ms at 20 Mbit/s. TCP flows whose queue is short
// begin anew all the time. With a smaller quantum it is one packet, for which the
// flow pays in several turns, and no more than a few acknowledgements.
func SlowQuantum(rate int64, full int) int {
	sent := rate / 8 * int64(quantumLasts) / int64(time.Second)
	return max(min(int(sent), full), leastQuantum)
}

// Validate names the first parameter that is out of range, and the range.
func (c Config) Validate() error {
	for _, p := range []struct {
		name      string
		value     int64
		low, high int64
	}{
		{"flows", int64(c.Flows), 1, 1 << 16},
		{"quantum", int64(c.Quantum), 64, 1 << 20},
		{"burst", int64(c.Burst), 0, 1 << 20},
		{"mtu", int64(c.MTU), 64, 1 << 16},
		{"limit", int64(c.Limit), 1, 1 << 20},
		{"memory limit", int64(c.MemoryLimit), int64(c.Quantum), 1 << 40},
		{"drop batch", int64(c.DropBatch), 1, 1 << 20},
	} {
		if p.value < p.low || p.value > p.high {
			return fmt.Errorf("queue: %s is %d, use %d to %d", p.name, p.value, p.low, p.high)
		}
	}
	if c.Interval <= 0 || c.Interval > time.Minute {
		return fmt.Errorf("queue: interval is %v, use more than 0 and at most %v", c.Interval, time.Minute)
	}
	if c.Target <= 0 || c.Target >= c.Interval {
		return fmt.Errorf("queue: target is %v, use more than 0 and less than the interval, which is %v", c.Target, c.Interval)
	}
	if c.CEThreshold < 0 {
		return fmt.Errorf("queue: ce threshold is %v, use 0 for none or more", c.CEThreshold)
	}
	return nil
}
