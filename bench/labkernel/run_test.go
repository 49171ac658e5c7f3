package labkernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kiloport/bench/guest"
)

// sleeperEnv makes the test program a Go program that sleeps.
const sleeperEnv = "LABKERNEL_TEST_SLEEPER"

func TestMain(m *testing.M) {
	RunIfInit()
	if os.Getenv(sleeperEnv) != "" {
		start := time.Now()
		time.Sleep(10 * time.Second)
		fmt.Println(time.Since(start).Round(time.Millisecond))
		return
	}
	os.Exit(testsWithInit(m))
}

// plainInit is a program that can be an init, where these tests cannot.
var plainInit string

// testsWithInit builds an init without the race detector where these tests have
// it, and runs them.
func testsWithInit(m *testing.M) int {
	if raceDetector {
		folder, err := os.MkdirTemp("", "labkernel-init-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(folder)
		plainInit = filepath.Join(folder, "init.test")
		build := exec.Command("go", "test", "-c", "-o", plainInit, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build an init: %v: %s\n", err, out)
			return 1
		}
	}
	return m.Run()
}

// kernel builds the lab kernel where there is none.
func kernel(t *testing.T) *Kernel {
	t.Helper()
	k, err := Ensure(t.Context(), os.Stderr)
	must(t, err)
	return k
}

// boot runs a shell script in a guest and returns what it says.
func boot(t *testing.T, k *Kernel, g guest.Guest, script string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	g.Command, g.Init = []string{"sh", "-euc", script}, plainInit
	g.Stdout, g.Stderr = &out, &out
	err := k.Run(ctx, g)
	return out.String(), err
}

func TestGuest(t *testing.T) {
	k := kernel(t)
	if built, ok := Built(); !ok || built.Path != k.Path {
		t.Errorf("Built does not find %s", k.Path)
	}
	out, err := boot(t, k, guest.Guest{Env: []string{"WORD=lane"}, Dir: "/usr"}, `
		uname -s -r -n
		echo $WORD in $PWD, PID 1 is $(tr '\0' ' ' </proc/1/cmdline | wc -w)
		cat /sys/class/net/lo/operstate
		test -c /dev/net/tun -a -d /sys/fs/bpf -a -L /dev/fd
		touch /etc/labkernel-test /run/x
	`)
	must(t, err)
	if want := "Linux lab " + k.Manifest.Release + "\nlane in /usr, PID 1 is 1\nunknown\n"; out != want {
		t.Errorf("the guest said:\n%s\nwant:\n%s", out, want)
	}
	if _, err := os.Stat("/etc/labkernel-test"); err == nil {
		t.Error("the guest has written to the host's files")
	}
}

// TestSeed wants guests of one seed to draw the same, also after the kernel's
// generator has been seeded anew, and others to draw something else. The time of day
// is the same, too.
func TestSeed(t *testing.T) {
	k := kernel(t)
	draw := func(seed uint64) string {
		out, err := boot(t, k, guest.Guest{Seed: seed}, `
			for i in 1 2 3 4; do
				cat /proc/sys/kernel/random/uuid
				basename $(mktemp)
				ip link add type veth
				sleep 1
			done
			cat /sys/class/net/veth*/address
			date +%s.%N
		`)
		must(t, err)
		return out
	}
	first := draw(11)
	if again := draw(11); again != first {
		t.Errorf("two guests of one seed said\n%s\nand\n%s", first, again)
	}
	for _, seed := range []uint64{12, 0} {
		lines := strings.Split(draw(seed), "\n")
		for _, line := range strings.Split(first, "\n") {
			if len(line) > 10 && !strings.Contains(line, ".") && slices.Contains(lines, line) {
				t.Errorf("guests of seeds 11 and %d both drew %s", seed, line)
			}
		}
	}
}

func TestGuestQueues(t *testing.T) {
	out, err := boot(t, kernel(t), guest.Guest{}, `
		for q in fq_codel 'cake bandwidth 20mbit' 'netem delay 10ms' 'htb default 1' fq codel pie fq_pie; do
			tc qdisc replace dev ifb0 root $q
			tc qdisc show dev ifb0 | cut -d' ' -f2
		done
		ip link add wg0 type wireguard
		cat /proc/sys/net/ipv4/tcp_congestion_control /proc/sys/net/ipv4/tcp_available_congestion_control
	`)
	must(t, err)
	for _, word := range strings.Fields("fq_codel cake netem htb fq codel pie fq_pie cubic bbr dctcp") {
		if !strings.Contains("\n"+strings.Join(strings.Fields(out), "\n")+"\n", "\n"+word+"\n") {
			t.Errorf("no %s in what the guest said:\n%s", word, out)
		}
	}
}

func TestGuestExitStatus(t *testing.T) {
	k := kernel(t)
	for _, test := range []struct {
		script, said, signal string
		status               int
	}{
		{"echo before; exit 3", "before\n", "", 3},
		{"sleep 1000 & exit 4", "", "", 4}, // a daemon that holds the output
		{"kill -9 $$", "", "killed", 137},
	} {
		out, err := boot(t, k, guest.Guest{}, test.script)
		var exit *guest.ExitError
		if !errors.As(err, &exit) || exit.Status != test.status || exit.Signal != test.signal || out != test.said {
			t.Errorf("%s: said %q, error %v", test.script, out, err)
		}
	}
	err := k.Run(t.Context(), guest.Guest{Command: []string{"no-such-program"}, Init: plainInit})
	wantError(t, err, `start the command in the lab kernel: exec: "no-such-program": executable file not found`)
}

func TestVirtualTime(t *testing.T) {
	k := kernel(t)
	before := time.Now().Unix()
	out, err := boot(t, k, guest.Guest{Env: []string{sleeperEnv + "=1"}}, "date +%s; sleep 100000; date +%s; /proc/1/exe")
	must(t, err)
	var start, end int64
	var slept string
	if _, err := fmt.Sscan(out, &start, &end, &slept); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	if start < before || start > time.Now().Unix()+1 {
		t.Errorf("the guest's clock started at %d, the host's was %d", start, before)
	}
	if end-start != 100000 {
		t.Errorf("sleep 100000 took %d s of virtual time", end-start)
	}
	if slept != "10s" {
		t.Errorf("a Go program's sleep of 10 s took %s of virtual time", slept)
	}
}

func TestRealTime(t *testing.T) {
	start := time.Now()
	_, err := boot(t, kernel(t), guest.Guest{RealTime: true}, "sleep 1")
	must(t, err)
	if took := time.Since(start); took < time.Second {
		t.Errorf("a second of real time took %v", took)
	}
}

func TestGuestsShareAFolder(t *testing.T) {
	k := kernel(t)
	folder := t.TempDir()
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			out, err := boot(t, k, guest.Guest{Share: []guest.Share{{Path: folder}}, Memory: 256}, fmt.Sprintf("sleep %d; cd %s; echo %d >%d; ls %d", i, folder, i, i, i))
			if err != nil || out != fmt.Sprintln(i) {
				t.Errorf("guest %d said %q, error %v", i, out, err)
			}
		})
	}
	all.Wait()
	for i := range 3 {
		text, err := os.ReadFile(filepath.Join(folder, fmt.Sprint(i)))
		if err != nil || string(text) != fmt.Sprintln(i) {
			t.Errorf("guest %d left %q, error %v", i, text, err)
		}
	}
}

