package accord

import (
	"fmt"
	"net/netip"
	"time"
)

// Timing of the agreement with a peer.
const (
	helloEvery  = 2 * time.Second        // while data flows and all is well
	helloAgain  = 500 * time.Millisecond // while an answer is due
	probeAgain  = 250 * time.Millisecond
	answerDue   = time.Second     // an answer may take this long
	silentAfter = 6 * time.Second // without an answer the peer restores nothing
	probeFor    = 3 * time.Second // then other ports do not get through
	idleAfter   = 20 * time.Second
	restoreFor  = 3 * time.Minute  // after the last HELLO
	hopeEvery   = 30 * time.Second // to a peer that has ceased to answer,
	hopeFor     = 10 * time.Minute // so long
	probeRetry  = 30 * time.Second
	probeMax    = 10 * time.Minute
)

// offerAfter is when HELLO is said to a peer that has not answered, after each of
// its handshakes: no more than a stock peer will stand.
var offerAfter = [...]time.Duration{0, 250 * time.Millisecond, time.Second, 3 * time.Second, 10 * time.Second}

// Local is this end.
type Local struct {
	Instance uint64 // drawn at random by each process, not 0
	Port     uint16 // the canonical one
	Sends    Range  // where data may come from
	Flags    Flags  // Origin, if this end knows it
}

// A Mode is which messages to a peer may leave from other ports than the canonical
// one.
type Mode uint8

// The modes.
const (
	Plain  Mode = iota // none
	Probe              // HELLO
	Spread             // every message that carries a packet
)

// An Agreement is what is agreed on with one peer. It is a state machine: it knows
// what it was told, and says what to do. All its times are those it is called with.
//
// HELLO is said to a peer a few times per handshake, and again and again to one
// that answers, while data flows. Mode follows from the last HELLO of the peer and
// from when it last answered one of ours.
type Agreement struct {
	// Mode may change with each call but Say's. Reason is why it is not Spread.
	Mode   Mode
	Reason string
	// Endpoint is the peer's, and Shared says which other peer at its address has
	// the same ports; set it before Observe.
	Endpoint netip.AddrPort
	Shared   string
	// Theirs is the last HELLO; its Version is 0 if there was none.
	Theirs Hello

	local     *Local
	handshake time.Time

	offered  time.Time     // when offers began, zero: they are over
	offers   int           // made since
	sequence uint32        // of our last HELLO
	asked    uint32        // of the last that wants an answer
	acked    uint32        // the last of ours that the peer has heard
	said     time.Time     // our last HELLO
	times    [16]time.Time // of the last HELLOs, by sequence
	alive    time.Time     // until when the peer is taken to restore
	busy     time.Time     // when data last flowed
	leaving  bool

	heard    time.Time      // when Theirs came
	baseline uint32         // Theirs.Restored when the probe began
	seen     netip.AddrPort // Theirs.Seen then
	probed   time.Time      // when it began
	retryAt  time.Time      // when another may begin
	retry    time.Duration
}

// NewAgreement begins with a peer of which nothing is known.
func NewAgreement(l *Local) *Agreement { return &Agreement{local: l, retry: probeRetry} }

// Observe takes what WireGuard says of the peer.
func (a *Agreement) Observe(now time.Time, endpoint netip.AddrPort, handshake time.Time) {
	if endpoint != a.Endpoint {
		a.Endpoint = endpoint
		a.Mode = Plain
		a.offer(now)
	}
	if handshake.After(a.handshake) {
		a.handshake = handshake
		if !a.isAlive(now) {
			a.offer(now)
		}
	}
	a.decide(now)
}

// offer begins to say HELLO to a peer that may not answer.
func (a *Agreement) offer(now time.Time) { a.offered, a.offers = now, 0 }

// Flowed says that data was sent or received.
func (a *Agreement) Flowed(now time.Time) {
	idle := now.Sub(a.busy) > idleAfter
	a.busy = now
	if idle && a.Theirs.Version != 0 && !a.isAlive(now) {
		a.offer(now)
	}
}

func (a *Agreement) isAlive(now time.Time) bool { return now.Before(a.alive) }

func (a *Agreement) isIdle(now time.Time) bool { return now.Sub(a.busy) > idleAfter }

// silent is the reason where a peer that was spread to is not there any more.
const silent = "the peer does not answer HELLO any more"

// Listen takes a HELLO of the peer and tells whether to say one at once.
func (a *Agreement) Listen(now time.Time, h Hello) (answer bool) {
	if h.Instance == a.local.Instance { // our own, come back
		return false
	}
	switch {
	case h.Instance != a.Theirs.Instance: // another process, which restores nothing yet
		a.alive, a.acked = time.Time{}, 0
	case h.Sequence <= a.Theirs.Sequence:
		return false
	}
	a.Theirs, a.heard = h, now
	if h.Flags.Has(Leaving) {
		a.offered = time.Time{}
	}
	if h.HeardFrom == a.local.Instance && h.Heard > a.acked {
		a.acked = h.Heard
		a.alive = a.saidAt(h.Heard).Add(silentAfter)
		a.offered = time.Time{}
	} else if !a.isAlive(now) && !h.Flags.Has(Leaving) {
		a.offer(now)
	}
	a.decide(now)
	return h.Flags.Has(Ask)
}

// saidAt is when a HELLO was said, or one not so old if that is too long ago.
func (a *Agreement) saidAt(sequence uint32) time.Time {
	n := uint32(len(a.times))
	if a.sequence-sequence >= n {
		sequence = a.sequence - n + 1
	}
	return a.times[sequence%n]
}

// decide sets the mode by what is known now.
func (a *Agreement) decide(now time.Time) {
	why := a.obstacle(now)
	switch {
	case why != "":
		if why == silent && a.Mode != Plain {
			a.offer(now) // it may only have been away
		}
		a.plain(why)
	case a.Mode == Plain && now.Before(a.retryAt):
	case a.Mode == Plain, a.Mode == Spread && a.Theirs.Seen != a.seen: // our address is another now
		a.Mode, a.Reason = Probe, "waiting for an answer to HELLO from another port"
		a.baseline, a.probed, a.seen = a.Theirs.Restored, now, a.Theirs.Seen
		a.said = time.Time{}
	case a.Mode == Probe && a.Theirs.Restored-a.baseline-1 < 1<<31: // it has grown
		a.Mode, a.Reason, a.retry = Spread, "", probeRetry
	case a.Mode == Probe && now.Sub(a.probed) > probeFor:
		a.plain("HELLO from other ports does not get through: a firewall or NAT in between, or at the peer?")
		a.retryAt = now.Add(a.retry)
		a.retry = min(2*a.retry, probeMax)
	}
}

func (a *Agreement) plain(why string) { a.Mode, a.Reason = Plain, why }

// obstacle says why nothing may be spread, "" if nothing is against it.
func (a *Agreement) obstacle(now time.Time) string {
	h := &a.Theirs
	switch {
	case a.local.Sends.Count == 0:
		return "this end does not spread"
	case a.leaving:
		return "this end is leaving"
	case !a.Endpoint.IsValid():
		return "the peer has no endpoint yet"
	case a.Shared != "":
		return "another peer at the same address has the same ports: " + a.Shared
	case h.Version == 0:
		return "the peer does not answer HELLO: it is a stock WireGuard"
	case h.Flags.Has(Leaving):
		return "the peer has left"
	case !a.isAlive(now) && a.isIdle(now):
		return "idle"
	case !a.isAlive(now):
		return silent
	case h.Port != a.Endpoint.Port():
		return fmt.Sprintf("the peer sends from port %d, which arrives as %d: a NAT in between", h.Port, a.Endpoint.Port())
	case h.Seen.IsValid() && h.Seen.Port() != a.local.Port:
		return fmt.Sprintf("the peer sees our port %d as %d: a NAT in between", a.local.Port, h.Seen.Port())
	case h.HeardFrom != a.local.Instance || h.Restores != a.local.Sends:
		return "the peer does not put our ports back"
	}
	return ""
}

