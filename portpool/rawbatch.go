package portpool

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawBatch is the lone datagrams of one address family of a SendAcross.
type rawBatch struct {
	slots
	iov     [2 * batchSize]unix.Iovec // header and payload in turn
	header  [batchSize][udpHeaderSize]byte
	control [batchSize][sendControl / 8]uint64
	at      [batchSize]int // place of the message in the burst
	filled  int
	run     func(fd uintptr) // b.send, made once because it would be allocated

	refused [batchSize]syscall.Errno // why a slot was not sent, 0 if it was
}

func (b *rawBatch) wireAll() {
	for i := range b.hdr {
		b.wire(i, (*byte)(unsafe.Pointer(&b.control[i])))
		h := &b.hdr[i].hdr
		h.Iov = &b.iov[2*i]
		h.SetIovlen(2)
		setVector(&b.iov[2*i], b.header[i][:])
	}
	b.run = b.send
}

// add packs the message at a place in the burst.
func (b *rawBatch) add(at int, from uint16, m *Message) {
	i := b.filled
	b.filled++
	b.at[i] = at
	to := m.Addr.Addr()
	v4 := to.Is4() || to.Is4In6()
	h := &b.hdr[i].hdr
	putUDPHeader(b.header[i][:], from, m.Addr.Port(), len(m.Buf))
	if v4 {
		putChecksum4(b.header[i][:], m.Local, to.Unmap(), m.Buf)
		h.Namelen = putSockaddr4(&b.name[i], m.Addr)
	} else {
		h.Namelen = putSockaddr6(&b.name[i], m.Addr)
		b.name[i].Port = 0 // on a raw socket this is the protocol
		b.name[i].Flowinfo = networkOrder32(m.FlowLabel & 0xfffff)
	}
	setVector(&b.iov[2*i+1], m.Buf)
	control := unsafe.Slice((*byte)(unsafe.Pointer(&b.control[i])), sendControl)
	h.SetControllen(putControl(control, v4, m.TrafficClass, m.Local, m.IfIndex, 0))
}

// send hands all to the kernel, but for what it refuses.
func (b *rawBatch) send(fd uintptr) {
	for i := 0; i < b.filled; {
		n, e := b.transmit(fd, i, b.filled-i)
		switch {
		case e == unix.EINTR:
		case e != 0:
			b.refused[i] = e
			i++
		default:
			clear(b.refused[i : i+n])
			i += n
		}
	}
}

// refuseAll notes that nothing was sent.
func (b *rawBatch) refuseAll(e syscall.Errno) {
	for i := range b.filled {
		b.refused[i] = e
	}
}

// empty makes room for the next.
func (b *rawBatch) empty() {
	for i := range b.filled {
		b.iov[2*i+1].Base = nil
	}
	b.filled = 0
}
