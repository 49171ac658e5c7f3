package tun

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// attacher gets descriptors attached to a link, with as much of what was asked
// for as there is.
type attacher struct {
	want   Options
	flags  uint16 // of TUNSETIFF
	fds    []int  // non-blocking
	got    Offloads
	lost   []Lost
	refuse func(request uint, value int) error
}

func newAttacher(o Options) *attacher {
	o.Queues, o.Rings = max(o.Queues, 1), max(o.Rings, 1)
	return &attacher{want: o, refuse: o.refuse}
}

func (a *attacher) vnet() bool { return a.flags&unix.IFF_VNET_HDR != 0 }

func (a *attacher) capabilities() Capabilities {
	return Capabilities{Queues: a.queues(), Rings: len(a.fds), Offloads: a.got, Lost: a.lost}
}

// wantRings is how many of the kernel's queues were asked for.
func (a *attacher) wantRings() int { return a.want.Queues * a.want.Rings }

// queues is how many queues there are to be, each with at least one ring.
func (a *attacher) queues() int { return min(a.want.Queues, len(a.fds)) }

func (a *attacher) lose(what, why string, args ...any) {
	a.lost = append(a.lost, Lost{What: what, Why: fmt.Sprintf(why, args...)})
}

// create makes a link, or attaches to a persistent one.
func (a *attacher) create(name string) error {
	ifr, err := request(name)
	if err != nil {
		return err
	}
	fd, err := openClone()
	if err != nil {
		return err
	}
	a.chooseFlags(fd)
	err = a.attach(fd, ifr)
	if errors.Is(err, unix.EINVAL) && a.flags&unix.IFF_MULTI_QUEUE != 0 {
		a.flags &^= unix.IFF_MULTI_QUEUE
		if err = a.attach(fd, ifr); err == nil {
			a.lose("queues", "the link was there before, with a single queue: remove it with ip link delete dev %s", ifr.Name())
		}
	}
	if err != nil {
		unix.Close(fd)
		return attachError(name, err)
	}
	a.fds = []int{fd}
	a.complete()
	return nil
}

// chooseFlags asks the driver which flags of TUNSETIFF it knows.
func (a *attacher) chooseFlags(fd int) {
	features, err := unix.IoctlGetUint32(fd, unix.TUNGETFEATURES)
	if err == nil {
		err = a.refused(unix.TUNGETFEATURES, 0)
	}
	if err != nil { // a driver from before 2006, or no driver: TUNSETIFF says which
		features = 0
	}
	a.flags = unix.IFF_TUN | unix.IFF_NO_PI
	if a.want.Offloads.possible() != 0 && features&unix.IFF_VNET_HDR != 0 {
		a.flags |= unix.IFF_VNET_HDR
	}
	if a.wantRings() > 1 {
		if features&unix.IFF_MULTI_QUEUE != 0 {
			a.flags |= unix.IFF_MULTI_QUEUE
		} else {
			a.lose("queues", "the kernel's tun driver has one queue only: IFF_MULTI_QUEUE came with Linux 3.8")
		}
	}
}

func (a *attacher) attach(fd int, ifr *unix.Ifreq) error {
	if err := a.refused(unix.TUNSETIFF, int(a.flags)); err != nil {
		return err
	}
	ifr.SetUint16(a.flags)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
}

// takeOver serves the attached descriptors of one link. They stay the caller's if
// it fails.
func (a *attacher) takeOver(fds []int) error {
	flags, err := acceptable(fds[0])
	if err != nil {
		return err
	}
	// Only now: the flag belongs to the description, so to others' descriptors
	// of it too.
	for _, fd := range fds {
		if err := unix.SetNonblock(fd, true); err != nil {
			return fmt.Errorf("make it non-blocking: %w", err)
		}
	}
	a.flags = unix.IFF_TUN | unix.IFF_NO_PI | flags&(unix.IFF_VNET_HDR|unix.IFF_MULTI_QUEUE)
	a.fds = fds[:min(len(fds), a.wantRings())]
	closeAll(fds[len(a.fds):])
	if a.wantRings() > 1 && a.flags&unix.IFF_MULTI_QUEUE == 0 {
		a.lose("queues", "the descriptor was opened without IFF_MULTI_QUEUE")
	}
	a.complete()
	return nil
}

