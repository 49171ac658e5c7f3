package tun

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const cloneDevice = "/dev/net/tun"

// Options says how to open a device.
type Options struct {
	// MTU is the MTU to give the link, in bytes. With 0, Create gives it
	// [DefaultMTU] and FromFile leaves it as it is.
	MTU int
	// Queues is how many queues to have, 0 meaning 1. For more than one, the
	// link must not exist, or have been made with IFF_MULTI_QUEUE.
	Queues int
	// Rings is how many of the kernel's queues each of ours has, 0 meaning 1.
	// Each is a FIFO whose tail is dropped when it is full; with several, a
	// flood does not cost other flows their packets, unless they share a ring.
	// There may be 256 in all.
	Rings int
	// Offloads are those to ask for. What a kernel or a descriptor does not
	// give is no error: [Device.Capabilities] says so.
	Offloads Offloads
	// GSOMaxSize is how long a super-packet from the host may be, in bytes, 0
	// meaning as long as the link has it, usually 65536. Of a smaller one the
	// datagrams, sealed, fit into one send with UDP_SEGMENT. But what the host
	// only forwards, and has joined to a longer one, the kernel then cuts into
	// packets, each of which is read by itself: leave it unless the host is
	// known not to forward.
	GSOMaxSize int
	// Log gets what goes wrong while following the link. nil is silence.
	Log *slog.Logger

	refuse func(request uint, value int) error // what a test has the kernel refuse
}

func (o Options) log() *slog.Logger {
	if o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Log
}

// Create makes a TUN link in the network namespace of the calling thread, or
// takes over a persistent one of that name that nobody serves. In a name with
// "%d" the kernel puts the first number that is free. The link is down unless
// it was up before.
func Create(name string, o Options) (Device, error) {
	a := newAttacher(o)
	if err := a.create(name); err != nil {
		return nil, err
	}
	if o.MTU == 0 {
		o.MTU = DefaultMTU
	}
	return start(a, o)
}

// FromFile serves the TUN link to which f, inherited or received from another
// process, is attached. The link must be a TUN device without packet
// information (IFF_TUN|IFF_NO_PI). f is closed when FromFile succeeds, and
// stays the caller's when it fails.
func FromFile(f *os.File, o Options) (Device, error) { return FromFiles([]*os.File{f}, o) }

// start puts attached descriptors to work. It owns them, also when it fails.
func start(a *attacher, o Options) (Device, error) {
	d := &device{
		capabilities: a.capabilities(),
		log:          o.log(),
		events:       make(chan Event, 8),
		done:         make(chan struct{}),
		news:         news{wake: make(chan struct{}, 1)},
	}
	if err := d.openQueues(a); err != nil {
		return nil, err
	}
	s, err := openLink(a.fds[0])
	if err != nil {
		d.closeQueues()
		return nil, err
	}
	if err := d.prepare(s, o.MTU); err != nil {
		s.close()
		d.closeQueues()
		return nil, err
	}
	d.link = s
	d.goroutines.Go(d.follow)
	d.goroutines.Go(d.notify)
	return d, nil
}

// openQueues makes queues of the descriptors. After an error none is open.
func (d *device) openQueues(a *attacher) error {
	for i, fd := range a.fds {
		q, err := newQueue(fd, a.vnet())
		if err != nil {
			closeAll(a.fds[i+1:])
			return errors.Join(err, d.closeQueues())
		}
		d.queues = append(d.queues, q)
	}
	queues := a.queues()
	for i := range queues {
		var mine []*queue
		for k := i; k < len(d.queues); k += queues {
			mine = append(mine, d.queues[k])
		}
		if len(mine) == 1 {
			d.asQueues = append(d.asQueues, mine[0])
			continue
		}
		r, err := newRings(mine)
		if err != nil {
			return errors.Join(err, d.closeQueues())
		}
		d.rings = append(d.rings, r)
		d.asQueues = append(d.asQueues, r)
	}
	return nil
}

// prepare sets the MTU and learns the link's state, so that Name and MTU are
// right from the start.
func (d *device) prepare(s *linkSocket, mtu int) error {
	if mtu != 0 {
		if err := s.setMTU(mtu); err != nil {
			return err
		}
	}
	if err := s.ask(); err != nil {
		return fmt.Errorf("ask for the state of link %s: %w", s.name, err)
	}
	for {
		states, err := s.receive()
		if err != nil {
			return fmt.Errorf("learn the state of link %s: %w", s.name, err)
		}
		for _, state := range states {
			if state.deleted {
				return fmt.Errorf("learn the state of link %s: deleted meanwhile: %w", s.name, os.ErrClosed)
			}
			d.apply(state)
		}
		if len(states) > 0 {
			return nil
		}
	}
}

// duplicate gives a descriptor for the same open file, whatever mode f is in:
// f.Fd would change it.
func duplicate(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	var fd int
	var dupErr error
	if err := raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3)
	}); err != nil {
		return -1, err
	}
	return fd, dupErr
}

// attached gives the name and the flags of the link that fd serves.
// [unix.EBADFD] says that there is none (any more).
func attached(fd int) (name string, flags uint16, err error) {
	ifr, err := unix.NewIfreq("x")
	if err != nil {
		return "", 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
		return "", 0, err
	}
	return ifr.Name(), ifr.Uint16(), nil
}

// acceptable refuses what would be read as packets but is none. It gives the
// link's flags; whether IFF_NO_PI is among them the kernel does not tell, for
// TUNGETIFF says IFF_NOFILTER with the same bit.
func acceptable(fd int) (uint16, error) {
	name, flags, err := attached(fd)
	switch {
	case errors.Is(err, unix.EBADFD):
		err = fmt.Errorf("it is a tun descriptor without a link: attach it with TUNSETIFF before handing it on: %w", err)
	case err != nil:
		err = fmt.Errorf("it is not a tun device: pass the descriptor of %s after TUNSETIFF: %w", cloneDevice, err)
	case flags&unix.IFF_TUN == 0:
		err = fmt.Errorf("link %s is a tap device: open it with IFF_TUN|IFF_NO_PI: %w", name, syscall.EINVAL)
	}
	return flags, err
}
