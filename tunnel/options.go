package tunnel

import (
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"time"

	"kiloport/portpool"
	"kiloport/queue"
	"kiloport/tunnel/ecn"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/tun"
)

// Options are what a person may choose for a device, beside what WireGuard's
// configuration protocol sets. The zero value is not valid; start from
// [DefaultOptions].
type Options struct {
	// Ports is how many source ports, hence lanes, the pool may have, 1 to
	// portpool.MaxPorts. 1 is plain WireGuard, unless labels or addresses tell
	// flows apart.
	Ports int
	// PortRange bounds the source ports; the zero value leaves them to the
	// kernel.
	PortRange PortRange
	// LaneIdle is after how long without use a source port is closed, at
	// least a second.
	LaneIdle time.Duration
	// DSCP says what the outer header's DSCP is.
	DSCP ecn.DSCPPolicy
	// DSCPDecap says whether that comes back inside at this end.
	DSCPDecap ecn.Model
	// ControlDSCP is the outer DSCP of handshakes and control messages, 0 to
	// ecn.MaxDSCP.
	ControlDSCP uint8
	// ECN says whether the outer header carries the inner ECN field.
	ECN ECNMode
	// Spread says how flows are told apart outside.
	Spread SpreadMode
	// MaxLanes is how many lanes one peer may have in each direction, hence how
	// many connections a router on the way has to track for it; 0 is as many as
	// there are ports.
	MaxLanes int
	// SourcePrefixes are where SpreadAddresses takes its addresses from.
	SourcePrefixes SourcePrefixes
	// ClampMSS lowers the segment size that TCP connections agree on to what the
	// path carries, for hosts that do not hear ICMP.
	ClampMSS bool
	// Workers is how many queues of the TUN device there are to be, each with
	// a goroutine that sends and one that receives: 1 to MaxWorkers, or 0 for
	// one for each processor, up to 8. It is for whoever makes the TUN
	// device: the Device has as many workers as that has queues.
	Workers int
	// Bandwidth is the rate, bit/s, at which packets leave, so that they wait
	// in our queue and not in one without AQM on the way; 0 is no limit. With
	// Autorate it is where that begins.
	Bandwidth int64
	// ReceiveBandwidth is the rate, bit/s, that each peer is asked to send us at
	// most, for the same reason; 0 asks for nothing. Stock peers are not asked.
	ReceiveBandwidth int64
	// Autorate are bounds within which the rate at which packets leave follows
	// what the path takes, by what peers report; the zero value is a fixed rate.
	Autorate RateRange
	// Overhead is what the link of these rates adds to each outer IP packet.
	Overhead queue.Overhead
	// Queue is FQ-CoDel's parameters. The limits are for all workers together.
	Queue queue.Config
	// FixedQuantum keeps Queue.Quantum where packets wait for a line that has a
	// rate, ours or a peer's; else it is queue.SlowQuantum there.
	FixedQuantum bool
	// Pin binds the goroutines of each worker to one processor.
	Pin bool
	// Realtime lets workers go before other programs where processors are
	// short. It is for whoever makes the device's [Scheduler].
	Realtime bool
	// Cipher says what seals the packets between two kiloports.
	Cipher CipherMode
	// GSO says whether packets of one flow leave the host, and go to the
	// socket, as one; GRO whether they come from the socket, and go to the
	// host, as one. The zero value is yes, where the kernel does it well.
	GSO, GRO portpool.Mode
	// Metrics is where Prometheus gets answers; the zero value is nowhere. It
	// is for whoever runs the device, which does not listen there by itself.
	Metrics netip.AddrPort
}

// defaultControlDSCP is AF41 (RFC 2597), which WireGuard in the kernel gives
// handshakes.
const defaultControlDSCP = 34

// DefaultOptions gives 1024 ports of the kernel's choice, closed after 60 s
// without use, the DSCP inherited, ECN as peer and path are able, FQ-CoDel as
// RFC 8290 recommends it, and workers that go before others when they must.
func DefaultOptions() Options {
	return Options{Ports: 1024, LaneIdle: time.Minute, Spread: SpreadAuto, ControlDSCP: defaultControlDSCP, Queue: queue.Default(), Realtime: true}
}

const minLaneIdle = time.Second

// Validate names the first option that is out of range, and the range, or the
// two that do not go together.
func (o Options) Validate() error {
	if o.Ports < 1 || o.Ports > portpool.MaxPorts {
		return fmt.Errorf("ports: %d is out of range, use 1 to %d", o.Ports, portpool.MaxPorts)
	}
	if o.PortRange.Low > o.PortRange.High || o.PortRange.Low == 0 && o.PortRange.High != 0 {
		return fmt.Errorf("port range: %v is not a range, use LOW-HIGH with LOW at least 1 and at most HIGH", o.PortRange)
	}
	if o.LaneIdle < minLaneIdle {
		return fmt.Errorf("lane idle: %v is too short, use at least %v", o.LaneIdle, minLaneIdle)
	}
	if err := o.validateSpread(); err != nil {
		return err
	}
	if o.ECN > ECNOff || o.DSCPDecap > ecn.Uniform || o.Cipher > CipherAES || o.GSO > portpool.On || o.GRO > portpool.On {
		return fmt.Errorf("ecn, dscp decap, cipher, gso or gro: unknown mode")
	}
	if o.ControlDSCP > ecn.MaxDSCP {
		return fmt.Errorf("control dscp: %d is out of range, use 0 to %d", o.ControlDSCP, ecn.MaxDSCP)
	}
	if err := o.validateRates(); err != nil {
		return err
	}
	if err := o.Queue.Validate(); err != nil {
		return err
	}
	if o.Workers < 0 || o.Workers > MaxWorkers {
		return fmt.Errorf("workers: %d is out of range, use 1 to %d, or 0 for one for each processor", o.Workers, MaxWorkers)
	}
	if n := o.PortRange.size(); n > 0 && n < o.Ports {
		return fmt.Errorf("ports: %d do not fit into the port range %v, which has %d: make the range wider, or ports %d at most", o.Ports, o.PortRange, n, n)
	}
	return nil
}

