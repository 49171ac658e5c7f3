package tunnel

import "time"

// A machine that was suspended comes back with sessions that have expired meanwhile at
// the other end, behind routers that have forgotten it, and maybe elsewhere. Its timers
// stood still. So once a second the clock is asked whether that has happened.

const (
	suspendEvery = time.Second
	suspendMoves = 10 * time.Second // after that the path is taken for another one
)

// watchSuspends is called when the link has come up, behind config, as checkSuspend.
func (d *Device) watchSuspends() {
	c, ok := d.clock.(suspender)
	if !ok {
		return
	}
	c.Suspended() // what was before matters to nobody
	if d.suspendCheck == nil {
		d.suspendCheck = d.clock.AfterFunc(suspendEvery, d.checkSuspend)
	} else {
		d.suspendCheck.Reset(suspendEvery)
	}
}

func (d *Device) checkSuspend() {
	d.config.Lock()
	defer d.config.Unlock()
	if !d.up {
		return
	}
	if gone := d.clock.(suspender).Suspended(); gone > 0 {
		d.log.Info("the machine was suspended", "for", gone.Round(time.Second))
		for _, p := range d.order {
			p.wokenUp(gone)
		}
	}
	d.suspendCheck.Reset(suspendEvery)
}

// wokenUp does what became due meanwhile, and tells the peer where we are, if that is
// to be told of.
func (p *peer) wokenUp(gone time.Duration) {
	p.fire()
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.device.clock.Now()
	if p.removed || !p.started {
		return
	}
	if gone >= suspendMoves {
		p.pathChanged(now)
	}
	if p.wantsToKnow(now - int64(gone) - spreadIdle) {
		p.sendKeepalive(now)
	}
	p.arm(now)
}
