package tunnel

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"strings"

	"kiloport/portpool"
)

// SpreadMode says how flows are told apart in the outer headers. Ports, labels and
// addresses may be combined (|).
type SpreadMode uint8

const (
	// SpreadOff sends everything on lane 0, as stock WireGuard does.
	SpreadOff SpreadMode = 0
	// SpreadPorts gives each flow a source port of its own, and over IPv6 a flow
	// label too.
	SpreadPorts SpreadMode = 1 << 0
	// SpreadLabels gives each flow an IPv6 flow label of its own, between the
	// listen ports: to a firewall there is one connection.
	SpreadLabels SpreadMode = 1 << 1
	// SpreadAddresses gives each flow a source address of its own, out of
	// Options.SourcePrefixes, which must be routed here.
	SpreadAddresses SpreadMode = 1 << 2
	// SpreadAuto uses ports where probes find that they get through, else labels
	// over IPv6.
	SpreadAuto SpreadMode = 1 << 7
)

var spreadWords = []struct {
	mode SpreadMode
	word string
}{{SpreadPorts, "ports"}, {SpreadLabels, "labels"}, {SpreadAddresses, "addresses"}}

// ParseSpread reads "auto", "off", or one or more of "ports", "labels" and
// "addresses" with + between them.
func ParseSpread(s string) (m SpreadMode, err error) {
	switch strings.ToLower(s) {
	case "auto":
		return SpreadAuto, nil
	case "off":
		return SpreadOff, nil
	}
	for word := range strings.SplitSeq(strings.ToLower(s), "+") {
		found := SpreadOff
		for _, w := range spreadWords {
			if w.word == strings.TrimSpace(word) {
				found = w.mode
			}
		}
		if found == SpreadOff {
			return SpreadOff, fmt.Errorf("%q is none of auto, off, ports, labels, addresses, or some of these with + between them", word)
		}
		m |= found
	}
	return m, nil
}

// String gives what [ParseSpread] reads.
func (m SpreadMode) String() string {
	switch {
	case m == SpreadOff:
		return "off"
	case m == SpreadAuto:
		return "auto"
	}
	var words []string
	for _, w := range spreadWords {
		if m&w.mode != 0 {
			words = append(words, w.word)
		}
	}
	return strings.Join(words, "+")
}

// has says whether flows may be told apart by one of the means.
func (m SpreadMode) has(mean SpreadMode) bool {
	return m&mean != 0 || m == SpreadAuto && mean == SpreadPorts
}

// between is what tells lanes apart between listen ports.
func (m SpreadMode) between() string {
	if m == SpreadAuto {
		return SpreadLabels.String()
	}
	return (m &^ SpreadPorts).String()
}

// defaultLanes are those of a peer where no pool of ports bounds them.
const defaultLanes = 1024

// spreads says whether data may leave lane 0: one port is plain WireGuard.
func (o *Options) spreads() bool {
	return o.Spread != SpreadOff && (o.Ports > 1 || o.Spread&(SpreadLabels|SpreadAddresses) != 0)
}

// sendLanes is how many lanes above 0 a peer may have from us.
func (o *Options) sendLanes() int {
	switch {
	case !o.spreads():
		return 0
	case o.Spread.has(SpreadPorts):
		return o.atMost(o.Ports)
	}
	return o.atMost(defaultLanes)
}

// receiveLanes is how many a peer may use to us.
func (o *Options) receiveLanes() int { return o.atMost(maxLanes) }

func (o *Options) atMost(n int) int {
	if o.MaxLanes > 0 {
		n = min(n, o.MaxLanes)
	}
	return n
}

