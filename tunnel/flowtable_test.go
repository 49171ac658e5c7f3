package tunnel

import (
	"testing"
	"time"

	"kiloport/flowhash"
)

// TestSparseFlowsAreSeen: a call, a ping and a question now and then are sparse from some
// time after their beginning on; a flood is not, though its every packet is taken at once.
func TestSparseFlowsAreSeen(t *testing.T) {
	for _, test := range []struct {
		name  string
		every time.Duration
		burst int // packets that come together
		want  bool
	}{
		{"a call", 20 * time.Millisecond, 1, true},
		{"a brisk game", 8 * time.Millisecond, 1, true},
		{"questions", 300 * time.Millisecond, 2, true},
		{"a flood", 20 * time.Microsecond, 1, false},
		{"a flood by a sender who sleeps", 20 * time.Millisecond, 200, false},
		{"TCP with few packets at a time", time.Millisecond, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			flows := &flowTable{sparse: 1514}
			pkt := &packet{peer: &peer{}, hash: 7}
			pkt.note.packets, pkt.note.bytes = 1, 100
			for now := time.Hour; now < time.Hour+2*time.Second; now += test.every {
				for range test.burst {
					flows.enqueued(int64(now), pkt, &flowhash.Key{})
					flows.dequeued(int64(now), 0, pkt)
				}
			}
			if got := flows.sparseSeen != 0; got != test.want {
				t.Errorf("seen %v, want %v", got, test.want)
			}
		})
	}
}
