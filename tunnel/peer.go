package tunnel

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"kiloport/portpool"
	"kiloport/tunnel/ecn"
	"kiloport/tunnel/noise"
)

const (
	maxStaged    = 128  // packets of one peer that wait for a session, as WireGuard
	maxStagedAll = 4096 // of all peers
)

// peer is the other end, known by its public key.
//
// The packet path reads the atomics and never takes mu for a packet; it takes it
// once a batch. Order of locks: Device.config, peer.mu, peer.lanesMu.
type peer struct {
	device *Device
	key    noise.PublicKey

	sending   atomic.Pointer[session] // what data is sealed with, nil = none
	endpoint  atomic.Pointer[endpoint]
	normalECN atomic.Bool // what is sent may carry the inner ECN field outside

	// Where lanes lead:
	via       atomic.Uint32 // spreadMode: whether data may leave lane 0, and where lanes lead
	providing atomic.Bool   // lanes are kept open on which the peer sends
	answering atomic.Bool   // the peer's packets say which lanes their answers get
	ways      wayTable      // of the peer's lanes
	sources   wayTable      // of ours, with a source address of its own for each

	// What the path carries:
	largestIn   atomic.Uint32 // datagram since the last list, bytes
	largestOut  atomic.Uint32 // likewise, since the peer's last list
	innerMax    atomic.Int32  // how large an inner packet may be, 0 = as the TUN device lets it
	takesPieces atomic.Bool
	pieceID     atomic.Uint32

	// Of a peer whose kernel WireGuard has kiloport attached, see kernelpeer.go:
	restores    atomic.Pointer[kernelPorts] // where its data comes from, nil = it is no such peer
	restored    atomic.Uint32               // messages that came from there
	kernelLanes atomic.Uint32               // lanes that data may take with lane 0's counter

	blind     atomic.Bool // the path from the peer marks everything, so marks mean nothing
	dscps     atomic.Uint64
	tx, rx    traffic
	arrivals  arrivalTable
	drops     drops
	downlink  downlink
	sojourn   atomic.Pointer[[]sharedHistogram] // of its packets in the queue, by transmitter; nil = none was sent
	anomalies [4][4]atomic.Uint64               // RFC 6040's odd pairs: inner, outer

	sentBatch  []uint64 // by transmitter: number of its last batch with data
	heardBatch []uint64 // by receiver, likewise
	heardAt    []int

	lanesMu    sync.Mutex
	lanes      *portpool.Lanes // nil until lanes were first used
	lanesLimit int
	opened     []uint16 // lanes just given to flows, to be probed

	allowed []netip.Prefix // behind Device.config

	mu           sync.Mutex
	removed      bool
	started      bool
	remote       *noise.Remote // made with the first handshake
	preshared    noise.PresharedKey
	keepalive    uint16 // seconds, 0 = off
	keepaliveDue bool   // it was just turned on

	handshake      *noise.Handshake // our initiation that waits for its response
	handshakeIndex uint32
	asked          bool      // a handshake is in the queue
	completed      time.Time // when the last handshake was, for people

	current, previous, next *session // WireGuard's three

	staged    []*packet
	timers    *noise.Timers
	delays    *delays // nil: none was measured
	spread    spread
	ecn       ecnPath
	sizes     *sizeWatch
	mtu       pathMTU
	pieces    *pieceTable // nil: none has come
	reporter  reporter
	reports   reports
	reporting bool // the peer reads REPORT
	lister    lister
	provider  provider
	reopen    []uint16 // lanes that a process before this one kept open, until the link is up
	abilities uint16   // helloPath… bits of the peer
	lineAt    int64    // when to send the next probe of the line, 0 = not before data is sent
	tripLow   int64    // the least round trip on lane 0 since the last report, above that of late
	tripKnown bool     // there was one
	switchAt  int64    // data moves to current at the latest, 0 = it has
	heard     int64    // when something authenticated last arrived
	version   uint8    // of the peer's control messages, 0 = stock
	spoke     bool     // it has said HELLO at some time
	again     sentInitiation
	kernel    *kernelPeer
	wake      Timer
	wakeAt    int64 // what wake is set to, 0 = not set
}

