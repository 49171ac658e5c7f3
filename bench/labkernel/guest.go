package labkernel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Guest is one command and the machine that is booted for it: the files of
// the host, which it may change without the host noticing, and nothing of the
// host's network.
type Guest struct {
	// Command is the program and its arguments. A program without a slash is
	// looked up in PATH of Env.
	Command []string
	// Env is the command's environment; nil is that of this process. A usual PATH
	// is added where there is none.
	Env []string
	// Dir is where the command starts; empty is "/".
	Dir string
	// Stdout and Stderr get what the command writes while it writes it; nil
	// discards it. Each is written to by one goroutine of its own, also where
	// both are the same writer: they then take turns.
	Stdout, Stderr io.Writer
	// Share lists the folders of the host in which the guest may write.
	Share []Share
	// Memory of the guest in MiB; 0 is 2048. It takes memory of the host (or
	// room in its folder for temporary files) as far as it is used.
	Memory int
	// Init is a program that calls [RunIfInit] first in main; empty is this one. A
	// program built with the race detector can be neither that nor the command:
	// it wants more address space than the guest has.
	Init string
	// RealTime makes the guest's clock follow the host's.
	RealTime bool
}

// A Share is a folder of the host that the guest sees at the same path and may
// write to. What either side writes while the other has the file open may be
// seen late.
type Share struct {
	// Path is absolute and exists.
	Path string
}

// An ExitError says that the command ran, and failed.
type ExitError struct {
	// Status is the exit status; 128 + the signal's number after a signal, as a
	// shell has it.
	Status int
	// Signal is the name of the signal that ended the command, or empty.
	Signal string
}

// Error implements error.
func (e *ExitError) Error() string {
	if e.Signal != "" {
		return "the command in the lab kernel was ended by a signal: " + e.Signal
	}
	return fmt.Sprintf("the command in the lab kernel failed with exit status %d", e.Status)
}

const (
	defaultMemory = 2048 // MiB
	leastMemory   = 64   // MiB; below it does not boot
)

// check refuses a guest that cannot run, and fills in what is left out.
func (g *Guest) check() error {
	if len(g.Command) == 0 || g.Command[0] == "" {
		return errors.New("run in the lab kernel: no command is given")
	}
	if err := g.chooseInit(); err != nil {
		return err
	}
	if g.Memory == 0 {
		g.Memory = defaultMemory
	}
	if g.Memory < leastMemory {
		return fmt.Errorf("run in the lab kernel: %d MiB of memory are too little: give it %d or more", g.Memory, leastMemory)
	}
	if g.Dir == "" {
		g.Dir = "/"
	}
	if !filepath.IsAbs(g.Dir) {
		return fmt.Errorf("run in the lab kernel: the folder %q is not absolute", g.Dir)
	}
	for _, s := range g.Share {
		if !filepath.IsAbs(s.Path) || filepath.Clean(s.Path) == "/" {
			return fmt.Errorf("share %q with the lab kernel: give an absolute path below /", s.Path)
		}
		info, err := os.Stat(s.Path)
		if err != nil {
			return fmt.Errorf("share a folder with the lab kernel: %w", err)
		}
		if !info.IsDir() {
			return fmt.Errorf("share %q with the lab kernel: not a folder", s.Path)
		}
	}
	return nil
}

func (g *Guest) chooseInit() (err error) {
	switch {
	case g.Init != "" && !filepath.IsAbs(g.Init):
		return fmt.Errorf("run in the lab kernel: the path of the init %q is not absolute", g.Init)
	case g.Init != "":
		return nil
	case raceDetector:
		return errors.New("run in the lab kernel: this program is built with the race detector and cannot be the guest's init: set Guest.Init to one that is not")
	}
	if g.Init, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program, the guest's init: %w", err)
	}
	return nil
}

// A job is what the host tells the init inside.
type job struct {
	Command []string
	Env     []string
	Dir     string
	Share   []string
}

// An outcome is what the init inside tells the host.
type outcome struct {
	// Failure is what went wrong before the command ran, or empty.
	Failure string
	Status  int
	Signal  string
}

// err is the outcome as an error, nil after success.
func (o *outcome) err() error {
	switch {
	case o.Failure != "":
		return fmt.Errorf("start the command in the lab kernel: %s", o.Failure)
	case o.Status != 0 || o.Signal != "":
		return &ExitError{Status: o.Status, Signal: o.Signal}
	}
	return nil
}

func (g *Guest) job() *job {
	env := g.Env
	if env == nil {
		env = os.Environ()
	}
	j := &job{Command: g.Command, Env: setDefault(env, "PATH", defaultPath), Dir: g.Dir}
	for _, s := range g.Share {
		j.Share = append(j.Share, filepath.Clean(s.Path))
	}
	slices.Sort(j.Share) // outer folders first
	j.Share = slices.Compact(j.Share)
	return j
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// setDefault adds a variable to an environment that does not have it.
func setDefault(env []string, name, value string) []string {
	if slices.ContainsFunc(env, func(s string) bool { return strings.HasPrefix(s, name+"=") }) {
		return env
	}
	return append(slices.Clone(env), name+"="+value)
}
