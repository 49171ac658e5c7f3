package tunnel

import (
	"encoding/binary"
	"time"

	"kiloport/portpool"
)

// OPEN asks the peer to send something on some of its lanes, so that a firewall or
// NAT before it lets in the answers, which are what we shall send. With ports, which
// are ours of these lanes, it asks for that to come to them; OPENED then gives the
// peer's. Then both sides have sent from port to port, and each side's firewall
// takes what comes for an answer (simultaneous opening).
//
//	OPEN, OPENED = { lane(2) port(2) }, port 0 for the lane that goes to the listen port
const (
	openEntry = 4
	openMost  = 256 // lanes of one message

	keepEvery     = int64(10 * time.Second) // on lanes where something has come lately,
	keepLately    = int64(30 * time.Second)
	beatEvery     = int64(time.Second) // on lane 0, while and after data arrives
	beatLately    = int64(10 * time.Second)
	keepPerTick   = 64
	provideWithin = int64(time.Minute) // after the peer has asked for a lane, or used one
)

// openList is the body of OPEN and OPENED.
type openList struct {
	Lanes, Ports []uint16
}

func (l *openList) append(b []byte) []byte {
	for i, lane := range l.Lanes {
		b = binary.BigEndian.AppendUint16(b, lane)
		b = binary.BigEndian.AppendUint16(b, l.Ports[i])
	}
	return b
}

func parseOpen(b []byte) (l openList, err error) {
	if len(b)%openEntry != 0 || len(b) > openMost*openEntry {
		return openList{}, errControl
	}
	for ; len(b) > 0; b = b[openEntry:] {
		l.Lanes = append(l.Lanes, binary.BigEndian.Uint16(b))
		l.Ports = append(l.Ports, binary.BigEndian.Uint16(b[2:]))
	}
	return l, nil
}

// provider is how a peer keeps lanes open that the other end sends to. It is behind
// the peer's mutex.
type provider struct {
	at     int64 // when something is due, 0 = we do not provide
	asked  int64 // when the peer last asked for lanes
	beatAt int64 // when lane 0 was last kept open
	inner  int64 // when inner packets last arrived
	kept   []int64
}

// askOpen sends OPEN.
func (p *peer) askOpen(now int64, s *session, lanes []uint16, pair bool) {
	for len(lanes) > 0 {
		n := min(len(lanes), openMost)
		list := openList{Lanes: lanes[:n], Ports: make([]uint16, n)}
		if pair {
			p.fillPorts(now, &list)
		}
		p.sendControl(now, s, appendControl(nil, controlOpen, &list))
		lanes = lanes[n:]
	}
}

// fillPorts enters the ports of our pool, which listens from then on.
func (p *peer) fillPorts(now int64, list *openList) {
	socks := p.device.sockets.Load()
	if socks == nil {
		return
	}
	p.device.listenOnPool(socks)
	for i, lane := range list.Lanes {
		if socket, err := socks.pool.Socket(now, lane); err == nil {
			list.Ports[i] = socket.Port()
		}
	}
}

// heardOpen opens the lanes that the peer asks for, as many as we may have.
func (p *peer) heardOpen(now int64, s *session, body []byte) {
	list, err := parseOpen(body)
	socks := p.device.sockets.Load()
	if err != nil || socks == nil {
		p.drops.add(dropControl)
		return
	}
	p.provider.asked = now
	p.provider.at = now + beatEvery
	p.providing.Store(true)
	p.device.listenOnPool(socks)
	limit := uint16(min(uint32(socks.pool.Limit()), s.limit.Load()))
	answer := openList{}
	for i, lane := range list.Lanes {
		if lane == 0 || lane > limit {
			continue
		}
		if list.Ports[i] == 0 {
			p.sendOpening(now, s, lane, spreadDirect)
			continue
		}
		p.claimWay(lane, list.Ports[i])
		p.sendOpening(now, s, lane, spreadPaired)
		answer.Lanes, answer.Ports = append(answer.Lanes, lane), append(answer.Ports, 0)
	}
	if len(answer.Lanes) > 0 {
		p.fillPorts(now, &answer)
		p.sendControl(now, s, appendControl(nil, controlOpened, &answer))
	}
}

