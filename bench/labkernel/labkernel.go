// Package labkernel builds and boots the lab kernel: User-Mode Linux in virtual
// time. It runs the machine's own programs on a real Linux network stack in
// which the processor costs nothing and the clock moves only when everything
// sleeps, so that a measurement of latency is free of the machine's noise.
//
// Start at [Ensure], which builds the kernel once (about five minutes on two
// cores) and keeps it in the user's cache folder, and at [Kernel.Run], which
// boots it for one command. A program that calls Run calls [RunIfInit] first in
// main (a test in TestMain), because it is itself the first process inside.
//
// Limits: amd64 Linux, and a distribution with Debian's linux-source packages.
// Inside there is one CPU. A program that spins instead of sleeping stops the
// virtual clock for ever; what a program costs in CPU cannot be seen there.
package labkernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"

	"kiloport/bench/host"
)

// cacheName is the folder in the user's cache.
const cacheName = "labkernel"

const (
	binaryName = "linux"
	configName = "config"
)

// A Kernel is a built lab kernel. It is made by [Ensure] or [Built], and may be
// used by several goroutines at once.
type Kernel struct {
	// Path is the kernel, an executable file.
	Path string
	// Manifest says what it was built from.
	Manifest Manifest
}

// A Manifest is what is stored beside a kernel, to know it again.
type Manifest struct {
	// Package is the Debian package of the source, such as linux-source-6.12.
	Package string
	// PackageVersion is that package's version, such as 6.12.117-1.
	PackageVersion string
	// Release is what the kernel says that it is, such as 6.12.117.
	Release string
	// Recipe is the hash, in hexadecimal, of what is made of the source: of the
	// configuration fragment and of the changes.
	Recipe string
	// SHA256 is the hash of the executable, in hexadecimal.
	SHA256 string
}

// folder is the name of a kernel's folder in the cache: its key.
func (m *Manifest) folder() string {
	return m.PackageVersion + "-" + m.Recipe[:12]
}

// Built tells whether a kernel of today's recipe is in the cache, sound,
// and returns it. It never builds one.
func Built() (*Kernel, bool) {
	cache, err := host.OpenCache(cacheName)
	if err != nil {
		return nil, false
	}
	k, err := find(context.Background(), cache, hashRecipe(fragment, changes))
	return k, err == nil
}

// Ensure returns the lab kernel from the user's cache folder (XDG_CACHE_HOME or
// ~/.cache, below kiloport/labkernel) and builds it before, if it is not there:
// for some five minutes on two cores, with about 2 GB of disk while it lasts. A
// build installs with apt what it lacks, which needs root. It reports to
// progress, which may be nil; nothing is written there if there is nothing to
// build. Several processes may call it at once: one builds, the others wait. At
// the end of ctx a build stops, and leaves nothing behind.
func Ensure(ctx context.Context, progress io.Writer) (*Kernel, error) {
	cache, err := host.OpenCache(cacheName)
	if err != nil {
		return nil, err
	}
	recipe := hashRecipe(fragment, changes)
	if k, err := find(ctx, cache, recipe); err == nil {
		return k, nil
	}
	reporter := host.NewReporter(progress, "lab kernel")
	defer reporter.Close()
	unlock, err := cache.Lock(ctx, reporter)
	if err != nil {
		return nil, fmt.Errorf("build the lab kernel: %w", err)
	}
	defer unlock()
	k, why := find(ctx, cache, recipe) // built while this process waited
	if why == nil {
		return k, nil
	}
	reporter.Say("%v: building it in %s", why, cache)
	b := builder{host: host.This(), cache: cache, wanted: fragment, changes: changes, reporter: reporter}
	folder, err := b.build(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("build the lab kernel: %w", err)
	}
	return load(ctx, folder, recipe)
}

// errNone is the answer of find where no kernel can be used.
var errNone = errors.New("no lab kernel is built yet")

// find returns a sound kernel of this recipe, the one built last where
// there are several: a newer source package is no reason to build again. Where
// there is none, the error wraps errNone and says what is wrong with those that
// are there.
func find(ctx context.Context, cache host.Cache, recipe string) (*Kernel, error) {
	folders, err := cache.Find("*-" + recipe[:12])
	if err != nil {
		return nil, err
	}
	found := errNone
	for _, folder := range folders {
		k, err := load(ctx, folder, recipe)
		if err == nil {
			return k, nil
		}
		found = errors.Join(found, err)
	}
	return nil, found
}

// load returns the kernel in a folder after it has verified it.
func load(ctx context.Context, folder, recipe string) (*Kernel, error) {
	k := &Kernel{Path: filepath.Join(folder, binaryName)}
	if err := host.ReadManifest(folder, &k.Manifest); err != nil {
		return nil, fmt.Errorf("read the lab kernel's manifest: %w", err)
	}
	if err := k.verify(ctx, recipe); err != nil {
		return nil, fmt.Errorf("verify the lab kernel %s: %w", k.Path, err)
	}
	return k, nil
}

// verify compares the kernel with its manifest, and runs it to see that it can.
func (k *Kernel) verify(ctx context.Context, recipe string) error {
	if k.Manifest.Recipe != recipe {
		return fmt.Errorf("built by the recipe %q, not %q", k.Manifest.Recipe, recipe)
	}
	sum, err := host.HashFile(k.Path)
	if err != nil {
		return err
	}
	if sum != k.Manifest.SHA256 {
		return fmt.Errorf("the file's SHA-256 is %s, the manifest says %q", sum, k.Manifest.SHA256)
	}
	release, err := askRelease(ctx, k.Path)
	if err != nil {
		return err
	}
	if release != k.Manifest.Release {
		return fmt.Errorf("it says that it is %q, the manifest says %q", release, k.Manifest.Release)
	}
	return nil
}

// askRelease asks a kernel for its release.
func askRelease(ctx context.Context, kernel string) (string, error) {
	out, err := exec.CommandContext(ctx, kernel, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask for its version: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
