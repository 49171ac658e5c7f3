// Package realtime lets threads that forward packets go before those that make and
// take them, as the kernel's own forwarding does.
//
// A kernel forwards in softirqs, which no program's thread keeps waiting. A daemon
// is a program like others: where the processors are taken, it gets its share and
// waits for its turn, for some milliseconds each time, while packets wait for it.
// A thread of the policy SCHED_FIFO does not (sched(7)).
//
// What a thread that goes first must not do is to wait in a loop for what another one
// holds that cannot run. The Go runtime does so where a goroutine comes back from a
// system call. So who goes first makes none that waits, but naps for a fixed time and
// looks whether there is something to do. And the runtime stops each goroutine every
// 10 ms; to start one again that is bound to its thread takes another thread. So all
// others of the process go before ordinary ones, too, behind those that nap.
package realtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Priorities are the lowest of SCHED_FIFO's 1 to 99: before ordinary threads, behind
// whatever else an administrator has put there.
const (
	assisting = 1
	raised    = 2
)

// longestRun is for how long a thread that goes first may run without ever waiting,
// before the kernel ends the process (RLIMIT_RTTIME): a thousand times what is usual.
// Somebody restarts a daemon; nobody can restart a machine that a daemon keeps.
const longestRun = 3 * time.Second

// System schedules the threads of this process.
type System struct {
	ordinary unix.SchedAttr
	threads  string // the folder that has one for each thread of the process
	usual    int    // processors of the Go scheduler

	mu     sync.Mutex
	raised map[int]bool // threads
}

// New makes a scheduler, which takes what is the calling thread's policy now for the
// ordinary one.
//
// It also sets the process a limit: the kernel ends it if a thread that goes first
// never waits any more for 3 s.
//
// The error is [ErrOwnPolicy], or that of a system call.
func New() (*System, error) {
	now, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return nil, fmt.Errorf("ask for the scheduling policy: %w", err)
	}
	if now.Policy != unix.SCHED_NORMAL {
		return nil, ErrOwnPolicy
	}
	if err := limit(longestRun); err != nil {
		return nil, err
	}
	return &System{ordinary: *now, threads: "/proc/self/task", usual: runtime.GOMAXPROCS(0), raised: make(map[int]bool)}, nil
}

// limit bounds for how long threads that go first may run without waiting. A limit
// that is lower stays.
func limit(d time.Duration) error {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_RTTIME, &now); err != nil {
		return fmt.Errorf("ask for the limit of realtime: %w", err)
	}
	at := min(uint64(d.Microseconds()), now.Max)
	if err := unix.Setrlimit(unix.RLIMIT_RTTIME, &unix.Rlimit{Cur: at, Max: at}); err != nil {
		return fmt.Errorf("limit realtime to %v: %w", d, err)
	}
	return nil
}

// ErrOwnPolicy says that the process was started with another scheduling policy than
// the ordinary one, which is to stay what it is.
var ErrOwnPolicy = errors.New("the daemon was started with a scheduling policy of its own")

// Raise binds the calling goroutine to its thread and puts that before all others.
// From then on the goroutine should wait for nothing but in Nap, until it has called
// Lower. It must not be raised already.
//
// The error, for want of CAP_SYS_NICE as a rule, leaves things as they were.
func (s *System) Raise() error {
	runtime.LockOSThread()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := first(0, raised); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	s.raised[unix.Gettid()] = true
	return nil
}

// Lower takes back what Raise did.
func (s *System) Lower() {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.raised, unix.Gettid())
	s.last(0)
	runtime.UnlockOSThread()
}

// first puts a thread, 0 for the calling one, before ordinary ones. Those that it
// starts are ordinary.
func first(thread int, priority uint32) error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Flags: unix.SCHED_FLAG_RESET_ON_FORK, Priority: priority}
	if err := unix.SchedSetAttr(thread, &attr, 0); err != nil {
		return fmt.Errorf("put a thread before ordinary ones: %w: it takes CAP_SYS_NICE", err)
	}
	return nil
}

// last makes a thread an ordinary one.
func (s *System) last(thread int) {
	// To take the flag away would need a privilege, and it does nothing here.
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Flags: unix.SCHED_FLAG_RESET_ON_FORK, Nice: s.ordinary.Nice}
	_ = unix.SchedSetAttr(thread, &attr, 0) // to have less is always allowed; the thread may have ended
}

// Assist puts all other threads of the process before ordinary ones, too, but behind
// raised ones. Threads to come are ordinary, so that it is to be called again and
// again.
//
// It then sees to it that there is a processor of the Go scheduler (GOMAXPROCS) for
// each of n goroutines that are or will be raised, which keep them while they nap, and
// no more than is usual otherwise: a thread of the runtime's that has one and nothing
// to do is woken up by every packet. What else there is to do is done whenever the
// runtime stops a raised one.
func (s *System) Assist(n int) error {
	if err := s.others(func(thread int) { _ = first(thread, assisting) }); err != nil {
		return err
	}
	runtime.GOMAXPROCS(max(s.usual, n))
	return nil
}

// Desist takes back what Assist did.
func (s *System) Desist() error {
	runtime.GOMAXPROCS(s.usual)
	return s.others(s.last)
}

// others does something with all threads but the raised ones.
func (s *System) others(do func(thread int)) error {
	threads, err := os.ReadDir(s.threads)
	if err != nil {
		return fmt.Errorf("list the threads: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, thread := range threads {
		if id, err := strconv.Atoi(thread.Name()); err == nil && !s.raised[id] {
			do(id)
		}
	}
	return nil
}

// Nap sleeps for d, or less if a signal comes. The Go scheduler is not told, see
// above. The signals are its own, by which it ends a nap that it cannot wait for.
func (s *System) Nap(d time.Duration) {
	left := unix.NsecToTimespec(int64(d))
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&left)), 0, 0)
}

// Usage is for how long all threads of the process together have run, and were able
// to and waited for a processor. It falls when a thread ends.
//
// The error says that the kernel does not tell.
func (s *System) Usage() (ran, waited time.Duration, err error) {
	threads, err := os.ReadDir(s.threads)
	if err != nil {
		return 0, 0, fmt.Errorf("list the threads: %w", err)
	}
	told := false
	for _, thread := range threads {
		text, err := os.ReadFile(filepath.Join(s.threads, thread.Name(), "schedstat"))
		if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrNotExist) {
			continue // it has ended
		}
		if err != nil {
			return 0, 0, fmt.Errorf("how long a thread waited: %w", err)
		}
		r, w, err := parseSchedstat(string(text))
		if err != nil {
			return 0, 0, err
		}
		ran, waited, told = ran+r, waited+w, true
	}
	if !told {
		return 0, 0, errUntold
	}
	return ran, waited, nil
}

var errUntold = errors.New("the kernel does not tell how long threads wait for a processor (CONFIG_SCHED_INFO)")

// parseSchedstat reads what the kernel says of a thread: nanoseconds that it ran,
// nanoseconds that it waited, and how often it was given a processor
// (Documentation/scheduler/sched-stats.rst).
func parseSchedstat(text string) (ran, waited time.Duration, err error) {
	fields := strings.Fields(text)
	if len(fields) != 3 {
		return 0, 0, fmt.Errorf("schedstat %q: there are three numbers in it as a rule", text)
	}
	for i, to := range []*time.Duration{&ran, &waited} {
		n, err := strconv.ParseUint(fields[i], 10, 63)
		if err != nil {
			return 0, 0, fmt.Errorf("schedstat %q: %w", text, err)
		}
		*to = time.Duration(n)
	}
	return ran, waited, nil
}
