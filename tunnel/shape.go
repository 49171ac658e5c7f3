package tunnel

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"kiloport/queue"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/tun"
)

// wholeBelow is the rate, bit/s, below which a super-packet would keep a line from
// others for too long, so that it is cut before it is queued. tc-cake(8) has the
// same bound.
const wholeBelow = 1_000_000_000

// quantum is what a flow may send in its turn in a queue for a line of a rate, bit/s,
// 0 for none.
func (d *Device) quantum(rate int64) int {
	if d.options.FixedQuantum || rate == 0 {
		return d.options.Queue.Quantum
	}
	return queue.SlowQuantum(rate, d.mtu())
}

// longestPause bounds how long a transmitter does not look at anything.
const longestPause = 100 * time.Millisecond

// shaped is the choice that a rate makes: one queue of all packets, because there
// is one line.
func (o *Options) shaped(t *tun.Options) {
	if o.shapes() {
		t.Queues, t.Rings = 1, tunRings
	}
}

// shapes tells whether what leaves has a rate to keep to.
func (o *Options) shapes() bool { return o.Bandwidth != 0 || o.Autorate != RateRange{} }

// cuts tells whether a packet is to be cut because a line on its way is slow.
func (t *transmitter) cuts(pkt *packet) bool {
	if pkt.header.GSO == tun.GSONone {
		return false
	}
	slow := func(rate int64) bool { return rate != 0 && rate < wholeBelow }
	return slow(t.device.uplink.rate.Load()) || slow(pkt.peer.downlink.rate())
}

// cut queues the segments of a super-packet as packets of their own, so that CoDel
// marks and drops single ones, and what is sparse waits for one of them only.
func (t *transmitter) cut(super *packet) {
	if t.segment.Reset(super.header, super.payload(), false) != nil {
		super.peer.drops.add(dropInvalid)
		return
	}
	for n := t.segment.Len(); n > 0; n-- {
		segment := t.segment.Next()
		one := t.buffers.take(len(segment))
		copy(one.payload(), segment)
		one.hash, one.peer = super.hash, super.peer
		t.put(one)
	}
}

// put queues a packet: at the peer's line if that has a rate.
func (t *transmitter) put(pkt *packet) {
	t.enqueued(pkt)
	if l := t.lineTo(pkt.peer); l != nil {
		l.queue.Enqueue(t.now, pkt.hash, pkt)
		return
	}
	t.queue.Enqueue(t.now, pkt.hash, pkt)
}

// shape follows the rate of our own line, and makes up for what was sent past it.
// For what was sent while nothing waited, the line has had time.
func (t *transmitter) shape() {
	u := &t.device.uplink
	rate := u.rate.Load()
	t.shaper.SetRate(t.now, rate)
	t.queue.SetQuantum(t.device.quantum(rate))
	if u.unshaped.Load() == 0 {
		return
	}
	if n := u.unshaped.Swap(0); !t.idle {
		t.shaper.Admit(t.now, int(n))
	}
}

// waiting tells whether anything is queued.
func (t *transmitter) waiting() bool { return t.queue.Len() > 0 || len(t.lines) > 0 }

// outerSize is how many bytes a payload of n bytes makes of IP outside.
func (t *transmitter) outerSize(p *peer, n int) int {
	return noise.PaddedSize(n, t.device.mtu()) + noise.TransportOverhead + p.outerHeaders()
}

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	udpHeaderLen  = 8
	protocolTCP   = 6
)

// outerHeaders is the length of the IP and UDP headers of what is sent to the peer.
func (p *peer) outerHeaders() int {
	if to := p.endpoint.Load(); to != nil && to.addr.Addr().Is4() {
		return ipv4HeaderLen + udpHeaderLen
	}
	return ipv6HeaderLen + udpHeaderLen
}

