package labkernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bootPatience is how long, on a busy machine, a kernel may take from its start
// to its init. A second is usual.
const bootPatience = 2 * time.Minute

// Run boots the kernel for one command and waits until the command has ended
// and the kernel is gone, and all that they had started. What the guest wrote
// is lost, but for its shares.
//
// The error is an [*ExitError] where the command ran and failed. Where the
// guest got stuck or broke, it says so and ends in the last lines of the
// kernel's console. It wraps ctx's error after the end of ctx, which kills the
// guest at once.
func (k *Kernel) Run(ctx context.Context, g Guest) error {
	if err := g.check(); err != nil {
		return err
	}
	folder, remove, err := newJobFolder(quickFolder(), g.job())
	if err != nil {
		return fmt.Errorf("prepare a guest of the lab kernel: %w", err)
	}
	defer remove()
	args, err := commandLine(&g, folder)
	if err != nil {
		return err
	}
	m := &machine{folder: folder, console: &console{}}
	copied, err := m.copyOutput(&g)
	if err != nil {
		return err
	}
	err = m.run(ctx, k.Path, args)
	return errors.Join(m.judge(ctx, err), copied())
}

// commandLine is what the kernel is told, one option each.
func commandLine(g *Guest, folder string) ([]string, error) {
	for _, path := range []string{g.Init, folder} {
		if strings.ContainsAny(path, " \t\n\"'") {
			return nil, fmt.Errorf("run in the lab kernel: its command line cannot hold the path %q: move the init, or set TMPDIR, to a path without blanks and quotes", path)
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
	}
	return args, nil
}

// A machine is a kernel while it runs.
type machine struct {
	folder  string
	console *console
	began   bool // there was a process
	stuck   bool // it did not get to its init
}

// run starts the kernel and waits for its end, or ends it. The thread is kept,
// because the kernel dies with the thread that forked it.
func (m *machine) run(ctx context.Context, kernel string, args []string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(kernel, args...)
	cmd.Dir = m.folder // for a core dump
	cmd.Stdout, cmd.Stderr = m.console, m.console
	cmd.Env = append(os.Environ(), "TMPDIR="+quickFolder())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the lab kernel: %w", err)
	}
	m.began = true
	done := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		m.watch(ctx, cmd.Process.Pid, done)
	}()
	err := cmd.Wait()
	close(done)
	<-watched
	// Its processes have no reason to live on, but it may have died suddenly.
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // usually there is nobody left
	return err
}

// watch kills the kernel's process group when ctx ends, and when the kernel
// does not get to its init.
func (m *machine) watch(ctx context.Context, group int, done <-chan struct{}) {
	patience := time.NewTimer(bootPatience)
	defer patience.Stop()
	for {
		select {
		case <-done:
			return
		case <-patience.C:
			if m.started() {
				continue
			}
			m.stuck = true
		case <-ctx.Done():
		}
		_ = unix.Kill(-group, unix.SIGKILL) // it may just have ended
		return
	}
}

func (m *machine) started() bool {
	_, err := os.Stat(filepath.Join(m.folder, startedName))
	return err == nil
}

// judge says what became of the guest, whose kernel ended with err.
func (m *machine) judge(ctx context.Context, err error) error {
	if !m.began {
		return err
	}
	text, readErr := os.ReadFile(filepath.Join(m.folder, outcomeName))
	if readErr != nil {
		return fmt.Errorf("read the outcome of the command in the lab kernel: %w", readErr)
	}
	var o outcome
	if json.Unmarshal(text, &o) == nil { // it is all there
		return o.err()
	}
	switch {
	case ctx.Err() != nil:
		return m.explain("the guest of the lab kernel was ended: %w", context.Cause(ctx))
	case m.stuck:
		return m.explain("the lab kernel did not get to its init within %v", bootPatience)
	case !m.started():
		return m.explain("the lab kernel ended before its init (%v); does its init call labkernel.RunIfInit first?", describe(err))
	default:
		return m.explain("the lab kernel ended while the command ran (%v)", describe(err))
	}
}

// describe is an error of the kernel's process for a person.
func describe(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// explain adds the console's last lines to an error.
func (m *machine) explain(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	lines := m.console.last()
	if len(lines) == 0 {
		return fmt.Errorf("%w; its console said nothing", err)
	}
	return fmt.Errorf("%w; the last lines of its console:\n\t%s", err, strings.Join(lines, "\n\t"))
}
