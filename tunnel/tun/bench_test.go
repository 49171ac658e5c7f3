package tun_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

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

// queueForBenchmark is one of a device with all offloads, in a namespace.
func queueForBenchmark(b *testing.B) tun.Queue {
	tuntest.Namespace(b)
	d, err := tun.Create("bench%d", tun.Options{Offloads: tun.OffloadAll})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { d.Close() })
	tuntest.IP(b, "addr add 10.96.0.1/24 dev "+d.Name())
	tuntest.IP(b, "link set up dev "+d.Name())
	return d.Queues()[0]
}

// A packet or a super-packet of some segments for each operation, in one piece
// or with its payloads where they were received. The host has no use for them.
func BenchmarkWrite(b *testing.B) {
	const size = 1368
	nowhere := netip.MustParseAddrPort("10.96.0.9:9")
	for _, segments := range []int{1, 11, 47} {
		in := tuntest.Inner{From: outside, To: nowhere, Options: timestamps, Payload: noise(segments * size)}
		h, p := in.Super(size)
		if segments == 1 {
			h.GSO, h.SegmentSize = tun.GSONone, 0
		}
		whole := room(p)
		first := whole[:tun.Headroom+52+size]
		var more [][]byte
		for i := 1; i < segments; i++ {
			more = append(more, slices.Clone(whole[len(first)+(i-1)*size:][:size]))
		}
		b.Run(fmt.Sprintf("%d segments, one piece", segments), func(b *testing.B) { benchmarkWrite(b, h, whole, nil) })
		b.Run(fmt.Sprintf("%d segments, gathered", segments), func(b *testing.B) { benchmarkWrite(b, h, first, more) })
	}
}

func benchmarkWrite(b *testing.B, h tun.Header, buf []byte, more [][]byte) {
	q := queueForBenchmark(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := q.Write(h, buf, more); err != nil {
			b.Fatal(err)
		}
	}
}

// A datagram, or a super-packet of some, for each operation.
func BenchmarkRead(b *testing.B) {
	for _, segments := range []int{1, 11, 45} {
		b.Run(fmt.Sprintf("%d segments", segments), func(b *testing.B) {
			q := queueForBenchmark(b)
			d := net.Dialer{Control: control(unix.SOL_UDP, unix.UDP_SEGMENT, 1392)}
			conn, err := d.Dial("udp4", outside.String())
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			conn.(*net.UDPConn).SetWriteBuffer(64 << 20)
			payload, buf := noise(segments*1392), make([]byte, tun.Headroom+tun.MaxPacket)
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += 64 {
				b.StopTimer()
				for range 64 {
					if _, err := conn.Write(payload); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				for range 64 {
					if _, _, err := q.TryRead(buf); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// A read that finds nothing.
func BenchmarkReadNothing(b *testing.B) {
	q, buf := queueForBenchmark(b), make([]byte, tun.Headroom+tun.MaxPacket)
	for {
		if _, n, _ := q.TryRead(buf); n == 0 {
			break
		}
	}
	for b.Loop() {
		q.TryRead(buf)
	}
}
