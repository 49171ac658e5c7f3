package tunnel

import (
	"bytes"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"

	"kiloport/portpool"
	"kiloport/tunnel/noise"
)

const (
	limitedSources = 4096
	inboundQueue   = 1024 // initiations that wait; above an eighth of it we are under load
	answerQueue    = 256  // responses and cookie replies to our own handshakes, likewise
	provenQueue    = 256  // under load: what carries a cookie of ours
	underLoadFor   = int64(1e9)
)

// handshaker does all public-key work in one goroutine: handshakes that our own
// traffic waits for first, then answers to those, then who has shown under load
// that it is where it says it is, then what strangers ask. A flood of the last
// fills its queue and costs nobody else anything.
type handshaker struct {
	device   *Device
	inbound  chan inbound
	answers  chan inbound
	proven   chan inbound
	notify   chan struct{} // something is in wanted
	asked    load          // by initiations
	answered load          // by responses
	limiter  *noise.RateLimiter

	mu       sync.Mutex
	wanted   []*peer
	cookies  *noise.CookieChecker // of the identity below
	identity *noise.Static
}

// inbound is a handshake message as it arrived.
type inbound struct {
	bytes  [noise.InitiationSize]byte // the largest of them
	size   int
	source netip.AddrPort
	local  netip.Addr
	index  uint32 // receiver, of answers
	proven bool   // mac2 was right
}

func newHandshaker(d *Device) *handshaker {
	return &handshaker{
		device:  d,
		inbound: make(chan inbound, inboundQueue),
		answers: make(chan inbound, answerQueue),
		proven:  make(chan inbound, provenQueue),
		notify:  make(chan struct{}, 1),
		limiter: noise.NewRateLimiter(limitedSources),
	}
}

// checker is what makes and knows cookies for an identity.
func (h *handshaker) checker(static *noise.Static) *noise.CookieChecker {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.identity != static {
		h.identity, h.cookies = static, noise.NewCookieChecker(static, h.device.constants)
	}
	return h.cookies
}

// A load is whether messages of one kind have to be proven before they are
// worked on: while an eighth of their queue is full, and for a second after that.
type load struct{ until atomic.Int64 }

func (l *load) heavy(now int64, queue chan inbound) bool {
	if len(queue) >= cap(queue)/8 {
		l.until.Store(now + underLoadFor)
	}
	return now < l.until.Load()
}

// underLoad tells whether an initiation or response, by its size, has to be
// proven. A flood of strangers' initiations costs no response a round trip:
// those are for somebody who knows our indexes.
func (h *handshaker) underLoad(now int64, size int) bool {
	if size == noise.InitiationSize {
		return h.asked.heavy(now, h.inbound)
	}
	return h.answered.heavy(now, h.answers)
}

// offer queues a handshake message that passes what is cheap to check. The
// receiver calls it, so it neither waits nor does public-key work.
func (h *handshaker) offer(now int64, m *portpool.Message, datagram []byte, kind uint8) {
	d := h.device
	static := d.static.Load()
	in := inbound{size: len(datagram), source: m.Addr, local: m.Local}
	queue := h.answers
	switch {
	case static == nil:
		d.drops.add(dropNoKey)
		return
	case kind != noise.MessageCookieReply && !static.CheckMAC1(datagram):
		d.drops.add(dropMAC)
		return
	case kind == noise.MessageInitiation:
		queue = h.inbound
	default:
		in.index, _ = noise.ReceiverIndex(datagram)
		if d.indexes.lookup(in.index).peer == nil {
			d.drops.add(dropIndex)
			return
		}
	}
	if kind != noise.MessageCookieReply && h.underLoad(now, len(datagram)) && h.checker(static).CheckMAC2(now, datagram, m.Addr) {
		in.proven, queue = true, h.proven
	}
	copy(in.bytes[:], datagram)
	select {
	case queue <- in:
	default:
		d.drops.add(dropBusy)
	}
}