func (o *Options) validateRates() error {
	for _, rate := range []int64{o.Bandwidth, o.ReceiveBandwidth} {
		if err := queue.DefaultShaper(rate).Validate(); err != nil {
			return fmt.Errorf("bandwidth: %w", err)
		}
	}
	if (o.Autorate != RateRange{}) {
		if err := o.autorate().Validate(); err != nil {
			return fmt.Errorf("autorate %v, bandwidth %s: %w", o.Autorate, formatRate(o.Bandwidth), err)
		}
	}
	if err := o.Overhead.Validate(); err != nil {
		return fmt.Errorf("overhead: %w", err)
	}
	return nil
}

// PortRange is a range of UDP ports, both ends included. The zero value means
// that the kernel chooses (net.ipv4.ip_local_port_range).
type PortRange struct{ Low, High uint16 }

// size is how many ports are in the range, 0 if the kernel chooses.
func (r PortRange) size() int {
	if r == (PortRange{}) {
		return 0
	}
	return int(r.High) - int(r.Low) + 1
}

// ParsePortRange reads "LOW-HIGH", or "auto" for the kernel's choice.
func ParsePortRange(s string) (PortRange, error) {
	if strings.EqualFold(s, "auto") {
		return PortRange{}, nil
	}
	low, high, ok := strings.Cut(s, "-")
	l, err1 := strconv.ParseUint(strings.TrimSpace(low), 10, 16)
	h, err2 := strconv.ParseUint(strings.TrimSpace(high), 10, 16)
	if !ok || err1 != nil || err2 != nil || l == 0 || l > h {
		return PortRange{}, fmt.Errorf(`%q is not a port range: use LOW-HIGH, such as 40000-41023, or "auto"`, s)
	}
	return PortRange{uint16(l), uint16(h)}, nil
}

// String gives what [ParsePortRange] reads.
func (r PortRange) String() string {
	if r == (PortRange{}) {
		return "auto"
	}
	return fmt.Sprintf("%d-%d", r.Low, r.High)
}

// ECNMode says whether outer headers carry the inner ECN field (RFC 6040).
// What arrives is decapsulated by the RFC in every mode.
type ECNMode uint8

const (
	// ECNAuto is compatibility mode until the peer has said HELLO and the path
	// to it has been found to leave the field alone, then normal mode, for as
	// long as that is so.
	ECNAuto ECNMode = iota
	// ECNOn is normal mode from the start, towards stock peers too: for
	// those known to decapsulate, as kernel WireGuard does.
	ECNOn
	// ECNOff is compatibility mode always: outer headers are Not-ECT.
	ECNOff
)

var ecnModeNames = []string{"auto", "on", "off"}

// ParseECN reads "auto", "on" or "off".
func ParseECN(s string) (ECNMode, error) {
	m, err := parseWord(s, ecnModeNames)
	return ECNMode(m), err
}

// String gives what [ParseECN] reads.
func (m ECNMode) String() string { return ecnModeNames[m] }

// MaxWorkers is the most workers that a device may have.
const MaxWorkers = 64

// TUN gives the queues and offloads to ask for when the TUN device is made.
func (o *Options) TUN() tun.Options {
	t := tun.Options{Queues: o.Workers}
	if t.Queues == 0 {
		t.Queues = min(runtime.NumCPU(), 8)
	}
	t.Rings = max(tunRings/t.Queues, 1)
	if o.GSO != portpool.Off {
		t.Offloads = tun.OffloadAll
	}
	o.shaped(&t)
	return t
}

// tunRings is how many of the kernel's queues the TUN device has for all workers:
// a sparse flow loses packets to a flood that nobody can keep up with only where
// it shares one with it.
const tunRings = 32

// CipherMode says what seals the packets between two kiloports. Handshakes, and
// everything between a kiloport and a stock peer, are as WireGuard has them.
type CipherMode uint8

const (
	// CipherAuto is AES-256-GCM if both ends have a processor with
	// instructions for it, else ChaCha20-Poly1305.
	CipherAuto CipherMode = iota
	// CipherChaCha is ChaCha20-Poly1305 always.
	CipherChaCha
	// CipherAES is AES-256-GCM with every kiloport that takes it.
	CipherAES
)

var cipherNames = []string{"auto", "chacha20poly1305", "aes256gcm"}

// ParseCipher reads "auto", "chacha20poly1305" or "aes256gcm".
func ParseCipher(s string) (CipherMode, error) {
	m, err := parseWord(s, cipherNames)
	return CipherMode(m), err
}

// String gives what [ParseCipher] reads.
func (m CipherMode) String() string { return cipherNames[m] }

// aes tells whether AES-256-GCM is offered.
func (m CipherMode) aes() bool {
	return m == CipherAES || m == CipherAuto && noise.AESIsFast()
}

var offloadModes = []string{"auto", "off", "on"}

// ParseOffload reads a mode of GSO or GRO: "auto", "on" or "off".
func ParseOffload(s string) (portpool.Mode, error) {
	m, err := parseWord(s, offloadModes)
	return portpool.Mode(m), err
}

func parseWord(s string, words []string) (int, error) {
	for i, w := range words {
		if strings.EqualFold(s, w) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%q is none of %s", s, strings.Join(words, ", "))
}
