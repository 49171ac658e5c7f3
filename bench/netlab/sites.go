package netlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// SitesConfig says how [NewSites] builds; the zero value is two sites and a
// router on ordinary Ethernet.
type SitesConfig struct {
	// Hosts puts a host behind each site, which uses the site as its router;
	// without, the site is the only machine in its network.
	Hosts bool
	// MTU of the links between sites and router in bytes, 0 means 1500.
	MTU int
	// Offload leaves segmentation offloads on between sites and router, HostOffload
	// between hosts and sites; see [LinkOptions].
	Offload, HostOffload bool
}

// Sites is the picture `host – site A – router – site B – host`, or, made by
// [NewPath], `host – site A – gateway A – router – gateway B – site B – host`.
type Sites struct {
	*Lab
	A, B *Site
	// Router is what is in the middle; on a [Path], it is the internet.
	Router *Node
	// GatewayA and GatewayB are the bottlenecks of a [Path], else nil. Their
	// interfaces are [GatewayLan] and [GatewayWan].
	GatewayA, GatewayB *Node

	path *Path
}

// A Site is one end of the picture, seen from the router.
type Site struct {
	*Node
	// Host is the machine behind the site, nil without [SitesConfig.Hosts].
	Host *Node
	// Wan is the site's interface towards the router.
	Wan string
	// RouterDev is the router's interface towards the site or its gateway.
	RouterDev string
	// Addr4 and Addr6 are the site's outer addresses, on Wan.
	Addr4, Addr6 netip.Addr
	// Gateway4 and Gateway6 are the router's or gateway's addresses on the
	// same link.
	Gateway4, Gateway6 netip.Addr
	// Net4 and Net6 are the site's inner networks. The first address is the
	// site's own (on its tunnel or, with a host, towards it), the second the
	// host's.
	Net4, Net6 netip.Prefix
}

// NewSites builds two sites with a router between them. The sites reach each
// other's outer addresses through the router; nobody routes the inner networks,
// that is the tunnel's job.
func NewSites(ctx context.Context, c SitesConfig) (*Sites, error) {
	lab, err := New(ctx)
	if err != nil {
		return nil, err
	}
	s := &Sites{Lab: lab}
	if err := s.build(c); err != nil {
		lab.Close()
		return nil, fmt.Errorf("build two sites: %w", err)
	}
	return s, nil
}

func (s *Sites) build(c SitesConfig) (err error) {
	if s.Router, err = s.newRouter("router"); err != nil {
		return err
	}
	s.number()
	if err := s.attach(s.A, "a", s.Router, s.A.RouterDev, c); err != nil {
		return err
	}
	return s.attach(s.B, "b", s.Router, s.B.RouterDev, c)
}

// newRouter makes a node that forwards.
func (s *Sites) newRouter(name string) (*Node, error) {
	n, err := s.Node(name)
	if err != nil {
		return nil, err
	}
	return n, n.Forward()
}

// number gives the sites their addresses.
func (s *Sites) number() {
	// Outer addresses are those for documentation (RFC 5737, RFC 3849), inner
	// ones private (RFC 1918, RFC 4193).
	s.A = &Site{
		RouterDev: "wan-a",
		Addr4:     netip.MustParseAddr("192.0.2.1"), Gateway4: netip.MustParseAddr("192.0.2.254"),
		Addr6: netip.MustParseAddr("2001:db8:a::1"), Gateway6: netip.MustParseAddr("2001:db8:a::ffff"),
		Net4: netip.MustParsePrefix("10.1.0.0/24"), Net6: netip.MustParsePrefix("fd00:1::/64"),
	}
	s.B = &Site{
		RouterDev: "wan-b",
		Addr4:     netip.MustParseAddr("198.51.100.1"), Gateway4: netip.MustParseAddr("198.51.100.254"),
		Addr6: netip.MustParseAddr("2001:db8:b::1"), Gateway6: netip.MustParseAddr("2001:db8:b::ffff"),
		Net4: netip.MustParsePrefix("10.2.0.0/24"), Net6: netip.MustParsePrefix("fd00:2::/64"),
	}
}

