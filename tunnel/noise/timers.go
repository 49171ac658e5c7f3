package noise

import (
	"sync"
	"sync/atomic"
	"time"
)

// Action is what [Timers.Fire] asks for, a set of bits.
type Action uint8

const (
	// SendInitiation: send a handshake initiation, then call InitiationSent.
	SendInitiation Action = 1 << iota
	// ForgetSource: what was sent went unanswered; let the kernel choose the
	// source address anew. Usually together with SendInitiation.
	ForgetSource
	// SendKeepalive: send a keepalive unless data is queued; with no keypair to
	// send on, ask Initiate. Then call KeepaliveSent.
	SendKeepalive
	// GiveUp: the handshake attempts are used up. Drop the queued packets.
	GiveUp
	// ZeroKeys: nothing was agreed for three times RejectAfterTime. Clear every
	// keypair and handshake, drop the queued packets.
	ZeroKeys
)

// Timers decide when one peer sends handshakes and keepalives (section 6). The
// owner reports events and calls [Timers.Fire] at [Timers.Next]. Times are
// monotonic ns. All methods are safe for concurrent use; on the packet path one
// call for each batch is enough.
//
// It keeps the five timers that WireGuard implementations share, with their
// names: retransmit handshake, send keepalive, new handshake, zero key material
// and persistent keepalive. Each is a deadline, 0 when not pending.
type Timers struct {
	constants *Constants
	jitter    func(n uint32) uint32
	next      atomic.Int64 // the least pending deadline

	mu         sync.Mutex
	active     bool
	retransmit int64
	keepalive  int64
	handshake  int64 // new handshake
	zeroKeys   int64
	persistent int64

	interval      int64 // persistent keepalive, 0 = off
	attempts      int   // initiations repeated since the last fresh one
	lastSent      int64 // initiation or response
	lastHandshake int64 // completed
	another       bool  // data arrived while a keepalive was already due
	lastMinute    bool  // a handshake was started because the keypair is about to expire
}

// NewTimers makes stopped timers. jitter(n) returns a random number below n; it
// is called with whole milliseconds, under a lock. A nil c means [Default].
func NewTimers(c *Constants, jitter func(n uint32) uint32) *Timers {
	return &Timers{constants: c.orDefault(), jitter: jitter}
}

// Start makes the timers take part, as after the device or the peer came up.
// The first initiation may be sent at once. It reports whether the owner should
// send a keepalive now, which a persistent keepalive wants.
func (t *Timers) Start() (sendKeepalive bool) {
	t.mu.Lock()
	defer t.unlock()
	t.active = true
	t.attempts, t.lastSent = 0, 0
	t.another, t.lastMinute = false, false
	return t.interval > 0
}

// Stop cancels everything pending; events have no effect until Start.
func (t *Timers) Stop() {
	t.mu.Lock()
	defer t.unlock()
	t.active = false
	t.retransmit, t.keepalive, t.handshake, t.zeroKeys, t.persistent = 0, 0, 0, 0, 0
}

// Next is when Fire wants to be called, 0 for never. An event can make it
// earlier or later; calling Fire too early does no harm.
func (t *Timers) Next() int64 { return t.next.Load() }

// LastHandshake is when the last handshake was completed, 0 for never.
func (t *Timers) LastHandshake() int64 {
	t.mu.Lock()
	defer t.unlock()
	return t.lastHandshake
}

// Initiate asks whether an initiation may be sent now for a fresh reason: data
// without a usable keypair, or a keypair grown old. At most one in RekeyTimeout
// may. If so, send it and call InitiationSent.
func (t *Timers) Initiate(now int64) bool {
	t.mu.Lock()
	defer t.unlock()
	return t.active && t.initiate(now, false)
}

func (t *Timers) initiate(now int64, retry bool) bool {
	if !retry {
		t.attempts = 0
	}
	if t.lastSent != 0 && now-t.lastSent < int64(t.constants.RekeyTimeout) {
		return false
	}
	t.lastSent = now
	return true
}

// LastMinute reports true once for each completed handshake: see
// [Constants.RekeyOnReceive].
func (t *Timers) LastMinute() bool {
	t.mu.Lock()
	defer t.unlock()
	first := !t.lastMinute
	t.lastMinute = true
	return first
}

// InitiationSent reports: a handshake initiation was sent.
func (t *Timers) InitiationSent(now int64) {
	t.mu.Lock()
	defer t.unlock()
	t.authenticatedSent(now)
	t.set(&t.retransmit, now+int64(t.constants.RekeyTimeout)+t.jitterTime())
}

// InitiationReceived reports: an initiation was accepted.
func (t *Timers) InitiationReceived(now int64) {
	t.mu.Lock()
	defer t.unlock()
	t.authenticatedReceived(now)
}

// ResponseSent reports: a response was sent, and so a keypair derived.
func (t *Timers) ResponseSent(now int64) {
	t.mu.Lock()
	defer t.unlock()
	t.lastSent = now
	t.sessionDerived(now)
	t.authenticatedSent(now)
}

// ResponseReceived reports: a response was accepted, and so a keypair derived and the
// handshake completed. The owner sends what is queued, or a keepalive, to
// confirm the keypair.
func (t *Timers) ResponseReceived(now int64) {
	t.mu.Lock()
	defer t.unlock()
	t.authenticatedReceived(now)
	t.sessionDerived(now)
	t.handshakeComplete(now)
}

