package stockkernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"kiloport/bench/guest"
)

func TestMain(m *testing.M) {
	RunIfInit()
	os.Exit(testsWithInit(m))
}

// staticInit is a program that can be an init, where these tests cannot.
var staticInit string

// testsWithInit builds an init where these tests are not static, and runs them.
func testsWithInit(m *testing.M) int {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if checkStatic(self) == nil {
		return m.Run()
	}
	folder, err := os.MkdirTemp("", "stockkernel-init-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	staticInit = filepath.Join(folder, "init.test")
	build := exec.Command("go", "test", "-c", "-o", staticInit, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build an init: %v: %s\n", err, out)
		return 1
	}
	return m.Run()
}

// kernel fetches the stock kernel where there is none.
func kernel(t *testing.T) *Kernel {
	t.Helper()
	k, err := Ensure(t.Context(), os.Stderr)
	must(t, err)
	return k
}

// boot runs a shell script in a guest and returns what it says.
func boot(t *testing.T, k *Kernel, g guest.Guest, script string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var out bytes.Buffer
	g.Command, g.Init = []string{"sh", "-euc", script}, staticInit
	g.Stdout, g.Stderr = &out, &out
	err := k.Run(ctx, g)
	return out.String(), err
}

// TestGuest boots the kernel once, and looks whether it has what makes it worth
// the while, and what else a guest is promised.
func TestGuest(t *testing.T) {
	k := kernel(t)
	shared := filepath.Join(t.TempDir(), "a, b") // QEMU has its own idea of commas
	must(t, os.Mkdir(shared, 0o755))
	start := time.Now()
	out, err := boot(t, k, guest.Guest{Env: []string{"SHARED=" + shared}, Dir: "/usr", Share: []guest.Share{{Path: shared}}}, `
		echo up $(cut -d' ' -f1 /proc/uptime) >&2
		uname -s -n -r
		echo in $PWD
		ip link add d0 type dummy
		for q in fq_codel 'cake bandwidth 20mbit' 'netem delay 10ms'; do
			tc qdisc add dev d0 root $q
			tc qdisc show dev d0 | cut -d' ' -f2
			tc qdisc del dev d0 root
		done
		ip link add wg0 type wireguard
		ip -d link show wg0 | grep -o 'wireguard'
		ip tuntap add dev t0 mode tun
		touch /etc/stockkernel-test
		echo written >"$SHARED/file"
		exit 3
	`)
	var exit *guest.ExitError
	if !errors.As(err, &exit) || exit.Status != 3 {
		t.Errorf("error %v, want exit status 3", err)
	}
	// It was said on standard error, which may overtake and be overtaken.
	up := regexp.MustCompile(`(?m)^up .*\n`).FindString(out)
	rest, up := strings.Replace(out, up, "", 1), strings.TrimSpace(up)
	if up == "" {
		t.Error("nothing came of what the guest said on standard error")
	}
	t.Logf("by %s: %s s after its start the kernel runs the command, %v in all", k.Accelerator(), up, time.Since(start).Round(time.Millisecond))
	if want := "Linux lab " + k.Manifest.Release + "\nin /usr\nfq_codel\ncake\nnetem\nwireguard\n"; rest != want {
		t.Errorf("the guest said:\n%s\nwant:\n%s", rest, want)
	}
	if text, err := os.ReadFile(filepath.Join(shared, "file")); string(text) != "written\n" {
		t.Errorf("the guest left %q in its share, error %v", text, err)
	}
	if _, err := os.Stat("/etc/stockkernel-test"); err == nil {
		t.Error("the guest has written to the host's files")
	}
}

// TestCancelledGuest cancels a guest when its first output has come, and looks for
// what is left of it.
func TestCancelledGuest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const memory = 567 // no other guest has that
	err := kernel(t).Run(ctx, guest.Guest{
		Command: []string{"sh", "-c", "echo up; sleep 1000"}, Stdout: writerFunc(cancel), Memory: memory, Init: staticInit,
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, path := range lines {
		// One that cannot be read has just ended.
		if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, fmt.Appendf(nil, "\x00-m\x00%d\x00", memory)) {
			t.Errorf("QEMU is left: %s", path)
		}
	}
}

// A writerFunc is called for every write.
type writerFunc func()

func (f writerFunc) Write(b []byte) (int, error) {
	f()
	return len(b), nil
}

// TestBrokenGuests has a program in place of QEMU.
func TestBrokenGuests(t *testing.T) {
	k := kernel(t)
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	fake := func(script string) {
		t.Helper()
		must(t, os.WriteFile(filepath.Join(bin, qemu), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	}
	tries := filepath.Join(bin, "tries")
	fake("echo $2 >>" + tries + "; echo Kernel panic; exit 1")
	_, err := boot(t, k, guest.Guest{}, "true")
	wantError(t, err, "the stock kernel ended (exit status 1): it did not get to its init; does that program call RunIfInit first?; the last lines of its console:\n\tKernel panic")
	text, err := os.ReadFile(tries)
	must(t, err)
	if got := string(text); !strings.HasSuffix(got, "tcg,thread=single,tb-size=256\n") || strings.Count(got, "\n") > 2 {
		t.Errorf("tried %q, want tcg last, and at most kvm before", got)
	}
	if k.Accelerator() != TCG {
		t.Errorf("the next guest is tried with %s", k.Accelerator())
	}
	err = k.Run(t.Context(), guest.Guest{Command: []string{"true"}, Init: "/no/init"})
	wantError(t, err, "run in the stock kernel: read the guest's init /no/init: open /no/init: no such file")
}

func TestCommandLine(t *testing.T) {
	k := &Kernel{Path: "/cache/vmlinuz", Modules: "/cache/modules", Manifest: Manifest{Release: "6.12.9-amd64"}}
	g := &guest.Guest{Memory: 512, Share: []guest.Share{{Path: "/b,c"}, {Path: "/a"}}}
	for accelerator, want := range map[Accelerator]string{TCG: "-accel tcg,thread=single", KVM: "-accel kvm -cpu host"} {
		line := strings.Join(k.commandLine(accelerator, g, "/job", "/job/root"), " ")
		for _, part := range []string{
			want, "-smp 1 -m 512 ", "-kernel /cache/vmlinuz -initrd /job/root ",
			" panic=-1 KILOPORT_STOCKKERNEL=6.12.9-amd64 ",
			"local,id=root,path=/,security_model=none,multidevs=remap,readonly=on ",
			"local,id=modules,path=/cache/modules,security_model=none,multidevs=remap,readonly=on ",
			"local,id=job,path=/job,security_model=none,multidevs=remap -device virtio-9p-pci,fsdev=job,mount_tag=job ",
			"id=share0,path=/a,", "id=share1,path=/b,,c,",
		} {
			if !strings.Contains(line, part) {
				t.Errorf("%s: the command line %s has no %s", accelerator, line, part)
			}
		}
	}
}

func TestClock(t *testing.T) {
	for _, c := range []struct {
		clock Clock
		accel Accelerator
		want  string
	}{
		{MachineClock, TCG, ""},
		{WorkClock, TCG, "shift=2,sleep=on"},
		{WorkClock, KVM, ""},
		{InstructionClock, TCG, "shift=0,sleep=off"},
	} {
		k := &Kernel{Clock: c.clock}
		line := k.commandLine(c.accel, &guest.Guest{}, "/job", "/job/root")
		got := ""
		if i := slices.Index(line, "-icount"); i >= 0 {
			got = line[i+1]
		}
		if got != c.want {
			t.Errorf("clock %d, %s: counts instructions by %q, want %q", c.clock, c.accel, got, c.want)
		}
	}
}

func TestStatic(t *testing.T) {
	wantError(t, checkStatic("/bin/sh"), "/bin/sh cannot be the guest's init, because it is not static: build it with CGO_ENABLED=0")
	wantError(t, checkStatic("/etc/passwd"), "read the guest's init /etc/passwd: bad magic number")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError fails unless err contains part; "" is no error at all.
func wantError(t *testing.T, err error, part string) {
	t.Helper()
	switch {
	case part == "" && err != nil:
		t.Errorf("error %v, want none", err)
	case part != "" && (err == nil || !strings.Contains(err.Error(), part)):
		t.Errorf("error %v, want one with %q", err, part)
	}
}
