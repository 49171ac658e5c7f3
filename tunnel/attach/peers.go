package attach

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"kiloport/tunnel"
	"kiloport/tunnel/attach/accord"
)

// answerEvery bounds how often a peer gets answers.
const answerEvery = 20 * time.Millisecond

// peer is one peer of the device.
type peer struct {
	accord.Agreement
	losses
	kernel   *kernelPart
	key      wgtypes.Key
	slot     uint32
	wg       wgtypes.Peer
	allowed  []netip.Prefix
	targets  []netip.Addr
	inner    netip.Addr // from where HELLO came last
	answered time.Time
	counts   programCounts
	applied  applied
}

// applied is what the kernel part knows of a peer.
type applied struct {
	endpoint netip.AddrPort
	spread   spreading
	restores accord.Range
	origin   bool
	unknown  bool // what comes from there is another's
}

// count reads what the programs have counted.
func (p *peer) count(now time.Time) error {
	c, err := p.kernel.counts(p.slot)
	if err != nil {
		return err
	}
	if c.DataSent != p.counts.DataSent || c.DataReceived != p.counts.DataReceived {
		p.Flowed(now)
	}
	p.counts = c
	return nil
}

// target is the inner address to say HELLO to: that from which the peer speaks, or
// one of those that it may have, in turn.
func (p *peer) target() netip.Addr {
	tries, silent := p.Offering()
	if p.inner.IsValid() && (!silent || tries%2 == 0) {
		return p.inner
	}
	if len(p.targets) == 0 {
		return netip.Addr{}
	}
	return p.targets[tries%len(p.targets)]
}

// hello makes the next HELLO.
func (p *peer) hello(now time.Time, ask bool) accord.Hello {
	if c, err := p.kernel.counts(p.slot); err == nil {
		p.counts.Restored = c.Restored
	}
	return p.Say(now, ask, uint32(p.counts.Restored), p.limit)
}

// peerTable is all peers of the device, and what the kernel part knows of them.
type peerTable struct {
	kernel    *kernelPart
	local     *accord.Local
	own       []netip.Prefix             // addresses of the device
	all       []*peer                    // in WireGuard's order
	free      []uint32                   // slots
	sources   map[netip.Addr][]restoring // what the kernel part knows of addresses
	malformed uint64                     // HELLO that cannot be read
	gone      tunnel.TotalStatus         // of peers that were removed
	goneECN   uint64
}

func newPeerTable(k *kernelPart, l *accord.Local) peerTable {
	t := peerTable{kernel: k, local: l, sources: make(map[netip.Addr][]restoring)}
	for slot := uint32(maxSlots); slot > 0; slot-- {
		t.free = append(t.free, slot-1)
	}
	return t
}

// refresh takes the peers as WireGuard has them now.
func (t *peerTable) refresh(now time.Time, list []wgtypes.Peer, own []netip.Prefix) (err error) {
	t.own = own
	known := make(map[wgtypes.Key]*peer, len(t.all))
	for _, p := range t.all {
		known[p.key] = p
	}
	all := make([]*peer, 0, len(list))
	for i := range list {
		p := known[list[i].PublicKey]
		if p == nil {
			if p = t.add(list[i].PublicKey); p == nil {
				continue // there are more peers than slots
			}
		}
		delete(known, p.key)
		all = append(all, p)
		p.wg = list[i]
		p.setAllowed(list[i].AllowedIPs, own)
		p.received(now, p.counts.ReceivedBytes, uint64(p.wg.ReceiveBytes))
	}
	t.all = all
	for _, gone := range known {
		err = errors.Join(err, t.remove(gone))
	}
	t.share()
	for _, p := range t.all {
		p.Observe(now, endpointOf(&p.wg), p.wg.LastHandshakeTime)
		err = errors.Join(err, t.apply(now, p))
	}
	return err
}

func (t *peerTable) add(key wgtypes.Key) *peer {
	n := len(t.free)
	if n == 0 {
		return nil
	}
	p := &peer{Agreement: *accord.NewAgreement(t.local), kernel: t.kernel, key: key, slot: t.free[n-1]}
	if t.kernel.clearCounts(p.slot) != nil {
		return nil
	}
	t.free = t.free[:n-1]
	return p
}

