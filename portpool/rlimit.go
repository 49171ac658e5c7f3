package portpool

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// RaiseFileLimit makes sure that the process may have need open files, and
// raises RLIMIT_NOFILE if it may not yet: the soft limit for anybody, the hard
// limit too with CAP_SYS_RESOURCE, up to sysctl fs.nr_open. Count a file for
// each socket of the pool, and some for everything else. The error names the
// value needed and the places to set it; the limit is then as high as it goes.
func RaiseFileLimit(need int) error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	want := uint64(max(need, 0))
	if lim.Cur >= want {
		return nil
	}
	raised := unix.Rlimit{Cur: want, Max: max(lim.Max, want)}
	err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised)
	if err == nil {
		return nil
	}
	if lim.Cur < lim.Max {
		lim.Cur = min(lim.Max, want)
		if e := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); e == nil && lim.Cur >= want {
			return nil
		}
	}
	return fmt.Errorf("raise the limit of open files (RLIMIT_NOFILE) from %d to %d: %w: "+
		"set LimitNOFILE=%d in the systemd unit, or run \"ulimit -n %d\" as root before, or ask for fewer ports",
		lim.Cur, need, err, need, need)
}
