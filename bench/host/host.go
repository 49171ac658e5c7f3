// Package host is the machine on which bench prepares its kernels: programs that
// run there, packages that apt knows or installs, a folder in the user's cache
// that keeps what takes long to make, and how a person is told how far it is.
//
// Start at [This] and at [OpenCache]. A test makes a [Host] out of functions that
// only say what they were asked to do.
//
// Limits: packages are Debian's; elsewhere errors name what is missing.
package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Host is a machine. That of [This] is real, tests have others.
type Host struct {
	// Root is whether this process may install packages.
	Root bool
	// Exists tells whether there is such a file, or, if the name has no slash,
	// such a program.
	Exists func(name string) bool
	// Run runs a program in a folder ("" is any) and returns its output. It also
	// writes it to out, which may be nil. The end of ctx ends the program and all
	// that it has started. An error has the last that the program said.
	Run func(ctx context.Context, dir string, out io.Writer, name string, args ...string) (string, error)
	// Free is how many bytes a user may still write in a folder.
	Free func(folder string) (uint64, error)
}

// This is the machine that this program runs on. Its programs run at a low
// priority, and speak English.
func This() *Host {
	return &Host{Root: os.Geteuid() == 0, Exists: exists, Run: run, Free: free}
}

func exists(name string) bool {
	if !strings.Contains(name, "/") {
		_, err := exec.LookPath(name)
		return err == nil
	}
	_, err := os.Stat(name)
	return err == nil
}

func free(folder string) (uint64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(folder, &stat); err != nil {
		return 0, fmt.Errorf("ask for the free space of %s: %w", folder, err)
	}
	return stat.Bavail * uint64(stat.Bsize), nil
}

// run leads the program with nice, and kills its whole group at the end of ctx.
// The thread is kept, because the program dies with the thread that forked it.
func run(ctx context.Context, dir string, out io.Writer, name string, args ...string) (string, error) {
	if out == nil {
		out = io.Discard
	}
	var said strings.Builder
	var tail Tail
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "nice", append([]string{name}, args...)...)
	cmd.Dir = dir
	cmd.Env = buildEnv(os.Environ())
	cmd.Stdout = io.MultiWriter(&said, &tail, out)
	cmd.Stderr = &tail
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		lines := tail.Lines()
		lines = lines[max(0, len(lines)-tailLines):]
		return "", fmt.Errorf("%s: %w: %s", filepath.Base(name), err, strings.Join(lines, "\n\t"))
	}
	return said.String(), nil
}

// buildEnv is an environment without what would change how a kernel is built:
// this program may itself have been started by make.
func buildEnv(env []string) []string {
	drop := []string{"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "GNUMAKEFLAGS", "ARCH", "SUBARCH", "CROSS_COMPILE", "LLVM",
		"KBUILD_OUTPUT", "KCONFIG_CONFIG", "KCFLAGS", "CC", "CFLAGS", "LDFLAGS", "LOCALVERSION", "LANG", "LC_ALL", "LANGUAGE"}
	kept := slices.DeleteFunc(slices.Clone(env), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains(drop, name)
	})
	return append(kept, "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
}

// HashFile returns the SHA-256 of a file in hexadecimal.
func HashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
