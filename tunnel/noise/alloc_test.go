package noise_test

import (
	"fmt"
	"net/netip"
	"testing"

	"kiloport/tunnel/noise"
)

// Nothing on the packets' way may allocate, nor what a flood of handshakes
// meets first.
func TestZeroAllocations(t *testing.T) {
	a, b := newSides(t)
	ka, kb := shake(t, noise.PresharedKey{})
	buf := make([]byte, 1500)
	sealed := ka.Seal(nil, make([]byte, 1420), 1)
	sealedAES := ka.Seal(nil, make([]byte, 1420), noise.CounterAES)
	msg := make([]byte, len(sealed))
	initiation, _ := a.initiate(t, 1)
	window := noise.NewWindow(2048)
	constants := noise.Default()
	limiter := noise.NewRateLimiter(64)
	timers := noise.NewTimers(nil, func(uint32) uint32 { return 7 })
	timers.Start()
	timers.PersistentKeepaliveChanged(25e9)
	counter := uint64(0)
	for name, f := range map[string]func(){
		"SealInPlace": func() { counter++; ka.SealInPlace(buf, 1420, counter) },
		"SealTo":      func() { counter++; ka.SealTo(msg, buf[:1420], counter) },
		"SealTo AES":  func() { counter++; ka.SealTo(msg, buf[:1420], counter|noise.CounterAES) },
		"OpenInPlace AES": func() {
			copy(msg, sealedAES)
			if _, _, err := kb.OpenInPlace(msg); err != nil {
				t.Fatal(err)
			}
		},
		"OpenInPlace": func() {
			copy(msg, sealed)
			if _, _, err := kb.OpenInPlace(msg); err != nil {
				t.Fatal(err)
			}
		},
		"OpenInPlace forged": func() {
			copy(msg, sealed)
			msg[20]++
			if _, _, err := kb.OpenInPlace(msg); err == nil {
				t.Fatal("forged message opened")
			}
		},
		"Window.Accept":  func() { counter += 3; window.Accept(counter, noise.RejectLaneAfter) },
		"Window.Check":   func() { window.Check(counter-5, noise.RejectLaneAfter) },
		"CheckMAC1":      func() { b.static.CheckMAC1(initiation) },
		"MessageType":    func() { noise.MessageType(sealed) },
		"ParseTransport": func() { noise.ParseTransport(sealed) },
		"RekeyOnSend":    func() { constants.RekeyOnSend(ka, now, counter) },
		"RateLimiter":    func() { limiter.Allow(now, netip.AddrFrom4([4]byte{192, 0, 2, 1})) },
		"DataSent":       func() { timers.DataSent(now) },
		"DataReceived":   func() { timers.DataReceived(now); timers.Next() },
		"Fire":           func() { timers.Fire(now) },
	} {
		if n := testing.AllocsPerRun(1000, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkSealInPlace(b *testing.B) {
	k, _ := shake(b, noise.PresharedKey{})
	for _, n := range []int{64, 1420} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			buf := make([]byte, 2048)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			counter := uint64(0)
			for b.Loop() {
				k.SealInPlace(buf, n, counter)
				counter++
			}
		})
	}
}

func BenchmarkOpenInPlace(b *testing.B) {
	from, to := shake(b, noise.PresharedKey{})
	for _, n := range []int{64, 1420} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			sealed := from.Seal(nil, make([]byte, n), 1)
			msg := make([]byte, len(sealed))
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				copy(msg, sealed)
				if _, _, err := to.OpenInPlace(msg); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkWindowAccept(b *testing.B) {
	w := noise.NewWindow(2048)
	c := uint64(0)
	for b.Loop() {
		w.Accept(c, noise.RejectLaneAfter)
		c++
	}
}

func BenchmarkCheckMAC1(b *testing.B) {
	x, y := newSides(b)
	msg, _ := x.initiate(b, 1)
	b.ReportAllocs()
	for b.Loop() {
		y.static.CheckMAC1(msg)
	}
}

func BenchmarkDataSent(b *testing.B) {
	t := noise.NewTimers(nil, func(uint32) uint32 { return 0 })
	t.Start()
	t.PersistentKeepaliveChanged(25e9)
	at := now
	for b.Loop() {
		at++
		t.DataSent(at)
	}
}

// One whole handshake, both sides.
func BenchmarkHandshake(b *testing.B) {
	x, y := newSides(b)
	random := fixedRand(1)
	at, clock := now, wall
	b.ReportAllocs()
	for b.Loop() {
		at, clock = at+1e9, clock.Add(1e9)
		msg, h, err := noise.Initiate(random, x.static, &x.remote, 1, clock)
		if err != nil {
			b.Fatal(err)
		}
		in, err := noise.OpenInitiation(y.static, msg[:])
		if err != nil {
			b.Fatal(err)
		}
		if err := in.Accept(&y.remote, at); err != nil {
			b.Fatal(err)
		}
		answer, _, err := in.Respond(random, noise.PresharedKey{}, 2)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := h.OpenResponse(x.static, noise.PresharedKey{}, answer[:]); err != nil {
			b.Fatal(err)
		}
	}
}
