package portpool

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is the most datagrams of one system call; what it saves is all but
// gained at 32, and a batch's arrays still fit the first-level cache.
const batchSize = 64

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// slots are the arrays of a system call on a batch. They are wired to each
// other once; a call fills in lengths, buffers and addresses.
type slots struct {
	hdr  [batchSize]mmsghdr
	iov  [batchSize]unix.Iovec
	name [batchSize]unix.RawSockaddrInet6
}

func (s *slots) wire(i int, control *byte) {
	h := &s.hdr[i].hdr
	h.Iov = &s.iov[i]
	h.SetIovlen(1)
	h.Name = (*byte)(unsafe.Pointer(&s.name[i]))
	h.Control = control
}

func (s *slots) buffer(i int, buf []byte) {
	s.iov[i].Base = unsafe.SliceData(buf)
	s.iov[i].SetLen(len(buf))
}

// letGo drops the pointers to the caller's buffers.
func (s *slots) letGo(n int) {
	for i := range n {
		s.iov[i].Base = nil
	}
}

func (s *slots) call(trap, fd uintptr, from, n int) (int, syscall.Errno) {
	r, _, e := unix.Syscall6(trap, fd, uintptr(unsafe.Pointer(&s.hdr[from])), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(r), 0
}

// freeList keeps unused batches. There are as many as ever were in use at one
// time, about one for each worker: not one for each of 16384 sockets. A
// sync.Pool would be emptied by every garbage collection.
type freeList[T any] struct {
	mu   sync.Mutex
	free []*T
}

func (l *freeList[T]) take(make func() *T) *T {
	l.mu.Lock()
	if n := len(l.free); n > 0 {
		b := l.free[n-1]
		l.free = l.free[:n-1]
		l.mu.Unlock()
		return b
	}
	l.mu.Unlock()
	return make()
}

func (l *freeList[T]) put(b *T) {
	l.mu.Lock()
	l.free = append(l.free, b)
	l.mu.Unlock()
}

var (
	freeSend    freeList[sendBatch]
	freeReceive freeList[receiveBatch]
)

// sendBatch is one call of Send under way.
type sendBatch struct {
	slots
	control [batchSize][sendControl / 8]uint64
	run     func(fd uintptr) // b.send, made once because it would be allocated

	sock   *UDPSocket
	ms     []Message
	labels bool // the slots have flow labels
	sent   int
	first  syscall.Errno // the first message skipped
	stop   syscall.Errno // why the rest was not tried
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

// send hands all messages to the kernel. sendmmsg stops at one that it refuses
// and reports the error only if that is the first, so after a short count the
// next call begins with the culprit.
func (b *sendBatch) send(fd uintptr) {
	b.labels = b.sock.shared.FlowLabels()
	for i := range b.ms {
		b.put(i, fd, b.labels, true)
	}
	defer b.letGo(len(b.ms))
	pending := false
	for i := 0; i < len(b.ms); {
		n, e := b.call(unix.SYS_SENDMMSG, fd, i, len(b.ms)-i)
		switch {
		case e == 0:
			b.sentTo(i, i+n)
			i += n
			pending = false
		case e == unix.EINTR:
		case isPending(e) && !pending:
			pending = true // it was about an earlier datagram: try this one again
		case e == unix.EAGAIN || Classify(e) == Fatal:
			b.giveUp(i, e)
			return
		default:
			b.refused(i, fd, e)
			i++
			pending = false
		}
	}
}

func (b *sendBatch) sentTo(from, to int) {
	for i := from; i < to; i++ {
		b.ms[i].Err = 0
	}
	b.sent += to - from
}

func (b *sendBatch) giveUp(from int, e syscall.Errno) {
	for i := from; i < len(b.ms); i++ {
		b.ms[i].Err = e
	}
	b.stop = e
	b.sock.shared.count(e)
}

// refused deals with a message that the kernel did not take: without its flow
// label or its source address it may.
func (b *sendBatch) refused(i int, fd uintptr, e syscall.Errno) {
	m, sh := &b.ms[i], b.sock.shared
	if zone := m.Addr.Addr().Zone(); zone != "" {
		sh.forgetZone(zone)
	}
	label := e == unix.EINVAL && m.FlowLabel != 0 && m.Addr.Addr().Is6() && b.labels
	local := m.Local.IsValid() && sourceMayBeWrong(e)
	switch {
	case label && b.again(i, fd, false, true):
		sh.refuseLabels()
	case local && b.again(i, fd, sh.FlowLabels(), false):
		m.Local = netip.Addr{}
	case label && local && b.again(i, fd, false, false):
		m.Local = netip.Addr{}
		sh.refuseLabels()
	default:
		m.Err = e
		sh.count(e)
		if b.first == 0 {
			b.first = e
		}
	}
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

func (b *sendBatch) again(i int, fd uintptr, label, local bool) bool {
	b.put(i, fd, label, local)
	if n, _ := b.call(unix.SYS_SENDMMSG, fd, i, 1); n == 0 {
		return false
	}
	b.sentTo(i, i+1)
	return true
}

// put fills a slot. A message without destination gets none here, and
// EDESTADDRREQ from the kernel.
func (b *sendBatch) put(i int, fd uintptr, label, local bool) {
	m := &b.ms[i]
	h := &b.hdr[i].hdr
	b.buffer(i, m.Buf)
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
	h.SetControllen(putControl(control, v4, m.TrafficClass, source, m.IfIndex))
}

// receiveBatch is one recvmmsg under way.
type receiveBatch struct {
	slots
	control [batchSize][receiveControl / 8]uint64
}

func takeReceiveBatch() *receiveBatch {
	return freeReceive.take(func() *receiveBatch {
		b := new(receiveBatch)
		for i := range b.hdr {
			b.wire(i, (*byte)(unsafe.Pointer(&b.control[i])))
		}
		return b
	})
}

func (b *receiveBatch) release() { freeReceive.put(b) }

// receive takes up to len(ms) datagrams that have arrived.
func (b *receiveBatch) receive(fd uintptr, sh *Shared, ms []Message) (int, syscall.Errno) {
	for i := range ms {
		b.buffer(i, ms[i].Buf)
		h := &b.hdr[i].hdr
		h.Namelen, h.Flags = unix.SizeofSockaddrInet6, 0
		h.SetControllen(receiveControl)
	}
	n, e := b.call(unix.SYS_RECVMMSG, fd, 0, len(ms))
	for i := range n {
		b.get(i, fd, sh, &ms[i])
	}
	b.letGo(len(ms))
	return n, e
}

func (b *receiveBatch) get(i int, fd uintptr, sh *Shared, m *Message) {
	h := &b.hdr[i].hdr
	*m = Message{Buf: m.Buf, N: int(b.hdr[i].n), Truncated: h.Flags&unix.MSG_TRUNC != 0}
	addr, index := getSockaddr(&b.name[i])
	if index != 0 {
		addr = netip.AddrPortFrom(sh.zoned(fd, addr.Addr(), index), addr.Port())
	}
	m.Addr = addr
	control := unsafe.Slice((*byte)(unsafe.Pointer(&b.control[i])), receiveControl)
	parseControl(control[:min(uint64(h.Controllen), receiveControl)], m)
}

func networkOrder32(v uint32) uint32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	return binary.NativeEndian.Uint32(b[:])
}

func networkOrder16(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

func putSockaddr4(sa *unix.RawSockaddrInet6, to netip.AddrPort) (size uint32) {
	sa4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
	*sa4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: networkOrder16(to.Port()), Addr: to.Addr().Unmap().As4()}
	return unix.SizeofSockaddrInet4
}

func putSockaddr6(sa *unix.RawSockaddrInet6, to netip.AddrPort) (size uint32) {
	*sa = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: networkOrder16(to.Port()), Addr: to.Addr().As16()}
	return unix.SizeofSockaddrInet6
}

// getSockaddr gives the address without zone, and the number of the interface
// that the zone should name, 0 if it needs none.
func getSockaddr(sa *unix.RawSockaddrInet6) (addr netip.AddrPort, index uint32) {
	switch sa.Family {
	case unix.AF_INET:
		sa4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(sa4.Addr), networkOrder16(sa4.Port)), 0
	case unix.AF_INET6:
		a := netip.AddrFrom16(sa.Addr).Unmap()
		return netip.AddrPortFrom(a, networkOrder16(sa.Port)), sa.Scope_id
	}
	return netip.AddrPort{}, 0
}
