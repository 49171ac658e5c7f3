package tunnel

import (
	"time"

	"kiloport/tunnel/noise"
)

// arm sets the peer's one timer to the earliest thing that is due. A thing that
// moved later leaves it as it is: it fires in vain once, which costs less than
// setting it for every batch.
func (p *peer) arm(now int64) {
	at := p.due(now)
	if at == 0 || p.removed || p.wakeAt != 0 && p.wakeAt <= at {
		return
	}
	p.wakeAt = at
	d := time.Duration(max(at-now, 0))
	if p.wake == nil {
		p.wake = p.device.clock.AfterFunc(d, p.fire)
		return
	}
	p.wake.Reset(d)
}

func (p *peer) due(now int64) int64 {
	at := earliest(earliest(p.timers.Next(), p.switchAt), p.again.at)
	if s := p.current; s != nil {
		at = earliest(at, s.hello.next(s.keypair.Initiator))
	}
	if s := p.sending.Load(); s != nil && !s.expired(now) {
		at = earliest(at, p.spread.next())
		at = earliest(at, p.ecn.next())
		at = earliest(at, p.mtu.next())
		at = earliest(at, p.reporter.at)
		at = earliest(at, p.lister.at)
		at = earliest(at, p.provider.at)
		at = earliest(at, p.lineAt)
	}
	if k := p.kernel; k != nil {
		at = earliest(at, k.at)
	}
	return at
}

// earliest of two times, where 0 is never.
func earliest(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// fire does what is due.
func (p *peer) fire() {
	now := p.device.clock.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakeAt = 0
	if p.removed || p.device.sockets.Load() == nil {
		return
	}
	p.act(now, p.timers.Fire(now))
	p.sendInitiationAgain(now)
	if p.current != nil {
		p.helloStep(now, p.current)
	}
	if p.switchAt != 0 && now >= p.switchAt {
		p.switchTo(now, p.current)
	}
	if s := p.sending.Load(); s != nil && !s.expired(now) {
		p.spreadEvents(now, p.spread.step(now, p))
		p.ecnEvents(now, p.ecn.step(now, p))
		p.mtuEvents(now, p.mtu.step(now, p.device.random64))
		p.sendReports(now)
		p.sendHeard(now, s)
		p.provide(now, s)
		p.probeLine(now)
		p.expireLanes(now)
	}
	p.stepKernel(now)
	p.arm(now)
}

// act does what WireGuard's timers ask for.
func (p *peer) act(now int64, do noise.Action) {
	if do&noise.GiveUp != 0 {
		p.dropStaged()
		p.clearHandshake()
	}
	if do&noise.ZeroKeys != 0 {
		p.clearSessions()
	}
	if to := p.endpoint.Load(); do&noise.ForgetSource != 0 && to != nil {
		p.forgetLocal(to)
	}
	if do&noise.SendInitiation != 0 {
		p.askHandshake()
	}
	if do&noise.SendKeepalive != 0 {
		p.sendKeepalive(now)
	}
}

// sendKeepalive sends an empty message, or asks for a handshake if there is no
// session to send it on.
func (p *peer) sendKeepalive(now int64) {
	s := p.sending.Load()
	if s == nil || s.expired(now) {
		if p.endpoint.Load() != nil {
			p.wantHandshake(now)
		}
		return
	}
	p.sendSealed(now, s, 0, spreadListen, make([]byte, headerSize+tagSize), 0, 0)
}
