package tunnel

import (
	"net/netip"
	"time"

	"kiloport/portpool"
	"kiloport/tunnel/ecn"
	"kiloport/tunnel/uapi"
)

// Status is what a device is doing, for `kiloport show`: what WireGuard's own
// configuration protocol has no words for. Its JSON is an interface to scripts:
// fields are added, not changed.
type Status struct {
	Name       string `json:"name"`
	PublicKey  string `json:"public_key,omitempty"`
	ListenPort uint16 `json:"listen_port"`
	FwMark     uint32 `json:"fwmark,omitempty"`
	Up         bool   `json:"up"`
	Spread     string `json:"spread"`
	ECN        string `json:"ecn"`
	DSCP       string `json:"dscp"`
	// DSCPDecap is pipe or uniform, ControlDSCP the name of the DSCP of
	// handshakes and control messages.
	DSCPDecap   string            `json:"dscp_decap"`
	ControlDSCP string            `json:"control_dscp"`
	Pool        PoolStatus        `json:"pool"`
	Peers       []PeerStatus      `json:"peers"`
	Flows       []FlowDetail      `json:"flows"` // of late, at most 1024, those that sent most first
	Totals      TotalStatus       `json:"totals"`
	Drops       map[string]uint64 `json:"drops,omitempty"` // of no peer, by reason
	Queue       QueueStatus       `json:"queue"`
	// Bandwidth is the rate at which packets leave now, or off;
	// ReceiveBandwidth what peers are asked to send at most.
	Bandwidth        string          `json:"bandwidth"`
	BandwidthBitS    int64           `json:"bandwidth_bit_s,omitempty"` // 0: off
	ReceiveBandwidth string          `json:"receive_bandwidth"`
	Overhead         string          `json:"overhead"` // of both
	Autorate         *AutorateStatus `json:"autorate,omitempty"`
	Offloads         OffloadStatus   `json:"offloads"`
	// Realtime says whether workers go before other programs, or why not.
	Realtime   string            `json:"realtime"`
	SendErrors map[string]uint64 `json:"send_errors,omitempty"` // by errno, of all sockets
	Cookies    uint64            `json:"cookies_sent,omitempty"`
	// Attached are the interfaces on which the eBPF programs for kernel WireGuard
	// are, see package attach; there are none where the device is our own.
	Attached []string `json:"attached,omitempty"`
}

// PoolStatus is the source ports that all peers share.
type PoolStatus struct {
	Ports int    `json:"ports"` // asked for
	Limit int    `json:"limit"` // that can be had
	Open  int    `json:"open"`  // now
	Range string `json:"range"`
	Idle  string `json:"idle"` // after which one is closed
}

// QueueStatus is the device's FQ-CoDel queue between the TUN device and the
// sockets. Drops are counted at the peers.
type QueueStatus struct {
	Packets int    `json:"packets"`
	Bytes   int    `json:"bytes"`
	Marked  uint64 `json:"marked"` // CE set by our own CoDel
	// Parameters are FQ-CoDel's, of all workers together.
	Parameters FQCoDelStatus `json:"parameters"`
	// Sojourn is how long what left the queue had waited in it. A super-packet
	// counts once, and so it does at the peers.
	Sojourn *HistogramStatus `json:"sojourn,omitempty"`
}

// FQCoDelStatus is FQ-CoDel's parameters, RFC 8290 section 5.2.
type FQCoDelStatus struct {
	TargetMs      float64 `json:"target_ms"`
	IntervalMs    float64 `json:"interval_ms"`
	Quantum       int     `json:"quantum_bytes"`
	Flows         int     `json:"flows"`
	Limit         int     `json:"limit_packets"`
	MemoryLimit   int     `json:"memory_limit_bytes"`
	ECN           bool    `json:"ecn"`
	CEThresholdMs float64 `json:"ce_threshold_ms,omitempty"` // 0: none
}

// TotalStatus is what all peers together have counted since the device was made,
// those that were removed included: none of it ever falls.
type TotalStatus struct {
	Sent      TrafficStatus     `json:"sent"`
	Received  TrafficStatus     `json:"received"`
	Drops     map[string]uint64 `json:"drops"` // by reason, of no peer too
	DelayTo   *HistogramStatus  `json:"delay_to,omitempty"`
	DelayFrom *HistogramStatus  `json:"delay_from,omitempty"`
}

