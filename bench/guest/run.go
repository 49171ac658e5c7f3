package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kiloport/bench/host"
)

// A Boot says how a kernel's machine starts.
type Boot struct {
	// Kernel is what errors call it, such as "the lab kernel".
	Kernel string
	// Machine makes the process that is the machine of a guest. Its console is its
	// output. The folder is the job's, which the guest has to see; it is the
	// process's own, too, and goes with it.
	Machine func(g *Guest, folder string) (*exec.Cmd, error)
	// Patience is how long the machine may take, on a busy host, from its start to
	// the guest's init.
	Patience time.Duration
	// OneProcessor says that the machine's processes do everything in turn. They
	// are kept on one of this host's processors, a different one for each machine
	// as long as there are such: that is twice as fast.
	OneProcessor bool
}

// ErrNoInit is wrapped by the errors of [Run] where a machine was started, and
// ended or was ended before the guest's init had begun.
var ErrNoInit = errors.New("it did not get to its init")

// ErrDied is wrapped by the errors of [Run] where the machine ended, of itself, before
// the command did: its kernel panicked, or somebody killed it.
var ErrDied = errors.New("ended while the command ran")

// Run boots a machine for one command and waits until the command has ended and
// the machine is gone, and all that they had started. What the guest wrote is
// lost, but for its shares.
//
// The error is an [*ExitError] where the command ran and failed. Where the
// guest got stuck or broke, it says so and ends in the last lines of the
// kernel's console. It wraps ctx's error after the end of ctx, which kills the
// guest at once.
func Run(ctx context.Context, b Boot, g Guest) error {
	if err := g.check(b.Kernel); err != nil {
		return err
	}
	folder, remove, err := newJobFolder(QuickFolder(), g.job())
	if err != nil {
		return fmt.Errorf("prepare a guest of %s: %w", b.Kernel, err)
	}
	defer remove()
	cmd, err := b.Machine(&g, folder)
	if err != nil {
		return err
	}
	m := &machine{boot: &b, folder: folder, console: &console{}}
	copied, err := m.copyOutput(&g)
	if err != nil {
		return err
	}
	err = m.run(ctx, cmd)
	return errors.Join(m.judge(ctx, err), copied())
}

// A machine is a kernel while it runs.
type machine struct {
	boot    *Boot
	folder  string
	console *console
	began   bool // there was a process
	stuck   bool // it did not get to its init
}

// run starts the machine and waits for its end, or ends it. The thread is kept,
// because the machine dies with the thread that forked it.
func (m *machine) run(ctx context.Context, cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.Dir = m.folder // for a core dump
	cmd.Stdout, cmd.Stderr = m.console, m.console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", m.boot.Kernel, err)
	}
	m.began = true
	if m.boot.OneProcessor {
		here().begin(cmd.Process.Pid)
		defer here().end(cmd.Process.Pid)
	}
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

// watch kills the machine's process group when ctx ends, and when the machine
// does not get to its init.
func (m *machine) watch(ctx context.Context, group int, done <-chan struct{}) {
	patience := time.NewTimer(m.boot.Patience)
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

// judge says what became of the guest, whose machine ended with err.
func (m *machine) judge(ctx context.Context, err error) error {
	if !m.began {
		return err
	}
	kernel := m.boot.Kernel
	text, readErr := os.ReadFile(filepath.Join(m.folder, outcomeName))
	if readErr != nil {
		return fmt.Errorf("read the outcome of the command in %s: %w", kernel, readErr)
	}
	var o outcome
	if json.Unmarshal(text, &o) == nil { // it is all there
		return o.err(kernel)
	}
	switch {
	case ctx.Err() != nil:
		return m.explain("the guest of %s was ended: %w", kernel, context.Cause(ctx))
	case m.stuck:
		return m.explain("%s was ended after %v: %w", kernel, m.boot.Patience, ErrNoInit)
	case !m.started():
		return m.explain("%s ended (%v): %w; does that program call RunIfInit first?", kernel, describe(err), ErrNoInit)
	default:
		return m.explain("%s %w (%v)", kernel, ErrDied, describe(err))
	}
}

// describe is an error of the machine's process for a person.
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

const (
	consoleLines = 20 // shown
	panicMark    = "Kernel panic"
	bootedMark   = "as init process"
)

// A console keeps the end of what a kernel says.
type console struct{ host.Tail }

// last returns the last lines that are not of a boot that went well; after a
// panic they begin with it, because its stack alone is no use.
func (c *console) last() []string {
	lines := c.Lines()
	with := func(mark string) int {
		return slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, mark) })
	}
	if at := with(panicMark); at >= 0 {
		return lines[at:min(len(lines), at+consoleLines)]
	}
	lines = lines[with(bootedMark)+1:]
	return lines[max(0, len(lines)-consoleLines):]
}
