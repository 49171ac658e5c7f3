package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A Node is one network namespace of a [Lab].
type Node struct {
	// Name is the name that the node was made with, unique in its lab.
	Name string

	lab    *Lab
	ns     netns.NsHandle
	handle *netlink.Handle
}

// Node makes a namespace with its loopback up, IPv6 on, duplicate address
// detection off (addresses are usable at once), and forwarding off.
func (l *Lab) Node(name string) (*Node, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("make node %s: the lab is closed", name)
	}
	n := &Node{Name: name, lab: l}
	if err := n.create(); err != nil {
		return nil, fmt.Errorf("make node %s: %w", name, err)
	}
	l.nodes = append(l.nodes, n)
	if err := n.prepare(); err != nil {
		return nil, fmt.Errorf("make node %s: %w", name, err)
	}
	return n, nil
}

// Namespace is the name of the node's namespace under /run/netns, for
// `ip netns exec`.
func (n *Node) Namespace() string { return n.lab.prefix + "-" + n.Name }

// Path is the file that holds the node's namespace, for nsenter and setns.
func (n *Node) Path() string { return filepath.Join(namespaceFolder, n.Namespace()) }

// Lab is the lab that the node belongs to.
func (n *Node) Lab() *Lab { return n.lab }

func (n *Node) create() error {
	err := onOwnThread(func() error {
		ns, err := netns.NewNamed(n.Namespace())
		if err != nil {
			return fmt.Errorf("create a network namespace: %w (in a container, run it with CAP_SYS_ADMIN and CAP_NET_ADMIN)", err)
		}
		n.ns = ns
		return nil
	})
	if err != nil {
		return err
	}
	n.handle, err = netlink.NewHandleAt(n.ns, unix.NETLINK_ROUTE)
	if err != nil {
		n.ns.Close()
		return errors.Join(fmt.Errorf("open netlink: %w", err), removeNamespace(n.Namespace()))
	}
	return nil
}

func (n *Node) prepare() error {
	settings := [][2]string{
		{"net/ipv6/conf/all/disable_ipv6", "0"},
		{"net/ipv6/conf/default/disable_ipv6", "0"},
		{"net/ipv6/conf/default/accept_dad", "0"},
		{"net/ipv6/conf/default/dad_transmits", "0"},
		{"net/ipv6/conf/default/router_solicitations", "0"},
		{"net/ipv4/conf/default/rp_filter", "0"},
		{"net/ipv4/conf/all/rp_filter", "0"},
		// An interface that gets a new address keeps it when the old one goes.
		{"net/ipv4/conf/all/promote_secondaries", "1"},
	}
	for _, s := range settings {
		if err := n.Sysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	return n.up("lo")
}

// Do calls f on a thread of its own that is inside the namespace: sockets that
// f opens belong to the node for ever, files under /proc/sys/net are the
// node's. f must not start goroutines that rely on the namespace, and must not
// call the FailNow family of a test.
func (n *Node) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(n.ns); err != nil {
			if ended := n.lab.ctx.Err(); ended != nil {
				err = ended // which has closed the lab, and the namespace with it
			}
			return fmt.Errorf("enter the namespace of node %s: %w", n.Name, err)
		}
		return f()
	})
}

// onOwnThread runs f on a locked thread and puts the thread back into its own
// namespace afterwards. If that fails the thread stays locked and so dies with
// its goroutine, rather than serve another goroutine in the wrong namespace.
func onOwnThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("look up the current network namespace: %w", err)
			return
		}
		defer home.Close()
		err = f()
		if back := netns.Set(home); back != nil {
			err = errors.Join(err, fmt.Errorf("return to the first network namespace: %w", back))
		} else {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// Sysctl sets a kernel setting of the node; name is the path below /proc/sys,
// such as net/ipv4/ip_forward.
func (n *Node) Sysctl(name, value string) error {
	return n.Do(func() error {
		err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644)
		if err != nil {
			return fmt.Errorf("set %s to %s: %w", name, value, err)
		}
		return nil
	})
}

// Forward makes the node a router for IPv4 and IPv6.
func (n *Node) Forward() error {
	return errors.Join(n.Sysctl("net/ipv4/ip_forward", "1"), n.Sysctl("net/ipv6/conf/all/forwarding", "1"))
}

// Route sends what goes to dst to the neighbour via.
func (n *Node) Route(dst netip.Prefix, via netip.Addr) error {
	route := &netlink.Route{Dst: ipNet(dst.Masked()), Gw: via.AsSlice()}
	if err := n.handle.RouteAdd(route); err != nil {
		return fmt.Errorf("node %s: add the route to %v via %v: %w", n.Name, dst, via, err)
	}
	return nil
}

