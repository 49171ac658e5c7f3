package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kiloport/bench/labkernel"
)

// TestInterrupted ends the command in the middle of what it does, as a person or a
// service manager would, and looks for what it left behind.
func TestInterrupted(t *testing.T) {
	if _, err := labkernel.Ensure(t.Context(), os.Stderr); err != nil {
		t.Fatal(err)
	}
	paths := []string{"--kiloport", binary(t, kiloportBinary)}
	for _, test := range []struct {
		name   string
		args   []string
		signal syscall.Signal
		begun  func(c *victim) bool
	}{
		{"run in the lab kernel", append([]string{"run", "rrul_be", "--tunnels", "none,kiloport", "--seconds", "900", "--jobs", "2"}, paths...), syscall.SIGINT, (*victim).guestsBeat},
		{"run in this kernel", append([]string{"run", "throughput", "--tunnels", "kiloport", "--cases", "tcp 8 up", "--seconds", "900"}, paths...), syscall.SIGTERM, (*victim).trafficRuns},
		{"run whose reader has gone", append([]string{"run", "overload", "--tunnels", "kiloport", "--cases", "tcp 8 up", "--seconds", "900"}, paths...), syscall.SIGPIPE, (*victim).trafficRuns},
		{"demo", append([]string{"demo", "--seconds", "60"}, paths...), syscall.SIGINT, (*victim).trafficRuns},
		{"kernel run", []string{"kernel", "run", "--", "sh", "-c", "while :; do :; done"}, syscall.SIGTERM, (*victim).guestsRun},
		{"kernel", []string{"kernel"}, syscall.SIGINT, (*victim).builds},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := startVictim(t, test.args)
			v.await(test.begun)
			v.end(test.signal)
			v.lookForRemains()
		})
	}
}

// A victim is a started command that will be interrupted.
type victim struct {
	t          *testing.T
	cmd        *exec.Cmd
	pid        int
	said       bytes.Buffer
	temporary  string // its folder for temporary files
	cache, out string
	family     map[int]uint64 // its descendants, with their start times
	jobs       []string       // folders that it shares with guests
	done       chan struct{}
}

func startVictim(t *testing.T, args []string) *victim {
	v := &victim{t: t, temporary: t.TempDir(), cache: t.TempDir(), family: map[int]uint64{}, done: make(chan struct{})}
	v.out = filepath.Join(t.TempDir(), "results", "out")
	env := append(os.Environ(), "TMPDIR="+v.temporary)
	switch {
	case args[0] == "run":
		args = append(slices.Clone(args), "--out", v.out)
	case len(args) == 1: // builds a kernel
		env = append(env, "XDG_CACHE_HOME="+v.cache)
	}
	v.cmd = exec.Command(binary(t, benchBinary), args...)
	v.cmd.Env = env
	v.cmd.Stdout, v.cmd.Stderr = &v.said, &v.said
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v.pid = v.cmd.Process.Pid
	go func() {
		defer close(v.done)
		_ = v.cmd.Wait() // its state tells
	}()
	t.Cleanup(func() {
		_ = v.cmd.Process.Kill() // it may have ended
		<-v.done
	})
	return v
}

// await waits until the command is in the middle of things.
func (v *victim) await(begun func(*victim) bool) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), 4*time.Minute)
	defer cancel()
	for {
		v.look()
		if begun(v) {
			return
		}
		select {
		case <-v.done:
			v.t.Fatalf("it ended by itself: %s", v.said.String())
		case <-ctx.Done():
			v.t.Fatalf("it did not begin; processes %v, namespaces %q", v.family, v.namespaces())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

var jobFolder = regexp.MustCompile(`_JOB=(\S+)`)

// look notes who belongs to the command, and which folders they share with guests.
func (v *victim) look() {
	parents := map[int]int{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		v.t.Fatal(err)
	}
	for _, path := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		if parent, _, ok := readStat(pid); ok {
			parents[pid] = parent
		}
	}
	for _, path := range v.namespaces() {
		v.lookInside(path)
	}
	for pid := range parents {
		for ancestor := parents[pid]; ancestor > 1; ancestor = parents[ancestor] {
			if ancestor == v.pid {
				v.note(pid)
				break
			}
		}
	}
}

// lookInside notes who is in a namespace: daemons that went to the background are
// nobody's children.
func (v *victim) lookInside(namespace string) {
	var there, its syscall.Stat_t
	if syscall.Stat(namespace, &there) != nil {
		return
	}
	spaces, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		v.t.Fatal(err)
	}
	for _, path := range spaces {
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err == nil && syscall.Stat(path, &its) == nil && its.Ino == there.Ino && its.Dev == there.Dev {
			v.note(pid)
		}
	}
}

