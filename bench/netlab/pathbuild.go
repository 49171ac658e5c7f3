package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// The interfaces of a gateway: towards its site, and out to the internet, where
// the queue is.
const (
	GatewayLan = "lan"
	GatewayWan = "wan"
)

// NewPath builds two sites with hosts, each behind a gateway, and the internet
// between the gateways. As with [NewSites] nobody routes the inner networks, see
// [Sites.RouteNative].
//
// All that real wires do and veths do not is made up for: at the gateways and next to
// them packets are no larger than the MTU (segmentation offloads are off), gateways do
// not see the hash that a packet had on its host, and neighbours know each other from
// the start, so that no address resolution waits for the internet's delay. Hosts and
// sites pass each other what TCP makes in one piece, as the kernels of both would.
func NewPath(ctx context.Context, p Path) (*Sites, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	p.complete()
	lab, err := New(ctx)
	if err != nil {
		return nil, err
	}
	s := &Sites{Lab: lab, path: &p}
	if err := s.buildPath(); err != nil {
		lab.Close()
		return nil, fmt.Errorf("build the path: %w", err)
	}
	return s, nil
}

// A wing is one half of a path.
type wing struct {
	name    string
	site    *Site
	gateway *Node
	rate    int64
	seed    uint64
	// wan4 and wan6 are the link between gateway and internet; the gateway has
	// the first address, the internet the second.
	wan4, wan6 netip.Prefix
}

func (s *Sites) wings() [2]wing {
	return [2]wing{
		{"a", s.A, s.GatewayA, s.path.RateUp, s.path.Seed + 1,
			netip.MustParsePrefix("203.0.113.0/30"), netip.MustParsePrefix("2001:db8:fa::/64")},
		{"b", s.B, s.GatewayB, s.path.RateDown, s.path.Seed,
			netip.MustParsePrefix("203.0.113.4/30"), netip.MustParsePrefix("2001:db8:fb::/64")},
	}
}

// address is the address number i of a network.
func address(network netip.Prefix, i byte) netip.Prefix {
	return numbered(network, network.Addr().AsSlice()[network.Addr().BitLen()/8-1]+i)
}

func (s *Sites) buildPath() (err error) {
	if s.Router, err = s.newRouter("internet"); err != nil {
		return err
	}
	if s.GatewayA, err = s.newRouter("gateway-a"); err != nil {
		return err
	}
	if s.GatewayB, err = s.newRouter("gateway-b"); err != nil {
		return err
	}
	s.number()
	scrub, err := newScrubber(s.Lab)
	if err != nil {
		return err
	}
	for _, w := range s.wings() {
		if err := s.join(&w); err != nil {
			return err
		}
		if err := s.obstruct(&w); err != nil {
			return err
		}
		if err := errors.Join(scrub.ingress(w.gateway, GatewayLan), scrub.ingress(w.gateway, GatewayWan)); err != nil {
			return err
		}
	}
	return nil
}

// join lays the links of one half of the path and its routes.
func (s *Sites) join(w *wing) error {
	err := s.attach(w.site, w.name, w.gateway, GatewayLan, SitesConfig{Hosts: true, HostOffload: true, MTU: s.path.MTU})
	if err != nil {
		return err
	}
	inside := End{w.gateway, GatewayWan, []netip.Prefix{address(w.wan4, 1), address(w.wan6, 1)}}
	outside := End{s.Router, w.site.RouterDev, []netip.Prefix{address(w.wan4, 2), address(w.wan6, 2)}}
	if err := s.connectSettled(inside, outside, LinkOptions{MTU: s.path.MTU}); err != nil {
		return err
	}
	links := [][2]End{
		{inside, outside},
		{
			End{w.site.Node, w.site.Wan, []netip.Prefix{netip.PrefixFrom(w.site.Addr4, 24), netip.PrefixFrom(w.site.Addr6, 64)}},
			End{w.gateway, GatewayLan, []netip.Prefix{netip.PrefixFrom(w.site.Gateway4, 24), netip.PrefixFrom(w.site.Gateway6, 64)}},
		},
		{
			End{w.site.Host, "lan", []netip.Prefix{w.site.Inner4(2), w.site.Inner6(2)}},
			End{w.site.Node, "lan", []netip.Prefix{w.site.Inner4(1), w.site.Inner6(1)}},
		},
	}
	for _, ends := range links {
		if err := errors.Join(ends[0].meet(ends[1]), ends[1].meet(ends[0])); err != nil {
			return err
		}
	}
	return errors.Join(
		w.gateway.Route(netip.PrefixFrom(netip.IPv4Unspecified(), 0), address(w.wan4, 2).Addr()),
		w.gateway.Route(netip.PrefixFrom(netip.IPv6Unspecified(), 0), address(w.wan6, 2).Addr()),
		s.Router.Route(netip.PrefixFrom(w.site.Addr4, 24), address(w.wan4, 1).Addr()),
		s.Router.Route(netip.PrefixFrom(w.site.Addr6, 64), address(w.wan6, 1).Addr()))
}

// obstruct puts the bottleneck on the way out, and half the delay on the way in.
func (s *Sites) obstruct(w *wing) error {
	if s.path.needsNetem() {
		err := s.Router.addQdisc(w.site.RouterDev, "netem", delayHandle, tcRoot, netemOptions(s.path, w.seed))
		if err != nil {
			return err
		}
	}
	return w.gateway.bottleneck(GatewayWan, s.path, w.rate)
}

