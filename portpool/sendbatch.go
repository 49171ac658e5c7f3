package portpool

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// sendVectors is the most buffers of one system call: five full
	// super-datagrams of a lane's packets.
	sendVectors = 256
	// maxSuper is the most bytes of datagrams handed to the kernel as one.
	// IPv4 allows 65535 with its headers, the kernel a little less.
	maxSuper = 65464
)

// sendBatch is one call of Send under way. It packs the messages into units,
// each of which is one slot of a system call.
type sendBatch struct {
	slots
	iov     [sendVectors]unix.Iovec
	control [batchSize][sendControl / 8]uint64
	units   [batchSize]unit
	run     func(fd uintptr) // b.send, made once because it would be allocated

	sock *UDPSocket
	ms   []Message

	next   cursor // what has not been packed
	head   int    // first unit that has not been sent
	filled int    // units packed
	vecs   int    // buffers in them
	labels bool   // they have flow labels

	apart cursor        // up to here each datagram is a unit of its own,
	blame syscall.Errno // because this happened to them as one

	sent  int
	first syscall.Errno // the first message skipped
	stop  syscall.Errno // why the rest was not tried
}

// cursor is a place in the messages.
type cursor struct {
	message int
	offset  int // in its Buf
}

func (c cursor) before(d cursor) bool {
	return c.message < d.message || c.message == d.message && c.offset < d.offset
}

// unit is what goes into a slot: whole messages, or a part of one.
type unit struct {
	from, to cursor
	segment  int // size of its datagrams, 0 if it has only one
}

func takeSendBatch() *sendBatch {
	return freeSend.take(func() *sendBatch {
		b := new(sendBatch)
		for i := range b.hdr {
			b.wire(i, (*byte)(unsafe.Pointer(&b.control[i])))
		}
		b.run = b.send
		return b
	})
}

func (b *sendBatch) release() {
	b.sock, b.ms = nil, nil
	freeSend.put(b)
}

// start makes the messages of a Send those of the batch.
func (b *sendBatch) start(s *UDPSocket, ms []Message) {
	b.sock, b.ms = s, ms
	b.next, b.apart, b.blame = cursor{}, cursor{}, 0
	b.head, b.filled, b.vecs = 0, 0, 0
	b.sent, b.first, b.stop = 0, 0, 0
	for i := range ms {
		ms[i].N, ms[i].Err = 0, 0
	}
}

// send hands all messages to the kernel. sendmmsg stops at one that it refuses
// and reports the error only if that is the first, so after a short count the
// next call begins with the culprit.
func (b *sendBatch) send(fd uintptr) {
	pending := false
	defer func() { letGo(b.iov[:b.vecs]) }()
	for b.head < b.filled || b.fill(fd) {
		n, e := b.transmit(fd, b.head, b.filled-b.head)
		switch {
		case e == 0:
			for range n {
				b.went()
			}
			pending = false
		case e == unix.EINTR:
		case isPending(e) && !pending:
			pending = true // it was about an earlier datagram: try this one again
		case e == unix.EAGAIN || Classify(e) == Fatal:
			b.giveUp(e)
			return
		default:
			b.refused(fd, e)
			pending = false
		}
	}
}

// fill packs as many messages as there is room for. It tells whether any are
// left.
func (b *sendBatch) fill(fd uintptr) bool {
	letGo(b.iov[:b.vecs])
	b.head, b.filled, b.vecs = 0, 0, 0
	b.labels = b.sock.shared.FlowLabels()
	for b.filled < batchSize && b.vecs < sendVectors && b.next.message < len(b.ms) {
		b.pack(fd)
	}
	return b.filled > 0
}

// pack makes the next unit.
func (b *sendBatch) pack(fd uintptr) {
	m := &b.ms[b.next.message]
	most := 1
	if !b.next.before(b.apart) {
		most = b.sock.shared.segments(m.Addr.Addr())
	}
	u, vecs := &b.units[b.filled], b.vecs
	u.from, u.segment = b.next, 0
	if m.SegmentSize > 0 && m.SegmentSize < len(m.Buf) {
		b.packPart(u, m, most)
	} else {
		b.packRun(u, m, most)
	}
	u.to = b.next
	h := &b.hdr[b.filled].hdr
	h.Iov = &b.iov[vecs]
	h.SetIovlen(b.vecs - vecs)
	b.address(b.filled, fd, b.labels, true)
	b.filled++
}

// packPart packs datagrams of a message that has several.
func (b *sendBatch) packPart(u *unit, m *Message, most int) {
	rest, size := m.Buf[u.from.offset:], m.SegmentSize
	n := min(len(rest), size*max(1, min(most, maxSuper/size)))
	if n > size {
		u.segment = size
	}
	b.vector(rest[:n])
	b.next.offset += n
	if n == len(rest) {
		b.next = cursor{message: u.from.message + 1}
	}
}

// packRun packs a message and those after it that the kernel can take as one
// with it: all of one size, but for the last, which may be shorter.
func (b *sendBatch) packRun(u *unit, m *Message, most int) {
	size, total := len(m.Buf), len(m.Buf)
	b.vector(m.Buf)
	b.next = cursor{message: u.from.message + 1}
	for n := 1; n < most && b.next.message < len(b.ms) && b.vecs < sendVectors; n++ {
		o := &b.ms[b.next.message]
		total += len(o.Buf)
		if len(o.Buf) > size || total > maxSuper || !o.joins(m) {
			break
		}
		u.segment = size
		b.vector(o.Buf)
		b.next.message++
		if len(o.Buf) < size {
			break
		}
	}
}

