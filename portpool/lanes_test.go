package portpool

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

const sec = int64(1e9)

// A step of a golden sequence. Each names what is done and what must come out.
type step struct {
	at   int64 // s
	do   string
	flow uint64
	lane uint16 // for assign: expected; for dead and alive: which
	n    int    // for limit: the new one
	next int64  // for expire: expected, ms
	was  bool   // for assign: the flow is expected to be known
}

func TestLanesGolden(t *testing.T) {
	tests := map[string]struct {
		cfg   LanesConfig
		steps []step
		want  LanesStats
	}{
		"no lanes": {
			LanesConfig{},
			[]step{{do: "assign", flow: 1, lane: 0, was: true}, {at: 1, do: "expire", next: 0}},
			LanesStats{},
		},
		"new lanes in ascending order, a flow keeps its lane": {
			LanesConfig{Limit: 4},
			[]step{
				{do: "assign", flow: 10, lane: 1},
				{do: "assign", flow: 20, lane: 2},
				{do: "assign", flow: 10, lane: 1, was: true},
				{do: "assign", flow: 30, lane: 3},
				{do: "assign", flow: 20, lane: 2, was: true},
			},
			LanesStats{Limit: 4, Flows: 3, InUse: 3, Opened: 3},
		},
		"a used free lane before a new one, the longest idle first": {
			LanesConfig{Limit: 8},
			[]step{
				{at: 0, do: "assign", flow: 10, lane: 1},
				{at: 1, do: "assign", flow: 20, lane: 2},
				{at: 2, do: "assign", flow: 30, lane: 3},
				{at: 20, do: "assign", flow: 10, lane: 1, was: true},
				{at: 33, do: "expire", next: 50_937},
				{at: 34, do: "assign", flow: 40, lane: 2},
				{at: 34, do: "assign", flow: 50, lane: 3},
				{at: 34, do: "assign", flow: 60, lane: 4},
			},
			LanesStats{Limit: 8, Flows: 4, InUse: 4, Opened: 4},
		},
		"a new flow frees idle ones although nobody called expire": {
			LanesConfig{Limit: 2},
			[]step{
				{at: 0, do: "assign", flow: 10, lane: 1},
				{at: 1, do: "assign", flow: 20, lane: 2},
				{at: 40, do: "assign", flow: 30, lane: 1},
				{at: 40, do: "assign", flow: 40, lane: 2},
			},
			LanesStats{Limit: 2, Flows: 2, InUse: 2, Opened: 2},
		},
		"lanes are kept for at least 30 s": {
			LanesConfig{Limit: 2},
			[]step{
				{at: 0, do: "assign", flow: 10, lane: 1},
				{at: 30, do: "expire", next: 30_937},
				{at: 30, do: "assign", flow: 20, lane: 2},
				{at: 31, do: "expire", next: 60_937},
				{at: 31, do: "assign", flow: 30, lane: 1},
			},
			LanesStats{Limit: 2, Flows: 2, InUse: 2, Opened: 2},
		},
		"history is forgotten after four idle times": {
			LanesConfig{Limit: 4},
			[]step{
				{at: 0, do: "assign", flow: 10, lane: 1},
				{at: 1, do: "assign", flow: 20, lane: 2},
				{at: 2, do: "assign", flow: 10, lane: 1, was: true},
				{at: 40, do: "expire", next: 160_000},
				{at: 41, do: "assign", flow: 30, lane: 2},
				{at: 80, do: "expire", next: 200_000},
				{at: 200, do: "expire", next: 0},
				{at: 201, do: "assign", flow: 40, lane: 1},
			},
			LanesStats{Limit: 4, Flows: 1, InUse: 1, Opened: 1},
		},
		"sharing only when all are taken": {
			LanesConfig{Limit: 1},
			[]step{
				{do: "assign", flow: 10, lane: 1},
				{do: "assign", flow: 20, lane: 1},
				{do: "assign", flow: 30, lane: 1},
			},
			LanesStats{Limit: 1, Flows: 3, InUse: 1, Shared: 1, Opened: 1},
		},
		"a dead lane is left, and taken again once alive": {
			LanesConfig{Limit: 3},
			[]step{
				{do: "assign", flow: 10, lane: 1},
				{do: "dead", lane: 1},
				{do: "dead", lane: 2},
				{do: "assign", flow: 10, lane: 3},
				{do: "assign", flow: 20, lane: 3},
				{do: "alive", lane: 2},
				{do: "alive", lane: 1},
				{do: "assign", flow: 10, lane: 3, was: true},
				{do: "assign", flow: 30, lane: 2},
				{do: "assign", flow: 40, lane: 1},
			},
			LanesStats{Limit: 3, Flows: 4, InUse: 3, Shared: 1, Opened: 3, Moved: 1},
		},
		"all lanes dead": {
			LanesConfig{Limit: 2},
			[]step{
				{do: "assign", flow: 10, lane: 1},
				{do: "dead", lane: 1}, {do: "dead", lane: 2}, {do: "dead", lane: 2},
				{do: "dead", lane: 3}, {do: "dead", lane: 0}, {do: "dead", lane: 65535},
				{do: "assign", flow: 10, lane: 0, was: true},
				{do: "assign", flow: 20, lane: 0, was: true},
				{do: "alive", lane: 1},
				{do: "assign", flow: 10, lane: 1, was: true},
			},
			LanesStats{Limit: 2, Flows: 1, InUse: 1, Opened: 1, Dead: 1},
		},
		"the limit falls and rises": {
			LanesConfig{Limit: 4},
			[]step{
				{do: "assign", flow: 10, lane: 1},
				{do: "assign", flow: 20, lane: 2},
				{do: "assign", flow: 30, lane: 3},
				{do: "limit", n: 2},
				{do: "assign", flow: 10, lane: 1, was: true},
				{do: "dead", lane: 1},
				{do: "assign", flow: 30, lane: 2},
				{do: "limit", n: 4},
				{do: "assign", flow: 40, lane: 3},
				{do: "assign", flow: 50, lane: 4},
			},
			LanesStats{Limit: 4, Flows: 5, InUse: 4, Shared: 1, Opened: 4, Dead: 1, Moved: 1},
		},
		"the longest idle flow gives way": {
			LanesConfig{Limit: 8, MaxFlows: 2},
			[]step{
				{at: 0, do: "assign", flow: 10, lane: 1},
				{at: 1, do: "assign", flow: 20, lane: 2},
				{at: 2, do: "assign", flow: 10, lane: 1, was: true},
				{at: 3, do: "assign", flow: 30, lane: 2},
				{at: 4, do: "assign", flow: 10, lane: 1, was: true},
				{at: 4, do: "assign", flow: 20, lane: 2},
			},
			LanesStats{Limit: 8, Flows: 2, InUse: 2, Opened: 2, Evicted: 2},
		},
		"hash 0 is a flow like any other": {
			LanesConfig{Limit: 2},
			[]step{
				{do: "assign", flow: 0, lane: 1},
				{do: "assign", flow: 0, lane: 1, was: true},
			},
			LanesStats{Limit: 2, Flows: 1, InUse: 1, Opened: 1},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := NewLanes(tt.cfg)
			for i, s := range tt.steps {
				if err := s.run(l); err != nil {
					t.Fatalf("step %d, %s at %d s: %v", i, s.do, s.at, err)
				}
			}
			if diff := cmp.Diff(tt.want, l.Stats()); diff != "" {
				t.Errorf("stats (-want +got):\n%s", diff)
			}
		})
	}
}

