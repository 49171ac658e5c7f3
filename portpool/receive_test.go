package portpool

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkReceive is what it costs to take datagrams that have arrived: of one
// lane, of several in turn with a burst of each, and of a thousand. A slot has
// 64 KiB.
func BenchmarkReceive(b *testing.B) {
	for _, lanes := range []int{1, 8, 64, 1000} {
		for _, gro := range []Mode{Off, Auto} {
			for _, slots := range []int{8, 32, 64, 128, 256} {
				b.Run(fmt.Sprintf("lanes=%d/gro=%v/slots=%d", lanes, gro, slots), func(b *testing.B) {
					benchmarkReceive(b, lanes, gro, slots)
				})
			}
		}
	}
}

func benchmarkReceive(b *testing.B, lanes int, gro Mode, slots int) {
	const burst, size = 1024, 1420
	if err := RaiseFileLimit(lanes + 100); err != nil {
		b.Fatal(err)
	}
	c := newCrossing(b, SharedConfig{}, lanes)
	sink := c.far.open(b, SocketConfig{GRO: true, ReceiveBuffer: 16 << 20, Shared: NewShared(SharedConfig{GRO: gro})})
	c.sink = sink
	payload := make([]byte, size)
	var from []Socket
	var ms []Message
	for i := range burst {
		from = append(from, c.socket(b, 1+i*lanes/burst))
		ms = append(ms, c.to(true, payload))
	}
	in := newSlab(slots)
	got, calls := 0, 0
	var spent time.Duration
	for b.Loop() {
		if n := c.pool.SendAcross(from, ms); n != burst {
			b.Fatalf("sent %d", n)
		}
		start := time.Now()
		for n := 0; n < burst; calls++ {
			k, err := sink.Receive(in)
			if err != nil {
				b.Fatal(err)
			}
			for i := range in[:k] {
				for range in[i].Datagrams {
					n++
				}
			}
		}
		spent += time.Since(start)
		got += burst
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(got), "ns/datagram")
	b.ReportMetric(float64(got)/float64(calls), "datagrams/call")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkReceiveOne is a datagram alone: what unused slots cost.
func BenchmarkReceiveOne(b *testing.B) {
	for _, slots := range []int{1, 8, 64, 128} {
		b.Run(fmt.Sprintf("slots=%d", slots), func(b *testing.B) {
			s, err := Open(SocketConfig{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			out, in := []Message{{Buf: make([]byte, 100), Addr: addrPort("::1", s.Port())}}, newSlab(slots)
			var spent time.Duration
			for b.Loop() {
				mustSend(b, s, out...)
				start := time.Now()
				if n, err := s.Receive(in); n != 1 || err != nil {
					b.Fatalf("received %d: %v", n, err)
				}
				spent += time.Since(start)
			}
			b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "ns/datagram")
			b.ReportMetric(0, "ns/op")
		})
	}
}
