package portpool

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace with a thread of its own in it. The thread
// is never given back to the scheduler: it ends with the test, and the
// namespace with it.
type namespace struct {
	calls chan func()
	path  string // of the namespace, as seen by all threads
}

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	ns := &namespace{calls: make(chan func())}
	ready := make(chan error)
	go ns.serve(ready)
	if err := <-ready; err != nil {
		if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
			t.Skip("making a network namespace needs root")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { close(ns.calls) })
	return ns
}

func (ns *namespace) serve(ready chan<- error) {
	runtime.LockOSThread()
	ready <- ns.enter()
	for f := range ns.calls {
		f()
	}
}

func (ns *namespace) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	ns.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// do runs f in the namespace.
func (ns *namespace) do(t testing.TB, f func() error) {
	t.Helper()
	err := make(chan error)
	ns.calls <- func() { err <- f() }
	if err := <-err; err != nil {
		t.Fatal(err)
	}
}

func (ns *namespace) open(t testing.TB, cfg SocketConfig) (s *UDPSocket) {
	t.Helper()
	ns.do(t, func() (err error) {
		s, err = Open(cfg)
		return err
	})
	t.Cleanup(func() { s.Close() })
	return s
}

// veth makes a pair of links, both up, one here and one in far, which may be
// the same namespace.
func (ns *namespace) veth(t testing.TB, here, there string, far *namespace) {
	t.Helper()
	ns.do(t, func() error {
		target, err := os.Open(far.path)
		if err != nil {
			return err
		}
		defer target.Close()
		pair := netlink.NewVeth(netlink.LinkAttrs{Name: here, MTU: 1500})
		pair.PeerName = there
		pair.PeerNamespace = netlink.NsFd(target.Fd())
		return netlink.LinkAdd(pair)
	})
	ns.up(t, here)
	far.up(t, there)
}

func (ns *namespace) up(t testing.TB, name string) {
	t.Helper()
	ns.do(t, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
}

func (ns *namespace) addr(t testing.TB, link, prefix string) {
	t.Helper()
	ns.do(t, func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(prefix)
		if err != nil {
			return err
		}
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD // usable without asking the neighbours
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
		return untilLocal(a.IP)
	})
}

// untilLocal waits until an address is ours: the kernel makes the route for an
// IPv6 address a moment after it has agreed to it.
func untilLocal(ip net.IP) error {
	for {
		routes, err := netlink.RouteGet(ip)
		if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if err != nil && !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// neighbour tells that an address is behind a link, without asking it.
func (ns *namespace) neighbour(t testing.TB, link, ip string) {
	t.Helper()
	ns.do(t, func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: net.ParseIP(ip), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9},
		})
	})
}

// refuse adds a route of a kind that refuses packets.
func (ns *namespace) refuse(t testing.TB, prefix string, kind int) {
	t.Helper()
	ns.do(t, func() error {
		_, dst, err := net.ParseCIDR(prefix)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: dst, Type: kind})
	})
}

func (ns *namespace) index(t testing.TB, link string) (index uint32) {
	t.Helper()
	ns.do(t, func() error {
		l, err := netlink.LinkByName(link)
		if err == nil {
			index = uint32(l.Attrs().Index)
		}
		return err
	})
	return index
}

// capture returns all frames that a link receives from now on, by a function
// that waits for the next UDP datagram from a port and gives its IP packet.
func (ns *namespace) capture(t testing.TB, link string) func(port uint16) []byte {
	t.Helper()
	fd := -1
	index := ns.index(t, link)
	all := networkOrder16(unix.ETH_P_ALL)
	ns.do(t, func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: int(index)})
	})
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		t.Fatal(err)
	}
	return func(port uint16) []byte {
		for {
			buf := make([]byte, 2000)
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				t.Fatalf("no datagram from port %d was seen on %s: %v", port, link, err)
			}
			if p := buf[:n]; udpSource(p) == port {
				return p
			}
		}
	}
}

func udpSource(p []byte) uint16 {
	switch {
	case len(p) >= 28 && p[0]>>4 == 4 && p[9] == unix.IPPROTO_UDP:
		return uint16(p[20])<<8 | uint16(p[21])
	case len(p) >= 48 && p[0]>>4 == 6 && p[6] == unix.IPPROTO_UDP:
		return uint16(p[40])<<8 | uint16(p[41])
	}
	return 0
}

func addrPort(ip string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(ip), port)
}

func (ns *namespace) del(t testing.TB, link string) {
	t.Helper()
	ns.do(t, func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
}

// writeSysctl sets a value of the namespace that the thread is in.
func writeSysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+name, []byte(value), 0)
}