// PeerStatus is one peer.
type PeerStatus struct {
	PublicKey     string            `json:"public_key"`
	Endpoint      string            `json:"endpoint,omitempty"`
	AllowedIPs    []netip.Prefix    `json:"allowed_ips"`
	LastHandshake *time.Time        `json:"last_handshake,omitempty"`
	Keepalive     uint16            `json:"persistent_keepalive,omitempty"` // seconds
	Version       uint8             `json:"version,omitempty"`              // of its control messages; 0 is a stock WireGuard
	Mode          string            `json:"mode"`                           // off, stock, probing, fallback, direct, return, paired, or what tells lanes apart between the listen ports: labels, addresses
	Reason        string            `json:"reason,omitempty"`               // why the mode is not direct
	ECN           string            `json:"ecn"`                            // how the outer field is set: compatibility or normal
	ECNReason     string            `json:"ecn_reason,omitempty"`           // why that is not normal
	PathTo        *PathStatus       `json:"path_to,omitempty"`              // as our tests found it
	PathFrom      *PathStatus       `json:"path_from,omitempty"`            // as the peer says that its tests found it
	MarksIgnored  bool              `json:"marks_ignored,omitempty"`        // the path from the peer marks even what is not ECN-capable
	Cipher        string            `json:"cipher,omitempty"`               // that seals packets to the peer
	PathMTU       int               `json:"path_mtu,omitempty"`             // outer packets to the peer may have, in bytes, headers included; 0 is not tested
	PathMTUHow    string            `json:"path_mtu_how,omitempty"`         // how that is known
	Lanes         LaneStatus        `json:"lanes"`
	Asks          *AskStatus        `json:"asks,omitempty"` // what the peer wants to be sent at most
	Sent          TrafficStatus     `json:"sent"`
	Received      TrafficStatus     `json:"received"`
	Drops         map[string]uint64 `json:"drops,omitempty"`         // by reason
	Anomalies     map[string]uint64 `json:"ecn_anomalies,omitempty"` // RFC 6040's unused and dangerous pairs, inner/outer
	LaneDetails   []LaneDetail      `json:"lane_details,omitempty"`
	// Sojourn is how long packets to the peer waited in the queue. DelayTo and
	// DelayFrom are how much longer than at best, of late, each of our probes
	// took to the peer, and each of the peer's to us, on any lane: see
	// [LaneSent] and [LaneReceived].
	Sojourn   *HistogramStatus `json:"sojourn,omitempty"`
	DelayTo   *HistogramStatus `json:"delay_to,omitempty"`
	DelayFrom *HistogramStatus `json:"delay_from,omitempty"`
	// Attached is what is only known of peers of kernel WireGuard.
	Attached *AttachedStatus `json:"attached,omitempty"`
}

// AttachedStatus is what the eBPF programs for kernel WireGuard have done with the
// messages of one peer.
type AttachedStatus struct {
	Spread     uint64 `json:"spread"`                // sent from another port than the canonical one
	Restored   uint64 `json:"restored"`              // received from one, and put back
	Returned   uint64 `json:"returned"`              // received at a port of ours, and put back
	Strange    uint64 `json:"strange"`               // received from a port that was not agreed on
	Unaccepted uint64 `json:"unaccepted"`            // bytes received that WireGuard did not take
	PortsAsked int    `json:"ports_asked,omitempty"` // that the peer is asked to do with, because of those
}

// LaneStatus is the lanes of one peer above lane 0.
type LaneStatus struct {
	Agreed   int    `json:"agreed"`            // by HELLO, for sending
	Flows    int    `json:"flows"`             // that hold one
	InUse    int    `json:"in_use"`            // with at least one flow
	Shared   int    `json:"shared"`            // with more
	Dead     int    `json:"dead"`              // that get no answer
	Received int    `json:"received"`          // on which the peer sent, on this session
	Moved    uint64 `json:"moved"`             // flows that had to leave theirs
	Crowded  int    `json:"crowded,omitempty"` // left alone for a while because sparse flows waited there
}

// TrafficStatus counts transport messages. Bytes are those of the UDP payload,
// as in `wg show`.
type TrafficStatus struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	ECT0    uint64 `json:"ect0,omitempty"` // with ECT(0) outside
	ECT1    uint64 `json:"ect1,omitempty"` // with ECT(1) outside
	CE      uint64 `json:"ce,omitempty"`   // with CE outside
}

// State gives what WireGuard's configuration protocol shows. It is part of
// [uapi.Backend].
func (d *Device) State() uapi.DeviceState {
	d.config.Lock()
	defer d.config.Unlock()
	s := uapi.DeviceState{PrivateKey: uapi.SecretKey(d.private), ListenPort: d.listenPort, FwMark: d.fwMark}
	for _, p := range d.order {
		s.Peers = append(s.Peers, p.state())
	}
	return s
}

func (p *peer) state() uapi.PeerState {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := uapi.PeerState{
		PublicKey: uapi.PublicKey(p.key), PresharedKey: uapi.SecretKey(p.preshared),
		LastHandshake: p.completed, RxBytes: p.rx.bytes.Load(), TxBytes: p.tx.bytes.Load(),
		PersistentKeepalive: p.keepalive, AllowedIPs: append([]netip.Prefix(nil), p.allowed...),
	}
	if to := p.endpoint.Load(); to != nil {
		s.Endpoint = to.addr
	}
	return s
}

// Show gives a [Status]. It is part of [uapi.Backend].
func (d *Device) Show() any { return d.Status() }

