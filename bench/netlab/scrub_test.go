package netlab_test

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"kiloport/bench/netlab"
)

// hashWatch counts the packets at an ingress that have no hash (index 0) and
// those that have one (index 1).
type hashWatch struct{ counts *ebpf.Map }

// watchHashes attaches a counter to the ingress of dev, before or behind all
// programs that are there.
func watchHashes(t *testing.T, n *netlab.Node, dev string, anchor link.Anchor) *hashWatch {
	t.Helper()
	counts, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { counts.Close() })
	const hash = 68 // offset in struct __sk_buff
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS,
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, hash, asm.Word),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.JEq.Imm(asm.R2, 0, "count"),
			asm.StoreImm(asm.RFP, -4, 1, asm.Word),
			asm.LoadMapPtr(asm.R1, counts.FD()).WithSymbol("count"),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, -1).WithSymbol("out"),
			asm.Return(),
		},
		License: "MIT",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	iface, err := n.Link(dev)
	if err != nil {
		t.Fatal(err)
	}
	err = n.Do(func() error {
		l, err := link.AttachTCX(link.TCXOptions{Interface: iface.Attrs().Index, Program: program, Attach: ebpf.AttachTCXIngress, Anchor: anchor})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return &hashWatch{counts}
}

func (w *hashWatch) read(t *testing.T) (without, with uint64) {
	t.Helper()
	for i, n := range []*uint64{&without, &with} {
		if err := w.counts.Lookup(uint32(i), n); err != nil {
			t.Fatal(err)
		}
	}
	return without, with
}

func TestGatewaysForgetTheHash(t *testing.T) {
	s := newPath(t, netlab.Path{})
	if err := s.RouteNative(); err != nil {
		t.Fatal(err)
	}
	for _, at := range []struct {
		node *netlab.Node
		dev  string
	}{
		{s.GatewayA, netlab.GatewayLan}, {s.GatewayA, netlab.GatewayWan},
		{s.GatewayB, netlab.GatewayLan}, {s.GatewayB, netlab.GatewayWan},
	} {
		before := watchHashes(t, at.node, at.dev, link.Head())
		behind := watchHashes(t, at.node, at.dev, link.Tail())
		exchange(t, s.A.Host, s.B.Host, s.B.Inner4(2).Addr())
		if at.dev == netlab.GatewayLan {
			if _, with := before.read(t); with == 0 {
				t.Errorf("%s: no packet came with a hash, so this test shows nothing", at.node.Name)
			}
		}
		if without, with := behind.read(t); without == 0 || with != 0 {
			t.Errorf("%s, %s: %d packets kept their hash, %d had none", at.node.Name, at.dev, with, without)
		}
	}
}
