package portpool

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Pin binds the calling goroutine to a thread of its own, and that to one of the
// processors that the process may use: the n-th of them, counted from 0 and
// around. The goroutine should not end before the process does.
func Pin(n int) error {
	runtime.LockOSThread()
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("ask which processors may be used: %w", err)
	}
	n %= max(allowed.Count(), 1)
	for cpu := range 64 * len(allowed) {
		if !allowed.IsSet(cpu) {
			continue
		}
		if n == 0 {
			one.Set(cpu)
			break
		}
		n--
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("bind a thread to one processor: %w", err)
	}
	return nil
}
