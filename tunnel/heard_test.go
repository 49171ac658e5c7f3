package tunnel

import "testing"

// TestHeardListLanes: what was added is in the list, and nothing else.
func TestHeardListLanes(t *testing.T) {
	var l heardList
	in := map[uint16]bool{0: true, 7: true, 8: true, 1024: true, heardCovers - 1: true}
	for lane := range in {
		l.add(lane)
	}
	for lane := range uint16(heardCovers + 20) {
		if l.has(lane) != in[lane] {
			t.Errorf("lane %d in the list: %v", lane, l.has(lane))
		}
	}
	if l.limit() < heardCovers || len(l.Lanes) > heardMaxBytes {
		t.Errorf("%d bytes of lanes", len(l.Lanes))
	}
}

// TestHeardListOthers: lane 0 and the lane itself are no others.
func TestHeardListOthers(t *testing.T) {
	for _, test := range []struct {
		lanes []uint16
		of    uint16
		want  bool
	}{
		{nil, 1, false},
		{[]uint16{0, 5}, 5, false},
		{[]uint16{0, 5}, 6, true},
		{[]uint16{0}, 700, false},
		{[]uint16{0, 300, 301}, 300, true},
	} {
		var l heardList
		for _, lane := range test.lanes {
			l.add(lane)
		}
		if got := l.others(test.of); got != test.want {
			t.Errorf("of lanes %v, others than %d: %v", test.lanes, test.of, got)
		}
	}
}
