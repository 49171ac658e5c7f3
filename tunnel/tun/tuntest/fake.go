// Package tuntest is a TUN device without a kernel: the test is the host. Two
// daemons can so talk to each other in one unprivileged test, also in virtual
// time, because everything here blocks on channels only (testing/synctest).
//
// Start at [New]. [Fake.Inject] is the host that sends into the tunnel,
// [Fake.Received] what the tunnel gave the host, and [Fake.SetUp],
// [Fake.SetMTU], [Fake.Rename] and [Fake.Delete] are the administrator.
//
// A Fake holds its user to the contract of [tun.Queue]: Write spoils the bytes
// before each packet, for a real device may, and refuses what a kernel refuses.
//
// [Inner] builds packets and super-packets, [Segment] is a slow and plain
// counterpart of [tun.Segmenter] to compare with, [Namespace] and [Host] are for
// tests with real devices.
//
// Limits: packets without a header are only looked at for their IP version, and
// both directions are bounded by [Capacity].
package tuntest

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"kiloport/tunnel/tun"
)

const (
	// Capacity is how many packets wait in each direction at most.
	Capacity = 1 << 14

	maxEvents = 64
	spoilt    = 0xdb // what Write leaves in the headroom
)

// ErrFull says that Write refused a packet because [Capacity] others have not
// been taken from [Fake.Received] yet. A kernel would drop it silently.
var ErrFull = errors.New("write to the fake tun device: the packets it received are not taken: read them from Received")

// Fake is a [tun.Device] in memory. All methods may be called from any
// goroutine at any time.
type Fake struct {
	queues   []*fakeQueue
	offloads tun.Offloads
	toHost   chan []byte
	events   chan tun.Event
	dropped  atomic.Uint64
	mtu      atomic.Int32
	name     atomic.Pointer[string]

	// mu orders what the administrator does; the packets only read its result.
	mu     sync.Mutex
	up     atomic.Bool
	closed bool
	done   chan struct{} // closed by Close and Delete
}

var _ tun.Device = (*Fake)(nil)

type fakeQueue struct {
	fake     *Fake
	toTunnel chan injected
	first    chan injected // taken from toTunnel by Await, and goes before it
}

type injected struct {
	header tun.Header
	bytes  []byte
}

// New makes a device with a name and an MTU in bytes, with one queue and
// without offloads. As with [tun.Create] the link is down, which is its first
// event; [Fake.SetUp] sets it up.
func New(name string, mtu int) *Fake { return NewWith(name, tun.Options{MTU: mtu}) }

// NewWith makes a device that has what the options ask for.
func NewWith(name string, o tun.Options) *Fake {
	f := &Fake{
		toHost: make(chan []byte, Capacity),
		events: make(chan tun.Event, maxEvents),
		done:   make(chan struct{}),
	}
	if o.Offloads.Has(tun.OffloadChecksum) {
		f.offloads = o.Offloads & tun.OffloadAll
	}
	for range max(o.Queues, 1) {
		f.queues = append(f.queues, &fakeQueue{fake: f, toTunnel: make(chan injected, Capacity), first: make(chan injected, 1)})
	}
	f.name.Store(&name)
	f.mtu.Store(int32(o.MTU))
	f.events <- tun.Down
	return f
}

// Inject sends a copy of a packet into the tunnel, as the host would. It says
// false where a kernel drops it: [Capacity] others wait, the link is down, or
// the device is closed.
func (f *Fake) Inject(packet []byte) bool { return f.InjectTo(0, tun.Header{}, packet) }

// InjectTo is Inject for a packet or super-packet with a header, such as
// [Inner.Super] makes, and for one of the queues. What the device has no offload
// for is cut and finished by the host. InjectTo panics at a super-packet that no
// host sends.
func (f *Fake) InjectTo(queue int, h tun.Header, packet []byte) bool {
	packets := [][]byte{bytes.Clone(packet)}
	if !f.offloads.Has(needed(h)) {
		var err error
		if packets, err = Segment(h, packet); err != nil {
			panic("tuntest: " + err.Error())
		}
		h = tun.Header{}
	}
	all := true
	for _, p := range packets {
		all = f.inject(queue, injected{h, p}) && all
	}
	return all
}

