// Package realtime lets threads that forward packets go before those that make and
// take them, as the kernel's own forwarding does.
//
// A kernel forwards in softirqs, which no program's thread keeps waiting. A daemon
// is a program like others: where the processors are taken, it gets its share and
// waits for its turn, for some milliseconds each time, while packets wait for it.
// A thread of the policy SCHED_RR does not (sched(7)).
//
// What a thread that goes first must not do is to wait in a loop for what another one
// holds that cannot run. The Go runtime does so. Where a goroutine comes back from a
// system call or is looked at by the garbage collector it yields, to threads of the same
// priority (sched_yield(2)); where it has swept its part of the memory and another thread
// still sweeps, it does not even that. Two such threads, of two daemons that each wait for
// another of their own, keep two processors for good, and one keeps the only processor. So
// all threads of a process go first or none does, all have one priority, and threads to
// come have what those have that start them. The kernel has them take turns, of 100 ms as
// a rule, which is the longest such wait: that is SCHED_RR, and SCHED_FIFO knows no turns.
// And what has nothing to do naps for a fixed time, or sleeps in another system call that
// the Go scheduler is not told of, and looks again, so that the scheduler has no part in
// that.
package realtime

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// priority is the lowest of SCHED_RR's 1 to 99: before ordinary threads, behind
// whatever else an administrator has put there.
const priority = 1

// For how long a thread that goes first may run without ever waiting, several hundred
// times what is usual: then none goes first any more, and if that does not help, the
// kernel ends the process (RLIMIT_RTTIME). Somebody restarts a daemon; nobody can
// restart a machine that a daemon keeps.
const (
	longRun    = time.Second
	longestRun = 4 * time.Second
)

// System schedules the threads of this process.
type System struct {
	ordinary unix.SchedAttr
	threads  string // the folder that has one for each thread of the process
	usual    int    // processors of the Go scheduler

	mu      sync.Mutex // of who changes policies, and of
	overran bool       // a thread has run for too long
}

// New makes a scheduler, which takes what is the calling thread's policy now for the
// ordinary one.
//
// It also sets the process limits. When a thread that goes first has run for a second
// without waiting, all become ordinary ones, and First fails from then on with
// [ErrOverran]. The kernel ends the process if that takes another three. There is to
// be one System, whose signal SIGXCPU is.
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
	s := &System{ordinary: *now, threads: "/proc/self/task", usual: runtime.GOMAXPROCS(0)}
	overran := make(chan os.Signal, 1)
	signal.Notify(overran, unix.SIGXCPU)
	if err := limit(longRun, longestRun); err != nil {
		signal.Stop(overran)
		return nil, err
	}
	go func() {
		for range overran {
			s.overrun()
		}
	}()
	return s, nil
}

// limit bounds for how long threads that go first may run without waiting, until
// there is a signal and until the process ends. Limits that are lower stay.
func limit(soft, hard time.Duration) error {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_RTTIME, &now); err != nil {
		return fmt.Errorf("ask for the limit of realtime: %w", err)
	}
	most := min(uint64(hard.Microseconds()), now.Max)
	if err := unix.Setrlimit(unix.RLIMIT_RTTIME, &unix.Rlimit{Cur: min(uint64(soft.Microseconds()), most), Max: most}); err != nil {
		return fmt.Errorf("limit realtime to %v: %w", hard, err)
	}
	return nil
}

// overrun makes all threads ordinary ones, for good.
func (s *System) overrun() {
	s.mu.Lock()
	s.overran = true
	s.mu.Unlock()
	_ = s.Last() // as far as that is possible
}

// ErrOwnPolicy says that the process was started with another scheduling policy than
// the ordinary one, which is to stay what it is.
var ErrOwnPolicy = errors.New("the daemon was started with a scheduling policy of its own")

// ErrOverran says that a thread that went first ran for a second without waiting.
var ErrOverran = errors.New("a thread that went before others ran for a second on end, which it must not")

// First puts all threads of the process before those of others. What waits should do
// so in Nap from then on, until Last. It may be called again and again.
//
// It then sees to it that there is a processor of the Go scheduler (GOMAXPROCS) for
// each of n goroutines, which keep them while they nap, and no more than is usual
// otherwise: a thread of the runtime's that has one and nothing to do is woken up by
// every packet. What else there is to do is done whenever the runtime stops one that
// naps, which is every 10 ms.
//
// The error, for want of CAP_SYS_NICE as a rule, leaves things as they were.
func (s *System) First(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.overran {
		return ErrOverran
	}
	if err := s.all(unix.SchedAttr{Policy: unix.SCHED_RR, Priority: priority}); err != nil {
		return fmt.Errorf("put threads before ordinary ones: %w: it takes CAP_SYS_NICE", err)
	}
	runtime.GOMAXPROCS(max(s.usual, n))
	return nil
}

// Last takes back what First did.
func (s *System) Last() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.all(unix.SchedAttr{Policy: unix.SCHED_NORMAL, Nice: s.ordinary.Nice}); err != nil {
		return fmt.Errorf("put threads among ordinary ones: %w", err)
	}
	runtime.GOMAXPROCS(s.usual)
	return nil
}

// mostPasses bounds how often threads are listed until all have a policy. A second
// pass finds those that were being started at the first one.
const mostPasses = 8

// all gives all threads a policy, the calling one first, which thereby goes on while
// others wait for it, or for each other. The error is that of the calling thread.
func (s *System) all(to unix.SchedAttr) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	to.Size = unix.SizeofSchedAttr
	for range mostPasses {
		threads, err := os.ReadDir(s.threads)
		if err != nil {
			return fmt.Errorf("list the threads: %w", err)
		}
		if err := set(0, &to); err != nil {
			return err
		}
		changed := false
		for _, thread := range threads {
			id, err := strconv.Atoi(thread.Name())
			if err == nil && policy(id) != to.Policy {
				changed = set(id, &to) == nil || changed // it may have ended
			}
		}
		if !changed {
			break
		}
	}
	return nil
}

// set and policy do without the Go scheduler, which need not be told of a system call
// that does not wait.
func set(thread int, to *unix.SchedAttr) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETATTR, uintptr(thread), uintptr(unsafe.Pointer(to)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// policy is one that all gives, or another number: of a thread that has ended, or of
// one whose children are ordinary.
func policy(thread int) uint32 {
	n, _, errno := unix.RawSyscall(unix.SYS_SCHED_GETSCHEDULER, uintptr(thread), 0, 0)
	if errno != 0 {
		return math.MaxUint32
	}
	return uint32(n)
}

// Run runs another program as cmd.Run does. It does not go first even if this process
// does.
func Run(cmd *exec.Cmd) error {
	if err := starting(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

func starting(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if policy(0) == unix.SCHED_RR {
		// Threads that this one starts are ordinary, too, until First is called again.
		to := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: priority, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
		if err := set(0, &to); err != nil {
			return fmt.Errorf("start a program that does not go first: %w", err)
		}
	}
	return cmd.Start()
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
