package portpool

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// joined is what GRO did with datagrams of one flow that came together.
type joined uint8

const (
	joinedNone  joined = iota // nothing: this was no way on which GRO works
	joinedAlike               // those with the same ECN mark
	joinedAll                 // those with different marks as well
)

// groMarks are the traffic classes of the datagrams of the test: two alike, to
// see that they can be joined at all, and others.
var groMarks = []uint8{2, 2, 3, 2}

// whatGROJoins sends datagrams with different ECN marks over a pair of links
// between two network namespaces of its own, and looks what arrives as one.
//
// GRO only joins what an interface has got in one go. That is brought about by
// sending while the address of the neighbour is not known: the kernel lets all
// that waited for it go at once when it is.
func whatGROJoins() (j joined, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread is never unlocked: it ends with the goroutine, and its
		// namespaces with it.
		runtime.LockOSThread()
		j, err = joinedByGRO(groMarks)
	}()
	<-done
	return j, err
}

func joinedByGRO(marks []uint8) (joined, error) {
	var ends [2]groEnd
	for i := range ends {
		defer ends[i].close()
		if err := ends[i].open(); err != nil {
			return joinedNone, err
		}
	}
	sender, receiver := &ends[0], &ends[1]
	if err := sender.connect(receiver); err != nil {
		return joinedNone, err
	}
	// Another task may happen to get hold of the packets in between.
	const tries = 5
	for try := range tries {
		if err := sender.sendTo(receiver, try, marks); err != nil {
			return joinedNone, err
		}
		if j := receiver.look(try, marks); j != joinedNone {
			return j, nil
		}
	}
	return joinedNone, nil
}

// groEnd is one end of the pair of links, in a namespace of its own.
type groEnd struct {
	links *netlink.Handle
	fd    int // a UDP socket
	link  netlink.Link
}

const groPort = 9

// The networks of RFC 5737, for documentation; in these namespaces is nobody
// else.
func groAddr(host int) [4]byte { return [4]byte{192, 0, 2, byte(host)} }

func (e *groEnd) open() (err error) {
	e.fd = -1
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if e.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	if e.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	for _, o := range [...]struct{ level, name, value int }{
		{unix.SOL_UDP, unix.UDP_GRO, 1},
		{unix.IPPROTO_IP, unix.IP_RECVTOS, 1},
	} {
		if err := unix.SetsockoptInt(e.fd, o.level, o.name, o.value); err != nil {
			return err
		}
	}
	wait := unix.NsecToTimeval(100e6)
	if err := unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return err
	}
	return unix.Bind(e.fd, &unix.SockaddrInet4{Port: groPort})
}

func (e *groEnd) close() {
	if e.links != nil {
		e.links.Close()
	}
	if e.fd > 0 {
		unix.Close(e.fd)
	}
}

// connect makes the links. The thread is in the namespace of the other end.
func (e *groEnd) connect(other *groEnd) error {
	pair := netlink.NewVeth(netlink.LinkAttrs{Name: "near"})
	pair.PeerName, pair.PeerNamespace = "far", netlink.NsPid(unix.Gettid())
	if err := e.links.LinkAdd(pair); err != nil {
		return fmt.Errorf("make a pair of veth: %w", err)
	}
	if err := e.up("near", 1); err != nil {
		return err
	}
	if err := other.up("far", 2); err != nil {
		return err
	}
	if err := errors.Join(e.untilUp(), other.untilUp()); err != nil {
		return err
	}
	// A veth sends through GRO only what cannot be bundled otherwise.
	const sgro, stso = 0x2c, 0x1f // ETHTOOL_SGRO, ETHTOOL_STSO
	if err := ethtool(e.fd, "near", stso, 0); err != nil {
		return fmt.Errorf("turn tso off on a veth: %w", err)
	}
	if err := ethtool(other.fd, "far", sgro, 1); err != nil {
		return fmt.Errorf("turn gro on on a veth: %w", err)
	}
	return nil
}

func (e *groEnd) up(name string, host int) (err error) {
	if e.link, err = e.links.LinkByName(name); err != nil {
		return err
	}
	if err := e.links.LinkSetUp(e.link); err != nil {
		return err
	}
	return e.add(host)
}

// untilUp waits for the kernel to let packets through, which it does a moment
// after both ends are up.
func (e *groEnd) untilUp() error {
	for range 100 {
		link, err := e.links.LinkByIndex(e.link.Attrs().Index)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("a pair of veth does not come up")
}

func (e *groEnd) add(host int) error {
	a := groAddr(host)
	return e.links.AddrAdd(e.link, &netlink.Addr{IPNet: &net.IPNet{IP: a[:], Mask: net.CIDRMask(24, 32)}})
}

// ethtool sets a value of an interface of the socket's namespace.
func ethtool(fd int, name string, command, value uint32) error {
	arg := [2]uint32{command, value} // struct ethtool_value
	var ifr struct {                 // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifr.name[:], name)
	ifr.data = unsafe.Pointer(&arg)
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr)))
	if e != 0 {
		return e
	}
	return nil
}

// sendTo sends datagrams, all at once, between addresses that were not used in
// an earlier try.
func (e *groEnd) sendTo(other *groEnd, try int, marks []uint8) error {
	here, there := 100+try, 200+try
	for _, mark := range marks {
		if err := unix.SetsockoptInt(e.fd, unix.IPPROTO_IP, unix.IP_TOS, int(mark)); err != nil {
			return err
		}
		if err := unix.Sendto(e.fd, []byte{99: byte(try)}, 0, &unix.SockaddrInet4{Port: groPort, Addr: groAddr(there)}); err != nil {
			return err
		}
	}
	if err := errors.Join(e.add(here), other.add(there)); err != nil {
		return err
	}
	// To send from there it asks for its neighbour, and so makes itself known.
	control := unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: groAddr(there)})
	return unix.Sendmsg(other.fd, []byte{0}, control, &unix.SockaddrInet4{Port: groPort, Addr: groAddr(here)}, 0)
}

// look receives what was sent and tells what was joined.
func (e *groEnd) look(try int, marks []uint8) joined {
	j := joinedNone
	for seen := 0; seen < len(marks); {
		var buf [4096]byte
		var words [receiveControl / 8]uint64
		control := unsafe.Slice((*byte)(unsafe.Pointer(&words)), receiveControl)
		n, k, _, _, err := unix.Recvmsg(e.fd, buf[:], control, 0)
		if err != nil {
			return joinedNone // some were lost
		}
		if n < 100 || buf[99] != byte(try) {
			continue
		}
		var m Message
		parseControl(control[:k], &m)
		datagrams := 1
		if m.SegmentSize > 0 {
			datagrams = (n + m.SegmentSize - 1) / m.SegmentSize
		}
		for i := seen; i < min(seen+datagrams, len(marks)); i++ {
			if marks[i] != m.TrafficClass {
				return joinedAll
			}
		}
		if datagrams > 1 {
			j = joinedAlike
		}
		seen += datagrams
	}
	return j
}