func (v *victim) note(pid int) {
	_, start, ok := readStat(pid)
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if !ok || err != nil {
		return // it has gone already
	}
	v.family[pid] = start
	if m := jobFolder.FindSubmatch(bytes.ReplaceAll(line, []byte{0}, []byte{' '})); m != nil && !slices.Contains(v.jobs, string(m[1])) {
		v.jobs = append(v.jobs, string(m[1]))
	}
}

// readStat gives the parent and the start time of a process (proc(5)); not ok if it
// has gone or is only waited for.
func readStat(pid int) (parent int, start uint64, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, false
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const stateField, parentField, startField = 0, 1, 22 - 3 // the state is field 3
	if len(fields) <= startField || fields[stateField] == "Z" {
		return 0, 0, false
	}
	parent, err = strconv.Atoi(fields[parentField])
	start, startErr := strconv.ParseUint(fields[startField], 10, 64)
	return parent, start, err == nil && startErr == nil
}

// namespaces are those that bear the command's mark.
func (v *victim) namespaces() []string {
	found, err := filepath.Glob(fmt.Sprintf("/run/netns/kiloport-%d-*", v.pid))
	if err != nil {
		v.t.Fatal(err)
	}
	return found
}

// guestsBeat: both guests are some virtual seconds into their experiments.
func (v *victim) guestsBeat() bool {
	beating := 0
	for _, folder := range v.jobs {
		said, err := os.ReadFile(filepath.Join(folder, "stdout"))
		if err == nil && bytes.Contains(said, []byte(beatWord+"4")) {
			beating++
		}
	}
	return beating == 2
}

// guestsRun: the guest's init has begun.
func (v *victim) guestsRun() bool {
	return slices.ContainsFunc(v.jobs, func(folder string) bool {
		_, err := os.Stat(filepath.Join(folder, "started"))
		return err == nil
	})
}

// trafficRuns: there are namespaces, two daemons and two helpers.
func (v *victim) trafficRuns() bool { return len(v.namespaces()) > 0 && len(v.family) >= 4 }

// builds: the kernel's source is being unpacked or compiled.
func (v *victim) builds() bool {
	found, err := filepath.Glob(filepath.Join(v.cache, "kiloport", "labkernel", "*", "*"))
	return err == nil && len(found) > 0 && len(v.family) > 0
}

// end sends the signal, and wants the command to end by itself and to say that it
// has failed.
func (v *victim) end(signal syscall.Signal) {
	v.t.Helper()
	v.look()
	if err := v.cmd.Process.Signal(signal); err != nil {
		v.t.Fatal(err)
	}
	select {
	case <-v.done:
	case <-time.After(time.Minute):
		v.t.Fatal("it does not end")
	}
	if status := v.cmd.ProcessState.ExitCode(); status < 1 {
		v.t.Errorf("exit status %d: %v", status, v.cmd.ProcessState)
	}
	if !strings.HasSuffix(v.said.String(), "bench: interrupted\n") {
		v.t.Errorf("it says %q", v.said.String())
	}
}

// lives tells whether a process is there and stays: one that was killed may take a
// moment to go.
func (v *victim) lives(pid int, start uint64) bool {
	for range 100 {
		if _, now, ok := readStat(pid); !ok || now != start {
			return false
		}
		time.Sleep(50 * time.Millisecond)
	}
	return true
}

// lookForRemains finds what should have gone.
func (v *victim) lookForRemains() {
	v.t.Helper()
	for pid, start := range v.family {
		if v.lives(pid, start) {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // for the message alone
			v.t.Errorf("process %d is left: %q", pid, line)
		}
	}
	if left := v.namespaces(); len(left) > 0 {
		v.t.Errorf("namespaces are left: %q", left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		v.t.Fatal(err)
	}
	for _, mark := range []string{fmt.Sprintf("kiloport-%d-", v.pid), v.temporary, v.cache} {
		if bytes.Contains(mounts, []byte(mark)) {
			v.t.Errorf("a mount is left with %s", mark)
		}
	}
	for _, folder := range append(v.jobs, filepath.Dir(v.out)) {
		if _, err := os.Stat(folder); !os.IsNotExist(err) {
			v.t.Errorf("%s is left: %v", folder, err)
		}
	}
	left, err := filepath.Glob(filepath.Join(v.temporary, "*"))
	if err != nil || len(left) > 0 {
		v.t.Errorf("temporary files are left: %q, %v", left, err)
	}
	built, err := filepath.Glob(filepath.Join(v.cache, "kiloport", "labkernel", "*"))
	built = slices.DeleteFunc(built, func(path string) bool { return filepath.Base(path) == "lock" })
	if err != nil || len(built) > 0 {
		v.t.Errorf("half a kernel is left: %q, %v", built, err)
	}
}