// ask queues a handshake with a peer, which must not be in the queue yet.
func (h *handshaker) ask(p *peer) {
	h.mu.Lock()
	h.wanted = append(h.wanted, p)
	h.mu.Unlock()
	select {
	case h.notify <- struct{}{}:
	default:
	}
}

func (h *handshaker) takeWanted() *peer {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.wanted) == 0 {
		h.wanted = nil
		return nil
	}
	p := h.wanted[0]
	h.wanted[0] = nil
	h.wanted = h.wanted[1:]
	return p
}

// run ends when done is closed.
func (h *handshaker) run(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-h.notify:
		case in := <-h.answers:
			h.consume(&in)
		case in := <-h.proven:
			h.consume(&in)
		case in := <-h.inbound:
			h.consume(&in)
		}
		h.first(done)
	}
}

// first does what goes before strangers' initiations: one answer and one proven
// message for each request, so that none starves.
func (h *handshaker) first(done <-chan struct{}) {
	for {
		p := h.takeWanted()
		if p != nil {
			p.initiate()
		}
		select {
		case <-done:
			return
		default:
		}
		answered, proven := h.consumeFrom(h.answers), h.consumeFrom(h.proven)
		if p == nil && !answered && !proven {
			return
		}
	}
}

func (h *handshaker) consumeFrom(queue chan inbound) bool {
	select {
	case in := <-queue:
		h.consume(&in)
		return true
	default:
		return false
	}
}

// consume handles a message. Under load it costs a cookie first, then is
// limited by address.
func (h *handshaker) consume(in *inbound) {
	d := h.device
	now := d.clock.Now()
	static := d.static.Load()
	if static == nil {
		d.drops.add(dropNoKey)
		return
	}
	switch {
	case in.size == noise.CookieReplySize:
		h.answer(now, in)
	case h.underLoad(now, in.size) && !h.admit(now, static, in):
	case in.size == noise.InitiationSize:
		h.initiated(now, static, in)
	default:
		h.answer(now, in)
	}
}

// initiated answers an initiation.
func (h *handshaker) initiated(now int64, static *noise.Static, in *inbound) {
	d := h.device
	msg := in.bytes[:in.size]
	incoming, err := noise.OpenInitiation(static, msg)
	if err != nil {
		d.drops.add(dropHandshake)
		return
	}
	p := d.peer(incoming.RemotePublic)
	if p == nil {
		d.drops.add(dropHandshake)
		d.limited.warn("handshake from an unknown peer refused: is its public key configured?",
			"public key", incoming.RemotePublic.String(), "from", in.source)
		return
	}
	if err := p.respond(now, static, &incoming, in); err != nil {
		p.drops.add(dropHandshake)
		if errors.Is(err, noise.ErrRepeated) {
			return // see sendInitiationAgain
		}
		d.limited.warn("handshake refused", "peer", p.name(), "from", in.source, "error", err)
	}
}

// admit decides under load whether a message is worth public-key work.
func (h *handshaker) admit(now int64, static *noise.Static, in *inbound) bool {
	d := h.device
	msg := in.bytes[:in.size]
	if cookies := h.checker(static); !in.proven && !cookies.CheckMAC2(now, msg, in.source) {
		d.drops.add(dropCookie)
		if reply, err := cookies.Reply(d.rand, now, msg, in.source); err == nil {
			d.sendHandshake(reply[:], &endpoint{addr: in.source, local: in.local})
			d.cookiesSent.Add(1)
		}
		return false
	}
	if !h.limiter.Allow(now, in.source.Addr()) {
		d.drops.add(dropRate)
		return false
	}
	return true
}

