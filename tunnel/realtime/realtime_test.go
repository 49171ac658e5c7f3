package realtime

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newSystem(t *testing.T) *System {
	t.Helper()
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// threads are the numbers of the process's threads.
func threads(t *testing.T) (ids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		id, err := strconv.Atoi(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// policies counts the process's threads by policy.
func policies(t *testing.T) map[uint32]int {
	t.Helper()
	count := make(map[uint32]int)
	for _, id := range threads(t) {
		if attr, err := unix.SchedGetAttr(id, 0); err == nil {
			count[attr.Policy]++
		}
	}
	return count
}

// settled does what the daemon does every 25 ms, twice at least, until no thread has a
// policy any more. One that is being started has that of the thread that starts it,
// and is not seen before it runs: to a busy machine that may be some time.
func settled(t *testing.T, do func() error, policy uint32) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(25 * time.Millisecond) {
		for range 2 {
			if err := do(); err != nil {
				t.Fatal(err)
			}
		}
		p := policies(t)
		if p[policy] == 0 {
			return
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("threads by policy: %v", p)
		}
	}
}

// All threads go first, and those that they start; there is a processor of the Go
// scheduler for each goroutine that naps; then all is as it was.
func TestFirstAndLast(t *testing.T) {
	s := newSystem(t)
	usual := runtime.GOMAXPROCS(0)
	defer s.Last()
	if err := s.First(usual + 3); err != nil {
		t.Fatal(err)
	}
	if got := runtime.GOMAXPROCS(0); got != usual+3 {
		t.Errorf("GOMAXPROCS is %d, want %d", got, usual+3)
	}
	if _, err := New(); err != ErrOwnPolicy {
		t.Errorf("New on a thread of SCHED_RR: %v", err)
	}
	settled(t, func() error { return s.First(usual + 3) }, unix.SCHED_NORMAL)
	startThreads(t)
	if p := policies(t); p[unix.SCHED_NORMAL] != 0 || p[unix.SCHED_RR] < 10 {
		t.Errorf("threads by policy: %v", p)
	}
	if attr, err := unix.SchedGetAttr(0, 0); err != nil || attr.Priority != priority {
		t.Errorf("the priority is %d, %v", attr.Priority, err)
	}
	if err := s.First(0); err != nil || runtime.GOMAXPROCS(0) != usual {
		t.Errorf("for no goroutine, GOMAXPROCS is %d, want the usual %d: %v", runtime.GOMAXPROCS(0), usual, err)
	}
	settled(t, s.Last, unix.SCHED_RR)
	startThreads(t)
	if p := policies(t); p[unix.SCHED_RR] != 0 || runtime.GOMAXPROCS(0) != usual {
		t.Errorf("in the end, threads by policy are %v, GOMAXPROCS is %d", p, runtime.GOMAXPROCS(0))
	}
}

// startThreads has ten goroutines bound to threads at the same time, which are there
// for the rest of the test.
func startThreads(t *testing.T) {
	t.Helper()
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	var bound sync.WaitGroup
	for range 10 {
		bound.Add(1)
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			bound.Done()
			<-end
		}()
	}
	bound.Wait()
}

// Threads that start while it is decided that all go first, or none, do so too.
func TestThreadsThatStartMeanwhile(t *testing.T) {
	s := newSystem(t)
	defer s.Last()
	stop := make(chan struct{})
	var starting sync.WaitGroup
	for range 2 {
		starting.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				done := make(chan struct{})
				go func() {
					runtime.LockOSThread() // ends with the goroutine
					close(done)
				}()
				<-done
			}
		})
	}
	defer starting.Wait()
	defer close(stop)
	for range 50 {
		settled(t, func() error { return s.First(2) }, unix.SCHED_NORMAL)
		settled(t, s.Last, unix.SCHED_RR)
	}
}

