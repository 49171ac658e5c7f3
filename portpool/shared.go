package portpool

import (
	"log/slog"
	"math"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Shared is what the sockets of one network namespace have in common: the
// numbers of its interfaces, whether it allows flow labels, and a count of
// errors. All sockets of a process normally have the same. It is safe for use
// by several goroutines.
type Shared struct {
	offloads
	noLabels atomic.Bool
	errors   [maxErrno]atomic.Uint64

	zones   atomic.Pointer[zones]
	zonesMu sync.Mutex
}

// SharedConfig describes a Shared. The zero value logs nothing and uses what
// works.
type SharedConfig struct {
	// Log gets one warning for each capability that is lost or missing: flow
	// labels, GSO, GRO. nil means none.
	Log *slog.Logger
	// GSO and GRO say whether the kernel is given, and gives, several
	// datagrams as one. With GRO On, datagrams may lose their ECN marks to
	// each other on kernels older than May 2024.
	GSO, GRO Mode
	// Raw says whether lone datagrams of several lanes go in one system
	// call; On is the same as Auto. See [Pool.SendAcross].
	Raw Mode
}

// NewShared makes one.
func NewShared(cfg SharedConfig) *Shared {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	sh := new(Shared)
	sh.offloads.init(cfg)
	sh.zones.Store(&zones{})
	return sh
}

// FlowLabels tells whether flow labels are sent as asked for. They are until
// the kernel has refused one; then it chooses them, by 5-tuple.
func (sh *Shared) FlowLabels() bool { return !sh.noLabels.Load() }

func (sh *Shared) refuseLabels() {
	if !sh.noLabels.Swap(true) {
		sh.log.Warn("the kernel refuses our ipv6 flow labels, it will choose them itself: "+
			"another program in this network namespace holds an exclusive label",
			"labels in use", "/proc/net/ip6_flowlabel")
	}
}

// ErrnoCount says how many messages were not sent for one reason.
type ErrnoCount struct {
	Errno syscall.Errno
	Class Class
	Count uint64
}

// SendErrors counts the messages that the sockets did not send, by reason, in
// the order of the errno's number. EAGAIN counts each time that Send stopped,
// not each message.
func (sh *Shared) SendErrors() (counts []ErrnoCount) {
	for i := range sh.errors {
		if n := sh.errors[i].Load(); n > 0 {
			e := syscall.Errno(i)
			counts = append(counts, ErrnoCount{e, Classify(e), n})
		}
	}
	return counts
}

func (sh *Shared) count(e syscall.Errno) {
	if int(e) < maxErrno {
		sh.errors[e].Add(1)
	}
}

// zones remembers names and numbers of interfaces. It is copied to change it,
// so that to read it costs neither lock nor allocation.
type zones struct {
	index map[string]uint32
	name  map[uint32]netip.Addr // an address with that zone: see Shared.zoned
}

// maxZones bounds what is remembered; beyond it, all is looked up again.
const maxZones = 1024

// noInterface is the number of no interface. With 0 the kernel would choose one.
const noInterface = math.MaxInt32

// zoneIndex gives the number of the interface that a zone names, or noInterface.
// The socket is asked because it may be of another namespace than the thread.
func (sh *Shared) zoneIndex(fd uintptr, zone string) uint32 {
	if i, ok := sh.zones.Load().index[zone]; ok {
		return i
	}
	i := lookupIndex(fd, zone)
	if i != noInterface {
		sh.changeZones(func(z *zones) { z.index[zone] = i })
	}
	return i
}

func lookupIndex(fd uintptr, zone string) uint32 {
	if ifr, err := unix.NewIfreq(zone); err == nil {
		if unix.IoctlIfreq(int(fd), unix.SIOCGIFINDEX, ifr) == nil {
			return ifr.Uint32()
		}
	}
	n, err := strconv.ParseUint(zone, 10, 31)
	if err != nil || n == 0 {
		return noInterface
	}
	return uint32(n)
}

// zoned gives a link-local address its zone: the interface's name or, if it
// has gone, its number. netip keeps each zone's text once in the process for
// as long as some address has it, so an address kept here makes this free.
func (sh *Shared) zoned(fd uintptr, a netip.Addr, index uint32) netip.Addr {
	if known, ok := sh.zones.Load().name[index]; ok {
		return a.WithZone(known.Zone())
	}
	a = a.WithZone(lookupName(fd, index))
	sh.changeZones(func(z *zones) { z.name[index] = a })
	return a
}

func lookupName(fd uintptr, index uint32) string {
	if ifr, err := unix.NewIfreq(""); err == nil {
		ifr.SetUint32(index)
		if unix.IoctlIfreq(int(fd), unix.SIOCGIFNAME, ifr) == nil {
			return ifr.Name()
		}
	}
	return strconv.FormatUint(uint64(index), 10)
}

// forgetZone makes the next use look the interface up again.
func (sh *Shared) forgetZone(zone string) {
	if _, ok := sh.zones.Load().index[zone]; ok {
		sh.changeZones(func(z *zones) { delete(z.index, zone) })
	}
}

func (sh *Shared) changeZones(change func(*zones)) {
	sh.zonesMu.Lock()
	defer sh.zonesMu.Unlock()
	old := sh.zones.Load()
	z := &zones{index: map[string]uint32{}, name: map[uint32]netip.Addr{}}
	if len(old.index)+len(old.name) < maxZones {
		for k, v := range old.index {
			z.index[k] = v
		}
		for k, v := range old.name {
			z.name[k] = v
		}
	}
	change(z)
	sh.zones.Store(z)
}
