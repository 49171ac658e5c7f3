// Package tun is the TUN device: the link through which the host hands the
// tunnel its packets, and gets back what the tunnel received.
//
// Start at [Create], or at [FromFile] for a descriptor that another process
// opened. Both give a [Device], which reports what others do to the link as
// [Event], and has one [Queue] or several, each for one worker, which reads and
// writes packets one by one and without an allocation.
//
// With [Offloads] a packet can be a super-packet of up to 64 KiB, for one
// system call and one walk through the host's network stack: [Segmenter] cuts
// it into packets as they go on the wire, and [Coalescer] joins packets from
// the wire. Without them both do the little that is left to do, so their user
// need not know.
//
// The package brings neither addresses nor routes: see its subdirectory site.
//
// Limits: Linux only; layer 3 only (no TAP).
package tun

import (
	"os"
	"time"
)

const (
	// DefaultMTU is the MTU, in bytes, of a link that was not given another: a
	// packet of 1420 bytes leaves room in 1500 for the WireGuard message and
	// the outer headers, over IPv6 too.
	DefaultMTU = 1420

	// MaxPacket is the length, in bytes, of the longest packet or super-packet.
	MaxPacket = 65535

	// Headroom is how many bytes before a packet belong to a [Queue]: the
	// virtio_net header comes and goes there.
	Headroom = headerSize
)

// Device is a TUN link, and the descriptors that serve it. All its methods may
// be called from any goroutine.
type Device interface {
	// Queues gives the device's queues, always the same, at least one. The host
	// spreads its flows over them, and sends a flow to the queue on which its
	// other direction was written last.
	Queues() []Queue

	// Capabilities says what the device can do, and what it cannot.
	Capabilities() Capabilities

	// Name is the link's name now: it follows renames.
	Name() string

	// MTU is the link's MTU now, in bytes. It costs an atomic load.
	MTU() int

	// Events gives what happens to the link: its state at the start, [Up] or
	// [Down], first. A reader that is late finds the news merged, but no Up
	// without the Down before it is ever left out. The channel is closed after
	// [Deleted], and by Close.
	Events() <-chan Event

	// File is the descriptor of the first queue, for handing it on to another
	// process. It stays the Device's: do not read, write or close it, and reach
	// the descriptor by SyscallConn.
	File() *os.File

	// Close ends every Read, closes Events, and with the descriptors the link,
	// unless that is persistent. A second Close gives [os.ErrClosed].
	Close() error
}

// Queue is one of a link's queues. It is meant for one worker. Its methods may
// all the same be called from any goroutine; then packets are read in no given
// order, and with several rings while one goroutine waits in Read the others that
// read wait for it.
type Queue interface {
	// Read waits for a packet and puts it into buf[Headroom:]. n is the
	// packet's length, its [Header] is the zero one unless the device has
	// offloads. A packet that does not fit is cut off, so let there be room for
	// MTU bytes, or for [MaxPacket] if the device has [OffloadTSO] or
	// [OffloadUSO]. The error is [os.ErrClosed] after Close and when the link
	// was deleted.
	Read(buf []byte) (h Header, n int, err error)

	// TryRead is Read, but gives n = 0 and no error at once when there is
	// nothing to read.
	TryRead(buf []byte) (h Header, n int, err error)

	// Await waits until there is something to read, or for d: to within some
	// 50 µs, more exactly than a timer of the runtime. It may end sooner. The
	// error is [os.ErrClosed] after Close.
	Await(d time.Duration) error

	// Doze is Await, but the Go scheduler is not told, and has one processor less
	// meanwhile: for a goroutine that must not come back to it, see package
	// realtime, and no more than milliseconds.
	Doze(d time.Duration) error

	// Write hands an IPv4 or IPv6 packet to the host: buf[Headroom:], and after
	// it the bytes of more, up to [MaxPieces] pieces. It may change
	// buf[:Headroom]. Errors are [ErrLinkDown], [ErrMalformed], [ErrOffload],
	// or [os.ErrClosed] after Close and after the link was deleted.
	Write(h Header, buf []byte, more [][]byte) error
}

// MaxPieces is how many pieces [Queue.Write] takes at most.
const MaxPieces = 128

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