// traffic counts transport messages that were sent or authenticated.
type traffic struct {
	packets, bytes atomic.Uint64
	codepoints     [4]atomic.Uint64 // but Not-ECT
}

// tally is what a worker adds to a peer's traffic once a batch: the workers share
// these counters, and each datagram's addition would be felt.
type tally struct {
	packets, bytes uint64
	codepoints     [4]uint64
	largest        int // datagram
}

// count is for messages with a traffic class outside, of so many bytes in all and at
// most of a size.
func (t *tally) count(packets, bytes, size int, class uint8) {
	t.packets += uint64(packets)
	t.bytes += uint64(bytes)
	t.codepoints[class&3] += uint64(packets)
	t.largest = max(t.largest, size)
}

func (t *traffic) add(b *tally) {
	t.packets.Add(b.packets)
	t.bytes.Add(b.bytes)
	for cp, n := range b.codepoints {
		if n != 0 && cp != int(ecn.NotECT) {
			t.codepoints[cp].Add(n)
		}
	}
}

func (t *traffic) marks() (m markCounts) {
	rest := uint64(0)
	for cp := range t.codepoints {
		m[cp] = t.codepoints[cp].Load()
		rest += m[cp]
	}
	m[ecn.NotECT] = max(t.packets.Load(), rest) - rest
	return m
}

func newPeer(d *Device, key noise.PublicKey) *peer {
	p := &peer{
		device: d, key: key, timers: noise.NewTimers(d.constants, d.jitter),
		sentBatch: make([]uint64, d.workers), heardBatch: make([]uint64, 2*d.workers), heardAt: make([]int, 2*d.workers),
	}
	p.resetSpread()
	return p
}

// stage keeps a packet until there is a session and asks for one. If there is
// one by now, it is returned and the packet not kept.
func (p *peer) stage(now int64, pkt *packet) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.sending.Load(); s != nil && !s.expired(now) {
		return s
	}
	d := p.device
	switch {
	case !p.started || d.sockets.Load() == nil:
		p.drops.add(dropLinkDown)
	case d.static.Load() == nil:
		d.drops.add(dropNoKey)
	case p.endpoint.Load() == nil:
		p.drops.add(dropNoEndpoint)
	default:
		p.keep(pkt)
		p.wantHandshake(now)
		p.arm(now)
	}
	return nil
}

// keep stages a packet in place of the oldest if there is no more room.
func (p *peer) keep(pkt *packet) {
	if len(p.staged) >= maxStaged || p.device.staged.Load() >= maxStagedAll && len(p.staged) > 0 {
		p.drops.add(dropNoSession)
		copy(p.staged, p.staged[1:])
		p.staged[len(p.staged)-1] = pkt
		return
	}
	if p.device.staged.Load() >= maxStagedAll {
		p.drops.add(dropNoSession)
		return
	}
	p.device.staged.Add(1)
	p.staged = append(p.staged, pkt)
}

// flushStaged sends what waited, in order.
func (p *peer) flushStaged(now int64, s *session) {
	if len(p.staged) == 0 {
		return
	}
	socks := p.device.sockets.Load()
	e := newEgress(p.device.labels, len(p.staged))
	for _, pkt := range p.staged {
		p.push(now, e, socks, s, pkt)
	}
	e.flush(socks, p.device.mtu())
	p.device.staged.Add(-int64(len(p.staged)))
	p.staged = nil
	p.timers.DataSent(now)
}

func (p *peer) dropStaged() {
	p.drops[dropNoSession].Add(uint64(len(p.staged)))
	p.device.staged.Add(-int64(len(p.staged)))
	p.staged = nil
}

