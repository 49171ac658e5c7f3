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
// on lanes inside it, spread.go finds out whether lanes get through. ecnpath.go
// finds out whether marks do, by tests (classtest.go) and by what the peer reports
// (reporter.go) of data in flight (ecnwatch.go); classes.go acts on it for each
// packet. A rate is kept by the transmitter (shape.go): that of our own line, which
// may be found by reports (uplink.go), and those that peers ask for (downlink.go).
//
// Who owns what: the transmitter and each receiver are one goroutine with their
// own scratch memory; the handshaker is one goroutine that does all public-key
// work; everything that a peer knows is behind the peer's own mutex, except
// what the packet path needs, which is atomic. Nothing points back up: workers
// know the [Device]'s tables, not the Device.
//
// Limits: one TUN queue and one listen socket, hence one transmitter and one
// receiver. A transport message carries at most 65535 bytes. Between two peers of
// one device the kernel routes, from the TUN device to the TUN device, and it is the
// kernel that takes one off the inner hop limit.
package tunnel
