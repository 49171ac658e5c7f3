package tunnel

import (
	"kiloport/portpool"
	"kiloport/tunnel/ecn"
	"kiloport/tunnel/noise"
)

// HELLO is said once per keypair by the initiator of its handshake, as the
// first message on it, which also is what confirms the keypair. Either message
// of the exchange is enough for the one who got it: whoever said HELLO accepts
// lanes, and whoever answered it does too.
//
// A rekey must not be felt. Data stays on the old keypair, if that has lanes
// and is alive, until HELLO was exchanged on the new one; a peer that turned
// into a stock one meanwhile costs switchDelay.

// helloAfter is when HELLO is repeated, nanoseconds after the first: as often as
// it takes on a lossy path and no more than a stock peer will stand.
var helloAfter = [...]int64{0, 250e6, 1e9, 3e9, 10e9}

const (
	helloGiveUp = int64(15e9) // after the first: the peer is a stock one
	switchDelay = int64(15e8) // data waits for HELLO on a new keypair
	oldAlive    = int64(10e9) // an old keypair is alive if heard within this
	maxLanes    = noise.MaxLane
)

// helloState is where the exchange on one keypair stands.
type helloState struct {
	started int64 // when the keypair was confirmed or HELLO first sent, 0 = not yet
	said    int   // how often we sent HELLO
	heard   bool  // HELLO or its answer arrived
	over    bool  // heard, or given up
	theirs  hello // if heard
}

// next is when helloStep wants to be called, 0 = never.
func (h *helloState) next(initiator bool) int64 {
	switch {
	case h.started == 0 || h.over:
		return 0
	case initiator && h.said < len(helloAfter):
		return h.started + helloAfter[h.said]
	}
	return h.started + helloGiveUp
}

// startHello begins the exchange on a keypair that we may send on. The caller
// holds mu, as for everything in this file that is the peer's.
func (p *peer) startHello(now int64, s *session) {
	if s.hello.started != 0 {
		return
	}
	s.hello.started = now
	p.ecn.asked()
	if s.keypair.Initiator {
		s.offered.Store(maxLanes)
		s.offers.Store(p.device.offers)
	}
	p.helloStep(now, s)
}

// helloStep repeats HELLO or gives it up.
func (p *peer) helloStep(now int64, s *session) {
	h := &s.hello
	if at := h.next(s.keypair.Initiator); at == 0 || now < at {
		return
	}
	if s.keypair.Initiator && h.said < len(helloAfter) {
		h.said++
		ours := p.device.ourHello()
		p.sendControl(now, s, appendControl(nil, controlHello, &ours))
		return
	}
	h.over = true
	if s == p.current {
		p.spreadStock("the peer does not answer HELLO: it is a stock WireGuard")
	}
}

// ourHello is what we can do.
func (d *Device) ourHello() hello {
	h := hello{
		Version:      controlVersion,
		ReceiveLanes: uint16(d.options.receiveLanes()),
		ECN:          helloECNDecapsulates,
		AEADs:        helloAEADChaCha,
		Path:         helloPathDirect | helloPathReports | helloPathHeard | helloPathReturn | helloPathPieces,
	}
	if d.offers&noise.CounterAES != 0 {
		h.AEADs |= helloAEADAES256
	}
	if d.offers&noise.CounterVouched != 0 {
		h.Path |= helloPathVouched
	}
	h.SendLanes = uint16(d.options.sendLanes())
	if d.options.DSCP.Inherits() {
		h.DSCP = helloDSCPInherits
	}
	if d.uplink.adapts() {
		h.Path |= helloPathQuick
	}
	if h.ReceiveRate = d.options.ReceiveBandwidth; h.ReceiveRate != 0 {
		h.ReceiveOverhead = d.options.Overhead
	}
	return h
}

// heardHello takes HELLO or HELLO_ACK, which arrived on s.
func (p *peer) heardHello(now int64, s *session, t controlType, body []byte) {
	theirs, err := parseHello(body)
	if err != nil {
		p.drops.add(dropControl)
		return
	}
	// From now on no lane may arrive that the peer did not speak of.
	s.offered.Store(uint32(min(theirs.SendLanes, maxLanes)))
	if t == controlHello {
		s.offers.Store(p.device.offers)
		ours := p.device.ourHello()
		p.sendControl(now, s, appendControl(nil, controlHelloAck, &ours))
	}
	if s.hello.heard {
		return
	}
	s.hello.heard, s.hello.over, s.hello.theirs = true, true, theirs
	s.decapsulates.Store(theirs.ECN&helloECNDecapsulates != 0)
	s.vouches.Store(theirs.Path&helloPathVouched != 0)
	if theirs.AEADs&helloAEADAES256 != 0 && p.device.offers&noise.CounterAES != 0 {
		s.sealFlags.Store(noise.CounterAES)
	}
	p.version, p.spoke = theirs.Version, true
	p.lister.listed = false // it may be another process, which counts its lists anew
	p.ask(&theirs)
	limit := min(p.device.ourHello().SendLanes, theirs.ReceiveLanes, maxLanes)
	s.allowLanes(limit)
	if s != p.current {
		return
	}
	p.agreed(now, limit, &theirs)
	p.pathAgreed(now, &theirs)
	p.switchTo(now, s)
}

