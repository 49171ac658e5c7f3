package portpool

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// kernelFacts is what is known about the kernel's UDP offloads, which it has or
// has not for as long as it runs. A reason is empty where all is well.
type kernelFacts struct {
	noGSO string // why datagrams should not be handed over as one
	noGRO string // why they should not be taken as one
	doubt string // what could not be found out about GRO, though it may be used
}

// kernel finds the facts when they are first needed, which takes some
// milliseconds.
var kernel = sync.OnceValue(func() kernelFacts {
	version := kernelVersion()
	f := kernelFacts{noGSO: version.corruptsGSO()}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		reason := fmt.Sprintf("open a socket to look for it: %v", err)
		return kernelFacts{noGSO: reason, noGRO: reason}
	}
	defer unix.Close(fd)
	if _, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT); err != nil {
		f.noGSO = "the kernel does not have it (it came with linux 4.18)"
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1); err != nil {
		f.noGRO = "the kernel does not have it (it came with linux 5.0)"
		return f
	}
	joins, err := whatGROJoins()
	f.noGRO, f.doubt = version.judgeGRO(joins, err)
	return f
})

// release is the version of a kernel.
type release struct{ major, minor, patch int }

func kernelVersion() (r release) {
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		r = parseRelease(unix.ByteSliceToString(u.Release[:]))
	}
	return r
}

// parseRelease reads the leading numbers of uname's release; what is missing is
// 0.
func parseRelease(s string) (r release) {
	fmt.Sscanf(s, "%d.%d.%d", &r.major, &r.minor, &r.patch)
	return r
}

func (r release) String() string { return fmt.Sprintf("linux %d.%d.%d", r.major, r.minor, r.patch) }

func (r release) before(o release) bool {
	switch {
	case r.major != o.major:
		return r.major < o.major
	case r.minor != o.minor:
		return r.minor < o.minor
	}
	return r.patch < o.patch
}

// corruptsGSO says whether the kernel is one of those that, with some drivers,
// write wrong headers where the last datagram is as long as the others. Which
// drivers these are cannot be seen from here.
func (r release) corruptsGSO() string {
	if r.before(release{7, 0, 0}) || !r.before(release{7, 1, 5}) {
		return ""
	}
	return r.String() + " corrupts datagrams with some drivers (fixed in 7.1.5)"
}

// judgeGRO judges what GRO joined in the test, or that there was none.
//
// Kernels without the commit "net: gro: add flush check in
// udp_gro_receive_segment" of May 2024, which was in 6.9 and came to the stable
// branches later, join datagrams of different ECN and forget all marks but the
// first.
func (r release) judgeGRO(j joined, err error) (no, doubt string) {
	switch {
	case err == nil && j == joinedAll:
		return r.String() + " joins datagrams with different ecn marks, which would lose congestion marks", ""
	case err == nil && j == joinedAlike:
		return "", ""
	case err == nil:
		doubt = "in the test nothing was joined"
	default:
		doubt = "the test needs CAP_SYS_ADMIN and veth: " + err.Error()
	}
	doubt = "whether " + r.String() + " keeps datagrams with different ecn marks apart was not seen: " + doubt
	if r.before(release{6, 11, 0}) {
		return doubt, ""
	}
	return "", doubt
}
