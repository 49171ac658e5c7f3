package site

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
)

// AnyIP makes all addresses of prefixes that are routed here this host's own, so
// that packets can be sent from them and what is sent to them arrives: a local route
// on the loopback interface, which costs no address for each. undo takes away what
// was not there before.
func AnyIP(prefixes []netip.Prefix) (undo func() error, err error) {
	var made []*netlink.Route
	undo = func() (err error) {
		for _, r := range slices.Backward(made) {
			if e := netlink.RouteDel(r); e != nil && !errors.Is(e, syscall.ESRCH) {
				err = errors.Join(err, fmt.Errorf("take the prefix %v away from this host: %w", r.Dst, e))
			}
		}
		return err
	}
	if len(prefixes) == 0 {
		return undo, nil
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return undo, fmt.Errorf("find the loopback interface: %w", err)
	}
	for _, p := range prefixes {
		r := &netlink.Route{
			LinkIndex: lo.Attrs().Index, Table: syscall.RT_TABLE_LOCAL, Type: syscall.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
			Dst: &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		}
		switch err := netlink.RouteAdd(r); {
		case err == nil:
			made = append(made, r)
		case !errors.Is(err, syscall.EEXIST):
			return undo, errors.Join(fmt.Errorf("make the addresses of %v this host's own: %w", p, err), undo())
		}
	}
	return undo, nil
}
