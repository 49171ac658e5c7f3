// Package tunnel is the tunnel itself: peers, sessions, lanes, timers and
// control messages. It joins the leaves (tunnel/noise, tunnel/ecn, tunnel/tun,
// tunnel/uapi, queue, portpool, flowhash), none of which knows another.
//
// Start at [New] in device.go, then follow a packet:
//
//	transmit.go  TUN → flow → FQ-CoDel → lane → seal → socket
//	receive.go   socket → open → replay window → ECN → allowed source → TUN
//
// and a session: handshake.go makes one, session.go holds it, hello.go agrees
// on lanes inside it, spread.go finds out whether lanes get through.
//
// Who owns what: the transmitter and each receiver are one goroutine with their
// own scratch memory; the handshaker is one goroutine that does all public-key
// work; everything that a peer knows is behind the peer's own mutex, except
// what the packet path needs, which is atomic. Nothing points back up: workers
// know the [Device]'s tables, not the Device.
//
// Limits: one TUN queue and one listen socket, hence one transmitter and one
// receiver. A transport message carries at most 65535 bytes.
package tunnel
