package site

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

const (
	firstMark = 51820 // where a free mark, and table of that number, is looked for
	mainTable = 254
)

// plan gives the steps but that of the MTU. It chooses a mark if one is needed.
func (a *Applied) plan(p Plan) (steps []Step, err error) {
	table, automatic := 0, true
	for _, prefix := range p.Addresses {
		steps = append(steps, Step{Kind: kindAddress, Prefix: prefix})
	}
	steps = append(steps, Step{Kind: kindUp})
	switch t := strings.ToLower(p.Table); t {
	case "off":
		return steps, nil
	case "", "auto":
	default:
		n, err := strconv.ParseUint(t, 0, 32)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("routing table %q of interface %s: use auto, off or a number", p.Table, p.Link)
		}
		table, automatic = int(n), false
	}
	routes := distinct(p.Routes)
	if automatic {
		before, err := a.beforeDefaults(p, routes)
		if err != nil {
			return nil, err
		}
		steps = append(steps, before...)
	}
	// The most specific first, those of length 0 last.
	for _, prefix := range routes {
		if prefix.Bits() == 0 && automatic {
			steps = append(steps, a.defaultRoute(prefix)...)
		} else {
			steps = append(steps, Step{Kind: kindRoute, Prefix: prefix, Table: table})
		}
	}
	return steps, nil
}

// distinct gives each prefix once, the longest first.
func distinct(prefixes []netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range prefixes {
		all = append(all, p.Masked())
	}
	slices.SortFunc(all, func(x, y netip.Prefix) int {
		return cmp.Or(cmp.Compare(y.Bits(), x.Bits()), x.Addr().Compare(y.Addr()))
	})
	return slices.Compact(all)
}

// connected tells whether the link has a route by an address.
func connected(link netlink.Link, prefix netip.Prefix, table int) bool {
	if table != 0 && table != mainTable {
		return false
	}
	routes, err := netlink.RouteList(link, family(prefix))
	if err != nil {
		return false
	}
	want := ipNet(prefix).String()
	return slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.String() == want })
}

// beforeDefaults gives what must be there before routes of length 0 are, if any:
// the tunnel's own packets have a mark, and the answers to them pass the reverse
// path filter.
func (a *Applied) beforeDefaults(p Plan, routes []netip.Prefix) (steps []Step, err error) {
	families := make(map[int]bool)
	for _, prefix := range routes {
		if prefix.Bits() == 0 {
			families[family(prefix)] = true
		}
	}
	if len(families) == 0 {
		return nil, nil
	}
	if a.FwMark == 0 {
		if a.FwMark, err = freeMark(); err != nil {
			return nil, err
		}
	}
	var own []string
	for _, address := range p.Addresses {
		if families[family(address)] {
			own = append(own, address.Addr().String())
		}
	}
	steps = append(steps, Step{Kind: kindFirewall, Mark: a.FwMark, Own: strings.Join(own, ",")})
	if families[netlink.FAMILY_V4] {
		steps = append(steps, Step{Kind: kindValidMark})
	}
	return steps, nil
}

// defaultRoute sends everything into the tunnel but the tunnel's own packets,
// which are marked: a table of its own, a rule that all unmarked packets look
// into it, and one by which more specific routes of the main table still win; of
// rules, the later one comes first in the kernel. Both name the mark, so that no
// other tunnel's are the same.
func (a *Applied) defaultRoute(prefix netip.Prefix) []Step {
	return []Step{
		{Kind: kindRoute, Prefix: prefix, Table: int(a.FwMark)},
		{Kind: kindRule, Prefix: prefix, Table: int(a.FwMark), Mark: a.FwMark},
		{Kind: kindRule, Prefix: prefix, Table: mainTable, Mark: a.FwMark, Suppress: true},
	}
}

// freeMark finds a number that neither a rule nor a table uses.
func freeMark() (uint32, error) {
	used := make(map[int]bool)
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := netlink.RuleList(family)
		if err != nil {
			return 0, fmt.Errorf("look for a free routing table: list the rules: %w", err)
		}
		for _, r := range rules {
			used[r.Table], used[int(r.Mark)] = true, true
		}
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return 0, fmt.Errorf("look for a free routing table: list the routes: %w", err)
		}
		for _, r := range routes {
			used[r.Table] = true
		}
	}
	for mark := firstMark; mark < firstMark+1000; mark++ {
		if !used[mark] {
			return uint32(mark), nil
		}
	}
	return 0, fmt.Errorf("no routing table between %d and %d is free: set Table or FwMark", firstMark, firstMark+999)
}

// otherDefaults tells whether there is a rule as defaultRoute and wg-quick(8)
// make it. That of this tunnel has gone by now.
func otherDefaults() (bool, error) {
	rules, err := netlink.RuleList(netlink.FAMILY_V4)
	return slices.ContainsFunc(rules, func(r netlink.Rule) bool {
		return r.Invert && r.Mark != 0 && r.Table == int(r.Mark)
	}), err
}