// The commands of PostUp are none of this.
func TestProgramsThatAreStartedAreOrdinary(t *testing.T) {
	s := newSystem(t)
	defer s.Last()
	for _, first := range []bool{false, true} {
		if first {
			if err := s.First(1); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("sh", "-c", "cut -d' ' -f41 /proc/self/stat") // its policy, see proc(5)
		var out strings.Builder
		cmd.Stdout = &out
		if err := Run(cmd); err != nil {
			t.Fatal(err)
		}
		if out.String() != "0\n" {
			t.Errorf("if this process goes first: %v, the policy is %s", first, out.String())
		}
	}
	settled(t, func() error { return s.First(1) }, unix.SCHED_NORMAL)
	startThreads(t)
	if p := policies(t); p[unix.SCHED_NORMAL] != 0 {
		t.Errorf("afterwards, threads by policy: %v", p)
	}
}

// Goroutines that do not nap run on while as many nap as there are processors, and
// a collection of garbage does not wait for them.
func TestNapsKeepNobodyWaiting(t *testing.T) {
	s := newSystem(t)
	stop, stopped := make(chan struct{}), make(chan struct{})
	n := runtime.NumCPU() + 1
	if err := s.First(n + 1); err != nil {
		t.Fatal(err)
	}
	defer s.Last()
	for range n {
		go func() {
			defer func() { stopped <- struct{}{} }()
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

// shortest is the least limit: two ticks of the kernel's clock, 8 ms as a rule. After
// 10 ms the Go scheduler may have a goroutine go on on another thread.
const shortest = time.Microsecond

// spin goes first and never waits, for a minute or until done says so.
func spin(t *testing.T, s *System, done func() bool) {
	t.Helper()
	if err := s.First(2); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); !done(); {
		if time.Now().After(end) {
			t.Fatal("a thread has gone first for a minute")
		}
	}
}

// Where a goroutine waits in a loop for another one, as the sweeper of the garbage
// collector does, the other one gets a turn, even if there is but one processor.
func TestWhoIsWaitedForInALoopGetsATurn(t *testing.T) {
	if os.Getenv(another) == "" {
		onOneProcessor(t)
	}
	if passedOn(t) {
		return
	}
	s := newSystem(t)
	settled(t, func() error { return s.First(3) }, unix.SCHED_NORMAL)
	for waits, tries := 0, 0; waits < 3; tries++ {
		if tries == 100 {
			t.Fatal("nobody ever waited in a loop")
		}
		begun, ended, looked := make(chan struct{}), atomic.Bool{}, 0
		go func() {
			runtime.LockOSThread() // a thread of its own; it ends with the goroutine
			close(begun)
			s.Nap(20 * time.Millisecond) // then the other one has the processor
			ended.Store(true)
		}()
		<-begun
		for ; !ended.Load(); looked++ {
			runtime.Gosched()
		}
		if looked > 0 { // or the other one was through before this one ran
			waits++
		}
	}
	if err := s.First(3); err != nil {
		t.Error(err)
	}
}

// onOneProcessor binds this goroutine's thread to one processor for the test, and so
// all threads of a process that it starts.
func onOneProcessor(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	for i := 0; one.Count() == 0; i++ {
		if allowed.IsSet(i) {
			one.Set(i)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.SchedSetaffinity(0, &allowed) })
}

// inAnother runs the test in another process: limits can only become lower, and
// processors fewer.
func inAnother(t *testing.T) (out string, err error) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), another+"=1")
	text, err := cmd.CombinedOutput()
	return string(text), err
}

const another = "KILOPORT_TEST_ANOTHER"

// passedOn has the test that calls it pass in another process, and tells whether this
// is not that one: nothing is left to do then.
func passedOn(t *testing.T) bool {
	t.Helper()
	if os.Getenv(another) != "" {
		return false
	}
	if out, err := inAnother(t); err != nil {
		t.Errorf("it ended with %v: %s", err, out)
	}
	return true
}

// Once a thread that goes first has not waited for long, none does any more.
func TestWhoNeverWaitsBecomesOrdinary(t *testing.T) {
	if passedOn(t) {
		return
	}
	s := newSystem(t)
	if err := limit(shortest, time.Minute); err != nil {
		t.Fatal(err)
	}
	spin(t, s, func() bool { return policy(0) == unix.SCHED_NORMAL })
	if err := s.First(2); err != ErrOverran {
		t.Errorf("First afterwards: %v", err)
	}
	for end := time.Now().Add(10 * time.Second); policies(t)[unix.SCHED_RR] != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("threads by policy: %v", policies(t))
		}
	}
}

// A process in which that does not help is ended by the kernel.
func TestWhoNeverWaitsIsEnded(t *testing.T) {
	if os.Getenv(another) != "" {
		s := newSystem(t)
		if err := limit(shortest, shortest); err != nil {
			t.Fatal(err)
		}
		spin(t, s, func() bool { return false })
		return
	}
	out, err := inAnother(t)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v: %s", err, out)
	}
}