func (s step) run(l *Lanes) error {
	now := s.at*sec + 1
	switch s.do {
	case "assign":
		if lane, fresh := l.Assign(now, s.flow); lane != s.lane || fresh == s.was {
			return fmt.Errorf("got lane %d fresh %v, want lane %d fresh %v", lane, fresh, s.lane, !s.was)
		}
	case "expire":
		if next := l.Expire(now) / 1e6; next != s.next {
			return fmt.Errorf("next in %d ms, want %d ms", next, s.next)
		}
	case "limit":
		l.SetLimit(s.n)
	case "dead", "alive":
		l.SetDead(s.lane, s.do == "dead")
	}
	return nil
}

func TestLanesSharingIsEven(t *testing.T) {
	// With four candidates, no lane may be far above the mean.
	l := NewLanes(LanesConfig{Limit: 256})
	r := rand.New(rand.NewPCG(1, 2))
	for range 256 * 40 {
		l.Assign(0, r.Uint64())
	}
	most, sum := 0, 0
	for _, n := range collect(l) {
		most = max(most, n)
		sum += n
	}
	if sum != 256*40 || most > 44 {
		t.Errorf("%d flows, %d on the fullest lane; want %d and at most 44", sum, most, 256*40)
	}
	if s := l.Stats(); s.Shared != 256 || s.InUse != 256 {
		t.Errorf("%d lanes in use, %d shared, want 256 both", s.InUse, s.Shared)
	}
}

func TestLanesManyDead(t *testing.T) {
	l := NewLanes(LanesConfig{Limit: MaxPorts})
	for lane := uint16(1); lane <= MaxPorts; lane++ {
		l.SetDead(lane, lane != 777 && lane != MaxPorts)
	}
	seen := map[uint16]int{}
	for flow := range uint64(1000) {
		lane, _ := l.Assign(0, flow)
		seen[lane]++
	}
	if len(seen) != 2 || seen[777] == 0 || seen[MaxPorts] == 0 {
		t.Errorf("flows per lane %v, want some on 777 and on %d only", seen, MaxPorts)
	}
}

func collect(l *Lanes) map[uint16]int {
	m := map[uint16]int{}
	for lane, n := range l.InUse {
		m[lane] = n
	}
	return m
}

func TestLanesInUseStops(t *testing.T) {
	l := NewLanes(LanesConfig{Limit: 8})
	for flow := range uint64(8) {
		l.Assign(0, flow)
	}
	var lanes []uint16
	for lane := range l.InUse {
		if lanes = append(lanes, lane); lane == 3 {
			break
		}
	}
	if diff := cmp.Diff([]uint16{1, 2, 3}, lanes); diff != "" {
		t.Error(diff)
	}
}

