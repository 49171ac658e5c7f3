package portpool

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Mode says whether a capability of the kernel is used.
type Mode uint8

const (
	// Auto uses it if the kernel passes the test made when the first socket
	// is opened.
	Auto Mode = iota
	// Off never uses it.
	Off
	// On uses it without a test, wherever the kernel has it.
	On
)

// String gives the mode as a flag spells it.
func (m Mode) String() string {
	return [...]string{"auto", "off", "on"}[min(m, On)]
}

// Capability is whether something of the kernel is used, and why not.
type Capability struct {
	On bool
	// Reason is why it is off, or what could not be found out about it, in
	// words for a person; empty if there is nothing to say.
	Reason string
}

// Capabilities is what the sockets of a Shared make use of.
type Capabilities struct {
	// GSO: the kernel takes several datagrams as one (UDP_SEGMENT).
	GSO Capability
	// GRO: the kernel gives several datagrams as one (UDP_GRO).
	GRO Capability
	// Raw: lone datagrams of several lanes go in one system call.
	Raw Capability
	// NotSegmented are the destinations, in order, on whose way the kernel
	// has refused datagrams handed to it as one, with EIO or EINVAL: those
	// behind an interface that computes no checksums, or behind IPsec. They
	// get single datagrams for as long as the process lives.
	NotSegmented []netip.Addr
}

const (
	// oldSegments is the most datagrams that any kernel with UDP_SEGMENT
	// takes as one (UDP_MAX_SEGMENTS; it is 128 from Linux 6.9 on).
	oldSegments = 64
	// maxNotSegmented bounds the destinations remembered; when there are
	// more, nothing is handed over as one any longer.
	maxNotSegmented = 256
)

const byConfiguration = "turned off by configuration"

// offloads is the part of a Shared that is about GSO and GRO.
type offloads struct {
	log      *slog.Logger
	gsoMode  Mode
	groMode  Mode
	rawMode  Mode
	most     atomic.Int32                            // datagrams handed to the kernel as one; 1: GSO is off
	refusing atomic.Pointer[map[netip.Addr]struct{}] // copied to change it

	settled sync.Once

	mu       sync.Mutex
	gso, gro Capability
	raw      Capability
}

func (o *offloads) init(cfg SharedConfig) {
	o.log, o.gsoMode, o.groMode, o.rawMode = cfg.Log, cfg.GSO, cfg.GRO, cfg.Raw
	o.most.Store(oldSegments)
	o.refusing.Store(&map[netip.Addr]struct{}{})
	o.gso.On, o.gro.On = true, true
	if cfg.GSO == Off {
		o.turnOffGSO(byConfiguration)
	}
	o.raw = Capability{Reason: "no pool of udp sockets has been opened"}
	if cfg.Raw == Off {
		o.raw.Reason = byConfiguration
	}
	if cfg.GRO == Off {
		o.gro = Capability{Reason: byConfiguration}
	}
}

// settle compares what is asked for with what the kernel can do. It does so when
// the first socket is opened.
func (o *offloads) settle() {
	o.settled.Do(func() {
		k := kernel()
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.gsoMode == Auto && k.noGSO != "" {
			o.turnOffGSO(k.noGSO)
		}
		switch {
		case o.groMode == Off:
		case o.groMode == Auto && k.noGRO != "":
			o.turnOffGRO(k.noGRO)
		case o.groMode == Auto && k.doubt != "":
			o.gro.Reason = k.doubt
			o.log.Info("udp receive offload (gro) is used untested", "reason", k.doubt)
		}
	})
}

// segments is how many datagrams to a destination may be handed over as one.
func (o *offloads) segments(to netip.Addr) int {
	if _, ok := (*o.refusing.Load())[to]; ok {
		return 1
	}
	return int(o.most.Load())
}

// refuseSegments notes that datagrams to a destination went alone after they
// had been refused as one.
func (o *offloads) refuseSegments(to netip.Addr, e syscall.Errno) {
	o.mu.Lock()
	defer o.mu.Unlock()
	old := o.refusing.Load()
	switch {
	case o.segments(to) == 1:
		return
	case len(*old) == maxNotSegmented:
		o.turnOffGSO("refused on the way to too many destinations")
		return
	case len(*old) == 0:
		o.log.Warn("udp segmentation offload (gso) does not work on the way to this destination, it gets single datagrams; "+
			"the interface computes no checksums, or ipsec is in the way", "destination", to, "err", e)
	}
	refusing := maps.Clone(*old)
	refusing[to] = struct{}{}
	o.refusing.Store(&refusing)
}

// LoseGSO stops handing datagrams over as one, for good, with one warning. It is
// for who finds that they do not arrive, as with a driver that corrupts them:
// that cannot be seen on this side.
func (o *offloads) LoseGSO(reason string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gso.On {
		o.turnOffGSO(reason)
	}
}

func (o *offloads) turnOffGSO(reason string) {
	o.gso = Capability{Reason: reason}
	o.most.Store(1)
	if reason != byConfiguration {
		o.log.Warn("udp segmentation offload (gso) is not used", "reason", reason)
	}
}

// Capabilities tells what the sockets make use of.
func (o *offloads) Capabilities() Capabilities {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := Capabilities{GSO: o.gso, GRO: o.gro, Raw: o.raw}
	for a := range *o.refusing.Load() {
		c.NotSegmented = append(c.NotSegmented, a)
	}
	slices.SortFunc(c.NotSegmented, netip.Addr.Compare)
	return c
}

// joinArrivals turns GRO on, where it may be.
func (s *UDPSocket) joinArrivals() {
	if !s.shared.allowGRO() {
		return
	}
	err := onDescriptor(s.raw, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1)
	})
	if err != nil {
		s.shared.loseGRO("the kernel does not have it: " + err.Error())
	}
}

func (o *offloads) allowGRO() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.gro.On
}

func (o *offloads) loseGRO(reason string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gro.On {
		o.turnOffGRO(reason)
	}
}

func (o *offloads) turnOffGRO(reason string) {
	o.gro = Capability{Reason: reason}
	o.log.Warn("udp receive offload (gro) is not used", "reason", reason)
}

func (o *offloads) allowRaw() bool { return o.rawMode != Off }

// haveRaw notes that a pool has raw sockets.
func (o *offloads) haveRaw(c Capability) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.raw = c
}

func (o *offloads) loseRaw(reason string) {
	o.haveRaw(Capability{Reason: reason})
	o.log.Warn("each lane's packet costs a system call, no raw socket carries them", "reason", reason)
}
