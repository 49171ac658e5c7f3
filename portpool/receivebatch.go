package portpool

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receiveBatch is one recvmmsg under way.
type receiveBatch struct {
	slots
	iov     [batchSize]unix.Iovec
	control [batchSize][receiveControl / 8]uint64
}

func takeReceiveBatch() *receiveBatch {
	return freeReceive.take(func() *receiveBatch {
		b := new(receiveBatch)
		for i := range b.hdr {
			b.wire(i, (*byte)(unsafe.Pointer(&b.control[i])))
			b.hdr[i].hdr.Iov = &b.iov[i]
			b.hdr[i].hdr.SetIovlen(1)
		}
		return b
	})
}

func (b *receiveBatch) release() { freeReceive.put(b) }

// receive takes up to len(ms) datagrams that have arrived.
func (b *receiveBatch) receive(fd uintptr, sh *Shared, ms []Message) (int, syscall.Errno) {
	for i := range ms {
		setVector(&b.iov[i], ms[i].Buf)
		h := &b.hdr[i].hdr
		h.Namelen, h.Flags = unix.SizeofSockaddrInet6, 0
		h.SetControllen(receiveControl)
	}
	n, e := b.call(unix.SYS_RECVMMSG, fd, 0, len(ms))
	for i := range n {
		b.get(i, fd, sh, &ms[i])
	}
	letGo(b.iov[:len(ms)])
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