// A configuration of 10 000 peers holds so many Lanes, most of them unused.
func TestLanesAreSmall(t *testing.T) {
	if size := unsafe.Sizeof(Lanes{}); size > 256 {
		t.Errorf("Lanes is %d bytes, want at most 256", size)
	}
	if size := unsafe.Sizeof(flowRec{}); size != 32 {
		t.Errorf("flowRec is %d bytes, want 32", size)
	}
	perPeer := func(flows uint64) uint64 {
		const peers = 2000
		all := make([]*Lanes, peers)
		before := heapInUse()
		for i := range all {
			all[i] = NewLanes(LanesConfig{Limit: 1024})
			for f := range flows {
				all[i].Assign(1, f)
			}
		}
		after := heapInUse()
		runtime.KeepAlive(all)
		return (after - before) / peers
	}
	if n := perPeer(0); n > 300 {
		t.Errorf("an unused peer costs %d bytes, want at most 300", n)
	}
	if n := perPeer(4); n > 1024 {
		t.Errorf("a peer with 4 flows costs %d bytes, want at most 1024", n)
	}
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestLanesGiveMemoryBack(t *testing.T) {
	l := NewLanes(LanesConfig{Limit: 1024})
	for flow := range uint64(50_000) {
		l.Assign(1, flow)
	}
	for flow := range uint64(100) {
		l.Assign(20*sec, flow)
	}
	l.Expire(35 * sec)
	if n := cap(l.table.recs); n > 1000 {
		t.Errorf("room for %d flows is kept for 100", n)
	}
	for flow := range uint64(100) {
		if _, fresh := l.Assign(36*sec, flow); fresh {
			t.Fatalf("flow %d was lost", flow)
		}
	}
	for next := l.Expire(100 * sec); next != 0; next = l.Expire(next) {
	}
	if l.lanes != nil || l.table.recs != nil || l.table.index != nil {
		t.Error("an idle peer still owns tables")
	}
}

func TestAssignDoesNotAllocate(t *testing.T) {
	const flows = 5000
	l := NewLanes(LanesConfig{Limit: 1024, MaxFlows: flows})
	now, flow := int64(1), uint64(0)
	next := func() {
		for range 100 {
			now += 1e5
			flow++
			l.Assign(now, mix(flow))        // new, and soon evicting
			l.Assign(now, mix(flow))        // known
			l.Assign(now, mix(flow-flow/2)) // known or not
		}
		l.Expire(now)
	}
	for range 2 * flows / 100 {
		next()
	}
	if n := testing.AllocsPerRun(500, next); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// All these flows have one and the same tag, so each lookup must go by the
// whole hash, through one chain.
func TestFlowTableSameTag(t *testing.T) {
	inverse := uint64(0xf1de83e19937733d) // of the multiplier in spread, modulo 2^64
	hash := func(i uint64) uint64 { return (0xabcd1234<<32 | i) * inverse }
	if spread(hash(1)) != spread(hash(2)) {
		t.Fatal("the tags differ, the test tests nothing")
	}
	table := newFlowTable()
	for i := range uint64(200) {
		table.insert(hash(i), int64(i), uint16(i))
	}
	for i := uint64(0); i < 200; i += 3 {
		rec, _ := table.find(hash(i))
		table.remove(rec)
	}
	for i := range uint64(200) {
		rec, ok := table.find(hash(i))
		if ok != (i%3 != 0) || ok && table.recs[rec].lane != uint16(i) {
			t.Fatalf("flow %d: found %v in record %d", i, ok, rec)
		}
	}
}

func BenchmarkAssign(b *testing.B) {
	for _, flows := range []int{1, 100, 1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			l := NewLanes(LanesConfig{Limit: 1024})
			hashes := make([]uint64, flows)
			for i := range hashes {
				hashes[i] = mix(uint64(i))
				l.Assign(1, hashes[i])
			}
			rand.Shuffle(flows, func(i, j int) { hashes[i], hashes[j] = hashes[j], hashes[i] })
			b.ReportAllocs()
			now, i := int64(1), 0
			for b.Loop() {
				now += 1000
				if i++; i >= flows {
					i = 0
				}
				l.Assign(now, hashes[i])
			}
		})
	}
}

// Each packet begins a flow: what a port scan through the tunnel costs.
func BenchmarkAssignFresh(b *testing.B) {
	for _, flows := range []int{1000, 131072} {
		b.Run(fmt.Sprintf("max=%d", flows), func(b *testing.B) {
			l := NewLanes(LanesConfig{Limit: 1024, MaxFlows: flows})
			for i := range flows {
				l.Assign(1, mix(uint64(i)))
			}
			b.ReportAllocs()
			i := uint64(flows)
			for b.Loop() {
				i++
				l.Assign(int64(i), mix(i))
			}
		})
	}
}