// RouteByFlow sends what goes to dst to one of several neighbours, the same for all
// packets of a flow. What a flow is, net.ipv4.fib_multipath_hash_policy says, and that
// of IPv6.
func (n *Node) RouteByFlow(dst netip.Prefix, via ...netip.Addr) error {
	route := &netlink.Route{Dst: ipNet(dst.Masked())}
	for _, gateway := range via {
		route.MultiPath = append(route.MultiPath, &netlink.NexthopInfo{Gw: gateway.AsSlice()})
	}
	if err := n.handle.RouteAdd(route); err != nil {
		return fmt.Errorf("node %s: add the route to %v via %v: %w", n.Name, dst, via, err)
	}
	return nil
}

// EnsureRoute is [Node.Route] for a route that may be there already.
func (n *Node) EnsureRoute(dst netip.Prefix, via netip.Addr) error {
	route := &netlink.Route{Dst: ipNet(dst.Masked()), Gw: via.AsSlice()}
	if err := n.handle.RouteReplace(route); err != nil {
		return fmt.Errorf("node %s: set the route to %v via %v: %w", n.Name, dst, via, err)
	}
	return nil
}

// RouteLink sends what goes to dst out of the interface dev, as a tunnel needs.
func (n *Node) RouteLink(dst netip.Prefix, dev string) error {
	link, err := n.Link(dev)
	if err != nil {
		return err
	}
	route := &netlink.Route{Dst: ipNet(dst.Masked()), LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK}
	if err := n.handle.RouteAdd(route); err != nil {
		return fmt.Errorf("node %s: add the route to %v on %s: %w", n.Name, dst, dev, err)
	}
	return nil
}

// RouteDev tells by which interface the node would send to an address.
func (n *Node) RouteDev(to netip.Addr) (string, error) {
	routes, err := n.handle.RouteGet(to.AsSlice())
	if err != nil {
		return "", fmt.Errorf("node %s: find the route to %v: %w", n.Name, to, err)
	}
	if len(routes) == 0 {
		return "", fmt.Errorf("node %s: there is no route to %v", n.Name, to)
	}
	link, err := n.handle.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", fmt.Errorf("node %s: find the interface towards %v: %w", n.Name, to, err)
	}
	return link.Attrs().Name, nil
}

// Link finds an interface of the node.
func (n *Node) Link(dev string) (netlink.Link, error) {
	link, err := n.handle.LinkByName(dev)
	if err != nil {
		return nil, fmt.Errorf("node %s: find the interface %s: %w", n.Name, dev, err)
	}
	return link, nil
}

// ForgetConnections makes the kernel forget all connections that it tracks in the
// node, as a router does that is started anew.
func (n *Node) ForgetConnections() error {
	h, err := netlink.NewHandleAt(n.ns, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("node %s: open netlink: %w", n.Name, err)
	}
	defer h.Close()
	if err := h.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return fmt.Errorf("node %s: forget all connections: %w", n.Name, err)
	}
	return nil
}

// Connections counts the connections that the kernel tracks in the node with any of
// the addresses, on either side of a NAT.
func (n *Node) Connections(of ...netip.Addr) (count int, err error) {
	h, err := netlink.NewHandleAt(n.ns, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, fmt.Errorf("node %s: open netlink: %w", n.Name, err)
	}
	defer h.Close()
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := h.ConntrackTableList(netlink.ConntrackTable, family)
		if err != nil {
			return 0, fmt.Errorf("node %s: list the connections: %w", n.Name, err)
		}
		for _, f := range flows {
			ends := [...]net.IP{f.Forward.SrcIP, f.Forward.DstIP, f.Reverse.SrcIP, f.Reverse.DstIP}
			if slices.ContainsFunc(ends[:], func(ip net.IP) bool {
				addr, _ := netip.AddrFromSlice(ip)
				return slices.Contains(of, addr.Unmap())
			}) {
				count++
			}
		}
	}
	return count, nil
}

// remove ends every process that is still inside the namespace, a daemon that
// went to the background for example, and removes the namespace.
func (n *Node) remove() error {
	n.handle.Close()
	killInside(n.Path())
	if err := n.ns.Close(); err != nil {
		return fmt.Errorf("close the namespace of node %s: %w", n.Name, err)
	}
	return removeNamespace(n.Namespace())
}
