package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"kiloport/queue"
	"kiloport/tunnel"
)

// queueOptions are FQ-CoDel's parameters. Two of them that do not go together, a
// target above the interval, are known when all have been read.
var queueOptions = []option{
	duration("queue-target", "QueueTarget", "the standing delay that CoDel allows in kiloport's queue, more than 0 and less than the interval",
		func(c *queue.Config) *time.Duration { return &c.Target }),
	duration("queue-interval", "QueueInterval", "how long the delay may stand above the target before CoDel acts: about the longest round trip, at most 1m",
		func(c *queue.Config) *time.Duration { return &c.Interval }),
	{
		flag: "queue-quantum", key: "QueueQuantum", value: "BYTES|auto",
		help: "what a flow may send in its turn, 64 to 1048576 bytes; auto is 1514, and for a line with a rate what that sends in 125 µs, at least 300 and at most the MTU",
		set:  setQuantum,
		get: func(o *tunnel.Options) string {
			if !o.FixedQuantum {
				return "auto"
			}
			return strconv.Itoa(o.Queue.Quantum)
		},
	},
	number("queue-flows", "QueueFlows", "N", "queues that flows are hashed into, 1 to 65536",
		1, 1<<16, func(c *queue.Config) *int { return &c.Flows }),
	number("queue-limit", "QueueLimit", "PACKETS", "packets that may wait in all, 1 to 1048576; a super-packet is one",
		1, 1<<20, func(c *queue.Config) *int { return &c.Limit }),
	{
		flag: "queue-memory", key: "QueueMemory", value: "BYTES",
		help: "bytes that may wait in all, such as 32m",
		set: func(o *tunnel.Options, v string) (err error) {
			o.Queue.MemoryLimit, err = parseBytes(v)
			return err
		},
		get: func(o *tunnel.Options) string { return formatBytes(o.Queue.MemoryLimit) },
	},
	{
		flag: "queue-ecn", key: "QueueECN", value: "on|off",
		help: "let CoDel mark packets that can be marked, rather than drop them",
		set:  func(o *tunnel.Options, v string) (err error) { o.Queue.ECN, err = parseOnOff(v); return err },
		get:  func(o *tunnel.Options) string { return onOff(o.Queue.ECN) },
	},
	{
		flag: "queue-ce-threshold", key: "QueueCEThreshold", value: "DURATION|off",
		help: "mark every packet that waited longer and can be marked, for L4S and DCTCP, such as 1ms",
		set: func(o *tunnel.Options, v string) (err error) {
			o.Queue.CEThreshold = 0
			if strings.EqualFold(v, "off") {
				return nil
			}
			o.Queue.CEThreshold, err = parseDuration(v)
			return err
		},
		get: func(o *tunnel.Options) string {
			if o.Queue.CEThreshold == 0 {
				return "off"
			}
			return o.Queue.CEThreshold.String()
		},
	},
}

// duration is a parameter that is a time.
func duration(flag, key, help string, of func(*queue.Config) *time.Duration) option {
	return option{
		flag: flag, key: key, value: "DURATION", help: help,
		set: func(o *tunnel.Options, v string) (err error) { *of(&o.Queue), err = parseDuration(v); return err },
		get: func(o *tunnel.Options) string { return of(&o.Queue).String() },
	}
}

func parseDuration(v string) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 || d > time.Minute {
		return 0, fmt.Errorf("%q is not a duration above 0 and up to 1m, such as 5ms", v)
	}
	return d, nil
}

func setQuantum(o *tunnel.Options, v string) (err error) {
	if o.FixedQuantum = !strings.EqualFold(v, "auto"); !o.FixedQuantum {
		o.Queue.Quantum = queue.Default().Quantum
		return nil
	}
	o.Queue.Quantum, err = parseNumber(v, 64, 1<<20)
	return err
}

// number is a parameter that is a count or a size within bounds.
func number(flag, key, value, help string, low, high int, of func(*queue.Config) *int) option {
	return option{
		flag: flag, key: key, value: value, help: help,
		set: func(o *tunnel.Options, v string) (err error) {
			*of(&o.Queue), err = parseNumber(v, low, high)
			return err
		},
		get: func(o *tunnel.Options) string { return strconv.Itoa(*of(&o.Queue)) },
	}
}

func parseNumber(v string, low, high int) (int, error) {
	n, err := strconv.Atoi(v)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("%q is not a number within %d to %d", v, low, high)
	}
	return n, nil
}

// byteUnits are those of tc(8), which knows binary ones alone. Its words for sizes
// end in b or not.
var byteUnits = []struct {
	name string
	size int
}{{"g", 1 << 30}, {"m", 1 << 20}, {"k", 1 << 10}, {"", 1}}

// The bounds of what may wait: a packet of every flow that matters, and what any
// machine has, in whole MiB.
const leastMemory, mostMemory = 64 << 10, min(1<<34, math.MaxInt&^(1<<20-1))

func parseBytes(v string) (int, error) {
	text := strings.TrimSuffix(strings.ToLower(v), "b")
	for _, unit := range byteUnits {
		digits, ok := strings.CutSuffix(text, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(digits)
		if err != nil || n < leastMemory/unit.size || n > mostMemory/unit.size {
			break
		}
		return n * unit.size, nil
	}
	return 0, fmt.Errorf("%q is not a number of bytes within %s to %s", v, formatBytes(leastMemory), formatBytes(mostMemory))
}

func formatBytes(n int) string {
	for _, unit := range byteUnits {
		if n%unit.size == 0 && n >= unit.size {
			return strconv.Itoa(n/unit.size) + unit.name
		}
	}
	return strconv.Itoa(n)
}
