package tunnel

import "time"

// A peer learns where we are by what we send. After a change of address that may be
// late: who has only received so far has nothing to send, and nothing arrives any more.

// whereaboutsAgain are the times after a change at which peers are told again where we
// are: the route by which they are reached may come later than the address, and what is
// sent may get lost.
var whereaboutsAgain = [...]time.Duration{250 * time.Millisecond, 750 * time.Millisecond}

// whereabouts is where telling the peers stands, behind config.
type whereabouts struct {
	again Timer
	told  int // times since the last change
}

// AddressesChanged is to be called when addresses of the host have come or gone. It
// tells peers where we are, with which there was something to do of late.
func (d *Device) AddressesChanged() {
	d.config.Lock()
	defer d.config.Unlock()
	d.where.told = 0
	d.tellWhereabouts()
}

func (d *Device) tellAgain() {
	d.config.Lock()
	defer d.config.Unlock()
	d.tellWhereabouts()
}

func (d *Device) tellWhereabouts() {
	if !d.up {
		return
	}
	for _, p := range d.order {
		p.tellWhereabouts()
	}
	w := &d.where
	if w.told == len(whereaboutsAgain) {
		return
	}
	wait := whereaboutsAgain[w.told]
	w.told++
	if w.again == nil {
		w.again = d.clock.AfterFunc(wait, d.tellAgain)
	} else {
		w.again.Reset(wait)
	}
}

// stop is called when the device ends.
func (w *whereabouts) stop() {
	if w.again != nil {
		w.again.Stop()
	}
}

func (p *peer) tellWhereabouts() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.device.clock.Now()
	if p.removed || !p.started || !p.wantsToKnow(now-spreadIdle) {
		return
	}
	p.sendKeepalive(now)
	p.arm(now)
}

// wantsToKnow says whether there was something to do with the peer since some time, or
// is to be at any. The caller holds mu.
func (p *peer) wantsToKnow(since int64) bool {
	return p.keepalive != 0 || p.spread.used != 0 && p.spread.used > since || p.heard != 0 && p.heard > since
}
