// Package attach gives kernel WireGuard lanes: each inner flow leaves from a UDP
// source port, and with an IPv6 flow label, of its own, without a new data path.
//
// Start at [New] in attachment.go, then [Attachment.Run]. bpf/attach.c has the eBPF
// programs that do it, programs.go loads them and writes their maps, hooks.go puts
// them on interfaces, agreement.go is the state machine that decides towards which
// peers flows are spread, by what package accord has said between the two ends, and
// refuse.go says why a device cannot be attached to.
//
// Spreading is agreed on, not assumed: WireGuard takes the source of whatever it
// has authenticated for the peer's endpoint, so that only a peer that puts the
// canonical port back before its WireGuard sees a packet may be sent any from
// another. A stock peer gets WireGuard as it is. What arrives is changed only if it
// comes from the address of a peer that has said so, from a port of which it has
// said so, and is data.
//
// The maps are written by this process alone and read by the programs. All else is
// one goroutine, that of Run, which owns the agreements; [Attachment.Status] reads
// what it has last published. The programs end with the process: by tcx, whose links
// are descriptors. Before Linux 6.6, the filters of one that was killed spread for 5 s
// more, and go on putting back until [Detach] removes them, or [New].
//
// Limits: the device must be in the network namespace in which it was made. One
// range of ports for the device. Of peers at one address that are more than four, or
// have the same ports, only the first have their flows spread. Interfaces of types
// that are neither Ethernet nor carry IP without a header (PPP, tunnels, raw IP) are
// left alone. The kernel has one replay window of 8128 messages for all ports: see
// README.
package attach

// What precedes a message.
const (
	ethernetHeader = 14
	udpHeader      = 8
)