// Confirmed reports: the first packet was received on a keypair that we derived as
// responder, which completes its handshake. Report the packet itself, too, and
// only then send what was waiting for the keypair: otherwise the packet counts
// as an answer to it.
func (t *Timers) Confirmed(now int64) {
	t.mu.Lock()
	defer t.unlock()
	t.handshakeComplete(now)
}

// DataSent reports: a batch of packets with at least one that is not a keepalive was
// sent.
func (t *Timers) DataSent(now int64) {
	t.mu.Lock()
	defer t.unlock()
	t.authenticatedSent(now)
	if t.handshake == 0 {
		t.set(&t.handshake, now+int64(t.constants.KeepaliveTimeout+t.constants.RekeyTimeout)+t.jitterTime())
	}
}

// KeepaliveSent reports: only keepalives were sent.
func (t *Timers) KeepaliveSent(now int64) {
	t.mu.Lock()
	defer t.unlock()
	t.authenticatedSent(now)
}

// DataReceived reports: a batch of authenticated packets with at least one that is not
// a keepalive was received.
func (t *Timers) DataReceived(now int64) {
	t.mu.Lock()
	defer t.unlock()
	t.authenticatedReceived(now)
	if t.keepalive == 0 {
		t.set(&t.keepalive, now+int64(t.constants.KeepaliveTimeout))
	} else {
		t.another = true
	}
}

// KeepaliveReceived reports: only keepalives were received.
func (t *Timers) KeepaliveReceived(now int64) {
	t.mu.Lock()
	defer t.unlock()
	t.authenticatedReceived(now)
}

// PersistentKeepaliveChanged sets the interval of the persistent keepalive, 0
// for off. It reports whether it has just been turned on, when the owner should
// send one now.
func (t *Timers) PersistentKeepaliveChanged(interval time.Duration) (turnedOn bool) {
	t.mu.Lock()
	defer t.unlock()
	turnedOn = t.interval == 0 && interval > 0
	t.interval = int64(max(interval, 0))
	if t.interval == 0 {
		t.persistent = 0
	}
	return turnedOn
}

// Fire does what is due at now and returns what the owner has to do. It may be
// called at any time.
func (t *Timers) Fire(now int64) (a Action) {
	t.mu.Lock()
	defer t.unlock()
	if t.expired(&t.retransmit, now) {
		a |= t.retransmitHandshake(now)
	}
	if t.expired(&t.keepalive, now) {
		a |= SendKeepalive
		if t.another {
			t.another = false
			t.set(&t.keepalive, now+int64(t.constants.KeepaliveTimeout))
		}
	}
	if t.expired(&t.handshake, now) {
		a |= ForgetSource
		if t.initiate(now, false) {
			a |= SendInitiation
		}
	}
	if t.expired(&t.persistent, now) {
		a |= SendKeepalive
	}
	if t.expired(&t.zeroKeys, now) {
		a |= ZeroKeys
	}
	return a
}

func (t *Timers) retransmitHandshake(now int64) Action {
	if t.attempts > t.constants.MaxHandshakeAttempts() {
		t.keepalive = 0
		// What is left of a partial exchange shall go as well.
		if t.zeroKeys == 0 {
			t.set(&t.zeroKeys, now+3*int64(t.constants.RejectAfterTime))
		}
		return GiveUp
	}
	t.attempts++
	if t.initiate(now, true) {
		return SendInitiation | ForgetSource
	}
	return ForgetSource
}

// Something authenticated was sent: no keepalive is owed any more.
func (t *Timers) authenticatedSent(now int64) {
	t.traversed(now)
	t.keepalive = 0
}

// Something authenticated was received: the peer is alive, its keys are good.
func (t *Timers) authenticatedReceived(now int64) {
	t.traversed(now)
	t.handshake = 0
}

func (t *Timers) traversed(now int64) {
	if t.interval > 0 {
		t.set(&t.persistent, now+t.interval)
	}
}

func (t *Timers) sessionDerived(now int64) {
	t.set(&t.zeroKeys, now+3*int64(t.constants.RejectAfterTime))
}

func (t *Timers) handshakeComplete(now int64) {
	t.retransmit = 0
	t.attempts = 0
	t.lastMinute = false
	t.lastHandshake = now
}

func (t *Timers) set(deadline *int64, at int64) {
	if t.active {
		*deadline = at
	}
}

// expired reports whether a deadline has come, and if so it is no longer pending.
func (t *Timers) expired(deadline *int64, now int64) bool {
	if *deadline == 0 || now < *deadline {
		return false
	}
	*deadline = 0
	return true
}

func (t *Timers) jitterTime() int64 {
	ms := uint32(t.constants.RekeyTimeoutJitter / time.Millisecond)
	return int64(t.jitter(ms+1)) * int64(time.Millisecond)
}

// unlock also works out Next.
func (t *Timers) unlock() {
	var next int64
	for _, at := range [...]int64{t.retransmit, t.keepalive, t.handshake, t.zeroKeys, t.persistent} {
		if at != 0 && (next == 0 || at < next) {
			next = at
		}
	}
	t.next.Store(next)
	t.mu.Unlock()
}
