package main

import (
	"strings"
	"testing"
	"time"

	"kiloport/tunnel"
)

func TestShowTellsOfRates(t *testing.T) {
	delay := 6.23
	parameters := tunnel.FQCoDelStatus{TargetMs: 5, IntervalMs: 100, Quantum: 1514, Flows: 1024, Limit: 10240, MemoryLimit: 16 << 20, ECN: true}
	shallow := parameters
	shallow.ECN, shallow.CEThresholdMs, shallow.MemoryLimit = false, 0.5, 100_001
	found := tunnel.AutorateStatus{
		Min: 5e6, Base: 15e6, Max: 50e6, Rate: 18.5e6, Was: 19e6, Reason: "a queue forms", AgoMs: 120, Achieved: 18.8e6, LossPercent: 0.5, DelayMs: &delay,
		Decisions: map[string]uint64{"load and no queue": 40, "a queue forms": 3, "no reports": 0},
	}
	none := tunnel.AutorateStatus{Min: 5e6, Base: 15e6, Max: 50e6, Rate: 15e6, Reason: "start"}
	for name, c := range map[string]struct {
		status tunnel.Status
		want   []string
		not    string
	}{
		"none": {tunnel.Status{Bandwidth: "off", ReceiveBandwidth: "off", Queue: tunnel.QueueStatus{Parameters: parameters}},
			[]string{"fq_codel: limit 10240 flows 1024 quantum 1514 target 5ms interval 100ms memory_limit 16m ecn\n", "queue: 0 packets"}, "bandwidth"},
		"fixed": {tunnel.Status{Bandwidth: "20mbit", ReceiveBandwidth: "5mbit", Overhead: "ptm overhead 30 mpu 0", Queue: tunnel.QueueStatus{Parameters: shallow}},
			[]string{"bandwidth: 20mbit, ptm overhead 30 mpu 0\n", "peers are asked for: 5mbit, ptm overhead 30 mpu 0\n", "memory_limit 100001 noecn ce_threshold 0.5ms\n"}, "autorate"},
		"found": {tunnel.Status{Bandwidth: "18.5mbit", Autorate: &found},
			[]string{"autorate: 18.50 Mbit/s within 5.00 to 50.00: a queue forms, 0.1 s ago (delay 6.2 ms, 18.80 Mbit/s arrived, 0.5 % lost or marked)\n",
				"decisions: 40 load and no queue, 3 a queue forms\n"}, "no reports"},
		"at the start": {tunnel.Status{Bandwidth: "15mbit", Autorate: &none},
			[]string{"autorate: 15.00 Mbit/s within 5.00 to 50.00: start\n", "decisions: none yet\n"}, "ago"},
		"a peer's": {tunnel.Status{Peers: []tunnel.PeerStatus{{Asks: &tunnel.AskStatus{Bandwidth: "20mbit", Overhead: "noatm overhead 14 mpu 0", Packets: 3, Bytes: 4260}}}},
			[]string{"asks for no more than: 20mbit, noatm overhead 14 mpu 0; 3 packets, 4260 bytes wait\n"}, "peers are asked"},
	} {
		var b strings.Builder
		writeStatus(&b, &c.status, time.Now())
		for _, want := range c.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: no %q in\n%s", name, want, b.String())
			}
		}
		if strings.Contains(b.String(), c.not) {
			t.Errorf("%s: %q in\n%s", name, c.not, b.String())
		}
	}
}

// FQ-CoDel's parameters have the RFC's defaults, and say what is wrong with another
// value.
func TestQueueOptions(t *testing.T) {
	find := func(flag string) option {
		for _, o := range options {
			if o.flag == flag {
				return o
			}
		}
		t.Fatalf("there is no --%s", flag)
		return option{}
	}
	for flag, c := range map[string]struct {
		is   string
		good []string
		bad  map[string]string
	}{
		"queue-target":       {"5ms", []string{"1ms", "20ms"}, map[string]string{"5": "is not a duration", "0s": "above 0", "-1ms": "above 0", "2m": "up to 1m"}},
		"queue-interval":     {"100ms", []string{"30ms", "1s"}, map[string]string{"": "is not a duration", "61s": "up to 1m"}},
		"queue-quantum":      {"auto", []string{"300", "1514", "1048576"}, map[string]string{"63": "within 64 to 1048576", "many": "is not a number"}},
		"queue-flows":        {"1024", []string{"1", "65536"}, map[string]string{"0": "within 1 to 65536", "65537": "within"}},
		"queue-limit":        {"10240", []string{"1", "1048576"}, map[string]string{"0": "within 1 to 1048576", "1e3": "is not a number"}},
		"queue-memory":       {"16m", []string{"64k", "100000", "1g"}, map[string]string{"63k": "within 64k to 16g", "17g": "within", "32t": "is not a number of bytes", "-1m": "within"}},
		"queue-ecn":          {"on", []string{"off"}, map[string]string{"auto": "none of on, off"}},
		"queue-ce-threshold": {"off", []string{"1ms", "500µs"}, map[string]string{"0": "above 0", "on": "is not a duration"}},
	} {
		o, all := find(flag), tunnel.DefaultOptions()
		if got := o.get(&all); got != c.is {
			t.Errorf("--%s is %s, want %s", flag, got, c.is)
		}
		for _, value := range append(c.good, c.is) {
			if err := o.set(&all, value); err != nil || o.get(&all) != value {
				t.Errorf("--%s %s: %v, is %s", flag, value, err, o.get(&all))
			}
		}
		for value, want := range c.bad {
			one := tunnel.DefaultOptions()
			if err := o.set(&one, value); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("--%s %q: %v, want %q", flag, value, err, want)
			}
		}
	}
	together := tunnel.DefaultOptions()
	if err := find("queue-target").set(&together, "200ms"); err != nil {
		t.Error(err)
	}
	if err := together.Validate(); err == nil || !strings.Contains(err.Error(), "target is 200ms, use more than 0 and less than the interval, which is 100ms") {
		t.Errorf("a target above the interval: %v", err)
	}
}