// Status gives what the device is doing now.
func (d *Device) Status() Status {
	flows := d.flowDetails()
	d.config.Lock()
	defer d.config.Unlock()
	o, rate := d.options, d.uplink.rate.Load()
	s := Status{
		Name: d.tun.Name(), ListenPort: d.listenPort, FwMark: d.fwMark, Up: d.up,
		Spread: o.Spread.String(), ECN: o.ECN.String(), DSCP: o.DSCP.String(),
		DSCPDecap: o.DSCPDecap.String(), ControlDSCP: ecn.NameDSCP(o.ControlDSCP),
		Pool:      PoolStatus{Ports: o.Ports, Limit: o.Ports, Range: o.PortRange.String(), Idle: o.LaneIdle.String()},
		Peers:     make([]PeerStatus, 0, len(d.order)),
		Flows:     flows,
		Totals:    d.totalsNow(),
		Drops:     d.drops.byName(),
		Queue:     d.queueStatus(),
		Bandwidth: formatRate(rate), BandwidthBitS: rate, ReceiveBandwidth: formatRate(o.ReceiveBandwidth), Overhead: o.Overhead.String(),
		Autorate:   d.uplink.status(),
		Offloads:   d.offloadStatus(),
		Realtime:   d.urgency.status(),
		SendErrors: sendErrors(d.shared),
		Cookies:    d.cookiesSent.Load(),
	}
	if static := d.static.Load(); static != nil {
		s.PublicKey = static.Public().String()
	}
	if socks := d.sockets.Load(); socks != nil {
		s.Pool.Limit, s.Pool.Open = socks.pool.Limit(), socks.pool.Open()
	}
	for _, p := range d.order {
		s.Peers = append(s.Peers, p.status())
	}
	return s
}

func (d *Device) queueStatus() (all QueueStatus) {
	for _, t := range d.transmit {
		s := t.status()
		all.Packets += s.Packets
		all.Bytes += s.Bytes
		all.Marked += s.Marked
	}
	all.Sojourn = d.sojournNow()
	c := &d.options.Queue
	all.Parameters = FQCoDelStatus{
		TargetMs: *milliseconds(int64(c.Target)), IntervalMs: *milliseconds(int64(c.Interval)), Quantum: d.quantum(d.uplink.rate.Load()), Flows: c.Flows,
		Limit: c.Limit, MemoryLimit: c.MemoryLimit, ECN: c.ECN, CEThresholdMs: *milliseconds(int64(c.CEThreshold)),
	}
	return all
}

func sendErrors(shared *portpool.Shared) map[string]uint64 {
	m := make(map[string]uint64)
	for _, c := range shared.SendErrors() {
		m[c.Errno.Error()] += c.Count
	}
	return m
}

func (p *peer) status() PeerStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := PeerStatus{
		PublicKey: p.key.String(), AllowedIPs: append([]netip.Prefix{}, p.allowed...), Keepalive: p.keepalive,
		Version: p.version, Mode: p.spread.name(p.device.options.Spread), Reason: p.spread.reason,
		Sent:     p.tx.status(),
		Received: p.rx.status(),
		Sojourn:  p.sojournNow(),
		Asks:     p.downlink.status(),
		Drops:    p.drops.byName(), Anomalies: p.anomalyCounts(),
	}
	if p.delays != nil {
		s.DelayTo, s.DelayFrom = p.delays.to.status(), p.delays.from.status()
	}
	if to := p.endpoint.Load(); to != nil {
		s.Endpoint = to.addr.String()
	}
	if !p.completed.IsZero() {
		completed := p.completed
		s.LastHandshake = &completed
	}
	if session := p.sending.Load(); session != nil {
		s.Cipher = session.cipher()
		s.Lanes.Agreed = int(session.limit.Load())
		s.Lanes.Received = int(session.rxLanes.Load())
	}
	if p.mtu.state != mtuUnknown {
		s.PathMTU, s.PathMTUHow = p.mtu.size, p.mtu.state.String()
	}
	p.laneStatus(&s.Lanes)
	p.pathStatus(&s)
	p.kernelStatus(&s)
	return s
}

func (p *peer) laneStatus(s *LaneStatus) {
	p.lanesMu.Lock()
	defer p.lanesMu.Unlock()
	if p.lanes != nil {
		p.lanes.Expire(p.device.clock.Now())
		l := p.lanes.Stats()
		s.Flows, s.InUse, s.Shared, s.Moved = l.Flows, l.InUse, l.Shared, l.Moved
		s.Dead, s.Crowded = p.spread.outOfUse()
	}
}

func (t *traffic) status() TrafficStatus {
	marks := t.marks()
	return TrafficStatus{
		Packets: t.packets.Load(), Bytes: t.bytes.Load(),
		ECT0: marks[ecn.ECT0], ECT1: marks[ecn.ECT1], CE: marks[ecn.CE],
	}
}

func (p *peer) anomalyCounts() map[string]uint64 {
	m := make(map[string]uint64)
	for inner := range p.anomalies {
		for outer := range p.anomalies[inner] {
			if n := p.anomalies[inner][outer].Load(); n > 0 {
				m[ecn.Codepoint(inner).String()+"/"+ecn.Codepoint(outer).String()] = n
			}
		}
	}
	return m
}

var _ uapi.Backend = (*Device)(nil)
