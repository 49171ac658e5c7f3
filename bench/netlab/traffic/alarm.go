package traffic

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// An alarm wakes at an exact moment. Go's timers, and the kernel's for those who
// sleep, are late on purpose, by up to a millisecond and 50 µs, to fall together
// with what wakes the process or the kernel anyway. In virtual time that is an
// answer, or a gateway's shaper that lets the next packet go: a probe that is sent
// then always finds the queue in that moment of its cycle. A timerfd's is not late.
type alarm struct {
	fd    int
	timer *os.File
}

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("create a timer: %w", err)
	}
	return &alarm{fd, os.NewFile(uintptr(fd), "timerfd")}, nil
}

// sleep waits for d, not at all if it is not positive.
func (a *alarm) sleep(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	if err := unix.TimerfdSettime(a.fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}, nil); err != nil {
		return fmt.Errorf("set a timer: %w", err)
	}
	var expirations [8]byte
	if _, err := a.timer.Read(expirations[:]); err != nil {
		return fmt.Errorf("wait for a timer: %w", err)
	}
	return nil
}

func (a *alarm) close() { a.timer.Close() }
