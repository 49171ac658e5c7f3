package metrics

import "kiloport/tunnel"

var (
	linkUp       = describe("link_up", "1 if the link is up and has sockets.")
	portsOpen    = describe("pool_ports_open", "Source ports of the pool that are open.")
	portsLimit   = describe("pool_ports_limit", "Source ports that the pool can have.")
	queuePackets = describe("queue_packets", "Packets in the queue between the TUN device and the sockets.")
	queueBytes   = describe("queue_bytes", "Bytes in the queue between the TUN device and the sockets.")
	queueMarked  = describe("queue_marked_packets_total", "Packets that our own CoDel marked CE.")
	queueSojourn = describe("queue_sojourn_seconds", "How long packets waited in the queue.")
	flowsRecent  = describe("recent_flows", "Flows that sent within the last 30 s, by kind: bulk had more than a turn's worth in the queue within the last second, sparse had not.", "kind")
	sendErrors   = describe("send_errors_total", "Errors of the kernel on sending, by error.", "error")
	cookies      = describe("cookies_sent_total", "Cookie replies sent under load.")
	lanes        = describe("lanes", "Lanes above lane 0 of all peers, by state: agreed for sending, in_use, shared by several flows, dead, received on.", "state")

	sentPackets        = describe("sent_packets_total", "Transport messages sent.")
	sentBytes          = describe("sent_bytes_total", "Bytes of transport messages sent.")
	sentCodepoints     = describe("sent_codepoint_packets_total", "Transport messages sent with an ECN codepoint outside.", "codepoint")
	receivedPackets    = describe("received_packets_total", "Transport messages received and authenticated.")
	receivedBytes      = describe("received_bytes_total", "Bytes of transport messages received and authenticated.")
	receivedCodepoints = describe("received_codepoint_packets_total", "Transport messages received with an ECN codepoint outside.", "codepoint")
	drops              = describe("drops_total", "Packets dropped, by reason.", "reason")
	oneWayDelay        = describe("path_one_way_delay_seconds", "How much longer than at best of late each probe took, to the peers or from them.", "direction")
)

func (e emitter) device(s *tunnel.Status) {
	e.gauge(linkUp, truth(s.Up))
	e.gauge(portsOpen, float64(s.Pool.Open))
	e.gauge(portsLimit, float64(s.Pool.Limit))
	e.gauge(queuePackets, float64(s.Queue.Packets))
	e.gauge(queueBytes, float64(s.Queue.Bytes))
	e.counter(queueMarked, s.Queue.Marked)
	e.histogram(queueSojourn, s.Queue.Sojourn)
	e.rates(s)
	e.flows(s.Flows)
	for text, n := range s.SendErrors {
		e.counter(sendErrors, n, text)
	}
	e.counter(cookies, s.Cookies)
	var sum tunnel.LaneStatus
	for i := range s.Peers {
		l := &s.Peers[i].Lanes
		sum.Agreed += l.Agreed
		sum.InUse += l.InUse
		sum.Shared += l.Shared
		sum.Dead += l.Dead
		sum.Received += l.Received
	}
	for _, l := range laneStates(&sum) {
		e.gauge(lanes, float64(l.n), l.state)
	}
}

func (e emitter) flows(flows []tunnel.FlowDetail) {
	sparse := 0
	for i := range flows {
		if flows[i].Sparse {
			sparse++
		}
	}
	e.gauge(flowsRecent, float64(sparse), "sparse")
	e.gauge(flowsRecent, float64(len(flows)-sparse), "bulk")
}

// totals has every reason to drop from the start, so that the first drop shows as
// a rate.
func (e emitter) totals(t *tunnel.TotalStatus) {
	e.counter(sentPackets, t.Sent.Packets)
	e.counter(sentBytes, t.Sent.Bytes)
	e.counter(receivedPackets, t.Received.Packets)
	e.counter(receivedBytes, t.Received.Bytes)
	for _, c := range codepoints(&t.Sent) {
		e.counter(sentCodepoints, c.n, c.name)
	}
	for _, c := range codepoints(&t.Received) {
		e.counter(receivedCodepoints, c.n, c.name)
	}
	for _, reason := range tunnel.DropReasons() {
		e.counter(drops, t.Drops[reason], reason)
	}
	e.histogram(oneWayDelay, t.DelayTo, "to")
	e.histogram(oneWayDelay, t.DelayFrom, "from")
}

type codepointCount struct {
	name string
	n    uint64
}

func codepoints(t *tunnel.TrafficStatus) [3]codepointCount {
	return [3]codepointCount{{"ECT(0)", t.ECT0}, {"ECT(1)", t.ECT1}, {"CE", t.CE}}
}

type laneState struct {
	state string
	n     int
}

func laneStates(l *tunnel.LaneStatus) [5]laneState {
	return [5]laneState{{"agreed", l.Agreed}, {"in_use", l.InUse}, {"shared", l.Shared}, {"dead", l.Dead}, {"received", l.Received}}
}