// sendOpening sends a probe of whose answer nobody needs to know.
func (p *peer) sendOpening(now int64, s *session, lane uint16, via spreadMode) {
	p.sendProbe(now, s, lane, via, p.device.random64(), p.classOn(lane, 0))
	p.keptLane(lane, now)
}

// heardOpened takes the ports of the peer's pool.
func (p *peer) heardOpened(now int64, body []byte) {
	list, err := parseOpen(body)
	if err != nil {
		p.drops.add(dropControl)
		return
	}
	var probes []uint16
	for i, lane := range list.Lanes {
		if lane == 0 || lane > p.spread.limit || list.Ports[i] == 0 {
			continue
		}
		p.claimWay(lane, list.Ports[i])
		probes = append(probes, lane)
	}
	p.spreadEvents(now, p.spread.paired(now, probes, p))
}

// listenOnPool makes the pool's ports receive.
func (d *Device) listenOnPool(socks *sockets) {
	if socks.pool.Listening() {
		return
	}
	d.poolOnce.Do(func() {
		for worker := range d.workers {
			r := newReceiver(d, worker)
			r.slot, r.pooled = d.workers+worker, true
			d.pooled = append(d.pooled, &pooledReceiver{receiver: r, lent: portpool.Buffers{Messages: r.messages}})
		}
	})
	if err := socks.pool.Listen(d.receiveLane); err != nil {
		d.limited.warn("a port of the pool cannot receive", "error", err)
	}
}

// pooledReceiver is a receiver that many sockets share.
type pooledReceiver struct {
	*receiver
	lent portpool.Buffers
}

// receiveLane serves one socket of the pool. All that comes there goes through one
// receiver, so that the order within a lane is kept.
func (d *Device) receiveLane(lane uint16, socket portpool.Socket) {
	shared, ok := socket.(portpool.SharedReceiver)
	if !ok {
		return
	}
	r := d.pooled[int(lane)%len(d.pooled)]
	for {
		n, err := shared.ReceiveShared(&r.lent)
		if err != nil {
			return // closed; what else there is, a socket of the pool need not survive
		}
		r.receive(r.messages[:n])
		r.lent.Mu.Unlock()
	}
}

// provide keeps lanes open on which the peer has sent lately, and lane 0 while it
// sends: a router forgets mappings, and one that was restarted learns them anew only
// from what goes out. The caller holds mu, here and below.
func (p *peer) provide(now int64, s *session) {
	v := &p.provider
	if v.at == 0 || now < v.at {
		return
	}
	v.at = now + beatEvery
	if now-v.inner < beatLately && now-v.beatAt >= beatEvery {
		v.beatAt = now
		p.sendSealed(now, s, 0, spreadListen, make([]byte, headerSize+tagSize), 0, 0)
	}
	kept := 0
	active := now-v.asked < provideWithin
	p.arrivals.from(1, func(lane uint16, a *arrivals) bool {
		if lane == 0 || now-a.inner.Load() > keepLately || a.inner.Load() == 0 || uint32(lane) > s.limit.Load() {
			return kept < keepPerTick
		}
		active = true
		if now-max(s.lastSent(lane), v.lastKept(lane)) >= keepEvery && p.sentOn(s, lane) {
			p.sendSealed(now, s, lane, p.keptVia(lane), make([]byte, headerSize+tagSize), 0, p.classOn(lane, 0))
			p.keptLane(lane, now)
			kept++
		}
		return kept < keepPerTick
	})
	if !active {
		v.at = 0
		p.providing.Store(false)
	}
}

// keptVia is the way on which the peer's packets come to a lane.
func (p *peer) keptVia(lane uint16) spreadMode {
	if way := p.ways.get(lane); way != nil && way.paired && way.addr != p.endpoint.Load().addr {
		return spreadPaired
	}
	return spreadDirect
}

func (v *provider) lastKept(lane uint16) int64 {
	if int(lane) < len(v.kept) {
		return v.kept[lane]
	}
	return 0
}

func (p *peer) keptLane(lane uint16, now int64) {
	v := &p.provider
	for int(lane) >= len(v.kept) {
		v.kept = append(v.kept, 0)
	}
	v.kept[lane] = now
}
