// Package site does what is around a tunnel device: its addresses, MTU, state
// and routes, by rtnetlink, and undoes all of it. It is what wg-quick(8) does
// with ip(8).
//
// Start at [Apply]; [Applied.Change] makes the difference to another plan, and
// [Resume] goes on with what another process has done. It works in the network
// namespace of the calling thread.
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

	link  string
	steps []Step
	log   *slog.Logger
}

// Apply does what the plan says. If a step fails, those before it are undone,
// and the error names the step.
func Apply(ctx context.Context, p Plan, log *slog.Logger) (*Applied, error) {
	a := &Applied{FwMark: p.FwMark, link: p.Link, log: log}
	if err := a.apply(ctx, p); err != nil {
		return nil, errors.Join(err, a.Undo())
	}
	return a, nil
}

func (a *Applied) apply(ctx context.Context, p Plan) error {
	if _, err := netlink.LinkByName(p.Link); err != nil {
		return fmt.Errorf("find interface %s: %w", p.Link, err)
	}
	mtu := p.MTU
	if mtu == 0 {
		mtu = automaticMTU(p.Endpoints)
		a.log.Debug("mtu from the routes to the endpoints", "interface", p.Link, "mtu", mtu)
	}
	steps, err := a.plan(p)
	if err != nil {
		return err
	}
	return a.take(ctx, append([]Step{{Kind: kindMTU, Value: mtu}}, steps...))
}

// take does steps, in their order.
func (a *Applied) take(ctx context.Context, steps []Step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("bring interface %s up: %w", a.link, err)
		}
		done, err := a.do(&s)
		if err != nil {
			return err
		}
		if done {
			a.steps = append(a.steps, s)
		}
	}
	return nil
}

// Undo takes everything back in reverse order, once. What has gone by itself,
// as with the link, is no error.
func (a *Applied) Undo() (err error) {
	for _, s := range slices.Backward(a.steps) {
		err = errors.Join(err, a.undo(&s))
	}
	a.steps = nil
	return err
}

// Change makes what was done what the plan says, and leaves what is in both as it
// is. An MTU of 0 is left as it is. What could not be done is missing, and told;
// all that was done can still be undone.
func (a *Applied) Change(ctx context.Context, p Plan) error {
	if p.FwMark != 0 && p.FwMark != a.FwMark {
		return fmt.Errorf("interface %s: another FwMark needs a restart", a.link)
	}
	steps, err := a.plan(p)
	if err != nil {
		return err
	}
	if p.MTU != 0 {
		steps = append([]Step{{Kind: kindMTU, Value: p.MTU}}, steps...)
	}
	// What is new comes before what is old goes, so that nothing is without a
	// way. A route that was there by an address that went is made once more.
	err = a.take(ctx, a.missing(steps))
	err = errors.Join(err, a.retire(steps), a.repair())
	return errors.Join(err, a.take(ctx, a.missing(steps)))
}

// repair makes once more what the kernel has taken along with an IPv4 address:
// other addresses of its network, and routes.
func (a *Applied) repair() (err error) {
	for _, kind := range []stepKind{kindAddress, kindRoute} {
		for _, s := range a.steps {
			if s.Kind != kind {
				continue
			}
			if _, e := a.do(&s); e != nil && !errors.Is(e, syscall.EEXIST) {
				err = errors.Join(err, e)
			}
		}
	}
	return err
}

// missing are the steps that are not done.
func (a *Applied) missing(steps []Step) (all []Step) {
	for _, s := range steps {
		if !slices.ContainsFunc(a.steps, s.same) {
			all = append(all, s)
		}
	}
	return all
}

// retire undoes what is not among the steps. What a new step has taken the place of
// is forgotten.
func (a *Applied) retire(steps []Step) (err error) {
	var kept []Step
	for i, s := range a.steps {
		later := slices.IndexFunc(a.steps[i+1:], s.replaces)
		switch {
		case later >= 0:
			a.steps[i+1+later].Old = s.Old
		case s.Kind == kindMTU || slices.ContainsFunc(steps, s.same):
			kept = append(kept, s)
		}
	}
	for _, s := range slices.Backward(a.steps) {
		if !slices.ContainsFunc(kept, s.same) && !slices.ContainsFunc(kept, s.replaces) {
			err = errors.Join(err, a.undo(&s))
		}
	}
	a.steps = kept
	return err
}

// Record is what was done, for a process that goes on with it.
type Record struct {
	FwMark uint32
	Steps  []Step
}

// Record gives what [Resume] takes.
func (a *Applied) Record() Record { return Record{a.FwMark, a.steps} }

// Resume goes on with what another process has done to a link.
func Resume(link string, r Record, log *slog.Logger) *Applied {
	return &Applied{FwMark: r.FwMark, link: link, steps: r.Steps, log: log}
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
