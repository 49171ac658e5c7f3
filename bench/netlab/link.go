package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An End is one end of a link: the interface Dev of Node with its addresses.
type End struct {
	Node *Node
	Dev  string
	// Addrs are the addresses with their prefix lengths, IPv4 and IPv6 mixed.
	Addrs []netip.Prefix
}

// LinkOptions are the properties of a link; the zero value is an Ethernet cable.
type LinkOptions struct {
	// MTU in bytes, 0 means 1500.
	MTU int
	// Offload leaves the segmentation offloads on, so that packets of up to
	// 64 KiB cross the link: faster than any wire, but a capture or a queue
	// then sees bundles instead of packets.
	Offload bool
}

// Connect lays a link between two nodes and gives both ends their addresses.
func (l *Lab) Connect(a, b End, o LinkOptions) error {
	if err := l.connect(a, b, o); err != nil {
		return fmt.Errorf("connect %s of node %s to %s of node %s: %w", a.Dev, a.Node.Name, b.Dev, b.Node.Name, err)
	}
	return nil
}

func (l *Lab) connect(a, b End, o LinkOptions) error {
	if o.MTU == 0 {
		o.MTU = 1500
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.Dev
	attrs.MTU = o.MTU
	veth := netlink.NewVeth(attrs)
	veth.PeerName = b.Dev
	veth.PeerMTU = uint32(o.MTU)
	veth.PeerNamespace = netlink.NsFd(int(b.Node.ns))
	if err := a.Node.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	if !o.Offload {
		if err := errors.Join(a.Node.OffloadOff(a.Dev), b.Node.OffloadOff(b.Dev)); err != nil {
			return err
		}
	}
	return errors.Join(a.configure(), b.configure())
}

func (e End) configure() error {
	for _, addr := range e.Addrs {
		if err := e.Node.AddAddr(e.Dev, addr); err != nil {
			return err
		}
	}
	return e.Node.up(e.Dev)
}

// AddAddr gives the interface dev an address; an IPv6 address is usable at once.
func (n *Node) AddAddr(dev string, addr netip.Prefix) error {
	link, err := n.Link(dev)
	if err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), addr.Addr().BitLen())}}
	if addr.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := n.handle.AddrAdd(link, a); err != nil {
		return fmt.Errorf("node %s: add the address %v to %s: %w", n.Name, addr, dev, err)
	}
	return nil
}

// DelAddr takes an address away from the interface dev.
func (n *Node) DelAddr(dev string, addr netip.Prefix) error {
	link, err := n.Link(dev)
	if err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), addr.Addr().BitLen())}}
	if err := n.handle.AddrDel(link, a); err != nil {
		return fmt.Errorf("node %s: remove the address %v from %s: %w", n.Name, addr, dev, err)
	}
	return nil
}

// Up brings the interface dev up with the given MTU in bytes; 0 leaves the MTU.
func (n *Node) Up(dev string, mtu int) error {
	if mtu != 0 {
		link, err := n.Link(dev)
		if err != nil {
			return err
		}
		if err := n.handle.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("node %s: set the MTU of %s to %d: %w", n.Name, dev, mtu, err)
		}
	}
	return n.up(dev)
}

func (n *Node) up(dev string) error {
	link, err := n.Link(dev)
	if err != nil {
		return err
	}
	if err := n.handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("node %s: bring %s up: %w", n.Name, dev, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
