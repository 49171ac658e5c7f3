package tunnel

import "sync/atomic"

// dropReason says why a packet went no further. Every packet that does not
// arrive where it was meant to is counted under exactly one of them.
type dropReason uint8

const (
	// On the way out, in the order of the way.
	dropInvalid     dropReason = iota // not an IP packet, or shorter than its header says
	dropNoPeer                        // no peer has the destination among its allowed IPs
	dropLoop                          // a datagram to the peer itself, which was sealed already
	dropNoKey                         // the device has no private key
	dropNoEndpoint                    // the peer's address is not known yet
	dropNoSession                     // waited for a handshake, and others did too or none came
	dropOverlimit                     // the queue was full, this flow had most in it
	dropCoDel                         // CoDel: stood in the queue for too long
	dropLinkDown                      // no sockets
	dropSendFull                      // the socket's buffer was full
	dropTooBig                        // larger than the outer interface's MTU
	dropUnreachable                   // no route, or the firewall forbids
	dropSendFailed                    // the kernel refused for another reason

	// On the way in.
	dropAdmission   // overload: stood in the socket for too long, or its lane brought most
	dropTruncated   // longer than any datagram that we make room for
	dropMalformed   // none of the four message types
	dropMAC         // mac1 is wrong: the sender does not know our public key
	dropCookie      // under load, answered with a cookie
	dropRate        // under load, too many handshakes from one address
	dropBusy        // under load, more handshakes waiting than there is room for
	dropHandshake   // handshake refused: unknown peer, forged, replayed or too soon
	dropIndex       // no session has this index
	dropLane        // a lane that was not agreed
	dropForged      // authentication failed
	dropReplay      // seen before, or older than the lane's window
	dropExpired     // the session is too old
	dropECN         // CE outside a packet that cannot carry it (RFC 6040)
	dropNotIP       // payload is neither IP nor a control message
	dropSource      // the source is not among the peer's allowed IPs
	dropTUN         // the TUN device refused it
	dropControl     // a control message that cannot be read
	dropReasonCount = iota
)

var dropNames = [dropReasonCount]string{
	"invalid", "no-peer", "loop", "no-private-key", "no-endpoint", "no-session", "overlimit", "codel",
	"link-down", "send-buffer-full", "too-big", "unreachable", "send-failed",
	"overload", "truncated", "malformed", "bad-mac", "cookie", "rate", "busy", "bad-handshake", "no-such-session",
	"lane", "forged", "replay", "expired", "ecn", "not-ip", "source-not-allowed", "tun", "bad-control",
}

func (r dropReason) String() string { return dropNames[r] }

// drops counts by reason. It is written by several goroutines.
type drops [dropReasonCount]atomic.Uint64

func (d *drops) add(r dropReason) { d[r].Add(1) }

// byName gives those that are not zero.
func (d *drops) byName() map[string]uint64 {
	m := make(map[string]uint64)
	for i := range d {
		if n := d[i].Load(); n > 0 {
			m[dropNames[i]] = n
		}
	}
	return m
}
