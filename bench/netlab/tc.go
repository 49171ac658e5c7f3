package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Handles of the lab's qdiscs and classes (major number above, minor below).
const (
	shaperHandle = 0x1 << 16   // 1:, the shaper, if the bottleneck needs one
	shaperClass  = 0x1<<16 | 1 // 1:1, its only class
	queueHandle  = 0x10 << 16  // 10:, the bottleneck's queue
	delayHandle  = 0x20 << 16  // 20:, the internet's delay
	tcRoot       = 0xffffffff  // TC_H_ROOT
)

// Attributes and constants of linux/rtnetlink.h and linux/pkt_sched.h.
const (
	tcmsgLen = 20

	tcaKind    = 1
	tcaOptions = 2

	htbParms, htbInit, htbRate64, htbCeil64     = 1, 2, 6, 7
	htbVersion, htbRateToQuantum                = 3, 10
	netemReorder, netemLatency64, netemJitter64 = 3, 10, 11
	netemPRNGSeed                               = 14
	linkLayerEthernet                           = 1
	netemPackets                                = 1 << 20 // far more than are ever on the way

	// tick is the unit of a burst, the same on every kernel since 2.6.31.
	tick = 64 * time.Nanosecond
)

// A MissingError says what a kernel lacks.
type MissingError struct {
	// Kinds are the names of queueing disciplines.
	Kinds []string
}

// Error implements error.
func (e *MissingError) Error() string {
	return fmt.Sprintf("this kernel has no %s: run in the lab kernel (`bench kernel`), or on a kernel that has it", strings.Join(e.Kinds, ", no "))
}

// addQdisc puts a queueing discipline on the interface dev. It fails with a
// [MissingError] where the kernel does not have it.
func (n *Node) addQdisc(dev, kind string, handle, parent uint32, options []byte) error {
	err := n.tcRequest(unix.RTM_NEWQDISC, dev, kind, handle, parent, options)
	if errors.Is(err, unix.ENOENT) {
		err = &MissingError{Kinds: []string{kind}}
	}
	if err != nil {
		return fmt.Errorf("node %s: put %s on %s: %w", n.Name, kind, dev, err)
	}
	return nil
}

// tcRequest makes something that must not be there yet.
func (n *Node) tcRequest(message int, dev, kind string, handle, parent uint32, options []byte) error {
	return n.tcRequestWith(unix.NLM_F_CREATE|unix.NLM_F_EXCL, message, dev, kind, handle, parent, options)
}

func (n *Node) tcRequestWith(flags, message int, dev, kind string, handle, parent uint32, options []byte) error {
	link, err := n.Link(dev)
	if err != nil {
		return err
	}
	request := nl.NewNetlinkRequest(message, flags|unix.NLM_F_ACK)
	request.AddRawData(tcMessage(link.Attrs().Index, kind, handle, parent, options))
	return n.Do(func() error {
		_, err := request.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

// tcMessage is a struct tcmsg with its attributes.
func tcMessage(ifindex int, kind string, handle, parent uint32, options []byte) []byte {
	b := words(0, uint32(ifindex), handle, parent, 0)
	b = appendAttr(b, tcaKind, append([]byte(kind), 0))
	if options != nil {
		b = appendAttr(b, tcaOptions|unix.NLA_F_NESTED, options) // fq_pie insists on the flag
	}
	return b
}

// bottleneck makes what leaves by the interface dev wait in the path's queue at
// a rate in bit/s.
func (n *Node) bottleneck(dev string, p *Path, rate int64) error {
	parent := uint32(tcRoot)
	if rate != 0 && !p.Qdisc.shapes() {
		if err := n.shape(dev, p, rate); err != nil {
			return err
		}
		parent = shaperClass
	}
	return n.addQdisc(dev, p.Qdisc.Kind, queueHandle, parent, p.Qdisc.options(rate))
}

// shape puts HTB with one class on the interface.
func (n *Node) shape(dev string, p *Path, rate int64) error {
	if err := n.addQdisc(dev, "htb", shaperHandle, tcRoot, htbOptions()); err != nil {
		return err
	}
	err := n.tcRequest(unix.RTM_NEWTCLASS, dev, "htb", shaperClass, shaperHandle, htbClassOptions(p, rate))
	if err != nil {
		return fmt.Errorf("node %s: shape %s to %s: %w", n.Name, dev, formatRate(rate), err)
	}
	return nil
}

// reshape gives the bottleneck on the interface another rate. What waits there goes
// on waiting.
func (n *Node) reshape(dev string, p *Path, rate int64) error {
	err := n.tcRequestWith(0, unix.RTM_NEWTCLASS, dev, "htb", shaperClass, shaperHandle, htbClassOptions(p, rate))
	if err != nil {
		return fmt.Errorf("node %s: shape %s to %s: %w", n.Name, dev, formatRate(rate), err)
	}
	return nil
}

// htbOptions is a struct tc_htb_glob: everything goes to the only class.
func htbOptions() []byte {
	return appendAttr(nil, htbInit, words(htbVersion, htbRateToQuantum, shaperClass&0xffff, 0, 0))
}

// htbClassOptions is a struct tc_htb_opt and, for high rates, what does not fit
// into it. The kernel needs no rate tables from those who name the link layer.
func htbClassOptions(p *Path, rate int64) []byte {
	bytesPerSecond := uint64(rate / 8)
	spec := make([]byte, 12) // struct tc_ratespec
	spec[1] = linkLayerEthernet
	binary.NativeEndian.PutUint32(spec[8:], uint32(min(bytesPerSecond, math.MaxUint32)))
	burst := burstTicks(p.Burst)
	quantum := uint32(p.frame()) // whose turn it is, which is the only class's
	parms := append(append([]byte{}, spec...), spec...)
	parms = append(parms, words(burst, burst, quantum, 0, 0)...)
	b := appendAttr(nil, htbParms, parms)
	if bytesPerSecond > math.MaxUint32 {
		b = appendAttr(b, htbRate64, word64(bytesPerSecond))
		b = appendAttr(b, htbCeil64, word64(bytesPerSecond))
	}
	return b
}

// burstTicks is a burst as HTB takes it, at least one tick: HTB sends while its
// credit is not negative, so one frame always goes out.
func burstTicks(burst time.Duration) uint32 {
	return uint32(max(1, min(burst/tick, math.MaxUint32)))
}

// needsNetem tells whether the internet does anything to packets but route them.
func (p *Path) needsNetem() bool {
	return p.RTT != 0 || p.Loss != 0
}

// netemOptions is a struct tc_netem_qopt with its attributes, for one way.
func netemOptions(p *Path, seed uint64) []byte {
	gap := uint32(0)
	if p.Reorder > 0 {
		gap = 1
	}
	b := words(0, netemPackets, share(p.Loss), gap, 0, 0)
	b = appendAttr(b, netemLatency64, word64(uint64((p.RTT / 2).Nanoseconds())))
	if p.Jitter != 0 {
		b = appendAttr(b, netemJitter64, word64(uint64(p.Jitter.Nanoseconds())))
	}
	if p.Reorder > 0 {
		b = appendAttr(b, netemReorder, words(share(p.Reorder), 0))
	}
	if p.Seed != 0 {
		b = appendAttr(b, netemPRNGSeed, word64(seed))
	}
	return b
}

// share is a probability as netem counts it, in parts of 2^32-1.
func share(probability float64) uint32 {
	return uint32(math.Round(probability * math.MaxUint32))
}

// appendAttr appends a netlink attribute (struct rtattr), padded to 4 bytes.
func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}

func words(values ...uint32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}

func word64(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }
