package tunnel

import (
	"syscall"
	"time"
)

// Clock is where time comes from; the packet path and every timer read it
// through here. Tests inject their own or run inside testing/synctest.
type Clock interface {
	// Now is monotonic time in nanoseconds, always above 0.
	Now() int64
	// Wall is the time of day, for handshake timestamps and for people.
	Wall() time.Time
	// AfterFunc calls f in a goroutine of its own after d.
	AfterFunc(d time.Duration, f func()) Timer
	// Sleep returns after d. It allocates nothing.
	Sleep(d time.Duration)
}

// Timer is what [Clock.AfterFunc] gives: a time.Timer or a stand-in.
type Timer interface {
	Reset(d time.Duration) bool
	Stop() bool
}

// systemClock counts from its own start, so that 0 can mean "never".
type systemClock struct{ start time.Time }

func newSystemClock() systemClock { return systemClock{start: time.Now()} }

func (c systemClock) Now() int64      { return int64(time.Since(c.start)) + 1 }
func (c systemClock) Wall() time.Time { return time.Now() }
func (c systemClock) AfterFunc(d time.Duration, f func()) Timer {
	return time.AfterFunc(d, f)
}
func (c systemClock) Sleep(d time.Duration) { time.Sleep(d) }

// preciseClock is a systemClock for a daemon. It would not do inside
// testing/synctest, which does not see a thread that sleeps in the kernel.
type preciseClock struct{ systemClock }

// NewPreciseClock gives the system's clock with a Sleep that is late by the
// kernel's timer slack, some 50 µs. The Go scheduler's own timers may be late by a
// millisecond, because its poller counts in these: at 20 Mbit/s that is two packets.
func NewPreciseClock() Clock { return preciseClock{newSystemClock()} }

func (c preciseClock) Sleep(d time.Duration) {
	left := syscall.NsecToTimespec(int64(d))
	for syscall.Nanosleep(&left, &left) == syscall.EINTR {
		continue // the runtime's own signals
	}
}
