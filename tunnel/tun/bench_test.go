package tun_test

import (
	"fmt"
	"testing"

	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/tuntest"
)

// One super-packet of 64 KiB for each operation.
func BenchmarkSegmenter(b *testing.B) {
	for _, vouch := range []bool{false, true} {
		b.Run(fmt.Sprintf("vouch=%v", vouch), func(b *testing.B) {
			const size = 1368
			h, p := tuntest.Inner{From: from4, To: to4, Options: timestamps, Payload: noise(47 * size)}.Super(size)
			var s tun.Segmenter
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				p[0] = 0x45
				if err := s.Reset(h, p, vouch); err != nil {
					b.Fatal(err)
				}
				for s.Next() != nil {
				}
				copy(p, p[size:size+52])
			}
		})
	}
}