// complete attaches the other queues and sets the offloads.
func (a *attacher) complete() {
	if a.flags&unix.IFF_MULTI_QUEUE != 0 {
		for len(a.fds) < a.wantRings() {
			fd, err := a.another()
			if err != nil {
				a.lose("queues", "only %d of %d: %v", len(a.fds), a.wantRings(), err)
				break
			}
			a.fds = append(a.fds, fd)
		}
	}
	a.setOffloads()
	if a.want.GSOMaxSize > 0 {
		err := a.refused(unix.RTM_NEWLINK, a.want.GSOMaxSize)
		if err == nil {
			err = limitGSO(a.fds[0], a.want.GSOMaxSize)
		}
		if err != nil {
			a.lose("gso size", "set it to %d: %v", a.want.GSOMaxSize, err)
		}
	}
}

var errElsewhere = errors.New("the link is in another network namespace")

// another attaches one more queue to the link of the first.
func (a *attacher) another() (int, error) {
	// By its name, which is only right in the link's own namespace. In another,
	// TUNSETIFF would make a second link.
	if here, err := inOwnNamespace(a.fds[0]); err != nil || !here {
		return -1, errors.Join(errElsewhere, err)
	}
	name, _, err := attached(a.fds[0])
	if err != nil {
		return -1, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return -1, err
	}
	fd, err := openClone()
	if err != nil {
		return -1, err
	}
	if err := a.attach(fd, ifr); err != nil {
		unix.Close(fd)
		return -1, attachError(name, err)
	}
	// Renamed in between, it is a link of its own.
	now, _, err := attached(a.fds[0])
	if err == nil && now != ifr.Name() {
		err = errors.New("the link is being renamed")
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// setOffloads asks for the offloads, and for none where none can be had: a
// persistent link keeps what its last user set.
func (a *attacher) setOffloads() {
	want := a.want.Offloads.possible()
	if want != 0 && !a.vnet() {
		a.lose(want.String(), "the descriptor or the driver has no IFF_VNET_HDR")
		want = 0
	}
	if a.vnet() {
		if err := a.plainHeader(); err != nil {
			a.lose(want.String(), "%v", err)
			want = 0
		}
	}
	err := a.setOffload(want)
	if err != nil && want.Has(OffloadUSO) {
		want &^= OffloadUSO
		a.lose(OffloadUSO.String(), "the kernel has it from Linux 6.2 on: %v", err)
		err = a.setOffload(want)
	}
	if err != nil && want != 0 {
		a.lose(want.String(), "the kernel refuses TUNSETOFFLOAD: %v", err)
		want = 0
		a.setOffload(0)
	}
	a.got = want
}

func (a *attacher) setOffload(o Offloads) error {
	flags := 0
	for offload, flag := range map[Offloads]int{
		OffloadChecksum: unix.TUN_F_CSUM,
		OffloadTSO:      unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN,
		OffloadUSO:      unix.TUN_F_USO4 | unix.TUN_F_USO6,
	} {
		if o.Has(offload) {
			flags |= flag
		}
	}
	if err := a.refused(unix.TUNSETOFFLOAD, flags); err != nil {
		return err
	}
	return unix.IoctlSetInt(a.fds[0], unix.TUNSETOFFLOAD, flags)
}

// plainHeader makes the virtio_net header what [Header] is, whatever another
// user of the link made of it.
func (a *attacher) plainHeader() error {
	if err := unix.IoctlSetPointerInt(a.fds[0], unix.TUNSETVNETHDRSZ, headerSize); err != nil {
		return fmt.Errorf("set the size of the virtio_net header: %w", err)
	}
	if err := unix.IoctlSetPointerInt(a.fds[0], unix.TUNSETVNETLE, 0); err != nil {
		return fmt.Errorf("set the byte order of the virtio_net header: %w", err)
	}
	return nil
}

func (a *attacher) refused(request uint, value int) error {
	if a.refuse == nil {
		return nil
	}
	return a.refuse(request, value)
}

func openClone() (int, error) {
	fd, err := unix.Open(cloneDevice, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, openError(err)
	}
	return fd, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
