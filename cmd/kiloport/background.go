package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// envReady names the descriptor on which a parent process waits for the
// interface to be up. Who has it is in the background, and stays with up.
const envReady = "KILOPORT_READY_FD"

// readyWord is what is said there.
const readyWord = "ready\n"

// upInBackground starts this program again, with the same arguments, and waits
// until the interface is up or cannot be.
func (c *command) upInBackground(ctx context.Context, arg string) error {
	if _, err := c.load(arg, c.stderr); err != nil {
		return err
	}
	return c.inBackground(ctx)
}

// inBackground starts this program again and waits for its word that all is well,
// or for its end.
func (c *command) inBackground(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("go to the background: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("go to the background: %w", err)
	}
	defer r.Close()
	child := exec.Command(program, os.Args[1:]...)
	child.Env = append(os.Environ(), envReady+"=3")
	child.ExtraFiles = []*os.File{w}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// The parent has printed the notes; the child's errors are ours.
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	err = child.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("go to the background: %w", err)
	}
	if becameReady(ctx, r) {
		return child.Process.Release()
	}
	child.Process.Signal(syscall.SIGTERM)
	child.Wait()
	return errSilent
}

// becameReady waits for the word of the child, its end, or that of ctx.
func becameReady(ctx context.Context, r *os.File) bool {
	r.SetReadDeadline(time.Now().Add(upTimeout + resolveTimeout))
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Now()) })
	defer stop()
	said, _ := bufio.NewReader(r).ReadString('\n')
	return said == readyWord
}

// waitingParent gives the descriptor on which a parent waits, nil if none does.
// Nothing of it is left to the commands that this process starts: one that stays
// would keep the parent waiting.
func waitingParent() (*os.File, error) {
	w, err := inheritedFile(envReady)
	if w == nil || err != nil {
		return nil, err
	}
	syscall.CloseOnExec(int(w.Fd()))
	return w, os.Unsetenv(envReady)
}

// tellParent says that the interface is up.
func (u *upped) tellParent() error {
	return u.letGo(u.parent)
}

// letGo lets go of the terminal, unless much is to be said, and says the word to the
// process that waits for it, if one does. The log goes to syslog then.
func (c *command) letGo(parent *os.File) error {
	if parent == nil {
		return nil
	}
	defer parent.Close()
	if !c.verbose() {
		if err := leaveTerminal(); err != nil {
			return fmt.Errorf("let go of the terminal: %w", err)
		}
		c.logTo.toSystem()
	}
	if _, err := io.WriteString(parent, readyWord); err != nil {
		return fmt.Errorf("tell the parent process: %w", err)
	}
	return nil
}

func leaveTerminal() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for fd := range 3 {
		if err := syscall.Dup3(int(null.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return nil
}