// adopt decides when data moves to a new current keypair.
func (p *peer) adopt(now int64, s *session) {
	old := p.sending.Load()
	spread := old != nil && old != s && old.limit.Load() > 0
	alive := spread && !old.expired(now) && now-p.heard < oldAlive
	if alive && !s.hello.heard {
		p.switchAt = now + switchDelay
		return
	}
	p.switchTo(now, s)
}

// switchTo sends what waited for a session, then lets data take this one. The
// order is kept, because nobody else sends data to the peer before it is
// published.
func (p *peer) switchTo(now int64, s *session) {
	p.switchAt = 0
	if s == nil || p.sending.Load() == s {
		return
	}
	p.keepSojourn()
	p.flushStaged(now, s)
	p.sending.Store(s)
}

// control handles the control messages of one payload, which arrived on a lane
// of s in a datagram of size bytes, one of those of m. It gives an inner packet that
// came in pieces, behind room for a transport header.
func (p *peer) control(now int64, s *session, lane uint16, list []byte, m *portpool.Message, size int) (whole []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		t, body, rest, err := nextControl(list)
		if err != nil {
			p.drops.add(dropControl)
			return nil
		}
		switch t {
		case controlEnd:
			p.arm(now)
			return p.takeWhole()
		case controlHello, controlHelloAck:
			p.heardHello(now, s, t, body)
		case controlProbe:
			p.heardProbe(now, s, lane, body, m, size)
		case controlProbeEcho:
			p.heardEcho(now, s, body)
		case controlReport:
			p.heardReport(now, s, body)
		case controlPiece:
			p.heardPiece(body)
		case controlHeard:
			p.heardHeard(now, body)
		case controlOpen:
			p.heardOpen(now, s, body)
		case controlOpened:
			p.heardOpened(now, body)
		}
		list = rest
	}
}

// heardProbe answers on lane 0, unless that is known to be silent.
func (p *peer) heardProbe(now int64, s *session, lane uint16, body []byte, m *portpool.Message, size int) {
	probe, err := parseProbe(body)
	if err != nil {
		p.drops.add(dropControl)
		return
	}
	echo := probeEcho{
		probe: probe, Lane: lane, Size: uint16(size), TrafficClass: m.TrafficClass,
		HopLimit: m.HopLimit, Arrived: m.Time, Source: m.Addr,
	}
	p.sendEcho(now, s, &echo)
	p.noteProbe(lane, &probe, m)
}

// heardEcho gives an answer to whoever asked: each knows its own.
func (p *peer) heardEcho(now int64, s *session, body []byte) {
	echo, err := parseProbeEcho(body)
	if err != nil {
		p.drops.add(dropControl)
		return
	}
	p.spreadEvents(now, p.spread.echoed(now, echo.ID, echo.Lane))
	p.ecn.echoed(now, echo.ID, echo.Lane, echo.TrafficClass)
	p.mtuEvents(now, p.mtu.echoed(now, echo.ID))
	p.noteEcho(now, s, &echo)
}

// sendControl sends a control payload on lane 0, in the class for such.
func (p *peer) sendControl(now int64, s *session, payload []byte) {
	p.sendPayload(now, s, 0, payload, p.device.controlClass())
}

// sendPayload seals a control payload and sends it on a lane of s, which goes the
// way that data goes. On a lane above 0 it shares the class of the data, which it might
// overtake by more than the lane's replay window otherwise.
func (p *peer) sendPayload(now int64, s *session, lane uint16, payload []byte, class uint8) {
	p.sendVia(now, s, lane, p.spread.mode, payload, p.classOn(lane, class))
}

// sendVia is for a lane that goes another way.
func (p *peer) sendVia(now int64, s *session, lane uint16, via spreadMode, payload []byte, class uint8) {
	size := noise.PaddedSize(len(payload), maxControlPayload)
	buf := make([]byte, headerSize+size+noise.TagSize)
	copy(buf[headerSize:], payload)
	p.sendSealed(now, s, lane, via, buf, size, class)
}

// controlClass is the outer traffic class of handshakes and control messages.
func (d *Device) controlClass() uint8 { return ecn.TrafficClass(d.options.ControlDSCP, ecn.NotECT) }
