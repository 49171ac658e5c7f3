package flowhash_test

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
)

// unhex reads hexadecimal digits with spaces between them.
func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic(err)
	}
	return b
}

func join(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// header4 is an IPv4 header to be varied by a test case.
type header4 struct {
	tos      uint8
	ident    uint16
	flags    uint16 // with the fragment offset
	protocol uint8
	src, dst string
	options  []byte
}

func (h header4) packet(payload []byte) []byte {
	b := make([]byte, 20, 20+len(h.options)+len(payload))
	b[0] = 0x40 | uint8(5+len(h.options)/4)
	b[1] = h.tos
	binary.BigEndian.PutUint16(b[2:], uint16(cap(b)))
	binary.BigEndian.PutUint16(b[4:], h.ident)
	binary.BigEndian.PutUint16(b[6:], h.flags)
	b[8], b[9] = 64, h.protocol
	copy(b[12:], netip.MustParseAddr(or(h.src, "10.0.0.1")).AsSlice())
	copy(b[16:], netip.MustParseAddr(or(h.dst, "10.0.0.2")).AsSlice())
	return join(b, h.options, payload)
}

func v4(protocol uint8, payload string) []byte {
	return header4{protocol: protocol}.packet(unhex(payload))
}

// header6 is an IPv6 header to be varied by a test case.
type header6 struct {
	class    uint8
	label    uint32
	next     uint8
	src, dst string
}

func (h header6) packet(payload []byte) []byte {
	b := make([]byte, 40)
	binary.BigEndian.PutUint32(b, 6<<28|uint32(h.class)<<20|h.label)
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	b[6], b[7] = h.next, 64
	copy(b[8:], netip.MustParseAddr(or(h.src, "fd00::1")).AsSlice())
	copy(b[24:], netip.MustParseAddr(or(h.dst, "fd00::2")).AsSlice())
	return join(b, payload)
}

func v6(next uint8, payload string) []byte {
	return header6{next: next}.packet(unhex(payload))
}

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// back are headers of packets towards the source of v4 and v6.
var (
	back4 = header4{protocol: 1, src: "10.9.9.9", dst: "10.0.0.1"}
	back6 = header6{next: 58, src: "fd00:9::9", dst: "fd00::1"}
)

// icmp is an ICMP or ICMPv6 error with its quote.
func icmp(kind uint8, quote []byte) []byte {
	return join([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, quote)
}

const ports = "1f90 c350 0000 0000" // 8080 to 50000

type flowCase struct {
	name   string
	packet []byte
	want   string // Key.String
}

var flowCases = []flowCase{
	{"tcp", v4(6, ports), "tcp 10.0.0.1:8080 > 10.0.0.2:50000"},
	{"tcp over IPv6", v6(6, ports), "tcp [fd00::1]:8080 > [fd00::2]:50000"},
	{"udp", v4(17, ports), "udp 10.0.0.1:8080 > 10.0.0.2:50000"},
	{"udp over IPv6", v6(17, ports), "udp [fd00::1]:8080 > [fd00::2]:50000"},
	{"udplite", v4(136, ports), "udplite 10.0.0.1:8080 > 10.0.0.2:50000"},
	{"udplite over IPv6", v6(136, ports), "udplite [fd00::1]:8080 > [fd00::2]:50000"},
	{"sctp", v4(132, ports), "sctp 10.0.0.1:8080 > 10.0.0.2:50000"},
	{"sctp over IPv6", v6(132, ports), "sctp [fd00::1]:8080 > [fd00::2]:50000"},
	{"dccp", v4(33, ports), "dccp 10.0.0.1:8080 > 10.0.0.2:50000"},
	{"dccp over IPv6", v6(33, ports), "dccp [fd00::1]:8080 > [fd00::2]:50000"},
	{"ports and nothing else", v4(6, "1f90 c350"), "tcp 10.0.0.1:8080 > 10.0.0.2:50000"},
	{"one port", v4(6, "1f90 c3"), "tcp 10.0.0.1 > 10.0.0.2"},
	{"no payload", v4(6, ""), "tcp 10.0.0.1 > 10.0.0.2"},
	{"no payload over IPv6", v6(6, ""), "tcp fd00::1 > fd00::2"},
	{"ports zero", v4(17, "0000 0000"), "udp 10.0.0.1:0 > 10.0.0.2:0"},
	{"options", header4{protocol: 6, options: unhex("94040000 01010101")}.packet(unhex(ports)), "tcp 10.0.0.1:8080 > 10.0.0.2:50000"},
	{"don't fragment", header4{protocol: 6, ident: 7, flags: 0x4000}.packet(unhex(ports)), "tcp 10.0.0.1:8080 > 10.0.0.2:50000"},
	{"reserved flag", header4{protocol: 6, ident: 7, flags: 0x8000}.packet(unhex(ports)), "tcp 10.0.0.1:8080 > 10.0.0.2:50000"},
	{"IPv4-mapped addresses", header6{next: 6, src: "::ffff:10.0.0.1", dst: "::ffff:10.0.0.2"}.packet(unhex(ports)), "tcp [::ffff:10.0.0.1]:8080 > [::ffff:10.0.0.2]:50000"},

	{"echo request", v4(1, "0800 0000 1234 0001"), "icmp 10.0.0.1 > 10.0.0.2 id 4660"},
	{"echo reply", v4(1, "0000 0000 1234 0001"), "icmp 10.0.0.1 > 10.0.0.2 id 4660"},
	{"ICMPv6 echo request", v6(58, "8000 0000 1234 0001"), "icmpv6 fd00::1 > fd00::2 id 4660"},
	{"ICMPv6 echo reply", v6(58, "8100 0000 1234 0001"), "icmpv6 fd00::1 > fd00::2 id 4660"},
	{"echo cut before its id", v4(1, "0800 0000 12"), "icmp 10.0.0.1 > 10.0.0.2"},
	{"echo cut after its id", v4(1, "0800 0000 1234"), "icmp 10.0.0.1 > 10.0.0.2 id 4660"},
	{"timestamp", v4(1, "0d00 0000 1234 0001"), "icmp 10.0.0.1 > 10.0.0.2"},
	{"neighbour solicitation", v6(58, "8700 0000 0000 0000"), "icmpv6 fd00::1 > fd00::2"},
	{"ICMP over IPv6", v6(1, "0800 0000 1234 0001"), "icmp fd00::1 > fd00::2"},
	{"ICMPv6 over IPv4", v4(58, "8000 0000 1234 0001"), "icmpv6 10.0.0.1 > 10.0.0.2"},
	{"IPv6's echo type in ICMP", v4(1, "8000 0000 1234 0001"), "icmp 10.0.0.1 > 10.0.0.2"},
	{"IPv4's echo type in ICMPv6", v6(58, "0800 0000 1234 0001"), "icmpv6 fd00::1 > fd00::2"},

	{"unreachable", back4.packet(icmp(3, v4(6, ports))), "tcp 10.0.0.2:50000 > 10.0.0.1:8080"},
	{"source quench", back4.packet(icmp(4, v4(6, ports))), "tcp 10.0.0.2:50000 > 10.0.0.1:8080"},
	{"redirect", back4.packet(icmp(5, v4(17, ports))), "udp 10.0.0.2:50000 > 10.0.0.1:8080"},
	{"time exceeded", back4.packet(icmp(11, v4(17, ports))), "udp 10.0.0.2:50000 > 10.0.0.1:8080"},
	{"parameter problem", back4.packet(icmp(12, v4(132, ports))), "sctp 10.0.0.2:50000 > 10.0.0.1:8080"},
	{"ICMPv6 unreachable", back6.packet(icmp(1, v6(6, ports))), "tcp [fd00::2]:50000 > [fd00::1]:8080"},
	{"ICMPv6 packet too big", back6.packet(icmp(2, v6(6, ports))), "tcp [fd00::2]:50000 > [fd00::1]:8080"},
	{"ICMPv6 time exceeded", back6.packet(icmp(3, v6(6, ports))), "tcp [fd00::2]:50000 > [fd00::1]:8080"},
	{"ICMPv6 parameter problem", back6.packet(icmp(4, v6(6, ports))), "tcp [fd00::2]:50000 > [fd00::1]:8080"},
	{"ICMPv6 redirect quotes at another place", back6.packet(icmp(137, v6(6, ports))), "icmpv6 fd00:9::9 > fd00::1"},
	{"ICMPv6 reserved error", back6.packet(icmp(0, v6(6, ports))), "icmpv6 fd00:9::9 > fd00::1"},
	{"ICMPv6 unassigned error", back6.packet(icmp(5, v6(6, ports))), "icmpv6 fd00:9::9 > fd00::1"},
	{"quote of an echo", back4.packet(icmp(3, v4(1, "0800 0000 1234 0001"))), "icmp 10.0.0.2 > 10.0.0.1 id 4660"},
	{"quote of an ICMPv6 echo", back6.packet(icmp(1, v6(58, "8000 0000 1234 0001"))), "icmpv6 fd00::2 > fd00::1 id 4660"},
	{"quote of ESP", back4.packet(icmp(3, v4(50, "11223344 00000001"))), "esp 10.0.0.2 > 10.0.0.1 spi 0x11223344"},
	{"quote of GRE", back4.packet(icmp(3, v4(47, "2000 0800 0000cafe"))), "gre 10.0.0.2 > 10.0.0.1 key 0xcafe"},
	{"quote of an error", back4.packet(icmp(3, v4(1, "0300 0000 0000 0000"))), "icmp 10.0.0.2 > 10.0.0.1"},
	{"quote cut within the ports", back4.packet(icmp(3, v4(6, ports)[:22])), "tcp 10.0.0.2 > 10.0.0.1"},
	{"quote cut within its header", back4.packet(icmp(3, v4(6, ports)[:19])), "icmp 10.9.9.9 > 10.0.0.1"},
	{"quote missing", back4.packet(icmp(3, nil)), "icmp 10.9.9.9 > 10.0.0.1"},
	{"error cut within its header", back4.packet(unhex("0300 0000")), "icmp 10.9.9.9 > 10.0.0.1"},
	{"quote of a packet that the receiver did not send", back4.packet(icmp(3, header4{protocol: 6, src: "10.0.0.3"}.packet(unhex(ports)))), "icmp 10.9.9.9 > 10.0.0.1"},
	{"quote of the other version", back4.packet(icmp(3, v6(6, ports))), "icmp 10.9.9.9 > 10.0.0.1"},
	{"quote of no IP", back4.packet(icmp(3, make([]byte, 40))), "icmp 10.9.9.9 > 10.0.0.1"},
	{"quote with a bad header length", back4.packet(icmp(3, join([]byte{0x44}, v4(6, ports)[1:]))), "icmp 10.9.9.9 > 10.0.0.1"},
	{"quote of a first fragment", back4.packet(icmp(11, header4{protocol: 17, ident: 7, flags: 0x2000}.packet(unhex(ports)))), "udp 10.0.0.2:50000 > 10.0.0.1:8080"},
	{"quote of a later fragment", back4.packet(icmp(11, header4{protocol: 17, ident: 7, flags: 0x0010}.packet(unhex(ports)))), "udp 10.0.0.2 > 10.0.0.1"},
	{"quote of a first IPv6 fragment", back6.packet(icmp(3, v6(44, "1100 0001 00000007"+ports))), "udp [fd00::2]:50000 > [fd00::1]:8080"},
	{"quote of a later IPv6 fragment", back6.packet(icmp(3, v6(44, "1100 0010 00000007"+ports))), "udp fd00::2 > fd00::1"},
	{"quote of a first IPv6 fragment with options", back6.packet(icmp(3, v6(44, "3c00 0001 00000007 1100 0104 00000000"+ports))), "udp [fd00::2]:50000 > [fd00::1]:8080"},
	{"quote of a later IPv6 fragment, data like options", back6.packet(icmp(3, v6(44, "3c00 0010 00000007 1100 0104 00000000"+ports))), "proto-60 fd00::2 > fd00::1"},
	{"quote with an extension header", back6.packet(icmp(1, v6(60, "0600 0104 00000000"+ports))), "tcp [fd00::2]:50000 > [fd00::1]:8080"},
	{"error in fragments", header4{protocol: 1, ident: 9, flags: 0x2000, src: "10.9.9.9", dst: "10.0.0.1"}.packet(icmp(3, v4(6, ports))), "icmp 10.9.9.9 > 10.0.0.1 fragment 0x9"},

	{"esp", v4(50, "11223344 00000001"), "esp 10.0.0.1 > 10.0.0.2 spi 0x11223344"},
	{"esp over IPv6", v6(50, "11223344 00000001"), "esp fd00::1 > fd00::2 spi 0x11223344"},
	{"esp cut", v4(50, "112233"), "esp 10.0.0.1 > 10.0.0.2"},
	{"ah", v4(51, "0604 0000 55667788 00000001"), "ah 10.0.0.1 > 10.0.0.2 spi 0x55667788"},
	{"ah over IPv6", v6(51, "0604 0000 55667788 00000001"), "ah fd00::1 > fd00::2 spi 0x55667788"},
	{"ah cut", v4(51, "0604 0000 556677"), "ah 10.0.0.1 > 10.0.0.2"},

	{"gre", v4(47, "0000 0800 00000000"), "gre 10.0.0.1 > 10.0.0.2"},
	{"gre with a key", v4(47, "2000 0800 0000cafe"), "gre 10.0.0.1 > 10.0.0.2 key 0xcafe"},
	{"gre with key zero", v4(47, "2000 0800 00000000"), "gre 10.0.0.1 > 10.0.0.2 key 0x0"},
	{"gre with a key over IPv6", v6(47, "2000 86dd 0000cafe"), "gre fd00::1 > fd00::2 key 0xcafe"},
	{"gre with checksum, key and sequence", v4(47, "b000 0800 abcd0000 0000cafe 00000001"), "gre 10.0.0.1 > 10.0.0.2 key 0xcafe"},
	{"gre with routing and key", v4(47, "6000 0800 abcd0000 0000cafe"), "gre 10.0.0.1 > 10.0.0.2 key 0xcafe"},
	{"gre with sequence only", v4(47, "1000 0800 00000001"), "gre 10.0.0.1 > 10.0.0.2"},
	{"gre cut before the key", v4(47, "2000 0800 0000ca"), "gre 10.0.0.1 > 10.0.0.2"},
	{"gre cut between checksum and key", v4(47, "a000 0800 abcd0000"), "gre 10.0.0.1 > 10.0.0.2"},
	{"pptp", v4(47, "3001 880b 00104321 00000001"), "gre 10.0.0.1 > 10.0.0.2 call 17185"},
	{"pptp, another length, same call", v4(47, "3081 880b 05004321 00000001 00000002"), "gre 10.0.0.1 > 10.0.0.2 call 17185"},
	{"gre of unknown version", v4(47, "2002 0800 0000cafe"), "gre 10.0.0.1 > 10.0.0.2"},

	{"first fragment", header4{protocol: 17, ident: 0xbeef, flags: 0x2000}.packet(unhex(ports)), "udp 10.0.0.1 > 10.0.0.2 fragment 0xbeef"},
	{"middle fragment", header4{protocol: 17, ident: 0xbeef, flags: 0x2010}.packet(unhex("00")), "udp 10.0.0.1 > 10.0.0.2 fragment 0xbeef"},
	{"last fragment", header4{protocol: 17, ident: 0xbeef, flags: 0x0020}.packet(nil), "udp 10.0.0.1 > 10.0.0.2 fragment 0xbeef"},
	{"last fragment, far behind", header4{protocol: 17, ident: 0xbeef, flags: 0x1000}.packet(nil), "udp 10.0.0.1 > 10.0.0.2 fragment 0xbeef"},
	{"first IPv6 fragment", v6(44, "1100 0001 0000beef"+ports), "ipv6 fd00::1 > fd00::2 fragment 0xbeef"},
	{"middle IPv6 fragment", v6(44, "1100 0081 0000beef 00"), "ipv6 fd00::1 > fd00::2 fragment 0xbeef"},
	{"last IPv6 fragment", v6(44, "1100 0100 0000beef"), "ipv6 fd00::1 > fd00::2 fragment 0xbeef"},
	{"IPv6 fragment with another next header", v6(44, "3c00 0100 0000beef"), "ipv6 fd00::1 > fd00::2 fragment 0xbeef"},
	{"IPv6 fragment, reserved bits set", v6(44, "11ff 0007 0000beef"+ports), "ipv6 fd00::1 > fd00::2 fragment 0xbeef"},
	{"atomic fragment", v6(44, "1100 0000 0000beef"+ports), "udp [fd00::1]:8080 > [fd00::2]:50000"},
	{"atomic fragment, reserved bits set", v6(44, "11ff 0006 0000beef"+ports), "udp [fd00::1]:8080 > [fd00::2]:50000"},
	{"fragment behind options", v6(0, "2c00 0502 00000100 1100 0001 0000beef"+ports), "ipv6 fd00::1 > fd00::2 fragment 0xbeef"},
	{"fragment in a fragment", v6(44, "2c00 0001 0000beef 1100 0001 00001111"+ports), "ipv6 fd00::1 > fd00::2 fragment 0xbeef"},
	{"fragment in an atomic fragment", v6(44, "2c00 0000 00001111 1100 0001 0000beef"+ports), "ipv6 fd00::1 > fd00::2 fragment 0xbeef"},
	{"fragment header cut", v6(44, "1100 0001 0000be"), "ipv6 fd00::1 > fd00::2"},

	{"hop-by-hop", v6(0, "0600 0502 00000100"+ports), "tcp [fd00::1]:8080 > [fd00::2]:50000"},
	{"routing of 24 bytes", v6(43, "0602 0000 00000000 00000000 00000000 00000000 00000000"+ports), "tcp [fd00::1]:8080 > [fd00::2]:50000"},
	{"destination options", v6(60, "1100 0104 00000000"+ports), "udp [fd00::1]:8080 > [fd00::2]:50000"},
	{"mobility", v6(135, "3b00 0000 00000000"), "proto-59 fd00::1 > fd00::2"},
	{"hip", v6(139, "0600 0000 00000000"+ports), "tcp [fd00::1]:8080 > [fd00::2]:50000"},
	{"shim6", v6(140, "0600 0000 00000000"+ports), "tcp [fd00::1]:8080 > [fd00::2]:50000"},
	{"esp behind options", v6(60, "3200 0104 00000000 11223344 00000001"), "esp fd00::1 > fd00::2 spi 0x11223344"},
	{"ah before tcp", v6(51, "0604 0000 55667788 00000001 00000000 00000000 00000000"+ports), "ah fd00::1 > fd00::2 spi 0x55667788"},
	{"all of them", v6(0, "2b00 0104 00000000 3c00 0000 00000000 2c00 0104 00000000 8700 0000 00000007 8b00 0000 00000000 8c00 0000 00000000 0600 0000 00000000"+ports), "tcp [fd00::1]:8080 > [fd00::2]:50000"},
	{"eight options", v6(60, strings.Repeat("3c00 0104 00000000", 7)+"0600 0104 00000000"+ports), "tcp [fd00::1]:8080 > [fd00::2]:50000"},
	{"nine options", v6(60, strings.Repeat("3c00 0104 00000000", 8)+"0600 0104 00000000"+ports), "proto-60 fd00::1 > fd00::2"},
	{"options cut", v6(60, "0601 0104 00000000"+"1f90"), "proto-60 fd00::1 > fd00::2"},
	{"options cut at the first byte", v6(60, "06"), "proto-60 fd00::1 > fd00::2"},
	{"options end the packet", v6(60, "0600 0104 00000000"), "tcp fd00::1 > fd00::2"},
	{"options in IPv4", v4(60, "0600 0104 00000000"+ports), "proto-60 10.0.0.1 > 10.0.0.2"},
	{"no next header", v6(59, ports), "proto-59 fd00::1 > fd00::2"},

	{"ip in ip", v4(4, "4500 0014"), "proto-4 10.0.0.1 > 10.0.0.2"},
	{"ospf", v4(89, ports), "proto-89 10.0.0.1 > 10.0.0.2"},
	{"protocol 255", v6(255, ports), "proto-255 fd00::1 > fd00::2"},
}
