package portpool

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// oracle is Lanes as one would explain it: lists, searched from the start.
type oracle struct {
	limit, maxFlows int
	idle, grain     int64

	flows  []oracleFlow // the longest idle first
	opened int
	free   []uint16 // the longest idle first
	dead   map[uint16]bool

	emptied        int64
	evicted, moved uint64
}

type oracleFlow struct {
	hash uint64
	seen int64
	lane uint16

	crammed bool
}

func (o *oracle) alive(lane uint16) bool { return int(lane) <= o.limit && !o.dead[lane] }

func (o *oracle) load(lane uint16) (n int) {
	for _, f := range o.flows {
		if f.lane == lane {
			n++
		}
	}
	return n
}

func (o *oracle) usable() (n int) {
	for lane := 1; lane <= o.limit; lane++ {
		if !o.dead[uint16(lane)] {
			n++
		}
	}
	return n
}

func (o *oracle) offer(lane uint16) {
	if int(lane) <= o.opened && o.alive(lane) && o.load(lane) == 0 && !slices.Contains(o.free, lane) {
		o.free = append(o.free, lane)
	}
}

func (o *oracle) remove(i int) {
	lane := o.flows[i].lane
	o.flows = slices.Delete(o.flows, i, i+1)
	o.offer(lane)
}

func (o *oracle) expireFlows(now int64, most int) {
	for ; most > 0 && len(o.flows) > 0 && now-o.flows[0].seen >= o.idle+o.grain; most-- {
		o.remove(0)
	}
}

func (o *oracle) assign(now int64, hash uint64) (uint16, bool) {
	i := slices.IndexFunc(o.flows, func(f oracleFlow) bool { return f.hash == hash })
	if i < 0 && o.usable() == 0 {
		return 0, false
	}
	if i < 0 {
		o.expireFlows(now, 2)
		if len(o.flows) == o.maxFlows {
			o.evicted++
			o.remove(0)
		}
		lane, crammed := o.take(hash)
		o.flows = append(o.flows, oracleFlow{hash, now, lane, crammed})
		o.emptied = 0
		return lane, true
	}
	f := o.flows[i]
	if o.load(f.lane) == 1 && o.alive(f.lane) {
		f.crammed = false
	}
	fresh := !o.alive(f.lane) || f.crammed && len(o.free) > 0
	if fresh {
		if o.usable() == 0 {
			return 0, false
		}
		o.moved++
		o.flows[i].lane = 0
		f.lane, f.crammed = o.take(hash)
	}
	if now-f.seen >= o.grain {
		f.seen = now
		o.flows = append(slices.Delete(o.flows, i, i+1), f)
	} else {
		o.flows[i] = f
	}
	return f.lane, fresh
}

func (o *oracle) take(hash uint64) (lane uint16, crammed bool) {
	if len(o.free) > 0 {
		lane := o.free[0]
		o.free = o.free[1:]
		return lane, false
	}
	for o.opened < o.limit {
		o.opened++
		if !o.dead[uint16(o.opened)] {
			return uint16(o.opened), false
		}
	}
	best := uint16(0)
	for range shareCandidates {
		hash = mix(hash)
		if lane := uint16(1 + reduce(hash, o.limit)); !o.dead[lane] && (best == 0 || o.load(lane) < o.load(best)) {
			best = lane
		}
	}
	for lane := reduce(hash, o.limit); best == 0; lane++ {
		if next := uint16(1 + lane%o.limit); !o.dead[next] {
			best = next
		}
	}
	return best, o.usable() < o.limit
}

func (o *oracle) expire(now int64) int64 {
	o.expireFlows(now, len(o.flows))
	if len(o.flows) > 0 {
		return max(now+1, o.flows[0].seen+o.idle+o.grain)
	}
	if o.opened == 0 {
		return 0
	}
	if o.emptied == 0 {
		o.emptied = max(now, 1)
	}
	if t := o.emptied + forgetAfter*o.idle; now < t {
		return t
	}
	o.opened, o.free, o.emptied = 0, nil, 0
	return 0
}

