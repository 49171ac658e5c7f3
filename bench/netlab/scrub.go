package netlab

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A scrubber makes interfaces forget the hash that a packet brings along. The
// nodes of a lab share one kernel, and there skb->hash survives a veth: a tunnel
// that keeps the inner hash, as kernel WireGuard does, would show its inner
// flows to a gateway that on a real wire could never see them.
type scrubber struct{ program *ebpf.Program }

// next lets the packet go on, to the next program or into the stack: TCX_NEXT,
// which is TC_ACT_UNSPEC too.
const next = -1

func newScrubber(lab *Lab) (*scrubber, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "scrub_hash",
		Type: ebpf.SchedCLS,
		Instructions: asm.Instructions{
			asm.FnSetHashInvalid.Call(), // of the packet that R1 holds from the start
			asm.Mov.Imm(asm.R0, next),
			asm.Return(),
		},
		License: "MIT",
	})
	if err != nil {
		return nil, fmt.Errorf("load the program that scrubs hashes (it needs CAP_BPF and CONFIG_BPF_SYSCALL): %w", err)
	}
	lab.OnClose(program.Close)
	return &scrubber{program}, nil
}

// ingress scrubs what comes in by the interface dev, for the life of the lab.
func (s *scrubber) ingress(n *Node, dev string) error {
	iface, err := n.Link(dev)
	if err != nil {
		return err
	}
	err = s.tcx(n, iface.Attrs().Index)
	if errors.Is(err, ebpf.ErrNotSupported) { // before Linux 6.6
		err = s.clsact(n, dev, iface.Attrs().Index)
	}
	if err != nil {
		return fmt.Errorf("node %s: scrub hashes on %s: %w", n.Name, dev, err)
	}
	return nil
}

func (s *scrubber) tcx(n *Node, ifindex int) error {
	var attached link.Link
	err := n.Do(func() (err error) {
		attached, err = link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: s.program, Attach: ebpf.AttachTCXIngress})
		return err
	})
	if err != nil {
		return err
	}
	n.lab.OnClose(attached.Close)
	return nil
}

// clsact attaches the program as a filter, which goes with the interface.
func (s *scrubber) clsact(n *Node, dev string, ifindex int) error {
	if err := n.addQdisc(dev, "clsact", netlink.HANDLE_CLSACT&^0xffff, netlink.HANDLE_CLSACT, nil); err != nil {
		return err
	}
	filter := &netlink.BpfFilter{
		FilterAttrs:  netlink.FilterAttrs{LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL},
		Fd:           s.program.FD(),
		Name:         "scrub_hash",
		DirectAction: true,
	}
	if err := n.handle.FilterAdd(filter); err != nil {
		return fmt.Errorf("add a filter: %w", err)
	}
	return nil
}
