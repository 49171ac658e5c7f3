package tunnel

import (
	"time"

	"kiloport/tunnel/noise"
)

// Where keys have expired, nothing can be sent before a handshake, and WireGuard tries
// one every 5 s: for so long a tunnel may be dead when the path is back already. So to a
// peer that is a kiloport the initiation is sent again every second until the next one is
// due. It is the same message: it costs us no public-key work, and the peer, which takes
// the first that comes, drops others by their timestamp (WireGuard, section 5.1). It is not
// sent again just before the next: if it were the first that comes, the peer would refuse
// the next one as too soon, when we no longer take an answer to this one.
const initiateAgain = int64(time.Second)

// sentInitiation is the newest one, while it is to be sent again.
type sentInitiation struct {
	message [noise.InitiationSize]byte
	at      int64 // when, 0 = never
	until   int64 // when the next one is due, or little later
}

// sendInitiationAgain sends it if it is due, and nothing has made it needless. The
// caller holds mu.
func (p *peer) sendInitiationAgain(now int64) {
	a := &p.again
	if a.at == 0 || now < a.at {
		return
	}
	a.at = 0
	s, to := p.sending.Load(), p.endpoint.Load()
	if p.handshake == nil || p.remote == nil || p.next != nil || to == nil || s != nil && !s.expired(now) {
		return
	}
	noise.AddMACs(a.message[:], p.remote, now) // there may be a cookie by now
	p.sendHandshake(a.message[:], to)
	if again := now + initiateAgain; again < a.until {
		a.at = again
	}
}
