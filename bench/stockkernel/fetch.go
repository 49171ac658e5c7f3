package stockkernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"kiloport/bench/host"
)

// neededSpace is what a package takes on disk while it is unpacked.
const neededSpace = 400 << 20

const (
	depmod   = "/sbin/depmod"
	modprobe = "/sbin/modprobe" // where the kernel looks for it
)

// needs are what it takes to unpack and to boot a kernel.
var needs = []host.Need{
	{Name: qemu, Package: "qemu-system-x86"},
	{Name: depmod, Package: "kmod"},
	{Name: modprobe, Package: "kmod"},
}

// A fetcher brings a kernel into the cache, whose lock is held.
type fetcher struct {
	host     *host.Host
	series   string
	cache    host.Cache
	reporter *host.Reporter
}

// prepare sees to it that a kernel is there, and all that it takes to boot it.
func (f *fetcher) prepare(ctx context.Context) (*Kernel, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("it is for amd64, and this is %s", runtime.GOARCH)
	}
	if packages := f.host.Missing(needs); len(packages) > 0 {
		f.reporter.Step("installing with apt: " + strings.Join(packages, " "))
		if err := f.host.Install(ctx, packages); err != nil {
			return nil, err
		}
		if packages = f.host.Missing(needs); len(packages) > 0 {
			return nil, fmt.Errorf("these are installed, but there is no %s in PATH, %s or %s: %s", qemu, depmod, modprobe, strings.Join(packages, " "))
		}
	}
	k, why := find(f.cache) // perhaps fetched while this process waited
	if why == nil {
		return k, nil
	}
	f.reporter.Say("%v: fetching it into %s", why, f.cache)
	folder, err := f.fetch(ctx)
	if err != nil {
		return nil, err
	}
	return load(folder)
}

// fetch returns the folder in the cache where the kernel then is.
func (f *fetcher) fetch(ctx context.Context) (string, error) {
	if err := f.host.CheckSpace(f.cache, neededSpace); err != nil {
		return "", err
	}
	pkg, err := f.choose(ctx)
	if err != nil {
		return "", err
	}
	temp, err := f.cache.Make()
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	archive, err := f.download(ctx, temp, pkg)
	if err != nil {
		return "", err
	}
	result := filepath.Join(temp, "result")
	m, err := f.unpack(ctx, archive, result, pkg)
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", pkg.name, err)
	}
	folder, err := f.cache.Publish(result, m.PackageVersion, m)
	if err == nil {
		f.reporter.Say("%s is unpacked: %s", m.Release, folder)
	}
	return folder, err
}

// choose asks apt which kernels there are.
func (f *fetcher) choose(ctx context.Context) (image, error) {
	if !f.host.Exists("apt-get") {
		return image{}, errors.New("there is no apt here to fetch it with: run this on a Debian, or in a container with one")
	}
	var stale error
	if f.host.Root {
		f.reporter.Step("updating apt's lists")
		// Old lists may do as well.
		stale = f.host.Update(ctx)
	}
	pkg, err := newestImage(ctx, f.host, f.series)
	if errors.Is(err, ErrNoImage) {
		err = errors.Join(err, stale)
	}
	return pkg, err
}

// download gets a package into a folder. Apt checks it against the signed lists.
func (f *fetcher) download(ctx context.Context, folder string, pkg image) (string, error) {
	f.reporter.Step("downloading " + pkg.name)
	if _, err := f.host.Run(ctx, folder, nil, "apt-get", "download", "-q", pkg.name+"="+pkg.version); err != nil {
		way := "look whether the machine has a network"
		if !f.host.Root {
			way = "apt's lists may be old: run once as root: apt-get update"
		}
		return "", fmt.Errorf("%w; %s", err, way)
	}
	found, err := filepath.Glob(filepath.Join(folder, "*.deb"))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("apt-get download left %d packages, not one", len(found))
	}
	return found[0], nil
}

// unpack unpacks a package into a folder, and looks whether it is the one that was
// wanted and whether it has what a kernel needs.
func (f *fetcher) unpack(ctx context.Context, archive, folder string, pkg image) (*Manifest, error) {
	f.reporter.Step("unpacking " + pkg.name)
	is, err := f.host.Run(ctx, "", nil, "dpkg-deb", "-W", "--showformat=${Package} ${Version}", archive)
	if err != nil {
		return nil, err
	}
	if want := pkg.name + " " + pkg.version; is != want {
		return nil, fmt.Errorf("it is %q, not %q", is, want)
	}
	if _, err := f.host.Run(ctx, "", nil, "dpkg-deb", "-x", archive, folder); err != nil {
		return nil, err
	}
	if err := mergeUsr(folder); err != nil {
		return nil, err
	}
	m := &Manifest{Package: pkg.name, PackageVersion: pkg.version, Release: releaseOf(pkg.name)}
	kernel := kernelIn(folder, m.Release)
	release, err := readRelease(kernel)
	if err != nil {
		return nil, err
	}
	if release != m.Release {
		return nil, fmt.Errorf("%s says that it is %q", kernel, release)
	}
	f.reporter.Step("listing the modules of " + m.Release)
	if _, err := f.host.Run(ctx, "", nil, depmod, "-b", folder, m.Release); err != nil {
		return nil, err
	}
	m.SHA256, err = host.HashFile(kernel)
	return m, err
}

// mergeUsr brings lib/modules to its old place where a package has it in usr/lib,
// and leaves a link there: depmod has its own opinion.
func mergeUsr(folder string) error {
	usr, lib := filepath.Join(folder, "usr", "lib"), filepath.Join(folder, "lib")
	if _, err := os.Stat(filepath.Join(usr, "modules")); err != nil {
		return nil
	}
	return errors.Join(os.Rename(usr, lib), os.Symlink("../lib", usr))
}
