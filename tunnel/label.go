package tunnel

import (
	"encoding/binary"
	"fmt"
	"io"
)

const flowLabels = 1<<20 - 1 // RFC 6437: 20 bits, and 0 means none

// labels gives every lane an IPv6 flow label of its own. Linux gateways hash
// addresses and flow label and leave out the ports when there is a label, so
// two lanes with one label would be one flow to them: labels are not drawn at
// random but by a random permutation. The factor keeps consecutive lanes apart
// and tells an observer nothing about how many lanes there are.
type labels struct{ factor, offset uint64 }

func newLabels(rand io.Reader) (labels, error) {
	var b [8]byte
	for {
		if _, err := io.ReadFull(rand, b[:]); err != nil {
			return labels{}, fmt.Errorf("draw flow labels: %w", err)
		}
		l := labels{
			factor: uint64(binary.LittleEndian.Uint32(b[:]))%flowLabels | 1,
			offset: uint64(binary.LittleEndian.Uint32(b[4:])) % flowLabels,
		}
		if gcd(l.factor, flowLabels) == 1 {
			return l, nil
		}
	}
}

// of gives 0 for lane 0, which leaves the label to the kernel as for any other
// WireGuard.
func (l labels) of(lane uint16) uint32 {
	if lane == 0 {
		return 0
	}
	return uint32((uint64(lane)*l.factor+l.offset)%flowLabels) + 1
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
