package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"kiloport/tunnel"
)

// writePath writes what is known of the path to a peer and back.
func writePath(field func(string, string, ...any), p *tunnel.PeerStatus, now time.Time) {
	mode := p.ECN
	if p.ECNReason != "" {
		mode += " (" + p.ECNReason + ")"
	}
	field("ecn", "%s", mode)
	if to := p.PathTo; to != nil {
		field("path to the peer", "%s%s", codepoints(to), tested(to, now))
		if len(to.DSCP) > 0 {
			field("dscp to the peer", "%s", fates(to.DSCP))
		}
	}
	if from := p.PathFrom; from != nil {
		field("path from the peer", "%s; it sends in %s mode", codepoints(from), from.Mode)
	}
	if p.MarksIgnored {
		field("marks from the peer", "ignored, as the path sets CE on everything")
	}
	writeLanes(field, p.LaneDetails)
}

func tested(to *tunnel.PathStatus, now time.Time) string {
	if to.Tested == nil {
		return ""
	}
	return fmt.Sprintf(" (tested %v ago)", max(now.Sub(*to.Tested).Round(time.Second), 0))
}

// codepoints tells what becomes of each: "passes: ECT(0), CE; bleached: ECT(1)".
func codepoints(s *tunnel.PathStatus) string {
	fate := map[string]string{"ECT(0)": s.ECT0, "ECT(1)": s.ECT1, "CE": s.CE}
	if s.NotECT != "passes" && s.NotECT != "unknown" {
		fate["Not-ECT"] = s.NotECT
	}
	return fates(fate)
}

// fates lists what becomes of what, the same fates together.
func fates(of map[string]string) string {
	order := func(name string) string { // as people know them, rather than by the alphabet
		return map[string]string{"ECT(0)": "1", "ECT(1)": "2", "CE": "3"}[name] + name
	}
	names := slices.SortedFunc(maps.Keys(of), func(a, b string) int { return strings.Compare(order(a), order(b)) })
	var words []string
	together := make(map[string][]string)
	for _, name := range names {
		if together[of[name]] == nil {
			words = append(words, of[name])
		}
		together[of[name]] = append(together[of[name]], name)
	}
	for i, word := range words {
		words[i] = word + ": " + strings.Join(together[word], ", ")
	}
	return strings.Join(words, "; ")
}

// writeLanes sums up the lanes in use; `show --json` lists them.
func writeLanes(field func(string, string, ...any), lanes []tunnel.LaneDetail) {
	var worst, worstBack float64
	known, knownBack := false, false
	hops := make(map[string]int)
	changes := uint32(0)
	for _, l := range lanes {
		if s := l.Sent; s != nil && s.DelayMs != nil {
			worst, known = max(worst, *s.DelayMs), true
		}
		if r := l.Received; r != nil {
			if r.DelayMs != nil {
				worstBack, knownBack = max(worstBack, *r.DelayMs), true
			}
			hops[fmt.Sprint(r.HopLimit)]++
			changes += r.HopLimitChanges
		}
	}
	if known || knownBack {
		field("delay above the least", "%s to the peer, %s back, on the slowest lane", delay(worst, known), delay(worstBack, knownBack))
	}
	if len(hops) > 0 {
		field("hop limit", "%s at arrival, changed %d times", hopLimits(hops), changes)
	}
}

func delay(ms float64, known bool) string {
	if !known {
		return "unknown"
	}
	return fmt.Sprintf("%.1f ms", ms)
}

// hopLimits lists the limits that were seen, by how many lanes saw them.
func hopLimits(lanes map[string]int) string {
	names := slices.SortedFunc(maps.Keys(lanes), func(a, b string) int { return lanes[b] - lanes[a] })
	if len(names) > 1 {
		for i, name := range names {
			names[i] = fmt.Sprintf("%s on %d lanes", name, lanes[name])
		}
	}
	return strings.Join(names, ", ")
}
