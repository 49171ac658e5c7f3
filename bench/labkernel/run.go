package labkernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kiloport/bench/guest"
)

// name is what errors call it.
const name = "the lab kernel"

// bootPatience is how long, on a busy machine, a kernel may take from its start
// to its init. A second is usual.
const bootPatience = 2 * time.Minute

// Run boots the kernel for one command, see [guest.Run]. A program built with the
// race detector can be neither the command nor the init: it wants more address
// space than the guest has.
func (k *Kernel) Run(ctx context.Context, g guest.Guest) error {
	if raceDetector && g.Init == "" {
		return errors.New("run in " + name + ": this program is built with the race detector and cannot be the guest's init: set Guest.Init to one that is not")
	}
	return guest.Run(ctx, guest.Boot{Kernel: name, Machine: k.machine, Patience: bootPatience, OneProcessor: true}, g)
}

func (k *Kernel) machine(g *guest.Guest, folder string) (*exec.Cmd, error) {
	args, err := commandLine(g, folder)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(k.Path, args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+guest.QuickFolder())
	if g.Seed != 0 {
		cmd.Env = append(cmd.Env, seedEnv+"="+strconv.FormatUint(g.Seed, 10))
	}
	return cmd, nil
}

// commandLine is what the kernel is told, one option each.
func commandLine(g *guest.Guest, folder string) ([]string, error) {
	for _, path := range []string{g.Init, folder} {
		if strings.ContainsAny(path, " \t\n\"'") {
			return nil, fmt.Errorf("run in %s: its command line cannot hold the path %q: move the init, or set TMPDIR, to a path without blanks and quotes", name, path)
		}
	}
	args := []string{
		fmt.Sprintf("mem=%dM", g.Memory),
		"rootfstype=hostfs", "rootflags=/", "ro",
		"init=" + g.Init,
		jobEnv + "=" + folder,
		"umid=guest", "uml_dir=" + folder,
		"con=null", "con0=null,fd:1", "ssl=null",
		"panic=-1",
	}
	if !g.RealTime {
		args = append(args, "time-travel=inf-cpu")
		if g.Seed != 0 {
			args = append(args, fmt.Sprintf("time-travel-start=%d", seededStart.UnixNano()))
		}
	}
	return args, nil
}

// seededStart is what the time of day is, in the virtual time of a guest that has a
// seed, when it starts.
var seededStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// jobEnv tells the init, by way of the kernel's command line, where the job is.
const jobEnv = "KILOPORT_LABKERNEL_JOB"

// RunIfInit turns this process into the init of a lab kernel if it was started
// as one, and then does not return. Call it first in main, and in TestMain.
func RunIfInit() {
	if job := os.Getenv(jobEnv); os.Getpid() == 1 && job != "" {
		guest.Init(hostfs{job})
	}
}

// hostfs is how User-Mode Linux has its host's files: its root is the host's, and
// any other folder can be mounted by its name there.
type hostfs struct{ job string }

var _ guest.Files = hostfs{}

// Prepare implements guest.Files.
func (hostfs) Prepare() error { return yieldToNobody() }

// yieldToNobody makes this thread, and by inheritance every process of the guest,
// one that preempts no other when it wakes up (SCHED_BATCH).
//
// In virtual time a kernel loop that waits for another process and yields by
// cond_resched waits for ever: the scheduler has no ticks to see that the loop
// has had its share. There is such a loop at the end of processes with several
// threads: one that ends removes its entries from /proc, having woken its parent,
// and the parent that runs first waits for the entries to go
// (shrink_dcache_parent). Here the parent does not run first.
func yieldToNobody() error {
	runtime.LockOSThread()
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH}, 0); err != nil {
		return fmt.Errorf("choose the scheduling policy: %w", err)
	}
	return nil
}

// Job implements guest.Files.
func (h hostfs) Job(target string) error {
	m := guest.Mount{Source: "job", Target: target, Kind: "hostfs", Data: h.job}
	return m.Do()
}

// Root implements guest.Files.
func (hostfs) Root() (string, error) { return "/", nil }

// Share implements guest.Files.
func (hostfs) Share(_ int, path string) error {
	m := guest.Mount{Source: path, Target: path, Kind: "hostfs", Flags: unix.MS_NOSUID | unix.MS_NODEV, Data: path}
	return m.Do()
}

// Complete implements guest.Files.
func (hostfs) Complete() error { return nil }
