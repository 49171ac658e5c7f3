package tunnel

import (
	"fmt"
	"strconv"
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

// rateUnits are those of tc(8), in bit/s.
var rateUnits = []struct {
	suffix string
	bits   float64
}{
	{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}, {"bit", 1}, {"k", 1e3}, {"m", 1e6}, {"g", 1e9},
}

// ParseRate reads a rate such as "20mbit", "1.5gbit", "20M" or "off" for none,
// and gives it in bit/s.
func ParseRate(s string) (int64, error) {
	text := strings.ToLower(strings.TrimSpace(s))
	if text == "off" {
		return 0, nil
	}
	for _, u := range rateUnits {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if rate := f * u.bits; err == nil && rate >= float64(queue.MinRate) && rate <= float64(queue.MaxRate) {
			return int64(rate), nil
		}
		break
	}
	return 0, fmt.Errorf(`%q is not a rate: use a number with a unit, such as 20mbit, from 8kbit to 1000gbit, or "off"`, s)
}

// FormatRate gives what [ParseRate] reads.
func FormatRate(rate int64) string {
	for _, u := range []struct {
		name string
		bits int64
	}{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}} {
		if rate >= u.bits {
			return strconv.FormatFloat(float64(rate)/float64(u.bits), 'f', -1, 64) + u.name
		}
	}
	if rate == 0 {
		return "off"
	}
	return strconv.FormatInt(rate, 10) + "bit"
}