// dataSent is told once a batch that data was sent.
func (p *peer) dataSent(now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removed {
		return
	}
	p.timers.DataSent(now)
	if s := p.sending.Load(); s != nil && s == p.current && p.device.constants.RekeyOnSend(s.keypair, now, s.first.next.Load()) {
		p.wantHandshake(now)
	}
	p.noteLanes(now)
	p.spread.active(now)
	if p.lineAt == 0 && p.reporting && p.device.uplink.adapts() {
		p.lineAt = now
	}
	p.ecn.classUsed(now, p.dscps.Load())
	p.ecn.active(now)
	p.mtu.active(now)
	p.flowedKernel(now)
	p.arm(now)
}

// received is told once a batch that something authenticated arrived.
// data tells that it was not only keepalives, inner that there were packets of
// others in it.
func (p *peer) received(now int64, s *session, data, inner bool, all *tally) {
	p.rx.add(all)
	p.noteSize(all.largest)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removed {
		return
	}
	p.heard = now
	if data {
		p.timers.DataReceived(now)
	} else {
		p.timers.KeepaliveReceived(now)
	}
	if inner {
		p.innerArrived(now)
		p.flowedKernel(now)
	}
	if s == p.current && p.device.constants.RekeyOnReceive(s.keypair, now) && p.timers.LastMinute() {
		p.wantHandshake(now)
	}
	p.arm(now)
}

// confirm makes a keypair that we answered for current: the peer uses it.
func (p *peer) confirm(now int64, s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.confirmed.Store(true)
	if s != p.next {
		return
	}
	p.release(p.previous)
	p.previous, p.current, p.next = p.current, s, nil
	p.timers.Confirmed(now)
	p.completed = p.device.clock.Wall()
	p.startHello(now, s)
	p.adopt(now, s)
	p.arm(now)
}

// answered installs the keypair that came out of our initiation. We may send on
// it at once.
func (p *peer) answered(now int64, s *session) {
	s.confirmed.Store(true)
	p.release(p.previous)
	// What the peer has sent on the one before is still on its way. A keypair
	// that waits in next, of an initiation that crossed ours, goes on waiting:
	// if the peer uses it after all, confirm takes it up.
	p.previous, p.current = p.current, s
	p.completed = p.device.clock.Wall()
	p.startHello(now, s)
	p.adopt(now, s)
}

// install keeps the keypair of an initiation that we answered. It is used when
// the peer has used it; until then the other two stay, so that nothing that is
// on its way is lost.
func (p *peer) install(s *session) {
	p.release(p.next)
	p.next = s
}

// release forgets a keypair. If data still used it, nothing does until there is
// another.
func (p *peer) release(s *session) {
	if s == nil {
		return
	}
	p.device.indexes.release(s.keypair.LocalIndex)
	if p.sending.CompareAndSwap(s, nil) && p.current != nil && p.current != s {
		p.switchTo(p.device.clock.Now(), p.current)
	}
}

// clearSessions forgets all keys. The caller holds mu.
func (p *peer) clearSessions() {
	p.sending.Store(nil)
	for _, s := range []*session{p.current, p.previous, p.next} {
		if s != nil {
			p.device.indexes.release(s.keypair.LocalIndex)
		}
	}
	p.current, p.previous, p.next, p.switchAt = nil, nil, nil, 0
	p.clearHandshake()
	p.resetSpread()
	p.forgetLanes()
}

func (p *peer) clearHandshake() {
	if p.handshake != nil {
		p.handshake.Clear()
		p.handshake = nil
	}
	p.device.indexes.release(p.handshakeIndex)
	p.handshakeIndex, p.again.at = 0, 0
}

// roamed is told that the endpoint is another one.
func (p *peer) roamed(now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pathChanged(now)
	p.arm(now)
}

// forgetLocal is told that the source address of an endpoint has gone.
func (p *peer) forgetLocal(old *endpoint) {
	p.endpoint.CompareAndSwap(old, &endpoint{addr: old.addr})
}

// name is the public key, shortened for people.
func (p *peer) name() string { return p.key.String() }