// cost is what a packet takes of a line with an overhead, all its segments
// together.
func (t *transmitter) cost(o queue.Overhead, pkt *packet) int {
	if pkt.header.GSO == tun.GSONone || pkt.header.SegmentSize == 0 {
		return o.Cost(t.outerSize(pkt.peer, pkt.n))
	}
	headers, size := innerHeaders(pkt.payload()), int(pkt.header.SegmentSize)
	payload := max(pkt.n-headers, 0)
	cost := payload / size * o.Cost(t.outerSize(pkt.peer, headers+size))
	if rest := payload % size; rest > 0 {
		cost += o.Cost(t.outerSize(pkt.peer, headers+rest))
	}
	return cost
}

// innerHeaders is the length of the IP and transport headers of a super-packet,
// without extensions of IPv6. The kernel's word for it may be too high.
func innerHeaders(b []byte) int {
	ip, protocol := ipv6HeaderLen, uint8(0)
	switch {
	case len(b) >= ipv4HeaderLen && b[0]>>4 == 4:
		ip, protocol = int(b[0]&15)*4, b[9]
	case len(b) >= ipv6HeaderLen:
		protocol = b[6]
	}
	if protocol == protocolTCP && len(b) > ip+12 {
		return ip + int(b[ip+12]>>4)*4
	}
	return ip + udpHeaderLen
}

// pace waits until a line takes something again. While a peer's line has packets,
// and the own one may be free for others, what the host sends ends the wait; else
// it waits in the TUN device's rings, no longer than one packet takes.
func (t *transmitter) pace() {
	now := t.device.clock.Now()
	wait := longestPause
	if t.idle = t.queue.Len() == 0; t.idle {
		t.shaper.Idle()
	} else {
		wait = time.Duration(t.shaper.NextAt() - now)
		t.device.uplink.hold(now, wait)
	}
	for _, l := range t.lines {
		wait = min(wait, time.Duration(l.shaper.NextAt()-now))
	}
	switch wait = min(wait, longestPause); {
	case wait <= 0 || !t.waiting():
	case t.priority.napping:
		t.priority.nap(wait)
	case len(t.lines) > 0:
		_ = t.tun.Await(wait) // what is wrong, the next read tells
	default:
		t.device.clock.Sleep(wait)
	}
}

// RateRange is the bounds of a rate that is found, bit/s. The zero value is none.
type RateRange struct{ Min, Max int64 }

// ParseAutorate reads "MIN-MAX", rates as tc(8) has them, or "off".
func ParseAutorate(s string) (r RateRange, err error) {
	if strings.EqualFold(s, "off") {
		return r, nil
	}
	r.Min, r.Max, err = queue.ParseRates(s)
	return r, err
}

// String gives what [ParseAutorate] reads.
func (r RateRange) String() string {
	if r == (RateRange{}) {
		return "off"
	}
	return queue.FormatRate(r.Min) + "-" + queue.FormatRate(r.Max)
}

// ParseBandwidth reads a rate to send at, and one to receive at after a slash, if
// that is to have one: "20mbit", "5mbit/20mbit", "off/20mbit". Each is a rate as
// tc(8) has it or "off", which is 0.
func ParseBandwidth(s string) (send, receive int64, err error) {
	parts := strings.Split(strings.ToLower(s), "/")
	parts = slices.DeleteFunc(parts, func(p string) bool { return strings.TrimSpace(p) == "s" }) // 20mbit/s
	if len(parts) > 2 {
		return 0, 0, fmt.Errorf("%q has more than two rates, use RATE or RATE/RATE", s)
	}
	if send, err = parseRate(parts[0]); err == nil && len(parts) == 2 {
		receive, err = parseRate(parts[1])
	}
	if err != nil {
		return 0, 0, err
	}
	return send, receive, nil
}

func parseRate(s string) (int64, error) {
	if strings.TrimSpace(s) == "off" {
		return 0, nil
	}
	return queue.ParseRate(s)
}

// FormatBandwidth gives what [ParseBandwidth] reads.
func FormatBandwidth(send, receive int64) string {
	if receive == 0 {
		return formatRate(send)
	}
	return formatRate(send) + "/" + formatRate(receive)
}

func formatRate(rate int64) string {
	if rate == 0 {
		return "off"
	}
	return queue.FormatRate(rate)
}
