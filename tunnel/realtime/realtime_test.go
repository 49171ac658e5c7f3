package realtime

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// policyNow is the calling thread's.
func policyNow(t *testing.T) uint32 {
	t.Helper()
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return attr.Policy
}

func newSystem(t *testing.T) *System {
	t.Helper()
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Raised, a thread is one of SCHED_FIFO; lowered, all is as before.
func TestRaiseAndLower(t *testing.T) {
	s := newSystem(t)
	if err := s.Raise(); err != nil {
		t.Fatal(err)
	}
	if p := policyNow(t); p != unix.SCHED_FIFO {
		t.Errorf("raised, the policy is %d", p)
	}
	if _, err := New(); err != ErrOwnPolicy {
		t.Errorf("New on a thread of SCHED_FIFO: %v", err)
	}
	s.Lower()
	if p := policyNow(t); p != unix.SCHED_NORMAL {
		t.Errorf("lowered, the policy is %d", p)
	}
}

// policies counts the process's threads by policy.
func policies(t *testing.T) map[uint32]int {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	count := make(map[uint32]int)
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			t.Fatal(err)
		}
		if attr, err := unix.SchedGetAttr(id, 0); err == nil {
			count[attr.Policy]++
		}
	}
	return count
}

// All other threads assist, behind the raised one, and there is a processor of the Go
// scheduler for each that is raised.
func TestAssistAndDesist(t *testing.T) {
	s := newSystem(t)
	usual := runtime.GOMAXPROCS(0)
	if err := s.Raise(); err != nil {
		t.Fatal(err)
	}
	if err := s.Assist(usual + 3); err != nil {
		t.Fatal(err)
	}
	if got := runtime.GOMAXPROCS(0); got != usual+3 {
		t.Errorf("GOMAXPROCS is %d, want %d", got, usual+3)
	}
	if attr, err := unix.SchedGetAttr(0, 0); err != nil || attr.Priority != raised {
		t.Errorf("the raised thread has priority %d, %v", attr.Priority, err)
	}
	if p := policies(t); p[unix.SCHED_FIFO] < 2 {
		t.Errorf("threads by policy: %v", p)
	}
	if err := s.Assist(0); err != nil || runtime.GOMAXPROCS(0) != usual {
		t.Errorf("for no goroutine, GOMAXPROCS is %d, want the usual %d: %v", runtime.GOMAXPROCS(0), usual, err)
	}
	s.Lower()
	if err := s.Desist(); err != nil {
		t.Fatal(err)
	}
	if p := policies(t); p[unix.SCHED_FIFO] != 0 || runtime.GOMAXPROCS(0) != usual {
		t.Errorf("in the end, threads by policy are %v, GOMAXPROCS is %d", p, runtime.GOMAXPROCS(0))
	}
}

// What a raised thread starts is ordinary: the commands of PostUp are none of this.
func TestRaisedThreadsHaveOrdinaryChildren(t *testing.T) {
	s := newSystem(t)
	if err := s.Raise(); err != nil {
		t.Fatal(err)
	}
	defer s.Lower()
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if attr.Flags&unix.SCHED_FLAG_RESET_ON_FORK == 0 {
		t.Errorf("children get the policy, too: flags %#x", attr.Flags)
	}
}

// Goroutines that do not nap run on while as many nap as there are processors, and
// a collection of garbage does not wait for them.
func TestNapsKeepNobodyWaiting(t *testing.T) {
	s := newSystem(t)
	stop, stopped := make(chan struct{}), make(chan struct{})
	n := runtime.NumCPU() + 1
	if err := s.Assist(n + 1); err != nil {
		t.Fatal(err)
	}
	defer s.Desist()
	for range n {
		go func() {
			defer func() { stopped <- struct{}{} }()
			if err := s.Raise(); err != nil {
				t.Error(err)
				return
			}
			defer s.Lower()
			for {
				select {
				case <-stop:
					return
				default:
					s.Nap(time.Hour) // its end is the runtime's signal
				}
			}
		}()
	}
	for range 10 {
		runtime.GC()
	}
	close(stop)
	for range n {
		for done := false; !done; {
			select {
			case <-stopped:
				done = true
			case <-time.After(10 * time.Millisecond):
				runtime.GC() // ends naps
			}
		}
	}
}

func TestUsageGrows(t *testing.T) {
	s := newSystem(t)
	before, _, err := s.Usage()
	if err != nil {
		t.Fatal(err)
	}
	for x, end := 0, time.Now().Add(20*time.Millisecond); time.Now().Before(end); {
		x++
	}
	after, waited, err := s.Usage()
	if err != nil {
		t.Fatal(err)
	}
	if after <= before || waited < 0 {
		t.Errorf("ran %v, then %v, and waited %v", before, after, waited)
	}
}

func TestUsageOfAKernelThatDoesNotTell(t *testing.T) {
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "1"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := &System{threads: folder}
	if _, _, err := s.Usage(); err != errUntold {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(filepath.Join(folder, "1", "schedstat"), []byte("70 5 3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if ran, waited, err := s.Usage(); err != nil || ran != 70 || waited != 5 {
		t.Errorf("got %v, %v, %v", ran, waited, err)
	}
}

func FuzzSchedstat(f *testing.F) {
	for _, text := range []string{"", "1 2 3", "1 2", "a 2 3", "18446744073709551615 0 0", "-1 -1 -1", strings.Repeat("1 ", 40)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if ran, waited, err := parseSchedstat(text); err == nil && (ran < 0 || waited < 0) {
			t.Errorf("%q: %v, %v", text, ran, waited)
		}
	})
}

// A process whose thread goes first and never waits is ended by the kernel.
func TestWhoNeverWaitsIsEnded(t *testing.T) {
	const spinner = "KILOPORT_TEST_SPINS"
	if os.Getenv(spinner) != "" {
		s := newSystem(t)
		if err := limit(50 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if err := s.Raise(); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); time.Now().Before(end); {
			continue
		}
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), spinner+"=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v: %s", err, out)
	}
}
