package tunnel

import (
	"kiloport/tunnel/ecn"
)

// This file is what the packet path does to the traffic class, DSCP and ECN, of
// inner and outer headers.

// encapsulate gives the outer traffic class of an inner packet that is sent on s.
func (p *peer) encapsulate(s *session, packet []byte) (class uint8) {
	o := &p.device.options
	cp, dscp, _ := ecn.Of(packet)
	dscp = o.DSCP.Outer(dscp)
	if bit := uint64(1) << dscp; p.dscps.Load()&bit == 0 {
		p.dscps.Or(bit)
	}
	return ecn.TrafficClass(dscp, ecn.Encapsulate(p.ecnMode(s), cp))
}

// ecnMode is RFC 6040's mode for encapsulation on a session with the peer. In
// normal mode the peer must have said on this very keypair that it decapsulates,
// unless we were told that it does.
func (p *peer) ecnMode(s *session) ecn.Mode {
	if p.normalECN.Load() && (s.decapsulates.Load() || p.device.options.ECN == ECNOn) {
		return ecn.Normal
	}
	return ecn.Compatibility
}

// answerClass is the outer class of what answers an inner packet, if that has the
// same DSCP.
func (p *peer) answerClass(packet []byte) uint8 {
	_, dscp, _ := ecn.Of(packet)
	return ecn.TrafficClass(p.device.options.DSCP.Outer(dscp), ecn.NotECT)
}

// laneFlow is by what a flow's packets with an outer traffic class are given a
// lane. Packets of one flow in two classes of service may overtake each other by
// any amount, so they do not share a replay window; within a class they stay in
// order.
func laneFlow(flow uint64, class uint8) uint64 {
	return flow ^ uint64(ecn.PHB(class>>2))*0x9e3779b97f4a7c15 // odd, so that classes differ; 0 for the default one
}

// decapsulate gives an inner packet the traffic class that it goes on with, by
// RFC 6040 section 4.2 and RFC 2983; false means that it must be dropped. outer is
// the class that it arrived in.
func (p *peer) decapsulate(packet []byte, outer uint8) bool {
	inner, dscp, ok := ecn.Of(packet)
	if !ok {
		return false
	}
	d := ecn.Decapsulate(inner, ecn.Codepoint(outer&3))
	if d.Anomaly != ecn.AnomalyNone {
		p.anomaly(inner, ecn.Codepoint(outer&3), d.Anomaly)
	}
	if (d.Drop || d.Inner != inner) && p.blind.Load() {
		// The path sets CE on what was sent Not-ECT: it is not congestion that
		// speaks here, and to drop for it would drop everything.
		d = ecn.Decapsulation{Inner: inner}
	}
	if d.Drop {
		return false
	}
	was := ecn.TrafficClass(dscp, inner)
	if class := p.device.options.DSCPDecap.Inner(dscp, outer, d.Inner); class != was {
		ecn.SetClass(packet, class)
	}
	return true
}

// anomalyWarnings are constants, so that each is limited by itself.
var anomalyWarnings = func() (all [ecn.Anomalies]string) {
	for a := range ecn.Anomaly(ecn.Anomalies) {
		all[a] = "a packet arrived with " + a.String() + ", which no router makes of what the peer sends: somebody on the way rewrites the ecn field"
	}
	return all
}()

// anomaly counts a pair of codepoints that RFC 6040 section 4.2 calls unused or
// dangerous, and reports it.
func (p *peer) anomaly(inner, outer ecn.Codepoint, a ecn.Anomaly) {
	p.anomalies[inner&3][outer&3].Add(1)
	limited := p.device.limited
	if skipped, due := limited.due(anomalyWarnings[a]); due {
		limited.say(anomalyWarnings[a], skipped, "peer", p.name(), "dangerous", a.Dangerous())
	}
}