func (o *oracle) setLimit(n int) {
	old := o.limit
	o.limit = n
	o.free = slices.DeleteFunc(o.free, func(lane uint16) bool { return int(lane) > n })
	for lane := old + 1; lane <= n; lane++ {
		o.offer(uint16(lane))
	}
}

func (o *oracle) setDead(lane uint16, dead bool) {
	if o.dead[lane] == dead {
		return
	}
	o.dead[lane] = dead
	if dead {
		o.free = slices.DeleteFunc(o.free, func(l uint16) bool { return l == lane })
	} else {
		if slices.ContainsFunc(o.flows, func(f oracleFlow) bool { return f.crammed }) && int(lane) <= o.limit {
			for o.opened < int(lane) {
				o.opened++
				o.offer(uint16(o.opened))
			}
		}
		o.offer(lane)
	}
}

func (o *oracle) inUse() map[uint16]int {
	m := map[uint16]int{}
	for _, f := range o.flows {
		m[f.lane]++
	}
	return m
}

func (o *oracle) stats() LanesStats {
	s := LanesStats{Limit: o.limit, Flows: len(o.flows), Opened: o.opened, Dead: o.limit - o.usable(),
		Evicted: o.evicted, Moved: o.moved}
	for _, n := range o.inUse() {
		s.InUse++
		if n > 1 {
			s.Shared++
		}
	}
	return s
}

// TestLanesAgainstOracle holds that Lanes and the oracle never differ, for any
// order of flows, pauses, dying lanes and changing limits.
func TestLanesAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const top = 200 // over several words of the dead lanes' bits
		limit := rapid.OneOf(rapid.IntRange(0, 6), rapid.IntRange(0, top)).Draw(t, "limit")
		maxFlows := rapid.SampledFrom([]int{1, 3, 20, 400}).Draw(t, "max flows")
		idle := rapid.SampledFrom([]int64{1, 31, 64, 1000}).Draw(t, "idle")
		l := NewLanes(LanesConfig{Limit: limit, FlowIdle: idle, MaxFlows: maxFlows})
		o := &oracle{limit: limit, maxFlows: maxFlows, idle: idle, grain: idle / 32, dead: map[uint16]bool{}}
		now := int64(1)
		flows := rapid.OneOf(rapid.Uint64Range(0, 8), rapid.Uint64Range(0, 500))
		lanes := rapid.OneOf(rapid.Uint16Range(1, 8), rapid.Uint16Range(1, top))
		assign := func(t *rapid.T) {
			flow := flows.Draw(t, "flow")
			lane, fresh := l.Assign(now, flow)
			if wantLane, wantFresh := o.assign(now, flow); lane != wantLane || fresh != wantFresh {
				t.Fatalf("assign flow %d: lane %d fresh %v, oracle says %d %v", flow, lane, fresh, wantLane, wantFresh)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"assign": assign,
			"assign many": func(t *rapid.T) {
				for range rapid.IntRange(1, 40).Draw(t, "n") {
					assign(t)
				}
			},
			"wait": func(t *rapid.T) { now += rapid.Int64Range(0, 2*idle).Draw(t, "ns") },
			"expire": func(t *rapid.T) {
				if next, want := l.Expire(now), o.expire(now); next != want {
					t.Fatalf("expire: next %d, oracle says %d", next, want)
				}
			},
			"limit": func(t *rapid.T) {
				n := rapid.OneOf(rapid.IntRange(0, 6), rapid.IntRange(0, top)).Draw(t, "n")
				l.SetLimit(n)
				o.setLimit(n)
			},
			"dead": func(t *rapid.T) {
				lane, dead := lanes.Draw(t, "lane"), rapid.Bool().Draw(t, "dead")
				l.SetDead(lane, dead)
				o.setDead(lane, dead)
			},
			"": func(t *rapid.T) {
				if diff := cmp.Diff(o.stats(), l.Stats()); diff != "" {
					t.Fatalf("stats (-oracle +lanes):\n%s", diff)
				}
				if diff := cmp.Diff(o.inUse(), collect(l)); diff != "" {
					t.Fatalf("lanes in use (-oracle +lanes):\n%s", diff)
				}
			},
		})
	})
}