// A notifier is a writer that tells when something was written.
type notifier struct {
	once sync.Once
	told func()
}

func (n *notifier) Write(b []byte) (int, error) {
	n.once.Do(n.told)
	return len(b), nil
}

// TestCancelledGuest cancels a guest in which the clock stands still, when its
// first output has come, and looks for what is left of it.
func TestCancelledGuest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	mark := fmt.Sprint("guest of ", t.Name(), os.Getpid())
	script := ": " + mark + "; for i in 1 2; do sh -c 'while :; do :; done' & done; echo up; while :; do :; done"
	err := kernel(t).Run(ctx, guest.Guest{Command: []string{"sh", "-c", script}, Stdout: &notifier{told: cancel}, Memory: 300, Init: plainInit})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	for _, pid := range processesWith(t, "mem=300M") { // no other guest has that
		t.Errorf("process %s of the guest is left", pid)
	}
	jobs, err := filepath.Glob(filepath.Join(guest.QuickFolder(), "kiloport-guest-*", "job.json"))
	must(t, err)
	for _, path := range jobs {
		if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte(mark)) {
			t.Errorf("the guest's folder is left: %s", path)
		}
	}
}

// processesWith lists the processes that have a word on their command line.
func processesWith(t *testing.T, word string) []string {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	var pids []string
	for _, path := range lines {
		// One that cannot be read has just ended.
		if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte("\x00"+word+"\x00")) {
			pids = append(pids, filepath.Base(filepath.Dir(path)))
		}
	}
	return pids
}

func TestBrokenGuests(t *testing.T) {
	k := kernel(t)
	out, err := boot(t, k, guest.Guest{}, "echo before; echo c >/proc/sysrq-trigger")
	wantError(t, err, "the lab kernel ended while the command ran (signal: aborted); the last lines of its console:\n\tKernel panic - not syncing: sysrq triggered crash")
	if out != "before\n" {
		t.Errorf("said %q before the panic", out)
	}
	if raceDetector {
		wantError(t, k.Run(t.Context(), guest.Guest{Command: []string{"true"}}), "is built with the race detector and cannot be the guest's init: set Guest.Init")
	}
}

func TestCommandLine(t *testing.T) {
	g := guest.Guest{Command: []string{"true"}, Init: "/bin/self", Memory: 2048}
	args, err := commandLine(&g, "/tmp/job")
	must(t, err)
	line := " " + strings.Join(args, " ") + " "
	for _, part := range []string{" mem=2048M ", " rootfstype=hostfs ", " ro ", " init=/bin/self ", " time-travel=inf-cpu "} {
		if !strings.Contains(line, part) {
			t.Errorf("the command line%shas no%s", line, part)
		}
	}
	g.RealTime = true
	if args, err = commandLine(&g, "/tmp/job"); err != nil || strings.Contains(strings.Join(args, " "), "time-travel") {
		t.Errorf("real time: %q, error %v", args, err)
	}
	g.Init = "/bin/my self"
	_, err = commandLine(&g, "/tmp/job")
	wantError(t, err, `cannot hold the path "/bin/my self": move the init, or set TMPDIR`)
}
