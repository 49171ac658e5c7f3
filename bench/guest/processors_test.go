package guest

import (
	"fmt"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestProcessorsAreShared: each machine has one, no processor has two more than another.
func TestProcessorsAreShared(t *testing.T) {
	var moves []string
	p := &processors{all: []int{2, 5, 7}, on: make(map[int]int), move: func(session, processor int) error {
		moves = append(moves, fmt.Sprint(session, "→", processor))
		if session == 99 {
			return unix.EPERM
		}
		return nil
	}}
	for _, session := range []int{10, 11, 12, 99, 13, 14} {
		p.begin(session)
	}
	want := []string{"10→2", "11→5", "12→7", "99→2", "13→2", "14→5"}
	if !slices.Equal(moves, want) {
		t.Errorf("%v, want %v", moves, want)
	}
	moves = nil
	p.end(99) // is nowhere
	p.end(11) // 2: 10, 13; 5: 14; 7: 12
	if moves != nil {
		t.Errorf("moves %v where nothing is gained", moves)
	}
	p.end(12)
	if !slices.Equal(moves, []string{"10→7"}) && !slices.Equal(moves, []string{"13→7"}) {
		t.Errorf("moves %v, want one of 10 and 13 to 7", moves)
	}
}

// TestMoveSession: all threads of all processes of a session move, and no others.
func TestMoveSession(t *testing.T) {
	start := func() *exec.Cmd {
		cmd := exec.Command("sh", "-c", "sleep 60 & sleep 60 & wait")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
		must(t, cmd.Start())
		t.Cleanup(func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL); cmd.Wait() })
		return cmd
	}
	ours, other := start(), start()
	processor := here().all[len(here().all)-1]
	members := func(session int) (all []int) {
		for deadline := time.Now().Add(10 * time.Second); len(all) != 3 && time.Now().Before(deadline); {
			all = sessionOf(session)
		}
		return all
	}
	if n := len(members(ours.Process.Pid)); n != 3 {
		t.Fatalf("the session has %d processes, want 3", n)
	}
	must(t, moveSession(ours.Process.Pid, processor))
	for _, pid := range members(ours.Process.Pid) {
		var set unix.CPUSet
		must(t, unix.SchedGetaffinity(pid, &set))
		if set.Count() != 1 || !set.IsSet(processor) {
			t.Errorf("process %d may use %d processors, want only number %d", pid, set.Count(), processor)
		}
	}
	for _, pid := range members(other.Process.Pid) {
		var set unix.CPUSet
		must(t, unix.SchedGetaffinity(pid, &set))
		if set.Count() != len(here().all) {
			t.Errorf("process %d of another session was moved", pid)
		}
	}
}