// answer handles a response or a cookie reply.
func (h *handshaker) answer(now int64, in *inbound) {
	d := h.device
	msg := in.bytes[:in.size]
	p := d.indexes.lookup(in.index).peer
	if p == nil {
		d.drops.add(dropIndex)
		return
	}
	var err error
	if in.size == noise.CookieReplySize {
		err = p.takeCookie(now, msg)
	} else {
		err = p.finish(now, msg, in)
	}
	if err != nil {
		p.drops.add(dropHandshake)
		d.limited.warn("handshake answer refused", "peer", p.name(), "from", in.source, "error", err)
	}
}

// wantHandshake asks for a new keypair for a fresh reason: data without one, or
// one grown old. The caller holds mu, here and below.
func (p *peer) wantHandshake(now int64) {
	if !p.asked && !p.removed && p.timers.Initiate(now) {
		p.askHandshake()
	}
}

// askHandshake queues an initiation.
func (p *peer) askHandshake() {
	if !p.asked && !p.removed {
		p.asked = true
		p.device.handshakes.ask(p)
	}
}

// initiate sends an initiation. The handshaker calls it.
func (p *peer) initiate() {
	d := p.device
	now := d.clock.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = false
	static, to := d.static.Load(), p.endpoint.Load()
	if !p.started || static == nil || to == nil || d.sockets.Load() == nil {
		return
	}
	if err := p.sendInitiation(now, static, to); err != nil {
		d.limited.warn("handshake not sent", "peer", p.name(), "error", err)
	}
	p.arm(now)
}

func (p *peer) sendInitiation(now int64, static *noise.Static, to *endpoint) error {
	d := p.device
	if err := p.prepare(static); err != nil {
		return err
	}
	p.clearHandshake()
	index, err := d.indexes.reserve(d.rand, p)
	if err != nil {
		return err
	}
	p.handshakeIndex = index
	msg, handshake, err := noise.Initiate(d.rand, static, p.remote, index, d.clock.Wall())
	if err != nil {
		return err
	}
	p.handshake = handshake
	noise.AddMACs(msg[:], p.remote, now)
	p.timers.InitiationSent(now)
	p.sendHandshake(msg[:], to)
	if p.spoke {
		p.again = sentInitiation{msg, now + initiateAgain, now + int64(d.constants.RekeyTimeout)}
	}
	return nil
}

// prepare computes what all handshakes with the peer have in common.
func (p *peer) prepare(static *noise.Static) error {
	if p.remote != nil {
		return nil
	}
	remote, err := noise.NewRemote(static, p.key)
	if err != nil {
		return err
	}
	remote.Constants = p.device.constants
	p.remote = &remote
	return nil
}

// respond answers an initiation that is the peer's.
func (p *peer) respond(now int64, static *noise.Static, incoming *noise.Incoming, in *inbound) error {
	d := p.device
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.started || d.static.Load() != static {
		return noise.ErrState // the link went down, or our key was changed meanwhile
	}
	if err := p.prepare(static); err != nil {
		return err
	}
	if err := incoming.Accept(p.remote, now); err != nil {
		return err
	}
	p.yield(static)
	index, err := d.indexes.reserve(d.rand, p)
	if err != nil {
		return err
	}
	msg, keypair, err := incoming.Respond(d.rand, p.preshared, index)
	if err != nil {
		d.indexes.release(index)
		return err
	}
	keypair.Created = now
	s := newSession(p, keypair)
	p.install(s)
	d.indexes.bind(index, s)
	to := p.moveTo(in)
	noise.AddMACs(msg[:], p.remote, now)
	p.timers.InitiationReceived(now)
	p.timers.ResponseSent(now)
	p.rx.bytes.Add(uint64(in.size))
	p.sendHandshake(msg[:], to)
	p.arm(now)
	return nil
}

// yield gives up our own initiation when the peer's crosses it and its key is
// the lower one, so that one handshake comes out of the two. With two, each end
// would be the initiator of its own keypair, both would grow old at the same
// time, and every rekey would cross again. Stock peers always give up theirs.
func (p *peer) yield(static *noise.Static) {
	ours := static.Public()
	if p.handshake != nil && bytes.Compare(p.key[:], ours[:]) < 0 {
		p.clearHandshake()
	}
}

