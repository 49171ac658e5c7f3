// Package guest runs one command in a machine that is booted for it: a process
// that is a kernel, with the files of the host below it, and nothing of the host's
// network. It is what the kernels of bench have in common.
//
// A kernel says by a [Boot] how its machine starts, and [Run] does the rest. The
// first process inside is the same program: there, [Init] does what the host asks
// by means of the files of a shared folder, and tells by them what became of it.
//
// Limits: inside everybody is root. A guest has one command, no terminal and no
// input.
package guest

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
	// Init is a program that calls the kernel's RunIfInit first in main; empty is
	// this one.
	Init string
	// Seed decides all that is random inside, but in a kernel with a real clock,
	// where nothing happens twice: keys, addresses, ports, hashes. A guest of the same
	// seed whose command does not look at the host's clock does the same again. With
	// 0 randomness is the host's.
	Seed uint64
	// RealTime makes the guest's clock follow the host's, in a kernel that could
	// do otherwise.
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
	// Kernel is in which kernel, as in [Boot].
	Kernel string
	// Status is the exit status; 128 + the signal's number after a signal, as a
	// shell has it.
	Status int
	// Signal is the name of the signal that ended the command, or empty.
	Signal string
}

// Error implements error.
func (e *ExitError) Error() string {
	if e.Signal != "" {
		return fmt.Sprintf("the command in %s was ended by a signal: %s", e.Kernel, e.Signal)
	}
	return fmt.Sprintf("the command in %s failed with exit status %d", e.Kernel, e.Status)
}

const (
	defaultMemory = 2048 // MiB
	leastMemory   = 64   // MiB; below it does not boot
)

// check refuses a guest that cannot run, and fills in what is left out. Kernel is
// its name for errors.
func (g *Guest) check(kernel string) error {
	if len(g.Command) == 0 || g.Command[0] == "" {
		return fmt.Errorf("run in %s: no command is given", kernel)
	}
	if err := g.chooseInit(kernel); err != nil {
		return err
	}
	if g.Memory == 0 {
		g.Memory = defaultMemory
	}
	if g.Memory < leastMemory {
		return fmt.Errorf("run in %s: %d MiB of memory are too little: give it %d or more", kernel, g.Memory, leastMemory)
	}
	if g.Dir == "" {
		g.Dir = "/"
	}
	if !filepath.IsAbs(g.Dir) {
		return fmt.Errorf("run in %s: the folder %q is not absolute", kernel, g.Dir)
	}
	for _, s := range g.Share {
		if err := s.check(); err != nil {
			return fmt.Errorf("share %q with %s: %w", s.Path, kernel, err)
		}
	}
	return nil
}

func (g *Guest) chooseInit(kernel string) (err error) {
	switch {
	case g.Init != "" && !filepath.IsAbs(g.Init):
		return fmt.Errorf("run in %s: the path of the init %q is not absolute", kernel, g.Init)
	case g.Init != "":
		return nil
	}
	if g.Init, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program, the guest's init: %w", err)
	}
	return nil
}

func (s Share) check() error {
	if !filepath.IsAbs(s.Path) || filepath.Clean(s.Path) == "/" {
		return errors.New("give an absolute path below /")
	}
	info, err := os.Stat(s.Path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errors.New("not a folder")
	}
	return nil
}

// Shares are the paths of the folders in which the guest may write, outer ones
// first, each once: in the order in which [Files.Share] is asked for them.
func (g *Guest) Shares() (paths []string) {
	for _, s := range g.Share {
		paths = append(paths, filepath.Clean(s.Path))
	}
	slices.Sort(paths)
	return slices.Compact(paths)
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
func (o *outcome) err(kernel string) error {
	switch {
	case o.Failure != "":
		return fmt.Errorf("start the command in %s: %s", kernel, o.Failure)
	case o.Status != 0 || o.Signal != "":
		return &ExitError{Kernel: kernel, Status: o.Status, Signal: o.Signal}
	}
	return nil
}

func (g *Guest) job() *job {
	env := g.Env
	if env == nil {
		env = os.Environ()
	}
	return &job{Command: g.Command, Env: setDefault(env, "PATH", defaultPath), Dir: g.Dir, Share: g.Shares()}
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// setDefault adds a variable to an environment that does not have it.
func setDefault(env []string, name, value string) []string {
	if slices.ContainsFunc(env, func(s string) bool { return strings.HasPrefix(s, name+"=") }) {
		return env
	}
	return append(slices.Clone(env), name+"="+value)
}