func (f *Fake) inject(queue int, p injected) bool {
	if f.isClosed() || !f.up.Load() {
		f.dropped.Add(1)
		return false
	}
	select {
	case f.queues[queue].toTunnel <- p:
		return true
	default:
		f.dropped.Add(1)
		return false
	}
}

// needed is what a device must have for a header to pass.
func needed(h tun.Header) (o tun.Offloads) {
	if h.Flags&tun.NeedsChecksum != 0 {
		o = tun.OffloadChecksum
	}
	switch h.GSO {
	case tun.GSONone:
		return o
	case tun.GSOUDP:
		return o | tun.OffloadUSO
	}
	return o | tun.OffloadTSO
}

// Received gives what the tunnel wrote, in order, super-packets cut as on the
// wire and all checksums finished. The packets are the taker's.
// The channel is never closed.
func (f *Fake) Received() <-chan []byte { return f.toHost }

// TakeReceived gives what the tunnel has written and nobody took, without
// waiting.
func (f *Fake) TakeReceived() (packets [][]byte) {
	for {
		select {
		case p := <-f.toHost:
			packets = append(packets, p)
		default:
			return packets
		}
	}
}

// Dropped counts the packets that Inject and Write refused.
func (f *Fake) Dropped() uint64 { return f.dropped.Load() }

// SetUp sets the link up or down.
func (f *Fake) SetUp(up bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.up.Swap(up) == up {
		return
	}
	if up {
		f.tell(tun.Up)
		return
	}
	f.tell(tun.Down)
}

// SetMTU gives the link another MTU, in bytes.
func (f *Fake) SetMTU(mtu int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.mtu.Swap(int32(mtu)) == int32(mtu) {
		return
	}
	f.tell(tun.MTUUpdate)
}

// Rename gives the link another name. As with a kernel's link there is no event
// for it.
func (f *Fake) Rename(name string) { f.name.Store(&name) }

// Delete removes the link under the device: reads and writes then fail as after
// Close, and Events ends with [tun.Down], if it was up, and [tun.Deleted].
func (f *Fake) Delete() {
	f.SetUp(false)
	f.end(tun.Deleted)
}

// Close is [tun.Device]'s.
func (f *Fake) Close() error {
	if !f.end(0) {
		return os.ErrClosed
	}
	return nil
}

// end closes the device with a last event, if not 0. It says false if it was
// closed before.
func (f *Fake) end(last tun.Event) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.closed = true
	if last != 0 {
		f.tell(last)
	}
	close(f.events)
	close(f.done)
	return true
}

// tell holds mu. A test that makes more news than maxEvents and does not read
// them is wrong, and learns it at once rather than by a deadlock.
func (f *Fake) tell(event tun.Event) {
	select {
	case f.events <- event:
	default:
		panic("tuntest: nobody reads the events")
	}
}

func (f *Fake) isClosed() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// Name is [tun.Device]'s.
func (f *Fake) Name() string { return *f.name.Load() }

// MTU is [tun.Device]'s.
func (f *Fake) MTU() int { return int(f.mtu.Load()) }

// Events is [tun.Device]'s.
func (f *Fake) Events() <-chan tun.Event { return f.events }

// Queues is [tun.Device]'s.
func (f *Fake) Queues() (queues []tun.Queue) {
	for _, q := range f.queues {
		queues = append(queues, q)
	}
	return queues
}

// Capabilities is [tun.Device]'s.
func (f *Fake) Capabilities() tun.Capabilities {
	return tun.Capabilities{Queues: len(f.queues), Offloads: f.offloads}
}

// File is nil: there is no descriptor to hand on.
func (f *Fake) File() *os.File { return nil }
