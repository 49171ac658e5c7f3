package attach

import (
	"fmt"
	"time"

	"kiloport/tunnel"
	"kiloport/tunnel/attach/accord"
)

// The words of [tunnel.PeerStatus]'s mode.
const (
	modeNameStock    = "stock"
	modeNameProbing  = "probing"
	modeNameDirect   = "direct"
	modeNameFallback = "fallback"
)

// Status gives what the attachment is doing, in the words of the daemon: lanes are
// source ports, of which it is not known which are in use.
func (a *Attachment) Status() tunnel.Status {
	if s := a.published.Load(); s != nil {
		return *s
	}
	return tunnel.Status{Name: a.config.Device}
}

// publish makes the status that others read.
func (a *Attachment) publish(now time.Time) {
	r, dscp := a.sends, "zero"
	if a.config.DSCP != nil {
		dscp = a.config.DSCP.String()
	}
	s := &tunnel.Status{
		Name: a.config.Device, ListenPort: a.local.Port, Up: true, Attached: a.hooks.names(),
		Spread: tunnel.SpreadPorts.String(), ECN: "kernel", DSCP: dscp, DSCPDecap: "pipe", ControlDSCP: "AF41",
		Pool: tunnel.PoolStatus{
			Ports: int(r.Count), Limit: int(r.Count), Open: int(r.Count),
			Range: fmt.Sprintf("%d-%d", r.Low, r.High()), Idle: "never",
		},
		Peers: make([]tunnel.PeerStatus, 0, len(a.peers.all)), Bandwidth: tunnel.FormatBandwidth(0, 0), ReceiveBandwidth: "off", Overhead: "none",
	}
	if a.peers.malformed > 0 {
		s.Drops = map[string]uint64{"bad-control": a.peers.malformed}
	}
	s.Totals = a.peers.gone // nothing of it falls when a peer is removed
	s.Totals.Drops = map[string]uint64{"bad-control": a.peers.malformed, "ecn": a.peers.goneECN}
	for _, p := range a.peers.all {
		s.Totals.Drops["ecn"] += p.counts.CeDropped
		s.Peers = append(s.Peers, p.status(now))
		last := &s.Peers[len(s.Peers)-1]
		add(&s.Totals.Sent, &last.Sent)
		add(&s.Totals.Received, &last.Received)
	}
	a.published.Store(s)
}

func (p *peer) modeName() string {
	switch {
	case p.Mode == accord.Spread:
		return modeNameDirect
	case p.Mode == accord.Probe:
		return modeNameProbing
	case p.Theirs.Version == 0:
		return modeNameStock
	}
	return modeNameFallback
}

func (p *peer) status(now time.Time) tunnel.PeerStatus {
	c := &p.counts
	s := tunnel.PeerStatus{
		PublicKey: p.key.String(), AllowedIPs: append(p.allowed[:0:0], p.allowed...),
		Keepalive: uint16(p.wg.PersistentKeepaliveInterval / time.Second),
		Version:   p.Theirs.Version, Mode: p.modeName(), Reason: p.Reason,
		ECN: "normal", Cipher: "chacha20poly1305",
		Sent:     tunnel.TrafficStatus{Packets: sum(c.Sent), Bytes: c.SentBytes, ECT1: c.Sent[1], ECT0: c.Sent[2], CE: c.Sent[3]},
		Received: tunnel.TrafficStatus{Packets: sum(c.Received), Bytes: c.ReceivedBytes, ECT1: c.Received[1], ECT0: c.Received[2], CE: c.Received[3]},
		Drops:    map[string]uint64{},
	}
	if p.Endpoint.IsValid() {
		s.Endpoint = p.Endpoint.String()
	}
	if !p.wg.LastHandshakeTime.IsZero() {
		at := p.wg.LastHandshakeTime
		s.LastHandshake = &at
	}
	if p.Mode == accord.Spread {
		s.Lanes.Agreed = int(p.Ports())
		if p.Theirs.Limit != 0 {
			s.Reason = fmt.Sprintf("the peer asks for %d ports at most, because its WireGuard drops what is overtaken by too many", p.Theirs.Limit)
		}
	}
	s.Lanes.Received = int(p.applied.restores.Count)
	s.Attached = &tunnel.AttachedStatus{
		Spread: c.Spread, Restored: c.Restored, Returned: c.Returned, Strange: c.Strange,
		Unaccepted: p.lost, PortsAsked: int(p.limit),
	}
	for reason, n := range map[string]uint64{"ecn": c.CeDropped} {
		if n > 0 {
			s.Drops[reason] = n
		}
	}
	return s
}

// bury keeps the counts of a peer that is removed.
func (t *peerTable) bury(p *peer) {
	s := p.status(time.Time{})
	add(&t.gone.Sent, &s.Sent)
	add(&t.gone.Received, &s.Received)
	t.goneECN += p.counts.CeDropped
}

func sum(byCodepoint [4]uint64) (n uint64) {
	for _, c := range byCodepoint {
		n += c
	}
	return n
}

func add(t, o *tunnel.TrafficStatus) {
	t.Packets += o.Packets
	t.Bytes += o.Bytes
	t.ECT0 += o.ECT0
	t.ECT1 += o.ECT1
	t.CE += o.CE
}
