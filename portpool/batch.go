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
	name [batchSize]unix.RawSockaddrInet6
}

func (s *slots) wire(i int, control *byte) {
	h := &s.hdr[i].hdr
	h.Name = (*byte)(unsafe.Pointer(&s.name[i]))
	h.Control = control
}

func setVector(v *unix.Iovec, buf []byte) {
	v.Base = unsafe.SliceData(buf)
	v.SetLen(len(buf))
}

// letGo drops the pointers to the caller's buffers.
func letGo(vecs []unix.Iovec) {
	for i := range vecs {
		vecs[i].Base = nil
	}
}

// transmit sends the datagrams of n slots and tells how many went. Of one alone,
// sendmsg is a little cheaper than sendmmsg.
//
// The calls do not wait, so the Go scheduler need not know of them: told, it has
// a thread of its own take over the processor from each that lasts longer than
// 20 µs, as one of 64 KiB does, and give it back. That costs a fifth of the
// processor time of a TCP flow.
func (s *slots) transmit(fd uintptr, from, n int) (int, syscall.Errno) {
	if n > 1 {
		return s.call(unix.SYS_SENDMMSG, fd, from, n)
	}
	_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&s.hdr[from].hdr)), unix.MSG_DONTWAIT)
	if e != 0 {
		return 0, e
	}
	return 1, 0
}

func (s *slots) call(trap, fd uintptr, from, n int) (int, syscall.Errno) {
	r, _, e := unix.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(&s.hdr[from])), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(r), 0
}

// freeList keeps unused batches. There are as many as ever were in use at one
// time, about one for each worker: not one for each of 16383 sockets. A
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
