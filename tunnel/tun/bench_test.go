package tun_test

import (
	"fmt"
	"slices"
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

// The packets of one super-packet of 64 KiB for each operation.
func BenchmarkCoalescer(b *testing.B) {
	const size = 1368
	for name, in := range map[string]tuntest.Inner{
		"tcp4": {From: from4, To: to4, Options: timestamps}, "tcp6": {From: from6, To: to6, Options: timestamps},
		"udp4": {From: from4, To: to4, UDP: true},
	} {
		for _, vouched := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/vouched=%v", name, vouched), func(b *testing.B) {
				in.Payload = noise(47 * size)
				var bufs [][]byte
				bytes := 0
				for _, p := range stream(in, size) {
					bufs = append(bufs, room(p.packet))
					bytes += len(p.packet)
				}
				first := slices.Clone(bufs[0])
				c := tun.NewCoalescer(discard{}, tun.OffloadAll)
				b.SetBytes(int64(bytes))
				b.ReportAllocs()
				for b.Loop() {
					copy(bufs[0][:100], first)
					for _, buf := range bufs {
						c.Add(buf, vouched)
					}
					c.Flush()
				}
				if s := c.Stats(); s.Writes*47 != s.Packets {
					b.Errorf("%+v", s)
				}
			})
		}
	}
}
