package tunnel

import (
	"testing"
	"testing/synctest"
	"time"
)

// A bulk flow and a sparse one share a link of 10 Mbit/s: the one gets the rate,
// to within 2 %, and the other waits for no more than two packets of the first.
func TestBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, size = 10_000_000, 1420
		a, b := pair(t, newMemNet(), func(c *Config) { c.Options.Bandwidth = rate })
		defer b.stop()
		defer a.stop()
		a.tun.in <- a.udp(b, 1, 0, 100)
		time.Sleep(time.Second) // handshake, HELLO, probes
		b.tun.received()
		const bulk = 60 // less than CoDel minds
		began := time.Now()
		for n := range uint64(bulk) {
			a.tun.in <- a.udp(b, 1000, n, size)
		}
		time.Sleep(10 * time.Millisecond)
		a.tun.in <- a.udp(b, 2000, 0, 100)
		asked, sparse, last, arrived := time.Now(), time.Duration(-1), time.Duration(0), 0
		for range 4000 {
			time.Sleep(50 * time.Microsecond)
			for _, p := range b.tun.received() {
				if port, _ := parseUDP(p); port == 2000 {
					sparse = time.Since(asked)
					continue
				}
				arrived++
				last = time.Since(began)
			}
		}
		if arrived != bulk {
			t.Fatalf("%d packets of %d arrived; drops %v", arrived, bulk, a.peerStatus().Drops)
		}
		// Padding does not make full packets longer. The first leaves at once.
		outer := float64(size + 32 + 8 + 40)
		if got := (bulk - 1) * outer * 8 / last.Seconds(); got < 0.98*rate || got > 1.02*rate {
			t.Errorf("sent at %.3f Mbit/s, want %.3f", got/1e6, float64(rate)/1e6)
		}
		if two := time.Duration(2 * outer * 8 / rate * 1e9); sparse < 0 || sparse > two {
			t.Errorf("the sparse packet took %v, want at most %v", sparse, two)
		}
	})
}

func TestBandwidthWords(t *testing.T) {
	for _, text := range []string{"20mbit", "off", "1.5gbit"} {
		rate, err := ParseBandwidth(text)
		if err != nil || FormatBandwidth(rate) != text || rate == 0 != (text == "off") {
			t.Errorf("%q is read as %d, %v", text, rate, err)
		}
	}
	if rate, err := ParseBandwidth("20mbit/5mbit"); err == nil {
		t.Errorf("taken for %d", rate)
	}
}
