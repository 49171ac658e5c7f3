package traffic

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// prompt makes this process's threads real-time ones, and with them those that
// they will start. The lowest real-time priority is above everybody who has none.
func prompt() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("find the threads of this process: %w", err)
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return fmt.Errorf("find the threads of this process: %w", err)
		}
		err = unix.SchedSetAttr(id, &unix.SchedAttr{Policy: unix.SCHED_RR, Priority: 1}, 0)
		if err != nil && err != unix.ESRCH { // a thread may have ended
			return fmt.Errorf("make a process a real-time one, run this as root: %w", err)
		}
	}
	return nil
}
