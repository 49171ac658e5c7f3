package tunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kiloport/tunnel/noise"
	"kiloport/tunnel/uapi"
)

var errDeviceClosed = errors.New("the device is closed")

// Configure applies a request of WireGuard's configuration protocol, whether the
// link is up or not. What can fail is tried first: after an error nothing has
// changed. It is part of [uapi.Backend].
func (d *Device) Configure(r *uapi.SetRequest) error {
	d.config.Lock()
	defer d.config.Unlock()
	if d.closed {
		return errDeviceClosed
	}
	if err := d.setSockets(r); err != nil {
		return err
	}
	if r.PrivateKey != nil {
		d.setPrivateKey(noise.PrivateKey(*r.PrivateKey))
	}
	if r.ReplacePeers {
		d.removeAllPeers()
	}
	edit := d.routes.edit()
	var changed []*peer
	for i := range r.Peers {
		if p := d.changePeer(&r.Peers[i], edit); p != nil {
			changed = append(changed, p)
		}
	}
	edit.publish()
	d.settle(changed)
	return nil
}

// setSockets changes what can fail: the listen port and the routing mark.
func (d *Device) setSockets(r *uapi.SetRequest) error {
	port, mark := d.listenPort, d.fwMark
	if r.ListenPort != nil {
		port = *r.ListenPort
	}
	if r.FwMark != nil {
		mark = *r.FwMark
	}
	if !d.up {
		return d.setBeforeUp(port, mark)
	}
	if mark != d.fwMark {
		if err := d.setMark(mark); err != nil {
			return errors.Join(err, d.setMark(d.fwMark))
		}
	}
	old := d.fwMark
	d.fwMark = mark
	if r.ListenPort == nil || port == d.listenPort && port != 0 {
		return nil
	}
	if err := d.moveListen(port); err != nil {
		d.fwMark = old
		return errors.Join(err, d.setMark(old))
	}
	return nil
}

// setBeforeUp changes what sockets will be opened with. If the link is up and
// they could not be opened, they may be now.
func (d *Device) setBeforeUp(port uint16, mark uint32) error {
	oldPort, oldMark := d.listenPort, d.fwMark
	d.listenPort, d.fwMark = port, mark
	if !d.linkIsUp || port == oldPort && mark == oldMark {
		return nil
	}
	if err := d.linkUp(); err != nil {
		d.listenPort, d.fwMark = oldPort, oldMark
		return err
	}
	return nil
}

func (d *Device) setMark(mark uint32) error {
	socks := d.sockets.Load()
	for _, listen := range socks.receivers {
		if marker, ok := listen.(interface{ SetMark(uint32) error }); ok {
			if err := marker.SetMark(mark); err != nil {
				return fmt.Errorf("set fwmark %#x: %w", mark, err)
			}
		}
	}
	if err := socks.pool.SetMark(mark); err != nil {
		return fmt.Errorf("set fwmark %#x: %w", mark, err)
	}
	return nil
}

// setPrivateKey changes who we are, which ends all sessions.
func (d *Device) setPrivateKey(key noise.PrivateKey) {
	if key == d.private && d.static.Load() != nil {
		return
	}
	d.private = key
	var static *noise.Static
	if !key.IsZero() {
		static = noise.NewStatic(key)
	}
	d.static.Store(static)
	for _, p := range slices.Clone(d.order) {
		if static != nil && p.key == static.Public() {
			d.removePeer(p, nil)
			continue
		}
		if err := p.setStatic(static); err != nil {
			d.log.Error("no handshakes with this peer", "peer", p.name(), "error", err)
		}
	}
}

func (p *peer) setStatic(static *noise.Static) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clearSessions()
	if p.remote == nil {
		return nil
	}
	return p.remote.SetStatic(static)
}

// changePeer applies the changes to one peer and returns it, or nil if there is
// none afterwards.
func (d *Device) changePeer(c *uapi.PeerChange, edit *routesEdit) *peer {
	key := noise.PublicKey(c.PublicKey)
	p := d.peer(key)
	if c.Remove {
		if p != nil {
			d.removePeer(p, edit)
		}
		return nil
	}
	if static := d.static.Load(); p == nil && (c.UpdateOnly || static != nil && static.Public() == key) {
		return nil
	}
	if p == nil {
		p = d.addPeer(key)
	}
	p.change(c)
	if c.ReplaceAllowedIPs {
		edit.clear(p)
	}
	for _, a := range c.AllowedIPs {
		if a.Remove {
			edit.remove(p, a.Prefix)
		} else {
			edit.add(p, a.Prefix)
		}
	}
	return p
}

func (p *peer) change(c *uapi.PeerChange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.PresharedKey != nil {
		p.preshared = noise.PresharedKey(*c.PresharedKey)
	}
	if c.Endpoint != nil {
		if old := p.endpoint.Load(); old == nil || old.addr != *c.Endpoint {
			p.endpoint.Store(&endpoint{addr: unmapped(*c.Endpoint)})
			p.pathChanged(p.device.clock.Now())
		}
	}
	if c.PersistentKeepalive != nil {
		p.keepalive = *c.PersistentKeepalive
		if p.timers.PersistentKeepaliveChanged(time.Duration(p.keepalive) * time.Second) {
			p.keepaliveDue = true
		}
	}
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func (d *Device) addPeer(key noise.PublicKey) *peer {
	p := newPeer(d, key)
	d.peersMu.Lock()
	d.peers[key] = p
	d.peersMu.Unlock()
	d.order = append(d.order, p)
	return p
}

// settle lets new and changed peers work with what they have now.
func (d *Device) settle(changed []*peer) {
	if !d.up {
		return
	}
	for _, p := range changed {
		p.start()
	}
}

// removePeer forgets a peer. edit is the change in the making, nil for one of
// its own.
func (d *Device) removePeer(p *peer, edit *routesEdit) {
	own := edit == nil
	if own {
		edit = d.routes.edit()
	}
	edit.clear(p)
	if own {
		edit.publish()
	}
	d.peersMu.Lock()
	delete(d.peers, p.key)
	d.peersMu.Unlock()
	d.order = slices.DeleteFunc(d.order, func(q *peer) bool { return q == p })
	p.remove()
	d.retired.add(p)
}

// removeAllPeers is one change, however many there are.
func (d *Device) removeAllPeers() {
	d.routes.reset()
	d.peersMu.Lock()
	clear(d.peers)
	d.peersMu.Unlock()
	for _, p := range d.order {
		p.allowed = nil
		p.remove()
		d.retired.add(p)
	}
	d.order = nil
}

// start lets a peer's timers run and does what waited for it. It may be called
// for one that has started.
func (p *peer) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.device.clock.Now()
	due := p.keepaliveDue
	if !p.started {
		p.started = true
		due = p.timers.Start() || due
	}
	p.keepaliveDue = false
	if due && p.endpoint.Load() != nil {
		p.sendKeepalive(now)
	}
	if len(p.staged) > 0 && p.sending.Load() == nil {
		p.wantHandshake(now)
	}
	p.reopenLanes(now)
	p.arm(now)
}

// stop ends all sessions and timers until the next start.
func (p *peer) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.halt()
}

func (p *peer) halt() {
	p.started = false
	p.timers.Stop()
	p.dropStaged()
	p.clearSessions()
	if p.wake != nil {
		p.wake.Stop()
		p.wakeAt = 0
	}
}

// remove is the end of a peer: it can hold nothing afterwards.
func (p *peer) remove() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.halt()
	p.removed = true
	p.forgetDownlink()
	p.preshared.Clear()
	if p.remote != nil {
		p.remote.Clear()
	}
}
