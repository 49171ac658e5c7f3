package tunnel

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"kiloport/portpool"
)

// sockets is where datagrams leave and arrive: the listen socket, which is lane
// 0, and the pool, which is the others. It exists while the link is up.
type sockets struct {
	listen portpool.Socket
	pool   *portpool.Pool
}

// endpoint is where a peer is. It is never changed, only replaced.
type endpoint struct {
	addr  netip.AddrPort
	local netip.Addr // our address that the peer last sent to, if known
}

// outbound is a sealed datagram on its way to a socket.
type outbound struct {
	peer   *peer
	to     *endpoint
	socket portpool.Socket
	buf    []byte
	lane   uint16
	class  uint8 // traffic class
}

// egress collects datagrams and sends those of one lane together. It has one
// owner and copies nothing.
type egress struct {
	labels labels
	items  []outbound
	order  []uint64 // lane<<32 | position, so that sorting keeps a lane's order
	batch  []portpool.Message
}

func newEgress(l labels, size int) *egress {
	return &egress{
		labels: l,
		items:  make([]outbound, 0, size),
		order:  make([]uint64, 0, size),
		batch:  make([]portpool.Message, size),
	}
}

func (e *egress) add(o outbound) {
	e.order = append(e.order, uint64(o.lane)<<32|uint64(len(e.items)))
	e.items = append(e.items, o)
}

// flush sends everything. What a socket does not take is counted as dropped at
// its peer: waiting for it would hold up all other lanes.
func (e *egress) flush() {
	slices.Sort(e.order)
	for rest := e.order; len(rest) > 0; {
		lane, n := rest[0]>>32, 1
		for n < len(rest) && rest[n]>>32 == lane {
			n++
		}
		e.sendLane(rest[:n])
		rest = rest[n:]
	}
	e.order = e.order[:0]
	clear(e.items)
	e.items = e.items[:0]
}

func (e *egress) sendLane(order []uint64) {
	batch := e.batch[:len(order)]
	label := e.labels.of(uint16(order[0] >> 32))
	for i, at := range order {
		o := &e.items[uint32(at)]
		batch[i] = portpool.Message{Buf: o.buf, Addr: o.to.addr, Local: o.to.local, TrafficClass: o.class, FlowLabel: label}
	}
	_, err := e.items[uint32(order[0])].socket.Send(batch)
	for i, at := range order {
		e.items[uint32(at)].sent(&batch[i], err)
	}
	clear(batch)
}

// sent counts one datagram after the socket has seen it.
func (o *outbound) sent(m *portpool.Message, err error) {
	if o.to.local.IsValid() && !m.Local.IsValid() {
		o.peer.forgetLocal(o.to)
	}
	switch {
	case err == nil || m.Err == 0 && !isClosed(err):
		o.peer.tx.count(len(o.buf), o.class)
	default:
		o.peer.drops.add(sendDrop(m.Err))
	}
}

func sendDrop(e syscall.Errno) dropReason {
	switch {
	case e == 0:
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

func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }
