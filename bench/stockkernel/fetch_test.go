package stockkernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kiloport/bench/host"
)

const (
	fakePackage = "linux-image-6.12.9+deb12-amd64"
	fakeVersion = "6.12.9-1"
	fakeRelease = "6.12.9+deb12-amd64"
)

// fakeDebian has all, but for what a test takes away.
type fakeDebian struct {
	host.Host
	lacks    []string // files and programs
	stays    []string // what it lacks after apt has installed all
	unknown  bool     // apt knows no kernel
	fails    string   // the command line that fails
	identity string   // what the archive says that it is
	release  string   // what the kernel says that it is
	usr      bool     // its modules are in usr/lib
	commands []string
}

func newFakeDebian() *fakeDebian {
	d := &fakeDebian{identity: fakePackage + " " + fakeVersion, release: fakeRelease}
	d.Host = host.Host{
		Root:   true,
		Exists: func(name string) bool { return !slices.Contains(d.lacks, name) },
		Free:   func(string) (uint64, error) { return 1 << 30, nil },
		Run:    d.run,
	}
	return d
}

func (d *fakeDebian) run(ctx context.Context, dir string, _ io.Writer, name string, args ...string) (string, error) {
	line := name + " " + strings.Join(args, " ")
	d.commands = append(d.commands, line)
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if d.fails != "" && strings.Contains(line, d.fails) {
		return "", errors.New("fake failure")
	}
	switch name + " " + args[0] {
	case "apt-get install":
		d.lacks = d.stays
	case "apt-cache pkgnames", "apt-cache depends":
		if !d.unknown {
			return fakePackage + "\n", nil
		}
	case "apt-cache policy":
		return "x:\n  Candidate: " + fakeVersion + "\n", nil
	case "apt-get download":
		return "", os.WriteFile(filepath.Join(dir, "x.deb"), nil, 0o644)
	case "dpkg-deb -W":
		return d.identity, nil
	case "dpkg-deb -x":
		return "", d.unpack(args[2])
	case depmod + " -b":
		return "", os.WriteFile(filepath.Join(modulesIn(args[1], args[2]), depName), nil, 0o644)
	}
	return "", nil
}

func (d *fakeDebian) unpack(folder string) error {
	kernel, modules := kernelIn(folder, fakeRelease), modulesIn(folder, fakeRelease)
	if d.usr {
		modules = modulesIn(filepath.Join(folder, "usr"), fakeRelease)
	}
	return errors.Join(os.MkdirAll(filepath.Dir(kernel), 0o755), os.MkdirAll(modules, 0o755), os.WriteFile(kernel, fakeKernel(d.release), 0o644))
}

func TestEnsureFetchesOnce(t *testing.T) {
	for _, usr := range []bool{false, true} {
		cache := host.Cache(filepath.Join(t.TempDir(), "cache"))
		d := newFakeDebian()
		d.usr = usr
		var said strings.Builder
		k, err := ensure(t.Context(), &d.Host, usualSeries, cache, &said)
		must(t, err)
		folder := filepath.Join(string(cache), fakeVersion)
		want := Manifest{Package: fakePackage, PackageVersion: fakeVersion, Release: fakeRelease, SHA256: k.Manifest.SHA256}
		if k.Manifest != want || k.Path != folder+"/boot/vmlinuz-"+fakeRelease || k.Modules != folder+"/lib/modules/"+fakeRelease {
			t.Errorf("%+v in %s and %s, want %+v in %s", k.Manifest, k.Path, k.Modules, want, folder)
		}
		if _, err := os.Stat(filepath.Join(folder, "usr/lib/modules", fakeRelease)); (err == nil) != usr {
			t.Errorf("usr %v: the link for depmod: %v", usr, err)
		}
		if !strings.Contains(said.String(), "stock kernel: "+fakeRelease+" is unpacked: "+folder) {
			t.Errorf("said %q", said.String())
		}
		wantOnly(t, cache, "lock", fakeVersion)
		said.Reset()
		before := len(d.commands)
		again, err := ensure(t.Context(), &d.Host, usualSeries, cache, &said)
		must(t, err)
		if again.Path != k.Path || len(d.commands) != before || said.Len() > 0 {
			t.Errorf("the second time: %s, after %q, said %q", again.Path, d.commands[before:], said.String())
		}
	}
}

// wantOnly fails if other things are in a cache.
func wantOnly(t *testing.T, cache host.Cache, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(string(cache))
	must(t, err)
	for _, e := range entries {
		if !slices.Contains(names, e.Name()) {
			t.Errorf("%s was left in the cache", e.Name())
		}
	}
}

