package flowhash

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// MaxExtensionHeaders is how many IPv6 extension headers are walked, at most,
// to find a packet's transport. Real packets have one or two.
const MaxExtensionHeaders = 8

// Errors of [Parse]. Each means that the packet should be dropped: no host
// would accept it.
var (
	ErrVersion = errors.New("flowhash: packet is neither IPv4 nor IPv6")
	ErrShort   = errors.New("flowhash: packet ends within its IP header")
	ErrHeader  = errors.New("flowhash: IPv4 header length is below 20 bytes or above the total length")
	ErrLength  = errors.New("flowhash: packet is shorter than its IP header says")
)

// Flow is what a packet's headers say about its flow and its treatment.
type Flow struct {
	Key     Key
	Length  int   // total length in bytes as the IP header says, at most len(packet)
	DSCP    uint8 // differentiated services codepoint as found, 0 to 63 (RFC 2474)
	ECN     uint8 // ECN field as found, 0 to 3 (RFC 3168)
	Version uint8 // 4 or 6
}

// IP protocol numbers and IPv6 next headers.
const (
	protoHopByHop = 0
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoDCCP     = 33
	protoRouting  = 43
	protoFragment = 44
	protoGRE      = 47
	protoESP      = 50
	protoAH       = 51
	protoICMPv6   = 58
	protoDestOpts = 60
	protoSCTP     = 132
	protoMobility = 135
	protoUDPLite  = 136
	protoHIP      = 139
	protoShim6    = 140
)

// Parse reads the packet, which begins with its IP header, and sets all of f.
// It fails only where there is no sane IPv4 or IPv6 header, and then f is zero;
// a transport that is cut short or unknown gives a flow by addresses and
// protocol. Bytes behind the length that the header says are ignored. Parse
// allocates nothing and keeps no reference to packet.
func Parse(packet []byte, f *Flow) error {
	*f = Flow{}
	var d datagram
	if err := d.read(packet); err != nil {
		return err
	}
	if d.length > len(packet) {
		return ErrLength
	}
	f.Length = d.length
	f.DSCP = d.class >> 2
	f.ECN = d.class & 3
	f.Version = d.version
	d.key(&f.Key)
	return nil
}

// Source is the packet's source address. It is false where packet is shorter
// than an IPv4 or IPv6 header; nothing else is checked.
func Source(packet []byte) (netip.Addr, bool) {
	switch version(packet) {
	case 4:
		return netip.AddrFrom4([4]byte(packet[12:16])), true
	case 6:
		return netip.AddrFrom16([16]byte(packet[8:24])), true
	}
	return netip.Addr{}, false
}

// Destination is the packet's destination address, like [Source].
func Destination(packet []byte) (netip.Addr, bool) {
	switch version(packet) {
	case 4:
		return netip.AddrFrom4([4]byte(packet[16:20])), true
	case 6:
		return netip.AddrFrom16([16]byte(packet[24:40])), true
	}
	return netip.Addr{}, false
}

// version is 4 or 6 where a fixed header of that version is there, else 0.
func version(packet []byte) uint8 {
	switch {
	case len(packet) >= ipv4HeaderLen && packet[0]>>4 == 4:
		return 4
	case len(packet) >= ipv6HeaderLen && packet[0]>>4 == 6:
		return 6
	}
	return 0
}

// datagram is a packet with its IP headers read.
type datagram struct {
	src, dst []byte
	payload  []byte // behind the IP headers, as much of it as there is
	length   int    // total, as the header says; may exceed what is there
	ident    uint32 // of a fragment
	version  uint8
	class    uint8 // DSCP and ECN
	protocol uint8 // behind the extension headers
	fragment bool  // a part of a larger datagram
	later    bool  // a fragment other than the first: payload has no transport header
}

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
)

func (d *datagram) read(p []byte) error {
	if len(p) == 0 {
		return ErrShort
	}
	switch p[0] >> 4 {
	case 4:
		return d.readIPv4(p)
	case 6:
		return d.readIPv6(p)
	}
	return ErrVersion
}

func (d *datagram) readIPv4(p []byte) error {
	if len(p) < ipv4HeaderLen {
		return ErrShort
	}
	header := int(p[0]&15) * 4
	d.length = int(binary.BigEndian.Uint16(p[2:]))
	if header < ipv4HeaderLen || header > d.length {
		return ErrHeader
	}
	if header > len(p) {
		return ErrShort
	}
	d.version = 4
	d.class = p[1]
	d.protocol = p[9]
	d.src = p[12:16]
	d.dst = p[16:20]
	d.payload = p[header:min(d.length, len(p))]

	const moreFragments, offset = 0x2000, 0x1fff
	flags := binary.BigEndian.Uint16(p[6:])
	d.fragment = flags&(moreFragments|offset) != 0
	d.later = flags&offset != 0
	d.ident = uint32(binary.BigEndian.Uint16(p[4:]))
	return nil
}

func (d *datagram) readIPv6(p []byte) error {
	if len(p) < ipv6HeaderLen {
		return ErrShort
	}
	d.version = 6
	d.class = p[0]<<4 | p[1]>>4
	d.length = ipv6HeaderLen + int(binary.BigEndian.Uint16(p[4:]))
	d.src = p[8:24]
	d.dst = p[24:40]
	d.payload = p[ipv6HeaderLen:min(d.length, len(p))]
	d.protocol = p[6]
	for range MaxExtensionHeaders {
		if !d.skipExtension() {
			break
		}
	}
	return nil
}

