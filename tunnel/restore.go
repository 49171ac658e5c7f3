package tunnel

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"kiloport/portpool"
	"kiloport/tunnel/attach/accord"
	"kiloport/tunnel/noise"
)

// Restore goes on with the sessions of a [Handover]. Call it after Configure and
// before Run; state is zeroed. Sessions of peers that are not configured any more
// are forgotten, those that have expired meanwhile, and all of them if the private
// key is another one. An error names those that could not be taken over: with their
// peers there will be handshakes.
func (d *Device) Restore(state []byte) error {
	defer clear(state)
	var h handoverState
	defer h.clear()
	if err := json.Unmarshal(state, &h); err != nil {
		return fmt.Errorf("read what was handed over: %w", err)
	}
	if h.Version != handoverVersion {
		return fmt.Errorf("what was handed over has version %d, this kiloport knows %d", h.Version, handoverVersion)
	}
	d.config.Lock()
	defer d.config.Unlock()
	d.resumed = make(chan struct{})
	d.lanePorts = h.Ports
	static := d.static.Load()
	if static == nil || static.Public() != h.Public {
		return nil
	}
	away := d.clock.Wall().Sub(h.At)
	if away < 0 {
		return errors.New("the clock was set back since the keys were handed over, so that their age is not known")
	}
	var failed error
	for i := range h.Peers {
		if p := d.peer(h.Peers[i].Key); p != nil {
			if err := p.restore(d.clock.Now(), away, static, &h.Peers[i]); err != nil {
				failed = errors.Join(failed, fmt.Errorf("take over the sessions with peer %s: %w", p.name(), err))
			}
		}
	}
	return failed
}

// restore takes over what there is of a peer, which was handed over some time ago.
func (p *peer) restore(now int64, away time.Duration, static *noise.Static, h *handoverPeer) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.prepare(static); err != nil {
		return err
	}
	p.remote.SetTimestamps(h.Sent, h.Accepted)
	if h.Endpoint.IsValid() {
		p.endpoint.Store(&endpoint{addr: h.Endpoint, local: h.Local})
	}
	p.completed, p.heard = h.Completed, now
	p.started = true
	p.keepaliveDue = p.timers.Start() || p.keepaliveDue
	p.timers.Resumed(now)
	var sending *session
	for i := range h.Sessions {
		h.Sessions[i].Keypair.Age += int64(away)
		s, e := p.restoreSession(now, &h.Sessions[i])
		err = errors.Join(err, e)
		if h.Sessions[i].Sending {
			sending = s
		}
	}
	if s := p.current; s != nil {
		p.resume(now, s, away, h)
		switch sending {
		case s:
		case nil:
			sending = s
		default:
			p.switchAt = now + switchDelay
		}
	}
	p.sending.Store(sending)
	if h.Kernel != nil {
		p.restoreKernel(now, h.Kernel)
	}
	return err
}

// resume takes up the exchange of HELLO on the current keypair where it was.
func (p *peer) resume(now int64, s *session, away time.Duration, h *handoverPeer) {
	switch {
	case s.hello.heard:
		p.ask(&s.hello.theirs)
		p.agreed(now, uint16(s.limit.Load()), &s.hello.theirs)
		p.pathAgreed(now, &s.hello.theirs)
		p.lister.number = h.List
		if away < goOnWithin {
			p.restoreSpread(now, h.Spread)
		}
	case s.hello.over:
		p.spreadStock("the peer did not answer HELLO: it is a stock WireGuard")
	default:
		p.startHello(now, s)
	}
}

// restoreKernel goes on putting back the ports of such a peer. Spreading to it is
// agreed on anew, because to the peer this is another process.
func (p *peer) restoreKernel(now int64, h *handoverKernel) {
	k := &kernelPeer{local: p.device.localEnd(h.Port), inside: h.Inside, there: h.There, at: now}
	k.Agreement = accord.NewAgreement(&k.local)
	p.kernel = k
	p.observeKernel(now)
	k.Listen(atTime(now), h.Theirs)
	p.applyKernel(now)
}

// restoreSession gives nil for one that has expired.
func (p *peer) restoreSession(now int64, h *handoverSession) (*session, error) {
	keypair, err := noise.RestoreKeypair(&h.Keypair, now)
	if err != nil {
		return nil, err
	}
	s := newSession(p, keypair)
	if s.expired(now) {
		keypair.Clear()
		return nil, nil
	}
	s.confirmed.Store(h.Confirmed)
	s.offered.Store(min(h.Offered, maxLanes))
	s.offers.Store(h.Offers & (p.device.offers | noise.CounterAES))
	s.sealFlags.Store(h.SealFlags)
	s.hello.over = h.Stock
	if h.Theirs != nil {
		// A lane above what we send on now is never used again: HELLO is not
		// taken twice on one keypair.
		s.allowLanes(min(h.Limit, p.device.ourHello().SendLanes, maxLanes))
		s.hello = helloState{started: now, heard: true, over: true, theirs: *h.Theirs}
		s.decapsulates.Store(h.Theirs.ECN&helloECNDecapsulates != 0)
		s.vouches.Store(h.Theirs.Path&helloPathVouched != 0)
		p.version, p.spoke = h.Theirs.Version, true
	}
	for lane, next := range h.Next {
		if lane == 0 || uint32(lane) <= s.limit.Load() {
			s.lane(lane).next.Store(next)
		}
	}
	for lane, w := range h.Windows {
		if !s.accepts(lane) {
			continue
		}
		window := noise.RestoreWindow(ternary(lane == 0, listenWindow, laneWindow), w.Last, w.Ring)
		l := s.receiving(lane)
		l.window, l.next, l.counts = &window, w.Next, p.arrivals.lane(lane)
	}
	p.device.indexes.bind(keypair.LocalIndex, s)
	switch h.Role {
	case roleCurrent:
		p.current = s
	case rolePrevious:
		p.previous = s
	case roleNext:
		p.next = s
	}
	return s, nil
}

// takeInherited gives the listen sockets of the process before, if they are what
// is to be opened, and closes them otherwise. It gives nil if there are none.
func (d *Device) takeInherited(c portpool.SocketConfig) (all []portpool.Socket) {
	files := d.inherited
	d.inherited = nil
	fits := len(files) == d.workers
	for _, f := range files {
		if fits {
			s, err := portpool.Inherit(f, c)
			if err == nil {
				all = append(all, s)
				fits = c.Port == 0 || c.Port == s.Port()
				continue
			}
			d.log.Warn("a listen socket could not be taken over", "error", err)
			fits = false
		}
		f.Close()
	}
	if !fits {
		closeAll(all)
		return nil
	}
	return all
}

// awaitLink keeps a transmitter from reading what waits in the TUN device before
// there are sockets to send it on. Only where a device was handed over does
// anything wait.
func (d *Device) awaitLink() {
	if d.resumed == nil {
		return
	}
	select {
	case <-d.resumed:
	case <-d.done:
	}
}

// linkKnown is told after each event of the link, behind config.
func (d *Device) linkKnown() {
	if d.resumed == nil {
		return
	}
	select {
	case <-d.resumed:
	default:
		close(d.resumed)
	}
}

// Responsive tells whether the device is at work. It returns when the device has
// answered: its configuration, and every worker that sends, is not stuck. It is for
// a watchdog.
func (d *Device) Responsive() bool {
	d.config.Lock()
	open := !d.closed
	d.config.Unlock()
	for _, t := range d.transmit {
		t.watch.mu.Lock()
		open = open && t.queue.Len() >= 0
		t.watch.mu.Unlock()
	}
	return open
}