func (o *Options) validateSpread() error {
	if o.Spread != SpreadAuto && o.Spread > SpreadPorts|SpreadLabels|SpreadAddresses {
		return fmt.Errorf("spread: unknown mode")
	}
	if o.MaxLanes < 0 || o.MaxLanes > portpool.MaxPorts {
		return fmt.Errorf("max lanes per peer: %d is out of range, use 1 to %d, or 0 for as many as there are ports", o.MaxLanes, portpool.MaxPorts)
	}
	if o.Spread&SpreadAddresses != 0 && o.Spread != SpreadAuto && o.SourcePrefixes == (SourcePrefixes{}) {
		return fmt.Errorf("spread: addresses need a prefix that is routed here, give it as source prefix, such as 2001:db8:1::/64")
	}
	return nil
}

// SourcePrefixes are a prefix of each address family, or none (the zero Prefix).
type SourcePrefixes struct{ V4, V6 netip.Prefix }

const (
	leastHostBits4 = 4 // 16 addresses
	leastHostBits6 = 8
)

// ParseSourcePrefixes reads "none", or a prefix, or one of each family with a comma
// between them.
func ParseSourcePrefixes(s string) (p SourcePrefixes, err error) {
	if strings.EqualFold(s, "none") {
		return p, nil
	}
	for word := range strings.SplitSeq(s, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(word))
		if err != nil {
			return SourcePrefixes{}, fmt.Errorf("%q is not a prefix: use one such as 2001:db8:1::/64", word)
		}
		into, least := &p.V6, leastHostBits6
		if prefix.Addr().Is4() {
			into, least = &p.V4, leastHostBits4
		}
		switch {
		case prefix.Addr().BitLen()-prefix.Bits() < least:
			return SourcePrefixes{}, fmt.Errorf("%v has too few addresses: use a prefix of /%d or shorter", prefix, prefix.Addr().BitLen()-least)
		case into.IsValid():
			return SourcePrefixes{}, fmt.Errorf("%v is the second prefix of its family: give one of each at most", prefix)
		}
		*into = prefix.Masked()
	}
	return p, nil
}

// String gives what [ParseSourcePrefixes] reads.
func (p SourcePrefixes) String() string {
	var words []string
	for _, prefix := range p.All() {
		words = append(words, prefix.String())
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ",")
}

// All gives those that there are.
func (p SourcePrefixes) All() (all []netip.Prefix) {
	for _, prefix := range []netip.Prefix{p.V4, p.V6} {
		if prefix.IsValid() {
			all = append(all, prefix)
		}
	}
	return all
}

// of gives the prefix of an address's family.
func (p SourcePrefixes) of(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return p.V4
	}
	return p.V6
}

// source is a lane's address out of a prefix: another one for each lane, as far as
// the prefix goes.
func (l labels) source(prefix netip.Prefix, lane uint16) netip.Addr {
	host := uint64(lane)*(l.factor*0x9e3779b97f4a7c15|1) + bits.RotateLeft64(l.offset*0x9e3779b97f4a7c15, 32)
	free := prefix.Addr().BitLen() - prefix.Bits()
	if free < 64 {
		host &= 1<<free - 1
	}
	if prefix.Addr().Is4() {
		b := prefix.Addr().As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|uint32(host))
		return netip.AddrFrom4(b)
	}
	b := prefix.Addr().As16()
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])|host)
	return netip.AddrFrom16(b)
}

// sourceOf gives the endpoint with which a lane is sent on from our own addresses:
// the peer's, but for a source address of its own where these tell lanes apart.
func (p *peer) sourceOf(lane uint16, to *endpoint, via spreadMode) *endpoint {
	o := &p.device.options
	if to == nil || o.Spread&SpreadAddresses == 0 && (o.Spread != SpreadAuto || via != spreadListen) {
		return to
	}
	prefix := o.SourcePrefixes.of(to.addr.Addr())
	if !prefix.IsValid() || p.kernelLanes.Load() != 0 { // a kernel's WireGuard follows any address
		return to
	}
	at := p.sources.place(lane)
	if old := at.Load(); old != nil && old.addr == to.addr {
		return old
	}
	own := &endpoint{addr: to.addr, local: p.device.labels.source(prefix, lane)}
	at.Store(own)
	return own
}
