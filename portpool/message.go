package portpool

import (
	"net/netip"
	"syscall"
)

// Message is one datagram of a batch, or several of the same size that the
// kernel takes or gives as one. The caller owns it and its buffer and reuses
// both; a Socket keeps neither after Send or Receive has returned.
type Message struct {
	// Buf is the datagram to send, or the room for the one received.
	Buf []byte
	// N is the number of bytes of Buf received. Send sets it to the number
	// of bytes that went out: len(Buf), 0, or something between if Buf was
	// of several datagrams and only the first ones went.
	N int
	// SegmentSize, if not 0, divides Buf into datagrams of that many bytes
	// each, up to 65535; the last one may be shorter. Send takes any number
	// of them. Receive sets it where the kernel has joined datagrams, which
	// it does only if asked for by SocketConfig.GRO; all else that is told
	// here is then true of each of them. See [Message.Datagrams].
	SegmentSize int
	// Truncated tells that what was received was longer than Buf and that
	// its end is lost.
	Truncated bool
	// Err is set by Send: 0 where the datagram was handed to the kernel,
	// EAGAIN where it was not tried because the socket's buffer is full,
	// EBADF where the socket was closed, else the reason why this one was
	// skipped; see [Classify].
	Err syscall.Errno

	// Addr is the destination, or the source of the datagram received.
	// IPv4 is always plain, never mapped into IPv6. A link-local IPv6
	// address carries a zone: the interface's name, or its number.
	Addr netip.AddrPort

	// Local is the address to send from, if valid, and the address that a
	// received datagram was sent to. It is plain IPv4 or IPv6 without a
	// zone. Where the kernel refuses it (the address has gone), Send lets
	// the kernel choose and clears Local, so that the caller can forget it.
	Local netip.Addr
	// IfIndex is the interface of Local. When sending, 0 leaves the choice
	// to the routes, any other value forces the datagram out there.
	IfIndex uint32

	// TrafficClass is DSCP<<2 | ECN, in both directions: the IPv4 TOS byte
	// (RFC 2474, RFC 3168) or the IPv6 traffic class.
	TrafficClass uint8
	// HopLimit is the IPv4 TTL or IPv6 hop limit of the datagram received.
	HopLimit uint8
	// FlowLabel is the IPv6 flow label to send with, 20 bits (RFC 6437);
	// 0 leaves it to the kernel. IPv4 has none. It is 0 after Receive.
	FlowLabel uint32
	// Time is when the kernel received the datagram (SO_TIMESTAMPNS), in
	// nanoseconds since 1970 on the wall clock; 0 if unknown.
	Time int64
	// Refused is how many datagrams the socket had no room for between the one
	// received before and this one (SO_RXQ_OVFL).
	Refused uint32
}

// Datagrams yields each whole datagram received in m: none if there was one that
// was truncated, those before it if there were several.
func (m *Message) Datagrams(yield func(datagram []byte) bool) {
	rest := m.Buf[:m.N]
	size := m.SegmentSize
	if size <= 0 || size > len(rest) {
		if !m.Truncated {
			yield(rest)
		}
		return
	}
	for len(rest) >= size {
		if !yield(rest[:size:size]) {
			return
		}
		rest = rest[size:]
	}
	if len(rest) > 0 && !m.Truncated {
		yield(rest)
	}
}

// Socket is a UDP socket that works on batches. All methods may be called from
// several goroutines.
type Socket interface {
	// Send sends every message that can be sent and never blocks. A message
	// that the kernel refuses is skipped, with the reason in its Err, and
	// does not hold up the others. sent counts those that went out wholly.
	//
	// Datagrams of the same size that follow each other and differ in
	// nothing but their bytes, and a shorter one after them, may be handed to
	// the kernel as one, wherever their buffers are. It is therefore best to
	// put together what goes to the same place.
	//
	// The error is nil if all went; [ErrFull] if the socket's buffer became
	// full, the rest then having Err EAGAIN; [net.ErrClosed] after Close;
	// else a [*SendError] for the first message skipped.
	Send(ms []Message) (sent int, err error)

	// Receive waits for a datagram, then takes what has already arrived,
	// up to len(ms), without waiting more. It fills ms[:n]. After Close,
	// also one that happens meanwhile, the error is [net.ErrClosed].
	Receive(ms []Message) (n int, err error)

	// Port is the local port.
	Port() uint16

	// Close frees the port and ends a Receive that waits.
	Close() error
}
