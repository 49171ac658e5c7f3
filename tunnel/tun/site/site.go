// Package site does what is around a tunnel device: its addresses, MTU, state
// and routes, by rtnetlink, and undoes all of it. It is what wg-quick(8) does
// with ip(8).
//
// Start at [Apply]. It works in the network namespace of the calling thread.
//
// Limits: DNS is left alone, and the only firewall rules are those that a default
// route needs. A route that was there before for the same prefix and metric is
// an error, not replaced.
package site

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
)

const (
	// overhead is what the tunnel adds to a packet at most: an IPv6 header, a
	// UDP header, and the transport message's header and tag.
	overhead   = 40 + 8 + 32
	defaultMTU = 1500 - overhead
)

// Plan is what to do.
type Plan struct {
	Link string
	// MTU is that of the link, bytes; 0 takes it from the routes to the
	// endpoints, less what the tunnel adds.
	MTU int
	// Addresses are the link's own.
	Addresses []netip.Prefix
	// Routes are the destinations that go into the tunnel, usually all allowed
	// IPs; one that is there twice counts once. One of length 0 is made with a
	// routing table of its own, by mark, so that the tunnel's own packets do not
	// take it, and with firewall rules that go with it.
	Routes []netip.Prefix
	// Endpoints are the peers' outer addresses, to find the MTU.
	Endpoints []netip.Addr
	// Table is where routes go: "auto" or "", "off" for nowhere, or a number.
	Table string
	// FwMark is the mark that the tunnel's own packets have, 0 for none.
	FwMark uint32
}

// Applied is what was done.
type Applied struct {
	// FwMark is the mark that the tunnel's own packets must have: the plan's, or
	// one that Apply chose because of a default route. 0 for none.
	FwMark uint32

	undo []step
	log  *slog.Logger
}

// step is one thing that can be undone.
type step struct {
	what string
	undo func() error
}

// Apply does what the plan says. If a step fails, those before it are undone,
// and the error names the step.
func Apply(ctx context.Context, p Plan, log *slog.Logger) (*Applied, error) {
	a := &Applied{FwMark: p.FwMark, log: log}
	if err := a.apply(ctx, p); err != nil {
		return nil, errors.Join(err, a.Undo())
	}
	return a, nil
}

// Undo takes everything back in reverse order, once. What has gone by itself,
// as with the link, is no error.
func (a *Applied) Undo() (err error) {
	for _, s := range slices.Backward(a.undo) {
		if e := s.undo(); e != nil && !gone(e) {
			err = errors.Join(err, fmt.Errorf("undo %s: %w", s.what, e))
		}
	}
	a.undo = nil
	return err
}

func gone(err error) bool {
	for _, e := range []error{syscall.ENOENT, syscall.ESRCH, syscall.ENODEV, syscall.EADDRNOTAVAIL, os.ErrNotExist} {
		if errors.Is(err, e) {
			return true
		}
	}
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing)
}

func (a *Applied) did(undo func() error, what string, args ...any) {
	a.undo = append(a.undo, step{fmt.Sprintf(what, args...), undo})
}

func (a *Applied) apply(ctx context.Context, p Plan) error {
	link, err := netlink.LinkByName(p.Link)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", p.Link, err)
	}
	steps := []func() error{
		func() error { return a.setMTU(link, p) },
		func() error { return a.addresses(link, p.Addresses) },
		func() error { return a.linkUp(link) },
		func() error { return a.routes(link, p) },
	}
	for _, do := range steps {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("bring interface %s up: %w", p.Link, err)
		}
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

func (a *Applied) setMTU(link netlink.Link, p Plan) error {
	mtu, old := p.MTU, link.Attrs().MTU
	if mtu == 0 {
		mtu = automaticMTU(p.Endpoints)
		a.log.Debug("mtu from the routes to the endpoints", "interface", p.Link, "mtu", mtu)
	}
	if mtu == old {
		return nil
	}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("set the mtu of interface %s to %d: %w", p.Link, mtu, err)
	}
	a.did(func() error { return netlink.LinkSetMTU(link, old) }, "mtu of interface %s", p.Link)
	return nil
}

// automaticMTU is the smallest that the routes to the endpoints, or else the
// default routes, leave room for.
func automaticMTU(endpoints []netip.Addr) int {
	smallest := 0
	consider := func(mtu int) {
		if mtu > 0 && (smallest == 0 || mtu < smallest) {
			smallest = mtu
		}
	}
	for _, e := range endpoints {
		if routes, err := netlink.RouteGet(e.WithZone("").AsSlice()); err == nil {
			for _, r := range routes {
				consider(routeMTU(r))
			}
		}
	}
	if smallest == 0 {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, _ := netlink.RouteList(nil, family)
			for _, r := range routes {
				if r.Dst == nil || r.Dst.IP.IsUnspecified() {
					consider(routeMTU(r))
				}
			}
		}
	}
	if smallest == 0 {
		return defaultMTU
	}
	return max(smallest-overhead, 576)
}

func routeMTU(r netlink.Route) int {
	if r.MTU > 0 {
		return r.MTU
	}
	link, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil || link.Attrs().Flags&net.FlagLoopback != 0 {
		return 0
	}
	return link.Attrs().MTU
}

func (a *Applied) addresses(link netlink.Link, prefixes []netip.Prefix) error {
	for _, prefix := range prefixes {
		addr := &netlink.Addr{IPNet: ipNet(prefix)}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("give interface %s the address %v: %w%s", link.Attrs().Name, prefix, err, hint(err))
		}
		a.did(func() error { return netlink.AddrDel(link, addr) }, "address %v", prefix)
	}
	return nil
}

func (a *Applied) linkUp(link netlink.Link) error {
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set interface %s up: %w%s", link.Attrs().Name, err, hint(err))
	}
	a.did(func() error { return netlink.LinkSetDown(link) }, "interface %s up", link.Attrs().Name)
	return nil
}

func family(prefix netip.Prefix) int {
	if prefix.Addr().Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

func hint(err error) string {
	switch {
	case errors.Is(err, syscall.EPERM):
		return " (needs CAP_NET_ADMIN: run it as root)"
	case errors.Is(err, syscall.EEXIST):
		return " (there is one already: take it away first, or set Table)"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EOPNOTSUPP):
		return " (is IPv6 off on this host?)"
	case errors.Is(err, syscall.EINVAL):
		return " (does the MTU allow it? IPv6 needs 1280)"
	}
	return ""
}