// skipExtension steps over the extension header at the start of the payload.
// It is false where there is none, or not the whole of it, or where what
// follows is the middle of a datagram.
func (d *datagram) skipExtension() bool {
	switch d.protocol {
	case protoHopByHop, protoRouting, protoDestOpts, protoMobility, protoHIP, protoShim6:
		if len(d.payload) < 8 {
			return false
		}
		size := 8 + 8*int(d.payload[1])
		if len(d.payload) < size {
			return false
		}
		d.protocol, d.payload = d.payload[0], d.payload[size:]
		return true
	case protoFragment:
		return d.skipFragment()
	}
	return false
}

func (d *datagram) skipFragment() bool {
	// A fragment within a fragment stays closed: the outer one is the flow.
	if d.fragment || len(d.payload) < 8 {
		return false
	}
	const offset, moreFragments = 0xfff8, 1
	flags := binary.BigEndian.Uint16(d.payload[2:])
	d.fragment = flags&(offset|moreFragments) != 0
	d.later = flags&offset != 0
	d.ident = binary.BigEndian.Uint32(d.payload[4:])
	d.protocol, d.payload = d.payload[0], d.payload[8:]
	return !d.later
}

// key sets k, which is zero, to the datagram's flow.
func (d *datagram) key(k *Key) {
	if d.fragment {
		protocol := d.protocol
		if d.version == 6 {
			protocol = protoFragment
		}
		k.flow(d.version, protocol, d.src, d.dst)
		k.set(KindFragment, d.ident)
		return
	}
	if d.isICMPError() && d.quotedKey(k) {
		return
	}
	k.flow(d.version, d.protocol, d.src, d.dst)
	k.set(d.transport())
}

// icmpHeaderLen is what precedes the quote in all ICMP errors (RFC 792; RFC
// 4443, section 3).
const icmpHeaderLen = 8

func (d *datagram) isICMPError() bool {
	if len(d.payload) < icmpHeaderLen {
		return false
	}
	switch {
	case d.version == 4 && d.protocol == protoICMP:
		switch d.payload[0] {
		case 3, 4, 5, 11, 12: // unreachable, quench, redirect, time, parameter
			return true
		}
	case d.version == 6 && d.protocol == protoICMPv6:
		return d.payload[0] >= 1 && d.payload[0] <= 4 // unreachable, too big, time, parameter
	}
	return false
}

// quotedKey sets k to the flow that answers the packet which the ICMP error d
// quotes, and is false where it quotes none that its receiver can have sent, as
// it would have from its own address (which tells the versions apart, too).
//
// A first fragment counts by its transport here: the error is a whole datagram
// and what comes back from the peer mostly is, too. Errors are not nested (RFC
// 1122, section 3.2.2), so a quoted one goes by its addresses.
func (d *datagram) quotedKey(k *Key) bool {
	var q datagram
	if q.read(d.payload[icmpHeaderLen:]) != nil || string(q.src) != string(d.dst) {
		return false
	}
	k.flow(q.version, q.protocol, q.dst, q.src)
	if q.later {
		return true
	}
	kind, id := q.transport()
	if kind == KindPorts {
		id = id<<16 | id>>16
	}
	k.set(kind, id)
	return true
}

// transport finds what the payload adds to the flow: the ports or an id.
func (d *datagram) transport() (Kind, uint32) {
	p := d.payload
	if len(p) < 4 {
		return KindAddresses, 0
	}
	switch d.protocol {
	case protoTCP, protoUDP, protoUDPLite, protoSCTP, protoDCCP:
		return KindPorts, binary.BigEndian.Uint32(p)
	case protoESP:
		return KindSPI, binary.BigEndian.Uint32(p)
	case protoAH:
		if len(p) >= 8 {
			return KindSPI, binary.BigEndian.Uint32(p[4:])
		}
	case protoGRE:
		return gre(p)
	case protoICMP:
		if d.version == 4 && (p[0] == 8 || p[0] == 0) {
			return echo(p)
		}
	case protoICMPv6:
		if d.version == 6 && (p[0] == 128 || p[0] == 129) {
			return echo(p)
		}
	}
	return KindAddresses, 0
}

func echo(p []byte) (Kind, uint32) {
	if len(p) < 6 {
		return KindAddresses, 0
	}
	return KindEcho, uint32(binary.BigEndian.Uint16(p[4:]))
}

// gre reads the key of a GRE header of at least 4 bytes (RFC 2890) or the call
// id of PPTP's (RFC 2637, section 4.1).
func gre(p []byte) (Kind, uint32) {
	const checksum, routing, key = 0x80, 0x40, 0x20
	flags, at := p[0], 4
	if flags&(checksum|routing) != 0 {
		at = 8
	}
	if flags&key == 0 || len(p) < at+4 {
		return KindAddresses, 0
	}
	id := binary.BigEndian.Uint32(p[at:])
	switch p[1] & 7 {
	case 0:
		return KindKey, id
	case 1:
		return KindCall, id & 0xffff
	}
	return KindAddresses, 0
}
