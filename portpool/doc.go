// Package portpool gives a tunnel its outer UDP flows.
//
// It has three parts, each usable alone:
//
//   - [UDPSocket], made by [Open]: one UDP socket for both address families,
//     with batches (sendmmsg, recvmmsg) and, per datagram, the traffic class,
//     the flow label, the source address and the time of arrival. [Socket] is
//     the interface that the rest of the program sees, so that tests can put
//     a network in memory behind it.
//   - [Pool]: up to 16383 sockets with a source port each, opened when first
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
//	...
//	sent := pool.SendAcross(socks, batch)
//
// and the listen port is an [OpenGroup] of as many sockets as there are workers.
//
// # System calls
//
// What a burst costs is the number of times that the kernel's stack is gone
// through, each some 2.5 µs. Datagrams of one size on one lane go through it as
// one (UDP_SEGMENT), so bring a lane's datagrams together: 64 of 1420 bytes over
// 1, 8 and 64 lanes cost 0.15, 0.5 and 3.2 µs each where the interface divides
// them, 1.1, 1.4 and 3.7 where the kernel has to (BenchmarkBurst). Lone ones at
// least share the system call. Give each message its source (Local) where it is
// known: IPv6 pays for the search.
//
// Receive needs no more than 64 messages. With SocketConfig.GRO each should have
// room for 64 KiB: 4 MB for a worker, of which only the pages that something
// was written to are real, the first ones always.
//
// # Memory
//
// Buffers in the kernel are limits, not reservations. The pool's are sized for
// the pool as a whole: its sockets drop what arrives before it costs memory, and
// share 256 MiB to send, at least 128 KiB each. A listen socket receives from
// all peers and should have some MiB; a group's have that each, because all of a
// fast flow arrives at one of them.
//
// # Offloads
//
// Whether GSO and GRO are trusted is found out when the first socket is opened,
// and [Shared.Capabilities] tells. Neither may cost anything but speed: without
// them, or when they are lost on the way to some destination, datagrams go and
// come singly, and each has its own traffic class in any case.
//
// Limits: Linux only. The pool's sockets are not connected, so ICMP errors about
// one peer do not reach the others.
package portpool
