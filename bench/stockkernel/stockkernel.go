// Package stockkernel boots the kernel that people run: Debian's, just as it is in
// its package, in QEMU. It answers whether something works there, beside the
// kernel's own WireGuard, cake and fq_codel, whatever kernel this machine has.
//
// Start at [Ensure], which fetches the newest package that apt knows (100 MB,
// once) into the user's cache folder and installs nothing of it, at [EnsureSeries]
// for an older one, and at
// [Kernel.Run], which boots it for one command among the files of this machine. A
// program that calls Run calls [RunIfInit] first in main (a test in TestMain),
// because it is itself the first process inside; for that it has to be static.
//
// Limits: amd64, and a distribution with apt. Where KVM does not work, the
// processor is emulated, by one thread: everything takes some ten times as long as
// on the machine itself, and the clock is as uneven as that emulation. Time is real,
// and what is measured says that something works, not how fast it is or how long
// it takes; the lab kernel is there for latency. What modules the kernel loads by
// itself, it loads with this machine's modprobe.
package stockkernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"kiloport/bench/host"
)

// cacheName is the folder in the user's cache.
const cacheName = "stockkernel"

// A Kernel is an unpacked kernel package. It is made by [Ensure], and may be used
// by several goroutines at once.
type Kernel struct {
	// Path is the compressed kernel, Modules the folder that the guest has as
	// /lib/modules/ and the release.
	Path, Modules string
	// Manifest says what it was unpacked from.
	Manifest Manifest
	// Clock is what the guest's time is made of.
	Clock Clock

	noKVM atomic.Bool // it has been tried
}

// A Clock is what a guest's time is made of.
type Clock uint8

const (
	// MachineClock is the machine's time: who is to do something within a second
	// there has less than that on a busy machine.
	MachineClock Clock = iota
	// WorkClock counts 4 ns for each instruction, which is about what an emulator
	// takes, and the machine's time while the guest has nothing to do. A busy machine
	// makes the guest's seconds longer, and leaves as much of them to work. With KVM
	// it is the machine's.
	WorkClock
	// InstructionClock counts 1 ns for each instruction, and jumps while the guest has
	// nothing to do: no figure depends on the machine, if the guest does not wait for
	// the machine's files. It takes an emulator.
	InstructionClock
)

// option is what QEMU is told, if anything.
func (c Clock) option() []string {
	switch c {
	case WorkClock:
		return []string{"-icount", "shift=2,sleep=on"}
	case InstructionClock:
		return []string{"-icount", "shift=0,sleep=off"}
	default:
		return nil
	}
}

// A Manifest is what is stored beside a kernel, to know it again.
type Manifest struct {
	// Package is the Debian package, such as linux-image-6.12.117+deb12-amd64.
	Package string
	// PackageVersion is that package's version, such as 6.12.117-1~deb12u1.
	PackageVersion string
	// Release is what the kernel says that it is: 6.12.117+deb12-amd64.
	Release string
	// SHA256 is the hash of the compressed kernel, in hexadecimal.
	SHA256 string
}

// Ensure returns the stock kernel from the user's cache folder (XDG_CACHE_HOME or
// ~/.cache, below kiloport/stockkernel). Where there is none, it is fetched with
// apt and unpacked there, for half a minute; where QEMU or kmod are missing, they
// are installed, which needs root. It reports to progress, which may be nil;
// nothing is written there if there is nothing to do. Several processes may call
// it at once. At the end of ctx it stops, and leaves nothing behind.
func Ensure(ctx context.Context, progress io.Writer) (*Kernel, error) {
	cache, err := host.OpenCache(cacheName)
	if err != nil {
		return nil, err
	}
	return ensure(ctx, host.This(), usualSeries, cache, progress)
}

// EnsureSeries is [Ensure] for the newest kernel of a series, such as 6.1. The error
// is [ErrNoImage] where this machine's apt knows none.
func EnsureSeries(ctx context.Context, series string, progress io.Writer) (*Kernel, error) {
	cache, err := host.OpenCache(cacheName + "-" + series)
	if err != nil {
		return nil, err
	}
	return ensure(ctx, host.This(), series, cache, progress)
}

func ensure(ctx context.Context, h *host.Host, series string, cache host.Cache, progress io.Writer) (*Kernel, error) {
	if k, err := find(cache); err == nil && len(h.Missing(needs)) == 0 {
		return k, nil
	}
	reporter := host.NewReporter(progress, "stock kernel")
	defer reporter.Close()
	unlock, err := cache.Lock(ctx, reporter)
	if err != nil {
		return nil, fmt.Errorf("prepare the stock kernel: %w", err)
	}
	defer unlock()
	f := fetcher{host: h, series: series, cache: cache, reporter: reporter}
	k, err := f.prepare(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("prepare the stock kernel: %w", err)
	}
	return k, nil
}

// errNone is the answer of find where no kernel can be used.
var errNone = errors.New("no stock kernel is unpacked yet")

// find returns a sound kernel, the one unpacked last where there are several: a
// newer package is no reason to fetch again. Where there is none, the error wraps
// errNone and says what is wrong with those that are there.
func find(cache host.Cache) (*Kernel, error) {
	folders, err := cache.Find("[0-9]*")
	if err != nil {
		return nil, err
	}
	found := errNone
	for _, folder := range folders {
		k, err := load(folder)
		if err == nil {
			return k, nil
		}
		found = errors.Join(found, err)
	}
	return nil, found
}

// load returns the kernel in a folder after it has verified it.
func load(folder string) (*Kernel, error) {
	k := &Kernel{}
	if err := host.ReadManifest(folder, &k.Manifest); err != nil {
		return nil, fmt.Errorf("read the stock kernel's manifest: %w", err)
	}
	k.Path, k.Modules = kernelIn(folder, k.Manifest.Release), modulesIn(folder, k.Manifest.Release)
	sum, err := host.HashFile(k.Path)
	if err == nil && sum != k.Manifest.SHA256 {
		err = fmt.Errorf("the file's SHA-256 is %s, the manifest says %q", sum, k.Manifest.SHA256)
	}
	if err == nil {
		_, err = os.Stat(filepath.Join(k.Modules, depName))
	}
	if err != nil {
		return nil, fmt.Errorf("verify the stock kernel in %s: %w", folder, err)
	}
	return k, nil
}

// kernelIn is where an unpacked package has the kernel, modulesIn where it has its
// modules.
func kernelIn(folder, release string) string {
	return filepath.Join(folder, "boot", "vmlinuz-"+release)
}
func modulesIn(folder, release string) string {
	return filepath.Join(folder, "lib", "modules", release)
}

// releaseOf is the release that a package's name promises.
func releaseOf(pkg string) string { return strings.TrimPrefix(pkg, packagePrefix) }
