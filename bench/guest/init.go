package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Files in the folder of a job. The host has it elsewhere than the guest.
const (
	jobName     = "job.json"
	startedName = "started"
	outcomeName = "outcome.json"
	stdoutName  = "stdout"
	stderrName  = "stderr"
)

// Stage is a file system of memory that [Init] makes in the first root, and that
// only it sees. /run is in every root.
const Stage = "/run"

// Where the init puts things on its stage.
const (
	jobFolder = Stage + "/job"
	newRoot   = Stage + "/root"
)

// Files is how the init inside gets at the host's files. Its methods are called
// in this order, once each but for Share.
type Files interface {
	// Prepare does what has to come first, on the thread that later starts the
	// command. [Stage] is not there yet.
	Prepare() error
	// Job mounts the job's folder, in which it can write, on target.
	Job(target string) error
	// Root returns the folder that has all files of the host. Nothing is written
	// there.
	Root() (string, error)
	// Share mounts one of [Guest.Shares], the i-th from 0, on its own path. What
	// was "/" before is out of reach now.
	Share(i int, path string) error
	// Complete adds what the command's root lacks.
	Complete() error
}

// Init does the job of a guest and ends the machine. It does not return; this
// process has to be the first of its kernel.
func Init(files Files) {
	err := runInit(files)
	if err != nil {
		// The console is the last hope: the job's folder could not be used.
		fmt.Fprintf(os.Stderr, "init: %v\n", err)
	}
	unix.Sync()
	err = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	fmt.Fprintf(os.Stderr, "init: power off: %v\n", err)
	os.Exit(1) // which panics the kernel, and so ends it, too
}

// runInit does the job and leaves the outcome in its folder.
func runInit(files Files) error {
	if err := files.Prepare(); err != nil {
		return err
	}
	stage := Mount{"tmpfs", Stage, "tmpfs", 0, "mode=755"}
	if err := stage.Do(); err != nil {
		return err
	}
	if err := files.Job(jobFolder); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(jobFolder, startedName), nil, 0o600); err != nil {
		return err
	}
	var j job
	text, err := os.ReadFile(filepath.Join(jobFolder, jobName))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &j); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	// Opened now, because the command's root does not have it.
	answer, err := openOutput(outcomeName)
	if err != nil {
		return err
	}
	result, err := j.do(files)
	if err != nil {
		result = &outcome{Failure: err.Error()}
	}
	return errors.Join(json.NewEncoder(answer).Encode(result), answer.Close())
}

// do runs the command in a root of its own and waits for it.
func (j *job) do(files Files) (*outcome, error) {
	stdout, err := openOutput(stdoutName)
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	stderr, err := openOutput(stderrName)
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	if err := j.enterRoot(files); err != nil {
		return nil, err
	}
	if err := loopbackUp(); err != nil {
		return nil, err
	}
	if err := unix.Sethostname([]byte("lab")); err != nil {
		return nil, fmt.Errorf("set the host name: %w", err)
	}
	program, err := j.lookUp()
	if err != nil {
		return nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	pid, err := syscall.ForkExec(program, j.Command, &syscall.ProcAttr{
		Dir: j.Dir, Env: j.Env,
		Files: []uintptr{null.Fd(), stdout.Fd(), stderr.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", program, j.Dir, err)
	}
	return reap(pid)
}

// openOutput opens a file of the host. Every write goes through to it before
// the writer goes on, in no virtual time, and nothing has to be kept for a
// reader: a command that leaves a daemon behind with its output still ends.
func openOutput(name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(jobFolder, name), os.O_WRONLY|os.O_APPEND|unix.O_DSYNC, 0)
}

// reap waits for one process, and for every orphan that ends before it.
func reap(command int) (*outcome, error) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("wait for the command: %w", err)
		case pid != command:
			continue
		case status.Signaled():
			return &outcome{Status: 128 + int(status.Signal()), Signal: status.Signal().String()}, nil
		}
		return &outcome{Status: status.ExitStatus()}, nil
	}
}

// lookUp finds the command's program in the PATH that the command will have.
func (j *job) lookUp() (string, error) {
	if strings.Contains(j.Command[0], "/") {
		return j.Command[0], nil
	}
	for _, variable := range j.Env {
		if path, ok := strings.CutPrefix(variable, "PATH="); ok {
			if err := os.Setenv("PATH", path); err != nil {
				return "", err
			}
		}
	}
	return exec.LookPath(j.Command[0])
}

// loopbackUp switches lo on, as every init does.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("switch lo on: %w", err)
	}
	defer unix.Close(s)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("switch lo on: %w", err)
	}
	return nil
}
