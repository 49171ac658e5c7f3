package netlab

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A Process runs inside a [Node], leads a process group of its own, and dies
// with the program that started it, however that ends.
type Process struct {
	cmd    *exec.Cmd
	name   string
	output *transcript
	done   chan struct{}
	err    error
}

// Start starts cmd inside the node. Where cmd.Stdout or cmd.Stderr is nil, the
// end of that stream is kept for [Process.Output]. The lab stops the process
// when it closes.
func (n *Node) Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, name: cmd.Path, output: &transcript{}, done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = p.output
	}
	if cmd.Stderr == nil {
		cmd.Stderr = p.output
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// A session of its own, and with it a process group. Linux's autogroup divides
	// the processors between sessions first (sched(7)): in one with a flood, a
	// probe, or a daemon that does not go to the background, would be starved for
	// the flood's sake, as it is not where each is a service of its own.
	cmd.SysProcAttr.Setsid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	// A child that went to the background may hold the pipes open.
	cmd.WaitDelay = time.Second

	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	if n.lab.closed {
		return nil, fmt.Errorf("node %s: start %s: the lab is closed", n.Name, p.name)
	}
	// A child is born in the namespace of the thread that forks it.
	if err := n.Do(cmd.Start); err != nil {
		return nil, fmt.Errorf("node %s: start %s: %w", n.Name, p.name, err)
	}
	n.lab.procs = append(n.lab.procs, p)
	go p.reap()
	return p, nil
}

// Run runs a program inside the node to its end and returns what it printed.
func (n *Node) Run(ctx context.Context, name string, args ...string) (string, error) {
	p, err := n.Start(exec.CommandContext(ctx, name, args...))
	if err != nil {
		return "", err
	}
	err = p.Wait(ctx)
	if ctx.Err() != nil {
		_ = p.Stop() // what matters is that it was cut short, which err says
	}
	n.lab.forget(p)
	return p.Output(), err
}

func (l *Lab) forget(p *Process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, q := range l.procs {
		if q == p {
			l.procs = append(l.procs[:i:i], l.procs[i+1:]...)
			return
		}
	}
}

func (p *Process) reap() {
	err := p.cmd.Wait()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		p.err = fmt.Errorf("%s: %w%s", strings.Join(p.cmd.Args, " "), err, p.output.quote())
	}
	close(p.done)
}

// Pid is the process id, which is its process group's id too.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is why the process failed, with what it said at first and at last, and how
// a traceback of Go begins; nil while it runs and after success.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Output is the end of what the process printed to the streams that its
// starter did not take.
func (p *Process) Output() string { return p.output.String() }

// Said is what the process printed as the tail of an error message, empty if it
// was silent: see [Process.Err].
func (p *Process) Said() string { return p.output.quote() }

// Wait waits for the end of the process, or of ctx, and returns the failure of
// either.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", p.name, ctx.Err())
	}
}

// Stop asks the process group to end, kills what is left of it after three
// seconds, and returns once the process is gone. Ending by the signal that Stop
// sent is success.
func (p *Process) Stop() error {
	select {
	case <-p.done:
		return p.err
	default:
	}
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopGrace):
		p.signal(syscall.SIGKILL)
		<-p.done
	}
	p.signal(syscall.SIGKILL) // the rest of the group, if its leader left any
	var exit *exec.ExitError
	if errors.As(p.err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return nil
		}
	}
	return p.err
}

func (p *Process) signal(s syscall.Signal) { _ = syscall.Kill(-p.cmd.Process.Pid, s) }

// Signal sends s to the process alone, not to its group.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}
