package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// A FlowSize is one kind of packet that left by an interface: the flow hash by
// which a fair queue there sorts it, and its length in bytes with the Ethernet
// header.
type FlowSize struct {
	Hash   uint32
	Length uint32
}

// Bucket is the queue of so many that fq_codel puts the flow into.
func (f FlowSize) Bucket(queues int) int { return int(uint64(f.Hash) * uint64(queues) >> 32) }

// A HashCounter counts what leaves by an interface, by flow hash and length, as
// the queue there will see it. It needs Linux 6.6.
type HashCounter struct{ counts *ebpf.Map }

const hashEntries = 1 << 16

// CountHashes watches the interface dev for the life of the lab.
func (n *Node) CountHashes(dev string) (*HashCounter, error) {
	c, err := n.countHashes(dev)
	if err != nil {
		return nil, fmt.Errorf("node %s: count flow hashes on %s (it needs Linux 6.6): %w", n.Name, dev, err)
	}
	return c, nil
}

func (n *Node) countHashes(dev string) (*HashCounter, error) {
	iface, err := n.Link(dev)
	if err != nil {
		return nil, err
	}
	counts, err := ebpf.NewMap(&ebpf.MapSpec{Name: "flow_hashes", Type: ebpf.Hash, KeySize: 8, ValueSize: 8, MaxEntries: hashEntries})
	if err != nil {
		return nil, err
	}
	n.lab.OnClose(counts.Close)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "count_hash", Type: ebpf.SchedCLS, Instructions: countHash(counts), License: "MIT"})
	if err != nil {
		return nil, err
	}
	n.lab.OnClose(program.Close)
	var attached link.Link
	err = n.Do(func() (err error) {
		attached, err = link.AttachTCX(link.TCXOptions{Interface: iface.Attrs().Index, Program: program, Attach: ebpf.AttachTCXEgress})
		return err
	})
	if err != nil {
		return nil, err
	}
	n.lab.OnClose(attached.Close)
	return &HashCounter{counts}, nil
}

// countHash adds one to the counter of the packet's hash and length.
func countHash(counts *ebpf.Map) asm.Instructions {
	const key, value, lengthOffset = -8, -16, 0 // on the stack; in struct __sk_buff
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.FnGetHashRecalc.Call(),
		asm.StoreMem(asm.RFP, key, asm.R0, asm.Word),
		asm.LoadMem(asm.R0, asm.R6, lengthOffset, asm.Word),
		asm.StoreMem(asm.RFP, key+4, asm.R0, asm.Word),
		asm.LoadMapPtr(asm.R1, counts.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "first"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Ja.Label("next"),
		asm.Mov.Imm(asm.R1, 1).WithSymbol("first"),
		asm.StoreMem(asm.RFP, value, asm.R1, asm.DWord),
		asm.LoadMapPtr(asm.R1, counts.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, key),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, value),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnMapUpdateElem.Call(),
		asm.Mov.Imm(asm.R0, next).WithSymbol("next"),
		asm.Return(),
	}
}

// Read gives how many packets of each kind have left so far.
func (c *HashCounter) Read() (map[FlowSize]uint64, error) {
	all := map[FlowSize]uint64{}
	var key [8]byte
	var value uint64
	entries := c.counts.Iterate()
	for entries.Next(&key, &value) {
		all[FlowSize{binary.NativeEndian.Uint32(key[:]), binary.NativeEndian.Uint32(key[4:])}] = value
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("read flow hashes: %w", err)
	}
	return all, nil
}
