package tunnel

import (
	"net/netip"
	"time"
)

// memFirewall is a router with connection tracking before one host of a memNet: it
// lets in only what answers something that went out. It may be a NAT too.
type memFirewall struct {
	host    netip.Addr
	outside netip.Addr // the host's own, or that of the NAT
	entries map[memTuple]*memEntry
	taken   map[[2]netip.AddrPort]bool // at the outside, and the far end: Linux keeps a port while that is unique
	next    uint16
	shuffle bool // a NAT that does not preserve ports
	most    int
	open    bool // it lets in everything, to the port inside that it was sent to
}

type memTuple struct{ inside, outside, remote netip.AddrPort }

type memEntry struct {
	seen    time.Time
	replied bool
}

// Linux's nf_conntrack_udp_timeout and _stream.
const (
	memUnreplied = 30 * time.Second
	memReplied   = 120 * time.Second
)

func newMemFirewall(host, outside netip.Addr) *memFirewall {
	return &memFirewall{host: host, outside: outside, next: 61000, entries: make(map[memTuple]*memEntry), taken: make(map[[2]netip.AddrPort]bool)}
}

// flush forgets all connections, as a router does that is started anew.
func (f *memFirewall) flush() {
	clear(f.entries)
	clear(f.taken)
}

// pass takes a datagram that goes out or comes in; false means that it is dropped.
func (f *memFirewall) pass(d *memDatagram) bool {
	now := time.Now()
	for t, e := range f.entries {
		if now.Sub(e.seen) > memUnreplied && !e.replied || now.Sub(e.seen) > memReplied {
			delete(f.entries, t)
			delete(f.taken, [2]netip.AddrPort{t.outside, t.remote})
		}
	}
	switch {
	case d.from.Addr() == f.host:
		for t, e := range f.entries {
			if t.inside == d.from && t.remote == d.to {
				e.seen, d.from = now, t.outside
				return true
			}
		}
		t := memTuple{d.from, f.port(d.from.Port(), d.to), d.to}
		f.entries[t], f.taken[[2]netip.AddrPort{t.outside, t.remote}] = &memEntry{seen: now}, true
		f.most = max(f.most, len(f.entries))
		d.from = t.outside
	case d.to.Addr() == f.outside:
		for t, e := range f.entries {
			if t.outside == d.to && t.remote == d.from {
				e.seen, e.replied, d.to = now, true, t.inside
				return true
			}
		}
		if f.open {
			d.to = netip.AddrPortFrom(f.host, d.to.Port())
		}
		return f.open
	}
	return true
}

// port finds one at the outside, the same as inside if that is free.
func (f *memFirewall) port(want uint16, remote netip.AddrPort) netip.AddrPort {
	at := netip.AddrPortFrom(f.outside, want)
	if f.outside == f.host {
		return at
	}
	for f.shuffle || f.taken[[2]netip.AddrPort{at, remote}] {
		f.next++
		at = netip.AddrPortFrom(f.outside, f.next)
		if !f.taken[[2]netip.AddrPort{at, remote}] {
			break
		}
	}
	return at
}
