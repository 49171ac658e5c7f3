package tunnel

import (
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
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
type preciseClock struct {
	systemClock
	suspends *suspends
}

// suspender is a clock that can tell that the machine was suspended.
type suspender interface {
	// Suspended is for how long it was since the last call. From this call on, Now counts
	// that too.
	Suspended() time.Duration
}

// suspends is the time for which the machine was suspended, in all: the difference between
// CLOCK_BOOTTIME, by which keys grow old, and CLOCK_MONOTONIC, which is Go's and stands
// still meanwhile. To ask for the former costs a system call, so that is done once a
// second and not by the packet path.
type suspends struct {
	counted atomic.Int64
	before  int64 // the clocks' difference at the start
}

// NewPreciseClock gives the system's clock with a Sleep that is late by the
// kernel's timer slack, some 50 µs. The Go scheduler's own timers may be late by a
// millisecond, because its poller counts in these: at 20 Mbit/s that is two packets.
//
// Its Now counts the time for which the machine is suspended: [Device] asks for that
// once a second.
func NewPreciseClock() Clock { return preciseClock{newSystemClock(), &suspends{before: asleep()}} }

func (c preciseClock) Now() int64 { return c.systemClock.Now() + c.suspends.counted.Load() }

// leastSuspend is more than what reading two clocks one after the other may make of it.
const leastSuspend = int64(100 * time.Millisecond)

func (c preciseClock) Suspended() time.Duration {
	gone := asleep() - c.suspends.before - c.suspends.counted.Load()
	if gone < leastSuspend {
		return 0
	}
	c.suspends.counted.Add(gone)
	return time.Duration(gone)
}

// asleep is for how long the machine has been suspended since it was started.
func asleep() int64 { return readClock(clockBoottime) - readClock(clockMonotonic) }

// Of clock_gettime(2), for which the standard library has no names.
const clockMonotonic, clockBoottime = 1, 7

func readClock(id uintptr) int64 {
	var t syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, id, uintptr(unsafe.Pointer(&t)), 0)
	return t.Nano()
}

func (c preciseClock) Sleep(d time.Duration) {
	left := syscall.NsecToTimespec(int64(d))
	for syscall.Nanosleep(&left, &left) == syscall.EINTR {
		continue // the runtime's own signals
	}
}