// attach makes the site's nodes and connects them to the router's interface dev.
func (s *Sites) attach(site *Site, name string, router *Node, dev string, c SitesConfig) (err error) {
	if site.Node, err = s.Node(name); err != nil {
		return err
	}
	site.Wan = "wan"
	o := LinkOptions{MTU: c.MTU, Offload: c.Offload}
	err = s.connectSettled(
		End{site.Node, site.Wan, []netip.Prefix{netip.PrefixFrom(site.Addr4, 24), netip.PrefixFrom(site.Addr6, 64)}},
		End{router, dev, []netip.Prefix{netip.PrefixFrom(site.Gateway4, 24), netip.PrefixFrom(site.Gateway6, 64)}}, o)
	if err != nil {
		return err
	}
	if err := site.Route(netip.PrefixFrom(netip.IPv4Unspecified(), 0), site.Gateway4); err != nil {
		return err
	}
	if err := site.Route(netip.PrefixFrom(netip.IPv6Unspecified(), 0), site.Gateway6); err != nil {
		return err
	}
	if !c.Hosts {
		return nil
	}
	return s.attachHost(site, name, c.HostOffload)
}

func (s *Sites) attachHost(site *Site, name string, offload bool) (err error) {
	if site.Host, err = s.Node("host-" + name); err != nil {
		return err
	}
	if err = site.Forward(); err != nil {
		return err
	}
	err = s.connectSettled(
		End{site.Host, "lan", []netip.Prefix{site.Inner4(2), site.Inner6(2)}},
		End{site.Node, "lan", []netip.Prefix{site.Inner4(1), site.Inner6(1)}}, LinkOptions{Offload: offload})
	if err != nil {
		return err
	}
	if err := site.Host.Route(netip.PrefixFrom(netip.IPv4Unspecified(), 0), site.Inner4(1).Addr()); err != nil {
		return err
	}
	return site.Host.Route(netip.PrefixFrom(netip.IPv6Unspecified(), 0), site.Inner6(1).Addr())
}

// connectSettled is [Lab.Connect] that returns when the addresses are usable.
func (s *Sites) connectSettled(a, b End, o LinkOptions) error {
	if err := s.Connect(a, b, o); err != nil {
		return err
	}
	return errors.Join(a.settle(), b.settle())
}

// settle waits until the node takes packets to its addresses for its own. The
// kernel sees to that a moment after an interface has come up; until then it
// drops them, and a TCP connection would start with a timeout.
func (e End) settle() error {
	const patience, step = 5 * time.Second, time.Millisecond
	for _, addr := range e.Addrs {
		for waited := time.Duration(0); !e.Node.owns(addr.Addr()); waited += step {
			if waited >= patience {
				return fmt.Errorf("node %s: the address %v on %s is not usable after %v", e.Node.Name, addr.Addr(), e.Dev, patience)
			}
			time.Sleep(step)
		}
	}
	return nil
}

// owns tells whether the kernel delivers what goes to the address to the node.
func (n *Node) owns(addr netip.Addr) bool {
	routes, err := n.handle.RouteGet(addr.AsSlice())
	return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
}

// Inner4 is the address number i (1 to 254) of the site's inner IPv4 network,
// with the network's prefix length.
func (s *Site) Inner4(i byte) netip.Prefix { return numbered(s.Net4, i) }

// Inner6 is the address number i of the site's inner IPv6 network, with the
// network's prefix length.
func (s *Site) Inner6(i byte) netip.Prefix { return numbered(s.Net6, i) }

func numbered(network netip.Prefix, i byte) netip.Prefix {
	raw := network.Addr().AsSlice()
	raw[len(raw)-1] = i
	addr, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(addr, network.Bits())
}

// End is where the site's applications run: on its host if it has one, else on
// the site itself.
func (s *Site) End() *Node {
	if s.Host != nil {
		return s.Host
	}
	return s.Node
}
