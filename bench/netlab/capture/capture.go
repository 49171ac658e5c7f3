// Package capture watches a network interface inside a node of a lab and counts
// what passes, per outer 5-tuple and per IPv6 flow label, so that a test can say
// what a gateway on the path sees of a tunnel.
//
// Start with [Start] and read the [Report] that [Capture.Stop] returns. A
// function in [Config] gets every packet, and a pcap file can be written beside.
//
// Limits: only headers are looked at, and only the first [Config.Snap] bytes of
// a frame. A frame larger than the MTU (segmentation offload left on) counts as
// one packet. If the machine is too slow the kernel drops frames from the
// capture, not from the wire; [Report.KernelDrops] then tells how many.
package capture

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"kiloport/bench/netlab"
)

// Config says how much to capture; the zero value has sensible limits.
type Config struct {
	// Snap is how many bytes of each frame are looked at, 0 means 192.
	Snap int
	// RingBytes is the memory that the kernel fills, 0 means 32 MiB.
	RingBytes int
	// MaxFlows bounds how many 5-tuples and labels are counted, 0 means 65 536.
	MaxFlows int
	// OnPacket, if set, gets every IP packet, one after the other, and must
	// not keep its argument.
	OnPacket func(*Packet)
	// Pcap, if set, gets the frames as a capture file.
	Pcap io.Writer
}

// A Capture watches one interface until it is stopped.
type Capture struct {
	ring    *ring
	config  Config
	counter *counter
	pcap    *pcapWriter
	packet  Packet

	stop     chan struct{}
	done     chan struct{}
	stopOnce sync.Once
	report   *Report
	err      error
}

// Start captures on the interface dev of the node. When it returns, every
// packet that passes from now on will be counted. The capture ends with
// [Capture.Stop] or with the lab.
func Start(node *netlab.Node, dev string, config Config) (*Capture, error) {
	if config.Snap <= 0 {
		config.Snap = 192
	}
	if config.RingBytes <= 0 {
		config.RingBytes = 32 << 20
	}
	if config.MaxFlows <= 0 {
		config.MaxFlows = 1 << 16
	}
	c := &Capture{config: config, counter: newCounter(config.MaxFlows), stop: make(chan struct{}), done: make(chan struct{})}
	link, err := node.Link(dev)
	if err != nil {
		return nil, err
	}
	err = node.Do(func() (err error) {
		c.ring, err = openRing(link.Attrs().Index, config.Snap, config.RingBytes)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("capture on %s of node %s: %w", dev, node.Name, err)
	}
	if config.Pcap != nil {
		c.pcap = newPcapWriter(config.Pcap, config.Snap)
	}
	go c.loop()
	node.Lab().OnClose(func() error { _, _ = c.Stop(); return nil })
	return c, nil
}

// Stop ends the capture after everything that has passed so far was counted,
// and returns the counts. It may be called again and returns the same.
func (c *Capture) Stop() (*Report, error) {
	c.stopOnce.Do(func() { close(c.stop) })
	<-c.done
	return c.report, c.err
}

func (c *Capture) loop() {
	defer close(c.done)
	err := c.run()
	drops, dropErr := c.ring.dropped()
	if c.pcap != nil {
		err = errors.Join(err, c.pcap.err)
	}
	c.report = c.counter.snapshot()
	c.report.KernelDrops = drops
	c.err = errors.Join(err, dropErr, c.ring.close())
}

func (c *Capture) run() error {
	stop := c.stop
	var end time.Time
	for {
		if err := c.ring.wait(5 * retireAfter); err != nil {
			return err
		}
		blocks := c.ring.drain(c.frame)
		if stop == nil && (time.Now().After(end) || blocks == 0) {
			return nil
		}
		select {
		case <-stop:
			// The kernel hands over a block that is not full only after a
			// while; wait for it, but not for ever under endless traffic.
			stop, end = nil, time.Now().Add(10*retireAfter)
			time.Sleep(2 * retireAfter)
		default:
		}
	}
}

func (c *Capture) frame(f *frame) {
	if c.pcap != nil {
		c.pcap.frame(f.at, f.data, f.length)
	}
	p := &c.packet
	switch err := Parse(f.data, p); {
	case err == nil:
	case errors.Is(err, ErrNotIP):
		c.counter.report.NotIP++
		return
	default:
		c.counter.report.Malformed++
		return
	}
	p.Time, p.Outgoing = f.at, f.outgoing
	c.counter.add(p)
	if c.config.OnPacket != nil {
		c.config.OnPacket(p)
	}
}