// Ports is how many of ours are to be used towards the peer.
func (a *Agreement) Ports() uint16 {
	n := a.local.Sends.Count
	if l := a.Theirs.Limit; l != 0 {
		n = min(n, l)
	}
	if a.Origin() {
		n &^= 1
	}
	return n
}

// Origin tells whether both ends write ECN into the lowest bit of the port.
func (a *Agreement) Origin() bool {
	return a.Theirs.Flags.Has(Origin) && a.local.Flags.Has(Origin) && a.local.Sends.Count > 1 && a.Theirs.Sends.Count > 1 && a.Theirs.Limit != 1
}

// Restores are the ports of the peer that we put back.
func (a *Agreement) Restores(now time.Time) Range {
	h := &a.Theirs
	if h.Version == 0 || now.Sub(a.heard) > restoreFor || h.Port != a.Endpoint.Port() || a.Shared != "" {
		return Range{}
	}
	return h.Sends
}

// Step is called often; it tells whether to say HELLO.
func (a *Agreement) Step(now time.Time) (say bool) {
	a.decide(now)
	return a.Endpoint.IsValid() && !a.leaving && !now.Before(a.next(now))
}

// never is later than anything.
const never = 1000 * time.Hour

// next is when HELLO is to be said.
func (a *Agreement) next(now time.Time) time.Time {
	switch {
	case !a.offered.IsZero() && a.offers < len(offerAfter):
		return a.offered.Add(offerAfter[a.offers])
	case a.Theirs.Version == 0 || a.Theirs.Flags.Has(Leaving) || a.isIdle(now) && a.Mode != Probe:
		return now.Add(never)
	case !a.isAlive(now) && now.Sub(a.heard) < hopeFor:
		return a.said.Add(hopeEvery)
	case !a.isAlive(now):
		return now.Add(never)
	case a.Mode == Probe:
		return a.said.Add(probeAgain)
	case a.acked >= a.asked:
		return a.said.Add(helloEvery)
	case a.alive.Sub(now) > silentAfter-helloEvery-answerDue: // the first is late
		return a.said.Add(answerDue)
	}
	return a.said.Add(helloAgain)
}

// Say makes the next HELLO. restored counts the peer's messages whose ports were
// put back, limit is how many ports it should use.
func (a *Agreement) Say(now time.Time, ask bool, restored uint32, limit uint16) Hello {
	a.sequence++
	a.said = now
	a.times[a.sequence%uint32(len(a.times))] = now
	if !a.offered.IsZero() && ask {
		a.offers++
	}
	h := Hello{
		Version: Version, Instance: a.local.Instance, Sequence: a.sequence,
		Heard: a.Theirs.Sequence, HeardFrom: a.Theirs.Instance,
		Port: a.local.Port, Sends: a.local.Sends, Restores: a.Restores(now),
		Seen: a.Endpoint, Restored: restored, Limit: limit, Flags: a.local.Flags,
	}
	if ask {
		h.Flags |= Ask
		a.asked = a.sequence
	}
	if a.leaving {
		h.Flags |= Leaving
	}
	if a.Mode == Spread {
		h.Flags |= Spreading
	}
	return h
}

// Leave ends the agreement: from now on nothing is spread.
func (a *Agreement) Leave() {
	a.leaving = true
	a.plain("this end is leaving")
}

// Left tells whether the peer knows that this end is leaving, and sends nothing
// from other ports any more.
func (a *Agreement) Left(now time.Time) bool {
	h := &a.Theirs
	return h.Version == 0 || !a.isAlive(now) || a.acked == a.sequence && !h.Flags.Has(Spreading)
}

// Offering tells how often HELLO was said to a peer that does not answer yet, or
// any more; false if it answers.
func (a *Agreement) Offering() (times int, yes bool) { return a.offers, !a.offered.IsZero() }

// Resting tells whether time alone changes nothing: Step need not be called until
// the peer is heard, data flows, or Observe tells something new.
func (a *Agreement) Resting(now time.Time) bool {
	return a.Mode == Plain && !a.isAlive(now) && (a.offered.IsZero() || a.offers >= len(offerAfter)) && (a.Theirs.Version == 0 || a.isIdle(now))
}
