package noise

import "time"

// Constants are the times and limits of section 6.1. Tests inject shorter ones;
// everything else uses [Default].
type Constants struct {
	// RekeyAfterMessages is how many messages a keypair (on each lane) sends
	// before a new handshake is wanted.
	RekeyAfterMessages uint64
	// RejectAfterMessages is the counter from which nothing is sent or accepted.
	RejectAfterMessages uint64
	// RekeyAfterTime is the age at which the initiator of a keypair that sends
	// wants a new one.
	RekeyAfterTime time.Duration
	// RejectAfterTime is the age from which a keypair is not used at all.
	RejectAfterTime time.Duration
	// RekeyAttemptTime is for how long initiations are repeated.
	RekeyAttemptTime time.Duration
	// RekeyTimeout is how long an answer to an initiation is waited for, and the
	// least time between two initiations to one peer.
	RekeyTimeout time.Duration
	// RekeyTimeoutJitter is the most that is added at random to a wait, so that
	// two peers do not keep colliding. Whole milliseconds, inclusive.
	RekeyTimeoutJitter time.Duration
	// KeepaliveTimeout is how long received data may go without anything being
	// sent back.
	KeepaliveTimeout time.Duration
	// CookieRefreshTime is how long a cookie, and the secret it is made from,
	// is used.
	CookieRefreshTime time.Duration
	// HandshakeInitiationRate is the least time between two initiations that are
	// accepted from one peer.
	HandshakeInitiationRate time.Duration
}

var defaults = Constants{
	RekeyAfterMessages:      1 << 60,
	RejectAfterMessages:     1<<64 - 1<<13 - 1,
	RekeyAfterTime:          120 * time.Second,
	RejectAfterTime:         180 * time.Second,
	RekeyAttemptTime:        90 * time.Second,
	RekeyTimeout:            5 * time.Second,
	RekeyTimeoutJitter:      333 * time.Millisecond,
	KeepaliveTimeout:        10 * time.Second,
	CookieRefreshTime:       120 * time.Second,
	HandshakeInitiationRate: time.Second / 50,
}

// Default returns the constants of the white paper.
func Default() Constants { return defaults }

// orDefault lets a nil pointer stand for the white paper's constants.
func (c *Constants) orDefault() *Constants {
	if c == nil {
		return &defaults
	}
	return c
}

// MaxHandshakeAttempts is RekeyAttemptTime / RekeyTimeout, 18 by default.
func (c *Constants) MaxHandshakeAttempts() int {
	return int(c.RekeyAttemptTime / max(c.RekeyTimeout, 1))
}

// RekeyOnSend reports whether k has grown old or used up enough that whoever
// sends on it should start a handshake. seq is the sequence number just sent on
// any of its lanes; lanes are shorter than WireGuard's counter, so
// [RekeyLaneAfter] limits it too. Only the initiator rekeys by age, so that not
// both sides do at once (section 6.2).
func (c *Constants) RekeyOnSend(k *Keypair, now int64, seq uint64) bool {
	if seq > min(c.RekeyAfterMessages, RekeyLaneAfter) {
		return true
	}
	return k.Initiator && now-k.Created > int64(c.RekeyAfterTime)
}

// RekeyOnReceive reports whether k, on which something was just received, will
// expire so soon that its initiator should start a handshake although it has
// nothing to send. Ask [Timers.LastMinute] before acting on it.
func (c *Constants) RekeyOnReceive(k *Keypair, now int64) bool {
	return k.Initiator && now-k.Created > int64(c.RejectAfterTime-c.KeepaliveTimeout-c.RekeyTimeout)
}

// Expired reports whether k is too old to send or receive with. A keypair whose
// Created was never set counts as expired.
func (c *Constants) Expired(k *Keypair, now int64) bool {
	return k.Created == 0 || now-k.Created >= int64(c.RejectAfterTime)
}