func TestEnsureReplacesWhatIsUnsound(t *testing.T) {
	cache := host.Cache(t.TempDir())
	d := newFakeDebian()
	k, err := ensure(t.Context(), &d.Host, usualSeries, cache, nil)
	must(t, err)
	for name, spoil := range map[string]func() error{
		"another kernel": func() error { return os.WriteFile(k.Path, fakeKernel("6.12.8"), 0o644) },
		"no kernel":      func() error { return os.Remove(k.Path) },
		"no modules":     func() error { return os.RemoveAll(k.Modules) },
		"no manifest":    func() error { return os.Remove(filepath.Join(string(cache), fakeVersion, "manifest.json")) },
	} {
		must(t, spoil())
		if _, err := find(cache); !errors.Is(err, errNone) {
			t.Errorf("%s: found, error %v", name, err)
		}
		if _, err := ensure(t.Context(), &d.Host, usualSeries, cache, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEnsureInstallsWhatIsMissing(t *testing.T) {
	cache := host.Cache(t.TempDir())
	d := newFakeDebian()
	_, err := ensure(t.Context(), &d.Host, usualSeries, cache, nil)
	must(t, err)
	d.lacks, d.commands = []string{qemu, modprobe}, nil
	_, err = ensure(t.Context(), &d.Host, usualSeries, cache, nil)
	must(t, err)
	want := []string{"apt-get install -q -y --no-install-recommends qemu-system-x86 kmod"}
	if !slices.Equal(d.commands, want) {
		t.Errorf("commands %q, want %q", d.commands, want)
	}
}

func TestEnsureErrors(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(*fakeDebian)
		err   string
	}{
		{"no qemu, not root", func(d *fakeDebian) { d.Root, d.lacks = false, []string{qemu} }, "not root: run once as root: apt-get install qemu-system-x86"},
		{"no kmod, no apt", func(d *fakeDebian) { d.lacks = []string{depmod, "apt-get"} }, "there is no apt here: install these, or what your distribution calls them: kmod"},
		{"qemu elsewhere", func(d *fakeDebian) { d.lacks = []string{qemu}; d.stays = d.lacks }, "these are installed, but there is no qemu-system-x86_64 in PATH"},
		{"no apt", func(d *fakeDebian) { d.lacks = []string{"apt-get"} }, "there is no apt here to fetch it with: run this on a Debian"},
		{"no space", func(d *fakeDebian) { d.Free = func(string) (uint64, error) { return 1 << 20, nil } }, "has 1 MB free and 400 MB are needed: make room"},
		{"no kernel", func(d *fakeDebian) { d.unknown = true }, "linux-image-6.12.*-amd64: apt knows no such kernel: add a Debian release's"},
		{"no kernel in old lists", func(d *fakeDebian) { d.unknown, d.fails = true, "update" }, "then run apt-get update\nfake failure"},
		{"no network", func(d *fakeDebian) { d.fails = "download" }, "fake failure; look whether the machine has a network"},
		{"old lists, not root", func(d *fakeDebian) { d.Root, d.fails = false, "download" }, "fake failure; apt's lists may be old: run once as root: apt-get update"},
		{"another package", func(d *fakeDebian) { d.identity = "linux-image-x 2" }, `it is "linux-image-x 2", not "` + fakePackage + " " + fakeVersion},
		{"broken package", func(d *fakeDebian) { d.fails = "dpkg-deb -x" }, "unpack " + fakePackage + ": fake failure"},
		{"another kernel", func(d *fakeDebian) { d.release = "6.12.8-amd64" }, `says that it is "6.12.8-amd64"`},
		{"depmod fails", func(d *fakeDebian) { d.fails = depmod }, "fake failure"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cache := host.Cache(t.TempDir())
			d := newFakeDebian()
			test.spoil(d)
			_, err := ensure(t.Context(), &d.Host, usualSeries, cache, nil)
			wantError(t, err, test.err)
			wantOnly(t, cache, "lock")
		})
	}
}

func TestEnsureEndsWithItsContext(t *testing.T) {
	cache := host.Cache(t.TempDir())
	ctx, cancel := context.WithCancelCause(t.Context())
	why := fmt.Errorf("had enough")
	d := newFakeDebian()
	d.Run = func(ctx context.Context, dir string, out io.Writer, name string, args ...string) (string, error) {
		if args[0] == "download" {
			cancel(why)
			return host.This().Run(ctx, dir, out, "sleep", "600")
		}
		return d.run(ctx, dir, out, name, args...)
	}
	if _, err := ensure(ctx, &d.Host, usualSeries, cache, nil); !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
	wantOnly(t, cache, "lock")
}