// joins tells whether m is a single datagram, not empty, with the same headers
// as o.
func (m *Message) joins(o *Message) bool {
	return len(m.Buf) > 0 && (m.SegmentSize <= 0 || m.SegmentSize >= len(m.Buf)) &&
		m.Addr == o.Addr && m.TrafficClass == o.TrafficClass && m.FlowLabel == o.FlowLabel &&
		m.Local == o.Local && m.IfIndex == o.IfIndex
}

func (b *sendBatch) vector(buf []byte) {
	setVector(&b.iov[b.vecs], buf)
	b.vecs++
}

// address fills a slot with all but the buffers. A message without destination
// gets none here, and EDESTADDRREQ from the kernel.
func (b *sendBatch) address(i int, fd uintptr, label, local bool) {
	m := &b.ms[b.units[i].from.message]
	h := &b.hdr[i].hdr
	to := m.Addr.Addr()
	v4 := to.Is4() || to.Is4In6()
	switch {
	case v4:
		h.Namelen = putSockaddr4(&b.name[i], m.Addr)
	case to.IsValid():
		h.Namelen = putSockaddr6(&b.name[i], m.Addr)
		if label {
			b.name[i].Flowinfo = networkOrder32(m.FlowLabel & 0xfffff)
		}
		if zone := to.Zone(); zone != "" {
			b.name[i].Scope_id = b.sock.shared.zoneIndex(fd, zone)
		}
	default:
		h.Namelen = 0
	}
	source := m.Local
	if !local {
		source = netip.Addr{}
	}
	control := unsafe.Slice((*byte)(unsafe.Pointer(&b.control[i])), sendControl)
	h.SetControllen(putControl(control, v4, m.TrafficClass, source, m.IfIndex, b.units[i].segment))
}

// went notes that the kernel took the unit at the head.
func (b *sendBatch) went() {
	u := &b.units[b.head]
	b.head++
	if b.blame != 0 { // and took this one alone
		b.sock.shared.refuseSegments(b.ms[u.from.message].Addr.Addr(), b.blame)
		b.blame = 0
	}
	for i := u.from.message; i < u.to.message; i++ {
		b.ms[i].N = len(b.ms[i].Buf)
		b.sent++
	}
	if u.to.offset > 0 {
		b.ms[u.to.message].N = u.to.offset
	}
}

func (b *sendBatch) giveUp(e syscall.Errno) {
	for i := b.units[b.head].from.message; i < len(b.ms); i++ {
		b.ms[i].Err = e
	}
	b.stop = e
	b.sock.shared.count(e)
}

// refused deals with a unit that the kernel did not take: without its flow
// label or its source address, or in single datagrams, it may.
func (b *sendBatch) refused(fd uintptr, e syscall.Errno) {
	u := &b.units[b.head]
	if zone := b.ms[u.from.message].Addr.Addr().Zone(); zone != "" {
		b.sock.shared.forgetZone(zone)
	}
	switch {
	case b.withoutLabelOrLocal(fd, e):
		b.went()
		b.packAnew(u.to) // without what was wrong
	case u.segment > 0 && mayRefuseSegments(e):
		b.apart, b.blame = u.to, e
		b.packAnew(u.from)
	default:
		b.skip(e)
	}
}

// packAnew throws away the units that were not sent, which begin at a place.
func (b *sendBatch) packAnew(from cursor) {
	b.next, b.head = from, b.filled
}

// mayRefuseSegments tells errors that UDP_SEGMENT can cause: EIO where the
// interface computes no checksums or IPsec is in the way, EINVAL and, in newer
// kernels, EMSGSIZE for sizes.
func mayRefuseSegments(e syscall.Errno) bool {
	return e == unix.EIO || e == unix.EINVAL || e == unix.EMSGSIZE
}

// withoutLabelOrLocal tries a refused unit again without what may be wrong.
func (b *sendBatch) withoutLabelOrLocal(fd uintptr, e syscall.Errno) bool {
	u, sh := &b.units[b.head], b.sock.shared
	m := &b.ms[u.from.message]
	label := e == unix.EINVAL && m.FlowLabel != 0 && m.Addr.Addr().Is6() && b.labels
	local := m.Local.IsValid() && sourceMayBeWrong(e)
	switch {
	case label && b.again(fd, false, true):
		sh.refuseLabels()
	case local && b.again(fd, sh.FlowLabels(), false):
		b.forgetLocal(u)
	case label && local && b.again(fd, false, false):
		b.forgetLocal(u)
		sh.refuseLabels()
	default:
		return false
	}
	return true
}

// sourceMayBeWrong tells errors that a source address which has gone, or its
// interface, can cause.
func sourceMayBeWrong(e syscall.Errno) bool {
	switch e {
	case unix.EINVAL, unix.EADDRNOTAVAIL, unix.ENODEV, unix.ENXIO, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN:
		return true
	}
	return false
}

func (b *sendBatch) again(fd uintptr, label, local bool) bool {
	b.address(b.head, fd, label, local)
	n, _ := b.transmit(fd, b.head, 1)
	return n == 1
}

func (b *sendBatch) forgetLocal(u *unit) {
	b.ms[u.from.message].Local = netip.Addr{}
	for i := u.from.message + 1; i < u.to.message; i++ {
		b.ms[i].Local = netip.Addr{}
	}
}

// skip gives up the messages of the unit at the head, wholly: what is left of
// one that has several datagrams would fare no better.
func (b *sendBatch) skip(e syscall.Errno) {
	u := b.units[b.head]
	last := max(u.from.message, u.to.message-1)
	for i := u.from.message; i <= last; i++ {
		b.ms[i].Err = e
		b.sock.shared.count(e)
	}
	b.blame = 0
	if b.first == 0 {
		b.first = e
	}
	for b.head < b.filled && b.units[b.head].from.message <= last {
		b.head++
	}
	if b.next.message <= last {
		b.next = cursor{message: last + 1}
	}
}
