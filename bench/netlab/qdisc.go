package netlab

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// The queueing disciplines that a [Path] can have.
const (
	KindFQCodel = "fq_codel"
	KindCake    = "cake"
	KindCodel   = "codel"
	KindFQPie   = "fq_pie"
	KindPie     = "pie"
	KindFQ      = "fq"
	KindSFQ     = "sfq"
	KindPfifo   = "pfifo"
)

// A parameters says by which attribute (linux/pkt_sched.h) a discipline takes
// each field of [Qdisc]; 0 means not at all.
type parameters struct {
	limit, memory, ecn            uint16
	target, interval, ceThreshold uint16
	flows, quantum                uint16
	flowMode, diffServ, bandwidth uint16
}

// inStruct stands for a parameter that is not an attribute but a member of a
// structure, with the two oldest disciplines.
const inStruct = 0xffff

var disciplines = map[string]parameters{
	KindFQCodel: {target: 1, limit: 2, interval: 3, ecn: 4, flows: 5, quantum: 6, ceThreshold: 7, memory: 9},
	KindCodel:   {target: 1, limit: 2, interval: 3, ecn: 4, ceThreshold: 5},
	KindFQPie:   {limit: 1, flows: 2, target: 3, quantum: 7, memory: 8, ecn: 10},
	KindPie:     {target: 1, limit: 2, ecn: 6},
	KindFQ:      {limit: 1, quantum: 3, ceThreshold: 12},
	KindCake:    {bandwidth: 2, diffServ: 3, flowMode: 5, interval: 7, target: 8, memory: 10, ecn: inStruct},
	KindSFQ:     {limit: inStruct, flows: inStruct, quantum: inStruct},
	KindPfifo:   {limit: inStruct},
}

// cakeFlowModes and cakeDiffServ are in the order of the kernel's numbers.
var (
	cakeFlowModes = []string{"flowblind", "srchost", "dsthost", "hosts", "flows", "dual-srchost", "dual-dsthost", "triple-isolate"}
	cakeDiffServ  = []string{"diffserv3", "diffserv4", "diffserv8", "besteffort", "precedence"}
)

func (q *Qdisc) validate() error {
	d, ok := disciplines[q.Kind]
	if !ok {
		return fmt.Errorf("unknown qdisc %q; have one of %s", q.Kind, strings.Join(slices.Sorted(maps.Keys(disciplines)), ", "))
	}
	var errs []error
	for _, f := range q.fields(&d) {
		if f.set && f.attr == 0 {
			errs = append(errs, fmt.Errorf("%s has no %s", q.Kind, f.name))
		}
	}
	errs = append(errs,
		within("limit", q.Limit, 1, maxCount, "packets"),
		within("memory", q.Memory, 1, maxCount, "bytes"),
		within("flows", q.Flows, 1, 65536, ""),
		within("quantum", q.Quantum, 1, 1<<20, "bytes"),
		within("target", q.Target, time.Microsecond, maxDelay/2, ""),
		within("interval", q.Interval, time.Microsecond, maxDelay/2, ""),
		within("ce_threshold", q.CEThreshold, time.Microsecond, maxDelay/2, ""),
		oneOf("flow mode", q.FlowMode, cakeFlowModes),
		oneOf("diffserv mode", q.DiffServ, cakeDiffServ))
	return errors.Join(errs...)
}

func oneOf(name, value string, known []string) error {
	if value == "" || slices.Contains(known, value) {
		return nil
	}
	return fmt.Errorf("unknown %s %q; have one of %s", name, value, strings.Join(known, ", "))
}

// A field is one parameter as the kernel takes it.
type field struct {
	name  string
	attr  uint16
	set   bool
	value uint32
}

func (q *Qdisc) fields(d *parameters) []field {
	return []field{
		{"packet limit", d.limit, q.Limit != 0, uint32(q.Limit)},
		{"memory limit", d.memory, q.Memory != 0, uint32(q.Memory)},
		{"ECN", d.ecn, q.ECN, 1},
		{"target", d.target, q.Target != 0, microseconds(q.Target)},
		{"interval", d.interval, q.Interval != 0, microseconds(q.Interval)},
		{"ce_threshold", d.ceThreshold, q.CEThreshold != 0, microseconds(q.CEThreshold)},
		{"flows", d.flows, q.Flows != 0, uint32(q.Flows)},
		{"quantum", d.quantum, q.Quantum != 0, uint32(q.Quantum)},
		{"flow mode", d.flowMode, q.FlowMode != "", uint32(max(0, slices.Index(cakeFlowModes, q.FlowMode)))},
		{"diffserv mode", d.diffServ, q.DiffServ != "", uint32(max(0, slices.Index(cakeDiffServ, q.DiffServ)))},
	}
}

func microseconds(d time.Duration) uint32 {
	return uint32(min(d.Microseconds(), math.MaxUint32))
}

// options is the qdisc's TCA_OPTIONS at a rate in bit/s, which only a discipline
// that shapes by itself takes; nil means none.
func (q *Qdisc) options(rate int64) []byte {
	d := disciplines[q.Kind]
	switch q.Kind {
	case KindPfifo:
		if q.Limit == 0 {
			return nil
		}
		return words(uint32(q.Limit))
	case KindSFQ:
		// quantum, perturb period, limit, hash divisor, flows
		return words(uint32(q.Quantum), 0, uint32(q.Limit), 0, uint32(q.Flows))
	}
	var b []byte
	for _, f := range q.fields(&d) {
		// Whether to mark is always said, because the kernel's defaults differ.
		if f.attr != 0 && f.attr != inStruct && (f.set || f.attr == d.ecn) {
			value := f.value
			if !f.set {
				value = 0
			}
			b = appendAttr(b, f.attr, words(value))
		}
	}
	if d.bandwidth != 0 && rate != 0 {
		b = appendAttr(b, d.bandwidth, word64(uint64(rate/8)))
	}
	return b
}

// shapes tells whether the discipline keeps to a rate by itself.
func (q *Qdisc) shapes() bool { return disciplines[q.Kind].bandwidth != 0 }
