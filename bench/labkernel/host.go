package labkernel

import (
	"context"
	"errors"
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

// A host is the machine that builds; tests have others.
type host struct {
	root bool
	// exists tells whether there is such a file, or, if the name has no slash,
	// such a program.
	exists func(name string) bool
	// run runs a program in a folder ("" is any) and returns its output. It also
	// writes it to out, which may be nil.
	run func(ctx context.Context, dir string, out io.Writer, name string, args ...string) (string, error)
	// free is how many bytes a user may still write in a folder.
	free func(folder string) (uint64, error)
}

func thisHost() *host {
	return &host{root: os.Geteuid() == 0, exists: exists, run: run, free: free}
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
	var tail console
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
		return "", fmt.Errorf("%s: %w: %s", filepath.Base(name), err, strings.Join(tail.last(), "\n\t"))
	}
	return said.String(), nil
}

// buildEnv is an environment without what would change how the kernel is built:
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

// A need is a file or program that a build uses, and the Debian package with it.
type need struct{ name, pkg string }

var needs = []need{
	{"gcc", "gcc"},
	{"ld", "binutils"},
	{"strip", "binutils"},
	{"make", "make"},
	{"bc", "bc"},
	{"bison", "bison"},
	{"flex", "flex"},
	{"tar", "tar"},
	{"xz", "xz-utils"},
	{"/usr/include/stdlib.h", "libc6-dev"},
	{"/usr/include/gelf.h", "libelf-dev"},
	{"/usr/include/openssl/ssl.h", "libssl-dev"},
}

// missing lists the packages of what is not there, each once.
func (h *host) missing() []string {
	var list []string
	for _, n := range needs {
		if !h.exists(n.name) && !slices.Contains(list, n.pkg) {
			list = append(list, n.pkg)
		}
	}
	return list
}

// sourcePackages are Debian's packages of kernels known to do, the best first.
var sourcePackages = []string{"linux-source-6.12", "linux-source-6.1"}

// A source is a package with the kernel's source.
type source struct {
	pkg, version string
	installed    bool
}

func (s source) archive() string { return "/usr/src/" + s.pkg + ".tar.xz" }

// findSource finds the package to build from: installed, or else known to apt.
func (h *host) findSource(ctx context.Context) (source, error) {
	for _, pkg := range sourcePackages {
		if s, ok := h.installedSource(ctx, pkg); ok {
			return s, nil
		}
	}
	if !h.exists("apt-get") {
		return source{}, fmt.Errorf("there is no apt here to get the kernel's source with: install %s, which has %s",
			strings.Join(sourcePackages, " or "), source{pkg: sourcePackages[0]}.archive())
	}
	for _, pkg := range sourcePackages {
		policy, err := h.run(ctx, "", nil, "apt-cache", "policy", pkg)
		if err != nil {
			return source{}, err
		}
		if version := candidate(policy); version != "" {
			return source{pkg: pkg, version: version}, nil
		}
	}
	return source{}, errNoSource
}

var errNoSource = errors.New("apt knows no package " + strings.Join(sourcePackages, " or ") +
	": add a Debian release's main and security archive to apt's sources, then run apt-get update")

func (h *host) installedSource(ctx context.Context, pkg string) (source, bool) {
	s := source{pkg: pkg, installed: true}
	if !h.exists(s.archive()) || !h.exists("dpkg-query") {
		return source{}, false
	}
	var err error
	s.version, err = h.run(ctx, "", nil, "dpkg-query", "-W", "-f", "${Version}", pkg)
	return s, err == nil && s.version != ""
}

// candidate reads the version that apt would install.
func candidate(policy string) string {
	for line := range strings.Lines(policy) {
		if version, ok := strings.CutPrefix(strings.TrimSpace(line), "Candidate: "); ok && version != "(none)" {
			return version
		}
	}
	return ""
}

// install installs packages with apt, as they are known to it or, if that
// fails, after an update.
func (h *host) install(ctx context.Context, packages []string) error {
	list := strings.Join(packages, " ")
	switch {
	case !h.exists("apt-get"):
		return fmt.Errorf("there is no apt here: install these, or what your distribution calls them: %s", list)
	case !h.root:
		return fmt.Errorf("not root: run once as root: apt-get install %s", list)
	}
	args := append([]string{"install", "-q", "-y", "--no-install-recommends"}, packages...)
	if _, err := h.run(ctx, "", nil, "apt-get", args...); err == nil {
		return nil
	}
	if _, err := h.run(ctx, "", nil, "apt-get", "update", "-q"); err != nil {
		return err
	}
	if _, err := h.run(ctx, "", nil, "apt-get", args...); err != nil {
		return fmt.Errorf("install %s: %w", list, err)
	}
	return nil
}