// finish takes the response to our initiation.
func (p *peer) finish(now int64, msg []byte, in *inbound) error {
	d := p.device
	p.mu.Lock()
	defer p.mu.Unlock()
	static := d.static.Load()
	if p.handshake == nil || p.handshakeIndex != in.index || static == nil || !p.started {
		return noise.ErrState
	}
	keypair, err := p.handshake.OpenResponse(static, p.preshared, msg)
	if err != nil {
		return err
	}
	keypair.Created = now
	s := newSession(p, keypair)
	d.indexes.bind(in.index, s)
	p.handshake, p.handshakeIndex = nil, 0
	p.moveTo(in)
	p.rx.bytes.Add(uint64(in.size))
	p.timers.ResponseReceived(now)
	p.answered(now, s)
	p.heard = now // after it has decided whether the old keypair is alive
	p.arm(now)
	return nil
}

// moveTo takes the source of an authenticated handshake message as endpoint.
func (p *peer) moveTo(in *inbound) *endpoint {
	to, old := &endpoint{addr: in.source, local: in.local}, p.endpoint.Load()
	p.endpoint.Store(to)
	if old != nil && old.addr != to.addr {
		p.pathChanged(p.device.clock.Now())
	}
	return to
}

func (p *peer) takeCookie(now int64, msg []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.remote == nil {
		return noise.ErrState
	}
	return p.remote.OpenCookieReply(now, msg)
}

func (p *peer) sendHandshake(msg []byte, to *endpoint) {
	if p.device.sendHandshake(msg, to) {
		p.tx.bytes.Add(uint64(len(msg)))
		p.device.uplink.past(p, len(msg))
	}
}

// sendHandshake sends on lane 0: cookies are bound to address and port.
func (d *Device) sendHandshake(msg []byte, to *endpoint) bool {
	socks := d.sockets.Load()
	if socks == nil {
		return false
	}
	batch := []portpool.Message{{Buf: msg, Addr: to.addr, Local: to.local, TrafficClass: d.controlClass()}}
	_, err := socks.listen.Send(batch)
	if err != nil {
		d.drops.add(sendDrop(batch[0].Err))
		d.limited.warn("handshake message not sent", "to", to.addr, "error", err)
	}
	return err == nil
}

// sendSealed seals n bytes of payload behind the header room of buf and sends
// them on a lane of s, on one of its ways, in an outer traffic class, at once. The
// caller holds mu.
func (p *peer) sendSealed(now int64, s *session, lane uint16, via spreadMode, buf []byte, n int, class uint8) {
	p.sendSealedFrom(now, s, lane, lane, via, buf, n, class)
}

// sendSealedFrom is sendSealed where another lane counts than the one whose way is
// taken.
func (p *peer) sendSealedFrom(now int64, s *session, lane, counter uint16, via spreadMode, buf []byte, n int, class uint8) {
	d := p.device
	socks := d.sockets.Load()
	if socks == nil {
		return
	}
	socket, to, ok := p.wayOf(now, socks, lane, via)
	if !ok {
		return
	}
	datagram, ok := s.seal(buf, n, counter)
	if !ok {
		return
	}
	batch := []portpool.Message{{Buf: datagram, Addr: to.addr, Local: to.local, TrafficClass: class, FlowLabel: d.labels.of(lane)}}
	if _, err := socket.Send(batch); err != nil {
		p.drops.add(sendDrop(batch[0].Err))
	} else {
		var one tally
		one.count(1, len(datagram), len(datagram), class)
		p.tx.add(&one)
		d.uplink.past(p, len(datagram))
	}
	if to.local.IsValid() && !batch[0].Local.IsValid() {
		p.forgetLocal(to)
	}
	p.timers.KeepaliveSent(now)
}
