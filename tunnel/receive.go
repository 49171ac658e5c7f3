package tunnel

import (
	"errors"
	"net"
	"time"

	"kiloport/flowhash"
	"kiloport/portpool"
	"kiloport/tunnel/attach/accord"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/tun"
)

const (
	maxDatagram = 1 << 16
	// receiveBatch is how many messages are taken at once. The kernel joins
	// datagrams of one lane only, so that it takes many of them where there are
	// many lanes. Memory that no datagram reaches costs nothing.
	receiveBatch = 128
	// flushBytes is how many bytes of a batch are opened before they are written
	// to the TUN device: what came first is not to wait for all that came behind.
	flushBytes   = 512 << 10
	receivePause = 100 * time.Millisecond
)

// receiver carries packets from a socket to a queue of the TUN device. It is one
// goroutine and owns everything here.
type receiver struct {
	device    *Device
	worker    int
	slot      int  // of its own at each peer
	pooled    bool // it serves ports of the pool
	answers   answers
	out       *tun.Coalescer
	admission admission
	priority  priority
	messages  []portpool.Message
	touched   []touchedPeer
	batch     uint64
	now       int64
}

// touchedPeer is a peer that something arrived from in this batch.
type touchedPeer struct {
	peer    *peer
	session *session // the last that was used
	data    bool     // and not only keepalives
	inner   bool     // inner packets, and not only control messages
	all     tally
}

func newReceiver(d *Device, worker int) *receiver {
	offloads := d.tun.Capabilities().Offloads
	if d.options.GRO == portpool.Off {
		offloads &= tun.OffloadChecksum
	}
	r := &receiver{
		device: d, worker: worker, slot: worker, answers: answers{hasher: d.hasher}, out: tun.NewCoalescer(d.tun.Queues()[worker], offloads),
		admission: newAdmission(d.admissionSecret, receiveBatch),
		priority:  priority{urgency: &d.urgency},
		messages:  make([]portpool.Message, receiveBatch),
	}
	slab := make([]byte, receiveBatch*maxDatagram)
	for i := range r.messages {
		r.messages[i].Buf = slab[i*maxDatagram : (i+1)*maxDatagram : (i+1)*maxDatagram]
	}
	return r
}

// run ends when the socket is closed.
func (r *receiver) run(socket portpool.Socket) {
	for {
		n, err := r.take(socket)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || r.device.handing.Load() {
				return
			}
			r.device.limited.warn("cannot receive, trying again", "error", err)
			r.pause()
			continue
		}
		r.receive(r.messages[:n])
	}
}

// take waits for datagrams: resting, where it is urgent.
func (r *receiver) take(socket portpool.Socket) (int, error) {
	poller, ok := socket.(portpool.Poller)
	for vain := false; ok && r.priority.urgent(); vain = true {
		r.priority.breathe(r.now)
		if n, err := poller.Poll(r.messages); n > 0 || err != nil {
			return n, err
		}
		r.priority.rest(vain, poller)
	}
	return socket.Receive(r.messages)
}

// pause keeps a failing socket from costing a processor.
func (r *receiver) pause() {
	over := make(chan struct{})
	r.device.clock.AfterFunc(receivePause, func() { close(over) })
	select {
	case <-over:
	case <-r.device.done:
	}
}

// receive handles one batch and writes what it gives to the TUN device.
func (r *receiver) receive(messages []portpool.Message) {
	r.now = r.device.clock.Now()
	r.batch++
	r.device.urgency.packets()
	refused, full := r.admission.decide(r.now, r.device.clock.Wall().UnixNano(), messages)
	if refused != nil || full {
		r.device.urgency.lost(r.now)
	}
	bytes := 0
	for i := range messages {
		m := &messages[i]
		if bytes += m.N; bytes > flushBytes {
			r.flush()
			bytes = m.N
		}
		skip := 0
		if refused != nil {
			skip = refused[i].Drop
		}
		r.message(m, skip)
	}
	r.flush()
	for i := range r.touched {
		t := &r.touched[i]
		t.peer.received(r.now, t.session, t.data, t.inner, &t.all)
		r.touched[i] = touchedPeer{}
	}
	r.touched = r.touched[:0]
}

// flush writes what was received so far to the TUN device.
func (r *receiver) flush() {
	if refused, err := r.out.Flush(); err != nil {
		r.device.drops[dropTUN].Add(uint64(refused))
		if !errors.Is(err, tun.ErrLinkDown) { // that has been logged, and somebody wants it so
			r.device.limited.warn("the tun device refused packets", "error", err)
		}
	}
}

// message handles the datagrams of a message, but for the first ones that are to be
// skipped.
func (r *receiver) message(m *portpool.Message, skip int) {
	if m.Truncated {
		r.device.drops.add(dropTruncated)
	}
	if skip > 0 {
		r.device.drops[dropAdmission].Add(uint64(skip))
	}
	for datagram := range m.Datagrams {
		if skip > 0 {
			skip--
			continue
		}
		r.datagram(m, datagram)
	}
}

