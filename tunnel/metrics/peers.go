package metrics

import (
	"strings"

	"kiloport/tunnel"
)

var (
	peers        = describe("peers", "Peers that are configured.")
	peersLeftOut = describe("peers_left_out", "Peers with traffic that have no series of their own, because there are too many.")

	peerSentPackets        = describe("peer_sent_packets_total", "Transport messages sent to a peer.", "peer")
	peerSentBytes          = describe("peer_sent_bytes_total", "Bytes of transport messages sent to a peer.", "peer")
	peerSentCodepoints     = describe("peer_sent_codepoint_packets_total", "Transport messages sent to a peer with an ECN codepoint outside.", "peer", "codepoint")
	peerReceivedPackets    = describe("peer_received_packets_total", "Transport messages of a peer, authenticated.", "peer")
	peerReceivedBytes      = describe("peer_received_bytes_total", "Bytes of transport messages of a peer, authenticated.", "peer")
	peerReceivedCodepoints = describe("peer_received_codepoint_packets_total", "Transport messages of a peer with an ECN codepoint outside.", "peer", "codepoint")
	peerDrops              = describe("peer_drops_total", "Packets to or from a peer that were dropped, by reason.", "peer", "reason")
	peerAnomalies          = describe("peer_ecn_anomalies_total", "Packets of a peer with a pair of ECN codepoints, inner and outer, that RFC 6040 calls unused or dangerous.", "peer", "inner", "outer")
	peerLanes              = describe("peer_lanes", "Lanes above lane 0 of a peer, by state: agreed for sending, in_use, shared by several flows, dead, received on.", "peer", "state")
	peerFlows              = describe("peer_flows", "Flows that hold a lane to a peer.", "peer")
	peerAsked              = describe("peer_asked_rate_bytes_per_second", "What a peer asks to be sent at most.", "peer")
	peerAskedBytes         = describe("peer_asked_rate_queue_bytes", "Bytes that wait for the rate that a peer asks for.", "peer")
	peerSojourn            = describe("peer_queue_sojourn_seconds", "How long packets to a peer waited in the queue.", "peer")
	peerDelay              = describe("peer_path_one_way_delay_seconds", "How much longer than at best of late each probe took, to a peer or from it.", "peer", "direction")
	peerRoundTrip          = describe("peer_round_trip_seconds", "The round trip of the last probe on the fastest lane.", "peer")
	peerHandshake          = describe("peer_last_handshake_timestamp_seconds", "When the last handshake was, in Unix time.", "peer")
	peerMode               = describe("peer_mode", "1 for the mode a peer is in: off, stock, probing, direct or fallback.", "peer", "mode")
	peerECN                = describe("peer_ecn_normal", "1 if what is sent to a peer carries the ECN field outside.", "peer")
	peerAttached           = describe("peer_attached_packets_total", "Messages of a peer of kernel WireGuard whose ports were changed: spread, restored, returned to the listen port, or strange and left alone.", "peer", "change")
	peerUnaccepted         = describe("peer_attached_unaccepted_bytes_total", "Bytes of a peer that kernel WireGuard did not take, such as what its replay window is too narrow for.", "peer")
	peerVerdict            = describe("peer_path_verdict", "1 for what the path does to an ECN codepoint on the way to a peer or from it: passes, bleached, rewritten, dropped and so on.", "peer", "direction", "codepoint", "verdict")
)

// peers makes the series of those that have traffic, and of no more than are
// bearable for Prometheus, the same ones each time.
func (e emitter) peers(list []tunnel.PeerStatus) {
	shown, left := 0, 0
	for i := range list {
		p := &list[i]
		switch {
		case p.Sent.Packets+p.Received.Packets == 0:
		case shown == MaxPeers:
			left++
		default:
			shown++
			e.peer(p)
		}
	}
	e.gauge(peers, float64(len(list)))
	e.gauge(peersLeftOut, float64(left))
}

func (e emitter) peer(p *tunnel.PeerStatus) {
	key := p.PublicKey
	e.peerTraffic(key, p)
	for _, l := range laneStates(&p.Lanes) {
		e.gauge(peerLanes, float64(l.n), key, l.state)
	}
	e.gauge(peerFlows, float64(p.Lanes.Flows), key)
	if a := p.Attached; a != nil {
		for change, n := range map[string]uint64{"spread": a.Spread, "restored": a.Restored, "returned": a.Returned, "strange": a.Strange} {
			e.counter(peerAttached, n, key, change)
		}
		e.counter(peerUnaccepted, a.Unaccepted, key)
	}
	if a := p.Asks; a != nil {
		e.gauge(peerAsked, perSecond(a.BitS), key)
		e.gauge(peerAskedBytes, float64(a.Bytes), key)
	}
	e.peerHistogram(peerSojourn, p.Sojourn, key)
	e.peerHistogram(peerDelay, p.DelayTo, key, "to")
	e.peerHistogram(peerDelay, p.DelayFrom, key, "from")
	if ms, known := roundTrip(p.LaneDetails); known {
		e.gauge(peerRoundTrip, ms/1000, key)
	}
	if p.LastHandshake != nil {
		e.gauge(peerHandshake, float64(p.LastHandshake.UnixMilli())/1000, key)
	}
	e.gauge(peerMode, 1, key, p.Mode)
	e.gauge(peerECN, truth(p.ECN == "normal"), key)
	e.verdicts(key, "to", p.PathTo)
	e.verdicts(key, "from", p.PathFrom)
}

func (e emitter) peerTraffic(key string, p *tunnel.PeerStatus) {
	e.counter(peerSentPackets, p.Sent.Packets, key)
	e.counter(peerSentBytes, p.Sent.Bytes, key)
	e.counter(peerReceivedPackets, p.Received.Packets, key)
	e.counter(peerReceivedBytes, p.Received.Bytes, key)
	for _, c := range codepoints(&p.Sent) {
		e.counter(peerSentCodepoints, c.n, key, c.name)
	}
	for _, c := range codepoints(&p.Received) {
		e.counter(peerReceivedCodepoints, c.n, key, c.name)
	}
	for reason, n := range p.Drops {
		e.counter(peerDrops, n, key, reason)
	}
	for pair, n := range p.Anomalies {
		inner, outer, _ := strings.Cut(pair, "/")
		e.counter(peerAnomalies, n, key, inner, outer)
	}
}

func (e emitter) verdicts(key, direction string, s *tunnel.PathStatus) {
	if s == nil {
		return
	}
	for _, v := range [][2]string{{"Not-ECT", s.NotECT}, {"ECT(0)", s.ECT0}, {"ECT(1)", s.ECT1}, {"CE", s.CE}} {
		e.gauge(peerVerdict, 1, key, direction, v[0], v[1])
	}
}

// roundTrip is the shortest of all lanes, ms.
func roundTrip(lanes []tunnel.LaneDetail) (ms float64, known bool) {
	for _, l := range lanes {
		if l.Sent == nil || l.Sent.RTTMs == nil {
			continue
		}
		if rtt := *l.Sent.RTTMs; !known || rtt < ms {
			ms, known = rtt, true
		}
	}
	return ms, known
}
