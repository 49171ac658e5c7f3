package tunnel

import (
	"encoding/json"
	"fmt"

	"kiloport/portpool"
	"kiloport/queue"
	"kiloport/tunnel/noise"
)

// Restore goes on with the sessions of a [Handover]. Call it after Configure and
// before Run; state is zeroed. Sessions of peers that are not configured any more
// are forgotten, and all of them if the private key is another one. An error
// means that there are none, and that handshakes will be made.
func (d *Device) Restore(state []byte) error {
	defer clear(state)
	var h handoverState
	if err := json.Unmarshal(state, &h); err != nil {
		return fmt.Errorf("read what was handed over: %w", err)
	}
	if h.Version != handoverVersion {
		return fmt.Errorf("what was handed over has version %d, this kiloport knows %d", h.Version, handoverVersion)
	}
	d.config.Lock()
	defer d.config.Unlock()
	d.resumed = make(chan struct{})
	static := d.static.Load()
	if static == nil || static.Public() != h.Public {
		return nil
	}
	for i := range h.Peers {
		if p := d.peer(h.Peers[i].Key); p != nil {
			if err := p.restore(d.clock.Now(), static, &h.Peers[i]); err != nil {
				return fmt.Errorf("take over the sessions with peer %s: %w", p.name(), err)
			}
		}
		h.Peers[i].clear()
	}
	return nil
}

func (p *peer) restore(now int64, static *noise.Static, h *handoverPeer) error {
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
		s, err := p.restoreSession(now, &h.Sessions[i])
		if err != nil {
			return err
		}
		if h.Sessions[i].Sending {
			sending = s
		}
	}
	if s := p.current; s != nil {
		if s.hello.heard {
			p.agreed(now, uint16(s.limit.Load()))
			p.pathAgreed(now, &s.hello.theirs)
		} else {
			p.startHello(now, s)
		}
		if sending != s {
			p.switchAt = now + switchDelay
		}
	}
	p.sending.Store(sending)
	return nil
}

func (p *peer) restoreSession(now int64, h *handoverSession) (*session, error) {
	keypair, err := noise.RestoreKeypair(&h.Keypair, now)
	if err != nil {
		return nil, err
	}
	s := newSession(p, keypair)
	s.confirmed.Store(h.Confirmed)
	s.offered.Store(min(h.Offered, maxLanes))
	s.offers.Store(h.Offers & (p.device.offers | noise.CounterAES))
	s.sealFlags.Store(h.SealFlags)
	s.allowLanes(min(h.Limit, maxLanes))
	if h.Theirs != nil {
		s.hello = helloState{started: now, heard: true, over: true, theirs: *h.Theirs}
		s.decapsulates.Store(h.Theirs.ECN&helloECNDecapsulates != 0)
		s.vouches.Store(h.Theirs.Path&helloPathVouched != 0)
		p.version = h.Theirs.Version
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

// newUnlimitedShaper lets everything pass.
func newUnlimitedShaper() *queue.Shaper { return queue.NewShaper(queue.DefaultShaper(0)) }

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
