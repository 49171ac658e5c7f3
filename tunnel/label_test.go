package tunnel

import (
	"math/rand/v2"
	"testing"

	"kiloport/portpool"
)

func TestLabelsAreDistinctAndNotZero(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.NewChaCha8([32]byte{byte(seed)})
		l, err := newLabels(random)
		if err != nil {
			t.Fatal(err)
		}
		seen := make(map[uint32]int, portpool.MaxPorts)
		for lane := 1; lane <= portpool.MaxPorts; lane++ {
			label := l.of(uint16(lane))
			if label == 0 || label >= 1<<20 {
				t.Fatalf("seed %d: lane %d has label %#x", seed, lane, label)
			}
			if other, taken := seen[label]; taken {
				t.Fatalf("seed %d: lanes %d and %d share label %#x", seed, other, lane, label)
			}
			seen[label] = lane
		}
		if l.of(0) != 0 {
			t.Errorf("lane 0 has label %#x, want the kernel's", l.of(0))
		}
	}
}