func (r *receiver) datagram(m *portpool.Message, datagram []byte) {
	kind, ok := noise.MessageType(datagram)
	switch {
	case !ok:
		r.device.drops.add(dropMalformed)
	case kind == noise.MessageTransport:
		r.transport(m, datagram)
	case r.pooled:
		r.device.drops.add(dropMalformed) // handshakes are for the listen port
	default:
		r.device.handshakes.offer(r.now, m, datagram, kind)
	}
}

// transport opens a transport message.
func (r *receiver) transport(m *portpool.Message, datagram []byte) {
	d := r.device
	index, counter, ok := noise.ParseTransport(datagram)
	if !ok {
		d.drops.add(dropMalformed)
		return
	}
	s := d.indexes.lookup(index).session
	if s == nil {
		d.drops.add(dropIndex)
		return
	}
	p := s.peer
	lane, sequence, flags := noise.SplitCounter(counter)
	if s.expired(r.now) {
		p.drops.add(dropExpired)
		return
	}
	if !s.accepts(lane) || flags&^s.offers.Load() != 0 {
		p.drops.add(dropLane)
		return
	}
	payload, _, err := s.keypair.OpenInPlace(datagram)
	if err != nil {
		p.drops.add(dropForged)
		return
	}
	fresh, moved := s.record(r.now, lane, sequence, len(datagram), m)
	if !fresh {
		p.drops.add(dropReplay)
		return
	}
	if moved && lane != 0 {
		p.laneCame(r.now, lane, m, r.pooled)
	}
	r.authenticated(m, s, lane, datagram, payload, flags&noise.CounterVouched != 0)
}

// authenticated handles a payload that the peer has sealed, and that is new.
func (r *receiver) authenticated(m *portpool.Message, s *session, lane uint16, datagram, payload []byte, vouched bool) {
	p := s.peer
	t := r.touch(p)
	t.all.count(1, len(datagram), len(datagram), m.TrafficClass)
	if !s.confirmed.Load() {
		p.confirm(r.now, s)
	}
	if lane == 0 {
		p.roam(r.now, m)
	}
	t.session, t.data = s, t.data || len(payload) > 0
	switch {
	case len(payload) == 0: // keepalive
	case payload[0] == controlMagic:
		if whole := p.control(r.now, s, lane, payload[1:], m, len(datagram)); whole != nil {
			t.inner = true
			r.deliver(m, p, lane, whole, len(whole)-headerSize, false)
		}
	case accord.IsHello(payload):
		p.heardKernel(r.now, payload)
	default:
		t.inner = true
		r.deliver(m, p, lane, datagram, len(payload), vouched)
	}
}

const sourceWarning = "a packet from a source that is not among the peer's allowed ips was dropped"

// deliver adds an inner packet to what is written to the TUN device.
func (r *receiver) deliver(m *portpool.Message, p *peer, lane uint16, datagram []byte, size int, vouched bool) {
	payload := datagram[headerSize : headerSize+size]
	length, ok := innerLength(payload)
	if !ok {
		p.drops.add(dropNotIP)
		return
	}
	payload = payload[:length]
	source, _ := flowhash.Source(payload)
	if r.device.routes.lookup(source) != p {
		p.drops.add(dropSource)
		if skipped, due := r.device.limited.due(sourceWarning); due {
			r.device.limited.say(sourceWarning, skipped, "peer", p.name(), "source", source)
		}
		return
	}
	if lane != 0 && p.providing.Load() {
		p.arrivals.lane(lane).carried(r.now)
	}
	if lane != 0 && p.answering.Load() {
		r.answers.note(r.now, p, lane, payload)
	}
	if !p.decapsulate(payload, m.TrafficClass) {
		p.drops.add(dropECN)
		return
	}
	if most := p.clamp(); most != 0 {
		clampMSS(payload, most, !vouched)
	}
	// The transport header stood before the payload; the device may write
	// its own there.
	r.out.Add(datagram[headerSize-tun.Headroom:headerSize+length], vouched)
}

// innerLength gives the length that an IP header claims, if it is believable:
// the rest of the payload is padding.
func innerLength(b []byte) (int, bool) {
	n := 0
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		n = int(b[2])<<8 | int(b[3])
		return n, n >= 20 && n <= len(b)
	case len(b) >= 40 && b[0]>>4 == 6:
		n = 40 + (int(b[4])<<8 | int(b[5]))
		return n, n <= len(b)
	}
	return 0, false
}

// touch gives the peer's entry of this batch.
func (r *receiver) touch(p *peer) *touchedPeer {
	if p.heardBatch[r.slot] != r.batch {
		p.heardBatch[r.slot] = r.batch
		p.heardAt[r.slot] = len(r.touched)
		r.touched = append(r.touched, touchedPeer{peer: p})
	}
	return &r.touched[p.heardAt[r.slot]]
}

// roam moves the peer's endpoint to where an authenticated lane 0 message came
// from.
func (p *peer) roam(now int64, m *portpool.Message) {
	old, from := p.endpoint.Load(), p.canonical(m.Addr)
	if old != nil && old.addr == from && old.local == m.Local {
		return
	}
	p.endpoint.Store(&endpoint{addr: from, local: m.Local})
	if old == nil || old.addr != from {
		p.roamed(now)
	}
}
