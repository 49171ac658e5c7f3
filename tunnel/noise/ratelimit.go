package noise

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

const (
	ratePerSecond = 20
	rateBurst     = 5
	rateCost      = int64(time.Second) / ratePerSecond // one message, in ns of waiting
	rateFull      = rateCost * rateBurst
	rateWays      = 8
)

// RateLimiter bounds how many handshake messages one source costs us under
// load: 20 a second, 5 at once, for each IPv4 address and each IPv6 /64, which
// is what one customer holds. Ask it only about sources whose mac2 was right:
// others can claim any address.
//
// Its table has a fixed size. A source that does not fit takes the place of the
// one longest unheard of among the eight with the same keyed hash, and starts
// with a full bucket: memory stays bounded, and someone who owns many addresses
// gains no more than those addresses allow anyway. It is safe for concurrent
// use.
type RateLimiter struct {
	seed maphash.Seed
	mu   sync.Mutex
	sets [][rateWays]rateEntry // a power of two
}

type rateEntry struct {
	prefix netip.Prefix // zero = free
	at     int64        // monotonic ns of the last message
	tokens int64        // ns, up to rateFull
}

// NewRateLimiter makes a limiter that remembers at least sources sources; each
// takes 48 bytes.
func NewRateLimiter(sources int) *RateLimiter {
	sets := 1
	for sets*rateWays < sources {
		sets *= 2
	}
	return &RateLimiter{seed: maphash.MakeSeed(), sets: make([][rateWays]rateEntry, sets)}
}

// Allow reports whether a message from addr may be worked on at now, and counts
// it if so. An invalid addr is refused.
func (l *RateLimiter) Allow(now int64, addr netip.Addr) bool {
	p := ratePrefix(addr)
	if !p.IsValid() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.find(p)
	if e.prefix != p {
		*e = rateEntry{prefix: p, at: now, tokens: rateFull - rateCost}
		return true
	}
	e.tokens = min(e.tokens+max(now-e.at, 0), rateFull)
	e.at = now
	if e.tokens < rateCost {
		return false
	}
	e.tokens -= rateCost
	return true
}

// find returns the entry of p, or the one that it shall replace.
func (l *RateLimiter) find(p netip.Prefix) *rateEntry {
	set := &l.sets[maphash.Comparable(l.seed, p)&uint64(len(l.sets)-1)]
	oldest := &set[0]
	for i := range set {
		e := &set[i]
		if e.prefix == p {
			return e
		}
		if !e.prefix.IsValid() || oldest.prefix.IsValid() && e.at < oldest.at {
			oldest = e
		}
	}
	return oldest
}

func ratePrefix(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	p, _ := addr.Prefix(bits) // an invalid addr gives the zero prefix
	return p
}
