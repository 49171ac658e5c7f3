package site

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
)

// Step is one thing that can be done and undone. It travels as JSON.
type Step struct {
	Kind     stepKind
	Prefix   netip.Prefix // of an address, a route or a rule
	Table    int          // of a route or a rule, 0 for the main one
	Mark     uint32       // that a rule or the firewall is about
	Suppress bool         // a rule for routes longer than 0 alone
	Value    int          // of the MTU
	Own      string       // addresses that the firewall keeps inside, with commas between
	Old      string       // what was there before
}

type stepKind string

const (
	kindMTU       stepKind = "mtu"
	kindAddress   stepKind = "address"
	kindUp        stepKind = "up"
	kindFirewall  stepKind = "firewall"
	kindValidMark stepKind = "src_valid_mark"
	kindRoute     stepKind = "route"
	kindRule      stepKind = "rule"
)

// same tells whether two steps do the same thing.
func (s Step) same(o Step) bool {
	s.Old, o.Old = "", ""
	return s == o
}

// replaces tells whether o takes the place of s: there is one of the kind.
func (s Step) replaces(o Step) bool {
	return s.Kind == o.Kind && (s.Kind == kindMTU || s.Kind == kindFirewall)
}

func (s *Step) what() string {
	if s.Prefix.IsValid() {
		return fmt.Sprintf("%s %v", s.Kind, s.Prefix)
	}
	return string(s.Kind)
}

// do does a step. It reports false for one that is done already by somebody else,
// who may undo it, and for one that is no loss.
func (a *Applied) do(s *Step) (done bool, err error) {
	switch s.Kind {
	case kindFirewall:
		return a.firewall(s), nil
	case kindValidMark:
		return setSourceValidMark(s)
	case kindRule:
		return a.addRule(s)
	}
	link, err := netlink.LinkByName(a.link)
	if err != nil {
		return false, fmt.Errorf("find interface %s: %w", a.link, err)
	}
	switch s.Kind {
	case kindMTU:
		return setMTU(link, s)
	case kindAddress:
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(s.Prefix)}); err != nil {
			return false, fmt.Errorf("give interface %s the address %v: %w%s", a.link, s.Prefix, err, hint(err))
		}
	case kindUp:
		if err := netlink.LinkSetUp(link); err != nil {
			return false, fmt.Errorf("set interface %s up: %w%s", a.link, err, hint(err))
		}
	case kindRoute:
		return addRoute(link, s)
	}
	return true, nil
}

// undo takes a step back.
func (a *Applied) undo(s *Step) error {
	err := a.tryUndo(s)
	if err == nil || gone(err) {
		return nil
	}
	return fmt.Errorf("undo %s of interface %s: %w", s.what(), a.link, err)
}

func (a *Applied) tryUndo(s *Step) error {
	switch s.Kind {
	case kindFirewall:
		return a.removeFirewall()
	case kindValidMark:
		return resetSourceValidMark(s)
	case kindRule:
		return netlink.RuleDel(s.rule())
	}
	link, err := netlink.LinkByName(a.link)
	if err != nil {
		return err
	}
	switch s.Kind {
	case kindMTU:
		old, err := strconv.Atoi(s.Old)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(link, old)
	case kindAddress:
		return netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(s.Prefix)})
	case kindUp:
		return netlink.LinkSetDown(link)
	case kindRoute:
		return netlink.RouteDel(s.route(link))
	}
	return nil
}

func setMTU(link netlink.Link, s *Step) (done bool, err error) {
	old := link.Attrs().MTU
	if s.Value == old {
		return false, nil
	}
	if err := netlink.LinkSetMTU(link, s.Value); err != nil {
		return false, fmt.Errorf("set the mtu of interface %s to %d: %w", link.Attrs().Name, s.Value, err)
	}
	s.Old = strconv.Itoa(old)
	return true, nil
}

// addRoute adds a route, unless the link has it already by an address.
func addRoute(link netlink.Link, s *Step) (done bool, err error) {
	if connected(link, s.Prefix, s.Table) {
		return false, nil
	}
	if err := netlink.RouteAdd(s.route(link)); err != nil {
		return false, fmt.Errorf("route %v to interface %s: %w%s", s.Prefix, link.Attrs().Name, err, hint(err))
	}
	return true, nil
}

func (s *Step) route(link netlink.Link) *netlink.Route {
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(s.Prefix), Table: s.Table}
	if s.Prefix.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	return r
}

// addRule adds a rule. One that was made by hand stays.
func (a *Applied) addRule(s *Step) (done bool, err error) {
	err = netlink.RuleAdd(s.rule())
	if errors.Is(err, syscall.EEXIST) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("rule for the default route %v of interface %s: %w%s", s.Prefix, a.link, err, hint(err))
	}
	return true, nil
}

// rule lets packets without the mark look into a table.
func (s *Step) rule() *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Table, rule.Mark, rule.Invert = family(s.Prefix), s.Table, s.Mark, true
	if s.Suppress {
		rule.SuppressPrefixlen = 0
	}
	return rule
}

const srcValidMark = "/proc/sys/net/ipv4/conf/all/src_valid_mark"

// setSourceValidMark lets the reverse path filter see the mark. It stays so while
// another tunnel needs it, hence for good if that one began before this ended:
// by itself it changes nothing.
func setSourceValidMark(s *Step) (done bool, err error) {
	old, err := os.ReadFile(srcValidMark)
	if err == nil && strings.TrimSpace(string(old)) == "1" {
		return false, nil
	}
	if err == nil {
		err = os.WriteFile(srcValidMark, []byte("1"), 0)
	}
	if err != nil {
		return false, fmt.Errorf("let the reverse path filter see marks: %w: set net.ipv4.conf.all.src_valid_mark=1 by sysctl", err)
	}
	s.Old = string(old)
	return true, nil
}

func resetSourceValidMark(s *Step) error {
	if others, err := otherDefaults(); others || err != nil {
		return err
	}
	return os.WriteFile(srcValidMark, []byte(s.Old), 0)
}
