package noise_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"kiloport/tunnel/noise"
)

func allowed(l *noise.RateLimiter, at int64, addr string, tries int) (n int) {
	for range tries {
		if l.Allow(at, netip.MustParseAddr(addr)) {
			n++
		}
	}
	return n
}

func TestRateLimiter(t *testing.T) {
	l := noise.NewRateLimiter(1000)
	ms := int64(time.Millisecond)
	for _, s := range []struct {
		what  string
		at    int64
		addr  string
		tries int
		want  int
	}{
		{"a burst", now, "192.0.2.1", 100, 5},
		{"49 ms later", now + 49*ms, "192.0.2.1", 10, 0},
		{"50 ms later", now + 50*ms, "192.0.2.1", 10, 1},
		{"the same, mapped into IPv6", now + 50*ms, "::ffff:192.0.2.1", 10, 0},
		{"a neighbour", now + 50*ms, "192.0.2.2", 10, 5},
		{"a second later, no more than a burst", now + 1000*ms, "192.0.2.1", 100, 5},
		{"a clock that goes back", now, "192.0.2.1", 100, 0},
		{"IPv6", now, "2001:db8::1", 3, 3},
		{"the same /64", now, "2001:db8::ffff:2", 10, 2},
		{"another /64", now, "2001:db8:0:1::1", 10, 5},
		{"a zone does not matter", now, "fe80::1%eth0", 10, 5},
		{"nor does another", now, "fe80::1%eth1", 10, 0},
	} {
		if got := allowed(l, s.at, s.addr, s.tries); got != s.want {
			t.Errorf("%s: %d of %d allowed, want %d", s.what, got, s.tries, s.want)
		}
	}
	if l.Allow(now, netip.Addr{}) {
		t.Error("no address at all is allowed")
	}
}

func TestRateIsTwentyPerSecond(t *testing.T) {
	l := noise.NewRateLimiter(1)
	n := 0
	for ms := range int64(10_000) {
		n += allowed(l, now+ms*int64(time.Millisecond), "198.51.100.7", 1)
	}
	if n < 200 || n > 205 {
		t.Errorf("%d in 10 s, want 200 and a burst", n)
	}
}

// However many sources there are, the table does not grow, and one that keeps
// coming is remembered among those that came once.
func TestRateLimiterIsBounded(t *testing.T) {
	l := noise.NewRateLimiter(64)
	var b [4]byte
	i := uint32(0)
	allocs := testing.AllocsPerRun(100_000, func() {
		i++
		binary.BigEndian.PutUint32(b[:], i)
		l.Allow(now+int64(i), netip.AddrFrom4(b))
	})
	if allocs != 0 {
		t.Errorf("%v allocations for each new source", allocs)
	}
	if got := allowed(l, now+1e9, "203.0.113.1", 100); got != 5 {
		t.Errorf("a source after a flood of others: %d", got)
	}
}
