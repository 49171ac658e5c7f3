package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"kiloport/tunnel"
)

// off is what a status calls a rate that there is not.
var off = tunnel.FormatBandwidth(0, 0)

// writeRates writes at what rates packets leave and come, if there are any, and why.
func writeRates(field func(string, string, ...any), s *tunnel.Status) {
	if s.Bandwidth != "" && s.Bandwidth != off {
		field("bandwidth", "%s, %s", s.Bandwidth, s.Overhead)
	}
	if s.ReceiveBandwidth != "" && s.ReceiveBandwidth != off {
		field("peers are asked for", "%s, %s", s.ReceiveBandwidth, s.Overhead)
	}
	if a := s.Autorate; a != nil {
		field("autorate", "%s", autorate(a))
		field("decisions", "%s", decisions(a.Decisions))
	}
}

// autorate is the last decision in words.
func autorate(a *tunnel.AutorateStatus) string {
	text := fmt.Sprintf("%s Mbit/s within %s to %s: %s", megabits(a.Rate), megabits(a.Min), megabits(a.Max), a.Reason)
	if a.AgoMs == 0 {
		return text
	}
	delay := "unknown"
	if a.DelayMs != nil {
		delay = fmt.Sprintf("%.1f ms", *a.DelayMs)
	}
	return fmt.Sprintf("%s, %.1f s ago (delay %s, %s Mbit/s arrived, %.1f %% lost or marked)",
		text, a.AgoMs/1000, delay, megabits(a.Achieved), a.LossPercent)
}

func megabits(rate int64) string { return fmt.Sprintf("%.2f", float64(rate)/1e6) }

// decisions counts them by reason, the most frequent first.
func decisions(counts map[string]uint64) string {
	reasons := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		if counts[a] != counts[b] {
			return int(counts[b]) - int(counts[a])
		}
		return strings.Compare(a, b)
	})
	var words []string
	for _, reason := range reasons {
		if counts[reason] > 0 {
			words = append(words, fmt.Sprintf("%d %s", counts[reason], reason))
		}
	}
	if len(words) == 0 {
		return "none yet"
	}
	return strings.Join(words, ", ")
}

// queueParameters are in the words of tc-fq_codel(8).
func queueParameters(p *tunnel.FQCoDelStatus) string {
	text := fmt.Sprintf("limit %d flows %d quantum %d target %vms interval %vms memory_limit %s",
		p.Limit, p.Flows, p.Quantum, p.TargetMs, p.IntervalMs, formatBytes(p.MemoryLimit))
	if p.ECN {
		text += " ecn"
	} else {
		text += " noecn"
	}
	if p.CEThresholdMs > 0 {
		text += fmt.Sprintf(" ce_threshold %vms", p.CEThresholdMs)
	}
	return text
}
