// Package flowhash says which flow an IP packet belongs to.
//
// Start at [Parse]: it reads one packet into a [Flow], whose [Key] is the same
// for all packets of the flow and comparable, so that it can index a map. A
// [Hasher] turns a Key into 64 bits for tables of fixed size.
//
// What a flow is, beside the two addresses, the IP version and the protocol:
//
//	TCP, UDP, UDP-Lite, SCTP, DCCP   the two ports
//	ICMP and ICMPv6 echo             the identifier, request and reply alike
//	ICMP and ICMPv6 errors           the packet that they quote, see below
//	ESP, AH                          the security parameters index
//	GRE version 0 with a key         the key (RFC 2890)
//	GRE version 1 (PPTP)             the call id (RFC 2637)
//	fragments                        the identification, see below
//	anything else                    nothing more
//
// A flow has a direction: the answers to it are another flow.
//
// An ICMP error belongs to the flow that answers the one it quotes: it travels
// with the segments that come back from the same destination, under their
// addresses and ports, although a router sent it. Where the quote is no packet
// that the error's receiver could have sent (another source address, another
// IP version), or is too short, the error counts as anything else.
//
// All fragments of a datagram are one flow, because only the first has ports:
// addresses, identification, and for IPv4 the protocol (RFC 791, section 3.2;
// RFC 8200, section 4.5, which lets the fragments of one IPv6 datagram differ
// in their Next Header, hence not that). A fragment header on a whole IPv6
// datagram changes nothing (RFC 6946).
//
// Limits: of IPv6 at most [MaxExtensionHeaders] extension headers are walked; a
// longer chain counts as anything else. Tunnelled packets (IP in IP, 6in4) are
// not looked into. Checksums are not verified.
package flowhash
