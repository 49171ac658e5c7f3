// Package tun is the TUN device: the link through which the host hands the
// tunnel its packets, and gets back what the tunnel received.
//
// Start at [Create], or at [FromFile] for a descriptor that another process
// opened. Both give a [Device], which reads and writes bare IP packets in
// batches, without an allocation and without a wait for a batch to fill, and
// reports what others do to the link as [Event].
//
// The package brings neither addresses nor routes: see its subdirectory site.
//
// Limits: Linux only; one queue; layer 3 only (no TAP); packets come one by
// one, without offloads. The batch calls leave room for super-packets with a
// virtio_net header: Read would then cut one into several buffers, Write would
// put the header into the headroom before offset.
package tun

import "os"

// DefaultMTU is the MTU, in bytes, of a link that was not given another: a
// packet of 1420 bytes leaves room in 1500 for the WireGuard message and the
// outer headers, over IPv6 too.
const DefaultMTU = 1420

// Headroom is the offset, in bytes, that a caller of [Device.Write] does well
// to leave before each packet: it is what a virtio_net header needs. A smaller
// offset, down to 0, works as well.
const Headroom = 10

// Device is a TUN link, and the descriptor that serves it.
//
// Write, Name, MTU, File and Close may be called from any goroutine at any
// time. Read and TryRead too, but concurrent readers share the packets among
// them in no given order.
type Device interface {
	// Read waits until there is at least one packet, then takes what is there,
	// up to len(bufs) packets, and waits for no more. Packet i is
	// bufs[i][offset:offset+sizes[i]]; a packet that does not fit its buffer is
	// cut off, so let each hold MTU bytes after offset. sizes is at least as
	// long as bufs. The error is [os.ErrClosed] after Close, and when the link
	// was deleted. An error comes with n packets read before it.
	Read(bufs [][]byte, sizes []int, offset int) (n int, err error)

	// TryRead is Read, but gives 0 packets and no error at once when there are
	// none.
	TryRead(bufs [][]byte, sizes []int, offset int) (n int, err error)

	// Write hands bufs[i][offset:], an IPv4 or IPv6 packet each, to the host. A
	// packet that is refused does not hold up those after it: n counts the
	// packets that were written, the error is the first, such as [ErrLinkDown],
	// [ErrMalformed], or [os.ErrClosed] after Close and after the link was
	// deleted.
	Write(bufs [][]byte, offset int) (n int, err error)

	// Name is the link's name now: it follows renames.
	Name() string

	// MTU is the link's MTU now, in bytes. It costs an atomic load.
	MTU() int

	// Events gives what happens to the link: its state at the start, [Up] or
	// [Down], first. A reader that is late finds the news merged, but no Up
	// without the Down before it is ever left out. The channel is closed after
	// [Deleted], and by Close.
	Events() <-chan Event

	// File is the descriptor, for handing it on to another process. It stays
	// the Device's: do not read, write or close it, and reach the descriptor
	// by SyscallConn.
	File() *os.File

	// Close ends every Read, closes Events, and with the descriptor the link,
	// unless that is persistent. A second Close gives [os.ErrClosed].
	Close() error
}

// Event is something that happened to the link.
type Event uint8

const (
	// Up says that the link is up (IFF_UP, by the administrator's will).
	Up Event = iota + 1
	// Down says that the link is not up.
	Down
	// MTUUpdate says that [Device.MTU] has changed.
	MTUUpdate
	// Deleted says that the link is gone. It is the last event.
	Deleted
)

// String is the event's name in lower case.
func (e Event) String() string {
	switch e {
	case Up:
		return "up"
	case Down:
		return "down"
	case MTUUpdate:
		return "mtu update"
	case Deleted:
		return "deleted"
	}
	return "unknown event"
}