func (t *peerTable) remove(p *peer) error {
	t.free = append(t.free, p.slot)
	t.bury(p)
	return t.forget(p)
}

// forget takes a peer's endpoint out of the kernel part.
func (t *peerTable) forget(p *peer) (err error) {
	if at := p.applied.endpoint; at.IsValid() {
		p.applied = applied{}
		err = errors.Join(t.kernel.forgetEndpoint(at), t.applySource(at.Addr()))
	}
	return err
}

// share finds peers that are at the address of another and cannot be told from it by
// their ports. Who is put back already keeps that.
func (t *peerTable) share() {
	at := make(map[netip.Addr][]*peer, len(t.all))
	for _, restored := range []bool{true, false} {
		for _, p := range t.all {
			if addr := endpointOf(&p.wg).Addr(); addr.IsValid() && (p.applied.restores.Count != 0) == restored {
				p.Shared = p.clash(at[addr])
				if p.Shared == "" {
					at[addr] = append(at[addr], p)
				}
			}
		}
	}
}

// clash gives the one of some peers at the same address that a peer cannot be told
// from, "" if there is none.
func (p *peer) clash(others []*peer) string {
	port := endpointOf(&p.wg).Port()
	for i, o := range others {
		if i+1 == peersAtAddress || overlap(o.Theirs.Sends, p.Theirs.Sends) ||
			o.Theirs.Sends.Contains(port) || p.Theirs.Sends.Contains(endpointOf(&o.wg).Port()) {
			return o.key.String()
		}
	}
	return ""
}

// apply tells the kernel part what has changed of a peer.
func (t *peerTable) apply(now time.Time, p *peer) error {
	want := applied{
		endpoint: p.Endpoint, restores: p.Restores(now), origin: p.Origin(),
		spread: spreading{slot: p.slot, mode: p.Mode, ports: p.Ports(), origin: p.Origin()},
	}
	if p.Shared != "" {
		want.unknown = true
	}
	old := p.applied
	if want == old {
		return nil
	}
	if want.endpoint != old.endpoint {
		if err := t.forget(p); err != nil {
			return err
		}
	}
	if !want.endpoint.IsValid() {
		return nil
	}
	p.applied = want
	err := errors.Join(t.applySource(want.endpoint.Addr()), t.kernel.setEndpoint(want.endpoint, want.spread))
	if err != nil {
		p.applied = old // to be tried again
	}
	return err
}

// applySource tells the kernel part which peers are at an address. What comes from
// there is counted even if nothing is put back.
func (t *peerTable) applySource(at netip.Addr) error {
	var here []restoring
	for _, p := range t.all {
		if a := &p.applied; a.endpoint.IsValid() && a.endpoint.Addr() == at && !a.unknown && len(here) < peersAtAddress {
			here = append(here, restoring{p.slot, a.endpoint.Port(), a.restores, a.origin})
		}
	}
	if slices.Equal(here, t.sources[at]) {
		return nil
	}
	if err := t.kernel.setSource(at, here); err != nil {
		return err
	}
	t.sources[at] = here
	if len(here) == 0 {
		delete(t.sources, at)
	}
	return nil
}

// find gives the peer whose inner address this is, nil if it is nobody's.
func (t *peerTable) find(inner netip.Addr) (best *peer) {
	bits := -1
	for _, p := range t.all {
		for _, a := range p.allowed {
			if a.Bits() > bits && a.Contains(inner) {
				best, bits = p, a.Bits()
			}
		}
	}
	return best
}

func (p *peer) setAllowed(list []net.IPNet, own []netip.Prefix) {
	p.allowed = p.allowed[:0]
	for _, n := range list {
		if addr, ok := netip.AddrFromSlice(n.IP); ok {
			ones, _ := n.Mask.Size()
			p.allowed = append(p.allowed, netip.PrefixFrom(addr.Unmap(), ones))
		}
	}
	p.targets = targets(p.allowed, own)
	if !slices.ContainsFunc(p.allowed, func(a netip.Prefix) bool { return a.Contains(p.inner) }) {
		p.inner = netip.Addr{}
	}
}

func endpointOf(p *wgtypes.Peer) netip.AddrPort {
	if p.Endpoint == nil {
		return netip.AddrPort{}
	}
	at := p.Endpoint.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
}
