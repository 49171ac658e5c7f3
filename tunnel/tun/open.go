package tun

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const cloneDevice = "/dev/net/tun"

// Options says how to open a device.
type Options struct {
	// MTU is the MTU to give the link, in bytes. With 0, Create gives it
	// [DefaultMTU] and FromFile leaves it as it is.
	MTU int
	// Log gets what goes wrong while following the link. nil is silence.
	Log *slog.Logger
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
	ifr, err := request(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(cloneDevice, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(err)
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return nil, attachError(name, err)
	}
	if o.MTU == 0 {
		o.MTU = DefaultMTU
	}
	return start(fd, o)
}

// FromFile serves the TUN link to which f, inherited or received from another
// process, is attached. The link must be a TUN device without packet
// information (IFF_TUN|IFF_NO_PI). f is closed when FromFile succeeds, and
// stays the caller's when it fails.
func FromFile(f *os.File, o Options) (Device, error) {
	if f == nil {
		return nil, fmt.Errorf("take over a tun descriptor: there is no file: %w", os.ErrInvalid)
	}
	fd, err := duplicate(f)
	if err != nil {
		return nil, fmt.Errorf("take over file %s: %w: pass an open descriptor of %s after TUNSETIFF", f.Name(), err, cloneDevice)
	}
	if err := acceptable(fd); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("take over file %s: %w", f.Name(), err)
	}
	// Only now: the flag belongs to the description, so to the caller's f too.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make file %s non-blocking: %w", f.Name(), err)
	}
	d, err := start(fd, o)
	if err != nil {
		return nil, err
	}
	f.Close()
	return d, nil
}

// start puts a non-blocking, attached descriptor to work. It owns fd, also
// when it fails.
func start(fd int, o Options) (Device, error) {
	// The poller refuses a descriptor that is not attached yet, which is why
	// the os.File comes only here.
	d := &device{
		fd:     fd,
		file:   os.NewFile(uintptr(fd), cloneDevice),
		log:    o.log(),
		events: make(chan Event, 8),
		done:   make(chan struct{}),
		news:   news{wake: make(chan struct{}, 1)},
	}
	raw, err := d.file.SyscallConn()
	if err != nil {
		d.file.Close()
		return nil, fmt.Errorf("poll %s: %w", cloneDevice, err)
	}
	d.raw, d.reader = raw, d.readReady
	s, err := openLink(fd)
	if err != nil {
		d.file.Close()
		return nil, err
	}
	if err := d.prepare(s, o.MTU); err != nil {
		s.close()
		d.file.Close()
		return nil, err
	}
	d.link = s
	d.goroutines.Go(d.follow)
	d.goroutines.Go(d.notify)
	return d, nil
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

// request checks a name as the kernel's dev_valid_name would, which itself
// says no more than "invalid argument".
func request(name string) (*unix.Ifreq, error) {
	hint := ""
	switch {
	case name == "":
		hint = "is empty"
	case len(name) >= unix.IFNAMSIZ:
		hint = fmt.Sprintf("has %d bytes, a link's name has at most %d", len(name), unix.IFNAMSIZ-1)
	case name == "." || name == "..":
		hint = "is a directory's"
	case name == "all" || name == "default":
		hint = "is taken by sysctl for the settings of all links"
	case slices.ContainsFunc([]byte(name), forbidden):
		hint = "contains a slash, a colon, white space, or a byte (NUL or 0xa0) that the kernel takes for it"
	case strings.Contains(strings.Replace(name, "%d", "", 1), "%"):
		hint = "contains a % that is not its only %d"
	}
	if hint != "" {
		return nil, fmt.Errorf("create tun link %q: the name %s: choose another, such as kilo0 or kilo%%d: %w", name, hint, unix.EINVAL)
	}
	return unix.NewIfreq(name)
}

// forbidden looks at bytes, not runes, as the kernel does.
func forbidden(b byte) bool {
	return strings.IndexByte("/:\x00 \t\n\v\f\r\xa0", b) >= 0
}

func openError(err error) error {
	hint := "see whether the kernel has tun"
	switch {
	case errors.Is(err, unix.ENOENT):
		hint = "load the module (modprobe tun), or give the container the device (--device " + cloneDevice + ")"
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		hint = "the kernel has no tun driver: load the module (modprobe tun), or use a kernel with CONFIG_TUN"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		hint = "run as root or with access to the device (in a container: --device " + cloneDevice + ")"
	}
	return fmt.Errorf("open %s: %w: %s", cloneDevice, err, hint)
}

func attachError(name string, err error) error {
	hint := "see ip link show dev " + name
	switch {
	case errors.Is(err, unix.EPERM):
		hint = "this needs CAP_NET_ADMIN: run as root, or set AmbientCapabilities=CAP_NET_ADMIN, or inherit the descriptor in WG_TUN_FD"
	case errors.Is(err, unix.ENOTTY):
		hint = cloneDevice + " is another file: remove it and make it anew (mknod " + cloneDevice + " c 10 200)"
	case errors.Is(err, unix.EBUSY):
		hint = "another process serves this link: stop it, or choose another name"
	case errors.Is(err, unix.EINVAL) && exists(name):
		hint = "a link of this name exists and is not a single-queue tun device: choose another name, or remove it with ip link delete dev " + name
	case errors.Is(err, unix.ENFILE):
		hint = "every number for %d is in use: remove links, or choose another name"
	}
	return fmt.Errorf("create tun link %s: %w: %s", name, err, hint)
}

func exists(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
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

// acceptable refuses what would be read as packets but is none.
func acceptable(fd int) error {
	name, flags, err := attached(fd)
	switch {
	case errors.Is(err, unix.EBADFD):
		return fmt.Errorf("it is a tun descriptor without a link: attach it with TUNSETIFF before handing it on: %w", err)
	case err != nil:
		return fmt.Errorf("it is not a tun device: pass the descriptor of %s after TUNSETIFF: %w", cloneDevice, err)
	case flags&unix.IFF_TUN == 0:
		return fmt.Errorf("link %s is a tap device: open it with IFF_TUN|IFF_NO_PI: %w", name, syscall.EINVAL)
	case flags&unix.IFF_NO_PI == 0:
		return fmt.Errorf("link %s puts packet information before each packet: open it with IFF_TUN|IFF_NO_PI: %w", name, syscall.EINVAL)
	case flags&unix.IFF_VNET_HDR != 0:
		return fmt.Errorf("link %s puts a virtio_net header before each packet: open it with IFF_TUN|IFF_NO_PI only: %w", name, syscall.EINVAL)
	}
	return nil
}
