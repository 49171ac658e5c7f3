package attach

import (
	"fmt"
	"net/netip"
	"time"

	"kiloport/tunnel/attach/wire"
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

// local is this end.
type local struct {
	instance uint64
	port     uint16
	sends    wire.Range
}

// agreement is what is agreed on with one peer. It is a state machine: it knows
// what it was told, and says what to do. All its times are those it is called with.
//
// HELLO is said to a peer a few times per handshake, and again and again to one
// that answers, while data flows. mode follows from the last HELLO of the peer and
// from when it last answered one of ours: see decide.
type agreement struct {
	local *local

	endpoint  netip.AddrPort
	handshake time.Time
	shared    string // who else is at the address of the endpoint

	mode   mode
	reason string // why mode is not modeSpread

	offered  time.Time // when offers began, zero: they are over
	offers   int       // made since
	sequence uint32    // of our last HELLO
	asked    uint32    // of the last that wants an answer
	acked    uint32    // the last of ours that the peer has heard
	said     time.Time // our last HELLO
	alive    time.Time // until when the peer is taken to restore
	busy     time.Time // when data last flowed
	leaving  bool

	theirs   wire.Hello // the last; Version 0: none yet
	heard    time.Time  // when
	baseline uint32     // theirs.Restored when the probe began
	probed   time.Time  // when it began
	retryAt  time.Time  // when another may begin
	retry    time.Duration
}

func newAgreement(l *local) *agreement { return &agreement{local: l, retry: probeRetry} }

// observe takes what WireGuard says of the peer.
func (a *agreement) observe(now time.Time, endpoint netip.AddrPort, handshake time.Time) {
	if endpoint != a.endpoint {
		a.endpoint = endpoint
		a.mode = modePlain
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
func (a *agreement) offer(now time.Time) { a.offered, a.offers = now, 0 }

// flowed says that data was sent or received.
func (a *agreement) flowed(now time.Time) {
	idle := now.Sub(a.busy) > idleAfter
	a.busy = now
	if idle && a.theirs.Version != 0 && !a.isAlive(now) {
		a.offer(now)
	}
}

func (a *agreement) isAlive(now time.Time) bool { return now.Before(a.alive) }

func (a *agreement) isIdle(now time.Time) bool { return now.Sub(a.busy) > idleAfter }

// silent is the reason where a peer that was spread to is not there any more.
const silent = "the peer does not answer HELLO any more"

// listen takes a HELLO of the peer and tells whether to say one at once.
func (a *agreement) listen(now time.Time, h wire.Hello) (answer bool) {
	if h.Instance == a.local.instance { // our own, come back
		return false
	}
	switch {
	case h.Instance != a.theirs.Instance: // another process, which restores nothing yet
		a.alive, a.acked = time.Time{}, 0
	case h.Sequence <= a.theirs.Sequence:
		return false
	}
	a.theirs, a.heard = h, now
	if h.Flags.Has(wire.Leaving) {
		a.offered = time.Time{}
	}
	if h.HeardFrom == a.local.instance && h.Heard > a.acked {
		a.acked = h.Heard
		a.alive = now.Add(silentAfter)
		a.offered = time.Time{}
	} else if !a.isAlive(now) && !h.Flags.Has(wire.Leaving) {
		a.offer(now)
	}
	a.decide(now)
	return h.Flags.Has(wire.Ask)
}

// decide sets the mode by what is known now.
func (a *agreement) decide(now time.Time) {
	why := a.obstacle(now)
	switch {
	case why != "":
		if why == silent && a.mode != modePlain {
			a.offer(now) // it may only have been away
		}
		a.plain(why)
	case a.mode == modePlain && now.Before(a.retryAt):
	case a.mode == modePlain:
		a.mode, a.reason = modeProbe, "waiting for an answer to HELLO from another port"
		a.baseline, a.probed = a.theirs.Restored, now
		a.said = time.Time{}
	case a.mode == modeProbe && a.theirs.Restored-a.baseline-1 < 1<<31: // it has grown
		a.mode, a.reason, a.retry = modeSpread, "", probeRetry
	case a.mode == modeProbe && now.Sub(a.probed) > probeFor:
		a.plain("HELLO from other ports does not get through: a firewall or NAT in between, or at the peer?")
		a.retryAt = now.Add(a.retry)
		a.retry = min(2*a.retry, probeMax)
	}
}

func (a *agreement) plain(why string) { a.mode, a.reason = modePlain, why }

// obstacle says why nothing may be spread, "" if nothing is against it.
func (a *agreement) obstacle(now time.Time) string {
	h := &a.theirs
	switch {
	case a.leaving:
		return "this end is leaving"
	case !a.endpoint.IsValid():
		return "the peer has no endpoint yet"
	case a.shared != "":
		return "another peer is at the same address: " + a.shared
	case h.Version == 0:
		return "the peer does not answer HELLO: it is a stock WireGuard"
	case h.Flags.Has(wire.Leaving):
		return "the peer has left"
	case !a.isAlive(now) && a.isIdle(now):
		return "idle"
	case !a.isAlive(now):
		return silent
	case h.Port != a.endpoint.Port():
		return fmt.Sprintf("the peer sends from port %d, which arrives as %d: a NAT in between", h.Port, a.endpoint.Port())
	case h.Seen.IsValid() && h.Seen.Port() != a.local.port:
		return fmt.Sprintf("the peer sees our port %d as %d: a NAT in between", a.local.port, h.Seen.Port())
	case h.HeardFrom != a.local.instance || h.Restores != a.local.sends:
		return "the peer does not put our ports back"
	}
	return ""
}

// ports is how many of ours are to be used towards the peer.
func (a *agreement) ports() uint16 {
	n := a.local.sends.Count
	if l := a.theirs.Limit; l != 0 {
		n = min(n, l)
	}
	if a.origin() {
		n &^= 1
	}
	return n
}

// origin tells whether both ends write ECN into the lowest bit of the port.
func (a *agreement) origin() bool {
	return a.theirs.Flags.Has(wire.Origin) && a.local.sends.Count > 1 && a.theirs.Sends.Count > 1 && a.theirs.Limit != 1
}

// restores are the ports of the peer that we put back.
func (a *agreement) restores(now time.Time) wire.Range {
	h := &a.theirs
	if h.Version == 0 || now.Sub(a.heard) > restoreFor || h.Port != a.endpoint.Port() || h.Sends.Contains(h.Port) || a.shared != "" {
		return wire.Range{}
	}
	return h.Sends
}

// step is called often; it tells whether to say HELLO.
func (a *agreement) step(now time.Time) (say bool) {
	a.decide(now)
	return a.endpoint.IsValid() && !a.leaving && !now.Before(a.next(now))
}

// never is later than anything.
const never = 1000 * time.Hour

// next is when HELLO is to be said.
func (a *agreement) next(now time.Time) time.Time {
	switch {
	case !a.offered.IsZero() && a.offers < len(offerAfter):
		return a.offered.Add(offerAfter[a.offers])
	case a.theirs.Version == 0 || a.theirs.Flags.Has(wire.Leaving) || a.isIdle(now) && a.mode != modeProbe:
		return now.Add(never)
	case !a.isAlive(now) && now.Sub(a.heard) < hopeFor:
		return a.said.Add(hopeEvery)
	case !a.isAlive(now):
		return now.Add(never)
	case a.mode == modeProbe:
		return a.said.Add(probeAgain)
	case a.acked >= a.asked:
		return a.said.Add(helloEvery)
	case a.alive.Sub(now) > silentAfter-helloEvery-answerDue: // the first is late
		return a.said.Add(answerDue)
	}
	return a.said.Add(helloAgain)
}

// say makes the next HELLO. restored counts the peer's messages whose ports were
// put back, limit is how many ports it should use.
func (a *agreement) say(now time.Time, ask bool, restored uint32, limit uint16) wire.Hello {
	a.sequence++
	a.said = now
	if !a.offered.IsZero() && ask {
		a.offers++
	}
	h := wire.Hello{
		Version: wire.Version, Instance: a.local.instance, Sequence: a.sequence,
		Heard: a.theirs.Sequence, HeardFrom: a.theirs.Instance,
		Port: a.local.port, Sends: a.local.sends, Restores: a.restores(now),
		Seen: a.endpoint, Restored: restored, Limit: limit, Flags: wire.Origin,
	}
	if ask {
		h.Flags |= wire.Ask
		a.asked = a.sequence
	}
	if a.leaving {
		h.Flags |= wire.Leaving
	}
	if a.mode == modeSpread {
		h.Flags |= wire.Spreading
	}
	return h
}

// leave ends the agreement: from now on nothing is spread.
func (a *agreement) leave() {
	a.leaving = true
	a.plain("this end is leaving")
}

// left tells whether the peer knows that this end is leaving, and sends nothing
// from other ports any more.
func (a *agreement) left(now time.Time) bool {
	h := &a.theirs
	return h.Version == 0 || !a.isAlive(now) || a.acked == a.sequence && !h.Flags.Has(wire.Spreading)
}
