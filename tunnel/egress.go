package tunnel

import (
	"net/netip"
	"slices"
	"syscall"

	"kiloport/portpool"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/tun"
)

// sockets is where datagrams leave and arrive: the listen sockets, which are
// lane 0 and share a port, one for each receiver; and the pool, which is the
// other lanes. It exists while the link is up.
type sockets struct {
	listen    portpool.Socket // the one to send on
	receivers []portpool.Socket
	pool      *portpool.Pool
}

// endpoint is where a peer is. It is never changed, only replaced.
type endpoint struct {
	addr   netip.AddrPort
	local  netip.Addr // our address that the peer last sent to, if known
	paired bool       // the peer sends from there to a port of our pool, and not to the listen port
}

// outgoing is a packet, or super-packet, and the way that was chosen for it.
type outgoing struct {
	packet  *packet
	session *session
	to      *endpoint
	socket  portpool.Socket
	lane    uint16
	counter uint16 // the lane that counts it, and is in its counter
	class   uint8  // traffic class
}

// sealedRoom is how many bytes of sealed datagrams are collected before they are
// sent: room for any super-packet, with what sealing adds to its segments.
const sealedRoom = 256 << 10

// egress seals the packets of a batch, straight out of where they lie into
// datagrams that follow each other, and sends those of one lane together. It has
// one owner.
type egress struct {
	labels  labels
	items   []outgoing
	order   []uint64 // lane<<32 | position, so that sorting keeps a lane's order
	segment tun.Segmenter
	sealed  []byte // the datagrams of batch, and the room behind them
	batch   []portpool.Message
	from    []portpool.Socket // of each message
	of      []*outgoing       // whose first segment is in each message
	pool    *portpool.Pool    // while flushing
}

// newEgress makes an egress for up to size packets at a time.
func newEgress(l labels, size int) *egress {
	return &egress{
		labels: l,
		items:  make([]outgoing, 0, size),
		order:  make([]uint64, 0, size),
	}
}

func (e *egress) add(o outgoing) {
	e.order = append(e.order, uint64(o.lane)<<32|uint64(len(e.items)))
	e.items = append(e.items, o)
}

// last is what was added last.
func (e *egress) last() *outgoing { return &e.items[len(e.items)-1] }

// flush seals and sends everything. What a socket does not take is counted as
// dropped at its peer: waiting for it would hold up all other lanes.
func (e *egress) flush(socks *sockets, mtu int) {
	if len(e.items) == 0 {
		return
	}
	if e.sealed == nil {
		e.sealed = make([]byte, 0, sealedRoom)
	}
	e.pool = socks.pool
	slices.Sort(e.order)
	for _, at := range e.order {
		e.seal(&e.items[uint32(at)], mtu)
	}
	e.send()
	e.order = e.order[:0]
	clear(e.items)
	e.items = e.items[:0]
}

// seal adds the segments of a packet to what is sent.
func (e *egress) seal(o *outgoing, mtu int) {
	s, p := o.session, o.packet
	mtu = p.peer.padTo(mtu)
	drops := &p.peer.drops
	if e.segment.Reset(p.header, p.payload(), s.vouches.Load()) != nil {
		drops.add(dropInvalid)
		return
	}
	n := uint64(e.segment.Len())
	sequence, ok := s.reserve(o.counter, n)
	if !ok {
		drops[dropExpired].Add(n)
		return
	}
	flags := s.sealFlags.Load()
	if e.segment.Vouched() {
		flags |= noise.CounterVouched
	}
	for ; n > 0; n-- {
		plain := e.segment.Next()
		size := noise.PaddedSize(len(plain), mtu)
		out := e.room(o, size+noise.TransportOverhead)
		counter := noise.JoinCounter(o.counter, sequence, flags)
		if s.keypair.SealTo(out, e.segment.Pad(plain, size-len(plain)), counter) == nil {
			e.unroom(len(out))
			drops[dropExpired].Add(n)
			return
		}
		sequence++
	}
}

// room gives the place for the next datagram: at the end of the last message if
// that may go with it, in a message of its own otherwise.
func (e *egress) room(o *outgoing, size int) []byte {
	if len(e.sealed)+size > cap(e.sealed) {
		e.send()
	}
	at := len(e.sealed)
	e.sealed = e.sealed[:at+size]
	out := e.sealed[at : at+size : at+size]
	if n := len(e.batch) - 1; n >= 0 && joins(&e.batch[n], e.of[n], o, size) {
		m := &e.batch[n]
		m.Buf = e.sealed[at-len(m.Buf) : at+size]
		return out
	}
	e.batch = append(e.batch, portpool.Message{
		Buf: out, SegmentSize: size, Addr: o.to.addr, Local: o.to.local,
		TrafficClass: o.class, FlowLabel: e.labels.of(o.lane),
	})
	e.from, e.of = append(e.from, o.socket), append(e.of, o)
	return out
}

// joins says whether a datagram of this size can follow those of a message.
func joins(m *portpool.Message, first, o *outgoing, size int) bool {
	return size <= m.SegmentSize && len(m.Buf)%m.SegmentSize == 0 && first.lane == o.lane && first.to == o.to &&
		first.class == o.class && first.packet.peer == o.packet.peer
}

// unroom takes back the last room given.
func (e *egress) unroom(size int) {
	e.sealed = e.sealed[:len(e.sealed)-size]
	n := len(e.batch) - 1
	m := &e.batch[n]
	if m.Buf = m.Buf[:len(m.Buf)-size]; len(m.Buf) == 0 {
		e.batch, e.from, e.of = e.batch[:n], e.from[:n], e.of[:n]
	}
}

// send sends what is sealed.
func (e *egress) send() {
	if len(e.batch) > 0 {
		e.pool.SendAcross(e.from, e.batch)
		e.account()
	}
	clear(e.batch)
	clear(e.from)
	clear(e.of)
	e.batch, e.from, e.of, e.sealed = e.batch[:0], e.from[:0], e.of[:0], e.sealed[:0]
}

// account counts what the sockets have seen, for all messages to a peer that follow
// each other at once.
func (e *egress) account() {
	var all tally
	for i, o := range e.of {
		o.sent(&e.batch[i], &all)
		if p := o.packet.peer; i+1 == len(e.of) || e.of[i+1].packet.peer != p {
			p.tx.add(&all)
			p.noteSent(all.largest)
			all = tally{}
		}
	}
}

// sent counts the datagrams of a message after the socket has seen it.
func (o *outgoing) sent(m *portpool.Message, all *tally) {
	p := o.packet.peer
	if o.to.local.IsValid() && !m.Local.IsValid() {
		p.forgetLocal(o.to)
	}
	n := (len(m.Buf) + m.SegmentSize - 1) / m.SegmentSize
	gone := (m.N + m.SegmentSize - 1) / m.SegmentSize
	all.count(gone, m.N, m.SegmentSize, o.class)
	if gone < n {
		p.drops[sendDrop(m.Err)].Add(uint64(n - gone))
	}
}

func sendDrop(e syscall.Errno) dropReason {
	switch {
	case e == 0, e == syscall.EBADF:
		return dropLinkDown
	case e == syscall.EMSGSIZE:
		return dropTooBig
	case portpool.Classify(e) == portpool.Transient:
		return dropSendFull
	case portpool.Classify(e) == portpool.Path:
		return dropUnreachable
	}
	return dropSendFailed
}
