package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// A hook is one program on one side of an interface.
type hook interface{ Close() error }

// direction is a side of an interface.
type direction struct {
	tcx    ebpf.AttachType
	clsact uint32
}

var (
	incoming = direction{ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS}
	outgoing = direction{ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS}
)

// attachTo puts a program on an interface: by tcx, which ends with this process
// whatever becomes of it, or before Linux 6.6 as a filter of clsact, which stays if
// the process is killed.
func attachTo(ifindex int, p *ebpf.Program, d direction, name string) (hook, error) {
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: p, Attach: d.tcx})
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return nil, err
	}
	return attachFilter(ifindex, p, d, name)
}

// outlives tells whether a hook stays when its process is killed.
func outlives(h hook) bool {
	_, ok := h.(filter)
	return ok
}

// A filter is a program below clsact.
type filter struct{ *netlink.BpfFilter }

const (
	allProtocols   = 3 // ETH_P_ALL
	filterPrefix   = "kiloport_"
	filterPriority = 1
)

func attachFilter(ifindex int, p *ebpf.Program, d direction, name string) (hook, error) {
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.HANDLE_CLSACT &^ 0xffff, Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
	// One that is there already is shared.
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("add clsact: %w", err)
	}
	f := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: ifindex, Parent: d.clsact, Protocol: allProtocols, Priority: filterPriority},
		Fd:          p.FD(), Name: filterPrefix + name, DirectAction: true,
	}
	if err := netlink.FilterAdd(f); err != nil {
		return nil, fmt.Errorf("add a filter: %w", err)
	}
	// The kernel has chosen its handle.
	filters, err := filtersOf(ifindex, d, f.Name)
	if err == nil && len(filters) == 0 {
		err = errors.New("it is not there")
	}
	if err != nil {
		return nil, fmt.Errorf("find the filter again: %w", err)
	}
	return filter{filters[len(filters)-1]}, nil
}

// filtersOf lists the filters of a name.
func filtersOf(ifindex int, d direction, name string) (found []*netlink.BpfFilter, err error) {
	all, err := netlink.FilterList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}, d.clsact)
	for _, f := range all {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Name == name {
			found = append(found, b)
		}
	}
	return found, err
}

// Close is part of hook.
func (f filter) Close() error { return netlink.FilterDel(f.BpfFilter) }

// removeFilters removes what an attachment left behind that was killed where
// there is no tcx, and tells how many filters that were.
func removeFilters(device string) (removed int, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return 0, fmt.Errorf("list the interfaces: %w", err)
	}
	for _, l := range links {
		for _, d := range []direction{incoming, outgoing} {
			filters, _ := filtersOf(l.Attrs().Index, d, filterPrefix+device) // most have none
			for _, f := range filters {
				if err := netlink.FilterDel(f); err != nil {
					return removed, fmt.Errorf("remove a filter from %s: %w", l.Attrs().Name, err)
				}
				removed++
			}
		}
	}
	return removed, nil
}

// linkHeaders are the lengths of link headers, by type of interface.
var linkHeaders = map[string]uint32{
	"ether": ethernetHeader, "none": 0, "ppp": 0, "rawip": 0, "tunnel": 0, "tunnel6": 0, "sit": 0,
}

// underlay tells whether an interface may carry WireGuard's packets: every one that
// is up, but for loopback, the WireGuard device itself, and ports of a bridge or a
// bond, whose packets pass through that.
func underlay(l netlink.Link, device int, byIndex map[int]netlink.Link) (linkHeader uint32, ok bool) {
	a := l.Attrs()
	if a.Flags&net.FlagLoopback != 0 || a.Flags&net.FlagUp == 0 || a.Index == device {
		return 0, false
	}
	if a.MasterIndex != 0 {
		if master := byIndex[a.MasterIndex]; master == nil || master.Type() != "vrf" {
			return 0, false
		}
	}
	linkHeader, ok = linkHeaders[a.EncapType]
	return linkHeader, ok
}

// hooked is an interface that carries the programs.
type hooked struct {
	name  string
	hooks []hook
}

// hooks are all interfaces that carry the programs, by index.
type hooks struct {
	kernel *kernelPart
	device int // index of the WireGuard device
	name   string
	on     map[int]*hooked
}

// sync puts the programs on interfaces that have come, and forgets those that have
// gone. What fails does not keep the others from it.
func (h *hooks) sync() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list the interfaces: %w", err)
	}
	byIndex := make(map[int]netlink.Link, len(links))
	for _, l := range links {
		byIndex[l.Attrs().Index] = l
	}
	var failed error
	for index, l := range byIndex {
		header, ok := underlay(l, h.device, byIndex)
		switch {
		case ok && h.on[index] == nil:
			failed = errors.Join(failed, h.add(l, header))
		case !ok && h.on[index] != nil && l.Attrs().Flags&net.FlagUp != 0:
			h.remove(index)
		}
	}
	for index := range h.on {
		if byIndex[index] == nil {
			h.remove(index)
		}
	}
	return failed
}

func (h *hooks) add(l netlink.Link, header uint32) error {
	name, index := l.Attrs().Name, l.Attrs().Index
	programs, err := h.kernel.programsFor(header)
	if err != nil {
		return err
	}
	one := &hooked{name: name}
	// First what puts back, then what changes.
	for _, p := range []struct {
		program *ebpf.Program
		d       direction
	}{{programs.Ingress, incoming}, {programs.Egress, outgoing}} {
		hook, err := attachTo(index, p.program, p.d, h.name)
		if err != nil {
			one.close()
			return fmt.Errorf("interface %s: attach: %w", name, err)
		}
		one.hooks = append(one.hooks, hook)
	}
	h.on[index] = one
	return nil
}

// remove takes the programs off an interface, if it is still there.
func (h *hooks) remove(index int) {
	h.on[index].close()
	delete(h.on, index)
}

func (o *hooked) close() {
	for _, hook := range slices.Backward(o.hooks) {
		hook.Close() // fails where the interface has gone
	}
}

// close takes all programs off.
func (h *hooks) close() {
	for index := range h.on {
		h.remove(index)
	}
}

// names lists the interfaces.
func (h *hooks) names() []string {
	names := make([]string, 0, len(h.on))
	for _, o := range h.on {
		names = append(names, o.name)
	}
	slices.Sort(names)
	return names
}
