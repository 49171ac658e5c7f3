// Package portpool gives a tunnel its outer UDP flows.
//
// It has three parts, each usable alone:
//
//   - [UDPSocket], made by [Open]: one UDP socket for both address families,
//     with batches (sendmmsg, recvmmsg) and, per datagram, the traffic class,
//     the flow label, the source address and the time of arrival. [Socket] is
//     the interface that the rest of the program sees, so that tests can put
//     a network in memory behind it.
//   - [Pool]: up to 16384 sockets with a source port each, opened when first
//     needed and closed when idle, shared by all peers.
//   - [Lanes]: which lane a flow of one peer gets. A lane is one outer 5-tuple
//     towards a peer; its number, 1 and up, is also the socket's place in the
//     pool. Lane 0 is the ordinary WireGuard path on the listen port and does
//     not occur here.
//
// Start with [NewPool] and [NewLanes]; a packet's way is
//
//	lane, _ := lanes.Assign(now, hash)
//	sock, err := pool.Socket(now, lane)
//	sent, err := sock.Send(batch)
//
// Limits: Linux only. No segmentation offload. The pool's sockets are not
// connected, so ICMP errors about one peer do not reach the others.
package portpool
