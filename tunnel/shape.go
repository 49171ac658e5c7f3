package tunnel

import (
	"strings"
	"time"

	"kiloport/queue"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/tun"
)

// wholeBelow is the rate, bit/s, below which a super-packet would keep others
// waiting too long, so that the host is not asked for any. tc-cake(8) has the
// same bound.
const wholeBelow = 1_000_000_000

// longestPause bounds how long a transmitter does not look at anything.
const longestPause = 100 * time.Millisecond

// shaped are the choices that a rate makes: one queue of all packets, because
// there is one link, and no super-packets on a slow one.
func (o *Options) shaped(t *tun.Options) {
	if o.Bandwidth == 0 {
		return
	}
	t.Queues, t.Rings = 1, tunRings
	if o.Bandwidth < wholeBelow {
		t.Offloads &= tun.OffloadChecksum
	}
}

// admit puts a packet on the link, as it will be outside.
func (t *transmitter) admit(pkt *packet) {
	headers := ipv6HeaderLen
	if to := pkt.peer.endpoint.Load(); to != nil && to.addr.Addr().Is4() {
		headers = ipv4HeaderLen
	}
	n := noise.PaddedSize(pkt.n, t.device.mtu()) + noise.TransportOverhead + udpHeaderLen + headers
	t.shaper.Admit(t.now, t.device.options.Overhead.Cost(n))
}

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	udpHeaderLen  = 8
)

// pace waits until the link takes something again. What arrives meanwhile waits
// in the TUN device's rings, no longer than one packet takes.
func (t *transmitter) pace() {
	if t.queue.Len() == 0 {
		t.shaper.Idle()
		return
	}
	if wait := time.Duration(t.shaper.NextAt() - t.device.clock.Now()); wait > 0 {
		t.device.clock.Sleep(min(wait, longestPause))
	}
}

// ParseBandwidth reads a rate as tc(8) does, such as "20mbit", or "off" for none,
// and gives it in bit/s.
func ParseBandwidth(s string) (int64, error) {
	if strings.EqualFold(s, "off") {
		return 0, nil
	}
	return queue.ParseRate(s)
}

// FormatBandwidth gives what [ParseBandwidth] reads.
func FormatBandwidth(rate int64) string {
	if rate == 0 {
		return "off"
	}
	return queue.FormatRate(rate)
}
