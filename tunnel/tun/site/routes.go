package site

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
)

const (
	firstMark = 51820 // where a free mark, and table of that number, is looked for
	mainTable = 254
)

// routes adds all routes, the most specific first, those of length 0 last.
func (a *Applied) routes(link netlink.Link, p Plan) error {
	table, automatic := 0, true
	switch t := strings.ToLower(p.Table); t {
	case "off":
		return nil
	case "", "auto":
	default:
		n, err := strconv.ParseUint(t, 0, 32)
		if err != nil || n == 0 {
			return fmt.Errorf("routing table %q of interface %s: use auto, off or a number", p.Table, p.Link)
		}
		table, automatic = int(n), false
	}
	routes := distinct(p.Routes)
	if automatic {
		if err := a.allowDefaults(p, routes); err != nil {
			return err
		}
	}
	for _, prefix := range routes {
		var err error
		if prefix.Bits() == 0 && automatic {
			err = a.defaultRoute(link, prefix)
		} else {
			err = a.route(link, prefix, table)
		}
		if err != nil {
			return err
		}
	}
	return nil
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

// route adds one route, unless the link has it already by an address.
func (a *Applied) route(link netlink.Link, prefix netip.Prefix, table int) error {
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(prefix), Table: table}
	if prefix.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	if a.connected(link, prefix, table) {
		return nil
	}
	if err := netlink.RouteAdd(r); err != nil {
		return fmt.Errorf("route %v to interface %s: %w%s", prefix, link.Attrs().Name, err, hint(err))
	}
	a.did(func() error { return netlink.RouteDel(r) }, "route %v", prefix)
	return nil
}

func (a *Applied) connected(link netlink.Link, prefix netip.Prefix, table int) bool {
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

// allowDefaults does what must be there before routes of length 0 are, if any:
// the tunnel's own packets have a mark, and the answers to them pass the reverse
// path filter.
func (a *Applied) allowDefaults(p Plan, routes []netip.Prefix) error {
	families := make(map[int]bool)
	for _, prefix := range routes {
		if prefix.Bits() == 0 {
			families[family(prefix)] = true
		}
	}
	if len(families) == 0 {
		return nil
	}
	if a.FwMark == 0 {
		mark, err := freeMark()
		if err != nil {
			return err
		}
		a.FwMark = mark
	}
	own := slices.DeleteFunc(slices.Clone(p.Addresses), func(x netip.Prefix) bool { return !families[family(x)] })
	a.firewall(p.Link, own)
	if families[netlink.FAMILY_V4] {
		return a.sourceValidMark()
	}
	return nil
}

// defaultRoute sends everything into the tunnel but the tunnel's own packets,
// which are marked: a table of its own, a rule that all unmarked packets look
// into it, and one by which more specific routes of the main table still win.
// Both rules name the mark, so that no other tunnel's are the same.
func (a *Applied) defaultRoute(link netlink.Link, prefix netip.Prefix) error {
	if err := a.route(link, prefix, int(a.FwMark)); err != nil {
		return err
	}
	unmarked := a.unmarkedRule(prefix, int(a.FwMark))
	specific := a.unmarkedRule(prefix, mainTable)
	specific.SuppressPrefixlen = 0
	for _, rule := range []*netlink.Rule{unmarked, specific} { // the later comes first in the kernel
		err := netlink.RuleAdd(rule)
		if errors.Is(err, syscall.EEXIST) {
			continue // made by hand for this mark: it stays
		}
		if err != nil {
			return fmt.Errorf("rule for the default route %v of interface %s: %w%s", prefix, link.Attrs().Name, err, hint(err))
		}
		a.did(func() error { return netlink.RuleDel(rule) }, "rule for the default route %v", prefix)
	}
	return nil
}

// unmarkedRule lets packets without the mark look into a table.
func (a *Applied) unmarkedRule(prefix netip.Prefix, table int) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Table, rule.Mark, rule.Invert = family(prefix), table, a.FwMark, true
	return rule
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

const srcValidMark = "/proc/sys/net/ipv4/conf/all/src_valid_mark"

// sourceValidMark lets the reverse path filter see the mark. It stays so while
// another tunnel needs it, hence for good if that one began before this ended:
// by itself it changes nothing.
func (a *Applied) sourceValidMark() error {
	old, err := os.ReadFile(srcValidMark)
	if err == nil && strings.TrimSpace(string(old)) == "1" {
		return nil
	}
	if err == nil {
		err = os.WriteFile(srcValidMark, []byte("1"), 0)
	}
	if err != nil {
		return fmt.Errorf("let the reverse path filter see marks: %w", err)
	}
	a.did(func() error {
		if others, err := otherDefaults(); others || err != nil {
			return err
		}
		return os.WriteFile(srcValidMark, old, 0)
	}, "src_valid_mark")
	return nil
}

// otherDefaults tells whether there is a rule as defaultRoute and wg-quick(8)
// make it. That of this tunnel has gone by now.
func otherDefaults() (bool, error) {
	rules, err := netlink.RuleList(netlink.FAMILY_V4)
	return slices.ContainsFunc(rules, func(r netlink.Rule) bool {
		return r.Invert && r.Mark != 0 && r.Table == int(r.Mark)
	}), err
}
