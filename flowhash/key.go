package flowhash

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Kind says what tells a flow from others between the same two addresses.
type Kind uint8

// The kinds of flow.
const (
	KindAddresses Kind = iota // nothing but addresses and protocol
	KindPorts                 // source and destination port
	KindEcho                  // ICMP echo identifier
	KindSPI                   // ESP or AH security parameters index
	KindKey                   // GRE version 0 key
	KindCall                  // GRE version 1 call id
	KindFragment              // IP identification
)

// Key tells flows apart: equal for all packets of a flow, different for any
// two flows. It holds no pointers and may be compared with == and index a map.
// The zero Key is no flow's.
type Key struct {
	b keyBytes
}

// keyBytes is a Key's layout; IPv4 addresses are padded with zeros at the end,
// and the version keeps them distinct from IPv6:
//
//	source(16) destination(16) id(4) protocol(1) kind(1) version(1) zero(1)
//
// As one array it is compared as memory and hashed without a copy of fields.
type keyBytes [keySize]byte

const (
	keySource      = 0
	keyDestination = 16
	keyID          = 32 // source port then destination port, or what Kind says
	keyProtocol    = 36
	keyKind        = 37
	keyVersion     = 38
	keySize        = 40
)

// Version is the IP version of the packets, 4 or 6; 0 for the zero Key.
func (k *Key) Version() uint8 { return k.b[keyVersion] }

// Protocol is the IP protocol number behind all IPv6 extension headers. For an
// IPv6 fragment it is 44, the fragment header's own.
func (k *Key) Protocol() uint8 { return k.b[keyProtocol] }

// Kind says what the flow is told by.
func (k *Key) Kind() Kind { return Kind(k.b[keyKind]) }

// ID is the echo identifier, SPI, GRE key, call id or fragment identification,
// or both ports, the source port in the upper 16 bits; 0 for KindAddresses.
func (k *Key) ID() uint32 { return binary.BigEndian.Uint32(k.b[keyID:]) }

// Source is the source address of the flow's packets (of an ICMP error, the
// destination of the packet that it quotes); the zero Addr for the zero Key.
func (k *Key) Source() netip.Addr { return k.address(keySource) }

// Destination is the destination address of the flow's packets; the zero Addr
// for the zero Key.
func (k *Key) Destination() netip.Addr { return k.address(keyDestination) }

func (k *Key) address(at int) netip.Addr {
	switch k.Version() {
	case 4:
		return netip.AddrFrom4([4]byte(k.b[at:]))
	case 6:
		return netip.AddrFrom16([16]byte(k.b[at:]))
	}
	return netip.Addr{}
}

// String describes the flow to people: "tcp 10.0.0.1:80 > 10.0.0.2:1234". Its
// form is not for programs to read.
func (k *Key) String() string {
	if k.Version() == 0 {
		return "no flow"
	}
	id := k.ID()
	if k.Kind() == KindPorts {
		src := netip.AddrPortFrom(k.Source(), uint16(id>>16))
		dst := netip.AddrPortFrom(k.Destination(), uint16(id))
		return fmt.Sprintf("%s %s > %s", protocolName(k.Protocol()), src, dst)
	}
	s := fmt.Sprintf("%s %s > %s", protocolName(k.Protocol()), k.Source(), k.Destination())
	switch k.Kind() {
	case KindEcho:
		return fmt.Sprintf("%s id %d", s, id)
	case KindSPI:
		return fmt.Sprintf("%s spi %#x", s, id)
	case KindKey:
		return fmt.Sprintf("%s key %#x", s, id)
	case KindCall:
		return fmt.Sprintf("%s call %d", s, id)
	case KindFragment:
		return fmt.Sprintf("%s fragment %#x", s, id)
	}
	return s
}

func protocolName(p uint8) string {
	switch p {
	case protoICMP:
		return "icmp"
	case protoTCP:
		return "tcp"
	case protoUDP:
		return "udp"
	case protoDCCP:
		return "dccp"
	case protoFragment:
		return "ipv6"
	case protoGRE:
		return "gre"
	case protoESP:
		return "esp"
	case protoAH:
		return "ah"
	case protoICMPv6:
		return "icmpv6"
	case protoSCTP:
		return "sctp"
	case protoUDPLite:
		return "udplite"
	}
	return fmt.Sprintf("proto-%d", p)
}

// flow sets what every flow has.
func (k *Key) flow(version, protocol uint8, src, dst []byte) {
	copy(k.b[keySource:keyDestination], src)
	copy(k.b[keyDestination:keyID], dst)
	k.b[keyProtocol] = protocol
	k.b[keyVersion] = version
}

func (k *Key) set(kind Kind, id uint32) {
	k.b[keyKind] = uint8(kind)
	binary.BigEndian.PutUint32(k.b[keyID:], id)
}