// meet makes the node know the hardware address of the link's other end for ever.
func (e End) meet(other End) error {
	mine, err := e.Node.Link(e.Dev)
	if err != nil {
		return err
	}
	theirs, err := other.Node.Link(other.Dev)
	if err != nil {
		return err
	}
	for _, addr := range other.Addrs {
		err := e.Node.handle.NeighSet(&netlink.Neigh{
			LinkIndex:    mine.Attrs().Index,
			State:        netlink.NUD_PERMANENT,
			IP:           net.IP(addr.Addr().AsSlice()),
			HardwareAddr: theirs.Attrs().HardwareAddr,
		})
		if err != nil {
			return fmt.Errorf("node %s: make %v known on %s: %w", e.Node.Name, addr.Addr(), e.Dev, err)
		}
	}
	return nil
}

// RouteNative routes the inner networks of both sites, so that the hosts reach
// each other without a tunnel: what a tunnel is measured against.
func (s *Sites) RouteNative() error {
	var errs []error
	if s.GatewayA == nil {
		for _, site := range []*Site{s.A, s.B} {
			errs = append(errs, s.Router.EnsureRoute(site.Net4, site.Addr4), s.Router.EnsureRoute(site.Net6, site.Addr6))
		}
		return errors.Join(errs...)
	}
	for _, w := range s.wings() {
		errs = append(errs,
			s.Router.EnsureRoute(w.site.Net4, address(w.wan4, 1).Addr()),
			s.Router.EnsureRoute(w.site.Net6, address(w.wan6, 1).Addr()),
			w.gateway.EnsureRoute(w.site.Net4, w.site.Addr4),
			w.gateway.EnsureRoute(w.site.Net6, w.site.Addr6))
	}
	return errors.Join(errs...)
}

// SetRateUp changes the rate of the bottleneck from A to B, in bit/s, which a path
// must have had from the start with a queue that does not shape by itself.
func (s *Sites) SetRateUp(rate int64) error {
	if s.GatewayA == nil || s.path.RateUp == 0 || s.path.Qdisc.shapes() {
		return errors.New("change the rate up: there is no shaper to change")
	}
	return s.GatewayA.reshape(GatewayWan, s.path, rate)
}

// Bottlenecks are the statistics of the two queues of a [Path]: up is gateway
// A's, for what flows from A to B, down is gateway B's.
func (s *Sites) Bottlenecks() (up, down QdiscStats, err error) {
	if s.GatewayA == nil {
		return up, down, errors.New("read the bottlenecks: these sites have no gateways; make them with NewPath")
	}
	up, errUp := s.GatewayA.queueStats(GatewayWan)
	down, errDown := s.GatewayB.queueStats(GatewayWan)
	return up, down, errors.Join(errUp, errDown)
}

func (n *Node) queueStats(dev string) (QdiscStats, error) {
	all, err := n.QdiscStats(dev)
	if err != nil {
		return QdiscStats{}, err
	}
	i := slices.IndexFunc(all, func(q QdiscStats) bool { return q.Handle == tcHandle(queueHandle) })
	if i < 0 {
		return QdiscStats{}, fmt.Errorf("node %s: %s has no queue", n.Name, dev)
	}
	return all[i], nil
}

// Missing tells which queueing disciplines the path needs and this kernel lacks,
// as a [MissingError]. It makes a network namespace to try them, and removes it.
func Missing(p Path) error {
	if err := p.Validate(); err != nil {
		return err
	}
	p.complete()
	lab, err := New(context.Background())
	if err != nil {
		return err
	}
	missing, err := p.tryAll(lab)
	if err := errors.Join(err, lab.Close()); err != nil {
		return fmt.Errorf("find out what this kernel can do: %w", err)
	}
	if len(missing) > 0 {
		return &MissingError{Kinds: missing}
	}
	return nil
}

// kinds are the queueing disciplines that the path is made of.
func (p *Path) kinds() []string {
	kinds := []string{p.Qdisc.Kind}
	if !p.Qdisc.shapes() && (p.RateUp != 0 || p.RateDown != 0) {
		kinds = append(kinds, "htb")
	}
	if p.needsNetem() {
		kinds = append(kinds, "netem")
	}
	return kinds
}

// tryAll puts each on an interface of its own and returns those that fail for
// want of a kernel that has them.
func (p *Path) tryAll(lab *Lab) (missing []string, err error) {
	n, err := lab.Node("try")
	if err != nil {
		return nil, err
	}
	for i, kind := range p.kinds() {
		a, b := fmt.Sprintf("try%da", i), fmt.Sprintf("try%db", i)
		if err := lab.Connect(End{Node: n, Dev: a}, End{Node: n, Dev: b}, LinkOptions{}); err != nil {
			return nil, err
		}
		options := map[string][]byte{p.Qdisc.Kind: p.Qdisc.options(0), "htb": htbOptions(), "netem": netemOptions(p, 0)}[kind]
		err := n.addQdisc(a, kind, queueHandle, tcRoot, options)
		var lacks *MissingError
		if errors.As(err, &lacks) {
			missing = append(missing, lacks.Kinds...)
		} else if err != nil {
			return nil, err
		}
	}
	return missing, nil
}
