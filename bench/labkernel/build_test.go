package labkernel

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kiloport/bench/host"
)

// fakeHost is a Debian that has all, but for what a test takes away.
type fakeHost struct {
	host.Host
	lacks    []string // files and programs
	stays    []string // what it lacks after apt has installed all
	unknown  bool     // apt knows no source package
	stale    bool     // apt knows only the older one, until its lists are updated
	room     uint64   // bytes
	fails    string   // the command line that fails
	without  string   // the symbol that the kernel does not know
	strange  string   // the file of the source that is not as usual
	commands []string
}

func newFakeHost() *fakeHost {
	f := &fakeHost{room: 3 << 30}
	f.Host = host.Host{
		Root:   true,
		Exists: func(name string) bool { return !slices.Contains(f.lacks, name) },
		Free:   func(string) (uint64, error) { return f.room, nil },
		Run:    f.run,
	}
	return f
}

func (f *fakeHost) run(ctx context.Context, dir string, out io.Writer, name string, args ...string) (string, error) {
	line := name + " " + strings.Join(args, " ")
	f.commands = append(f.commands, line)
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if f.fails != "" && strings.Contains(line, f.fails) {
		return "", errors.New("fake failure")
	}
	config := filepath.Join(dir, ".config")
	switch {
	case strings.HasPrefix(line, "apt-get install"):
		f.lacks = f.stays
	case strings.HasPrefix(line, "apt-get update"):
		f.stale = false
	case name == "apt-cache" && f.stale && args[1] == sourcePackages[0]:
		return "", nil
	case name == "apt-cache" && f.unknown:
		return "", nil
	case name == "apt-cache":
		return args[1] + ":\n  Installed: (none)\n  Candidate: 6.12.1-1\n", nil
	case name == "tar":
		return "", f.extract(dir)
	case name == "dpkg-query":
		return "6.12.1-2", nil
	case strings.HasSuffix(line, "defconfig") && !strings.HasSuffix(line, "olddefconfig"):
		return "", os.WriteFile(config, []byte("CONFIG_MODULES=y\nCONFIG_UML=y\n"), 0o644)
	case strings.HasSuffix(line, "olddefconfig") && f.without != "":
		text, err := os.ReadFile(config)
		text = []byte(strings.ReplaceAll(string(text), f.without+"=y\n", ""))
		return "", errors.Join(err, os.WriteFile(config, text, 0o644))
	case name == "strip":
		return "", os.WriteFile(args[1], []byte(fakeKernel), 0o755)
	}
	return "", nil
}

// extract writes of the source what is changed in it.
func (f *fakeHost) extract(dir string) error {
	var errs []error
	for _, c := range changes {
		path := filepath.Join(dir, c.file)
		text := "{\n\t" + c.from + "\n}\n"
		if f.strange == c.file {
			text += text
		}
		errs = append(errs, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
	}
	return errors.Join(errs...)
}

// buildIn builds with a fake host in a cache of its own.
func (f *fakeHost) buildIn(ctx context.Context, cache string) (folder, said string, err error) {
	var progress strings.Builder
	r := host.NewReporter(&progress, "lab kernel")
	b := builder{host: &f.Host, cache: host.Cache(cache), wanted: fragment, changes: changes, reporter: r}
	folder, err = b.build(ctx)
	r.Close()
	return folder, progress.String(), err
}

func TestBuild(t *testing.T) {
	cache := t.TempDir()
	f := newFakeHost()
	// A kernel that is there already is unsound, or there would be no build.
	must(t, os.MkdirAll(filepath.Join(cache, "6.12.1-2-"+hashRecipe(fragment, changes)[:12], "old"), 0o755))
	folder, said, err := f.buildIn(t.Context(), cache)
	must(t, err)
	k, err := find(t.Context(), host.Cache(cache), hashRecipe(fragment, changes))
	must(t, err)
	want := Manifest{Package: "linux-source-6.12", PackageVersion: "6.12.1-2", Release: "6.12.1", Recipe: hashRecipe(fragment, changes), SHA256: k.Manifest.SHA256}
	if k.Manifest != want || filepath.Dir(k.Path) != folder {
		t.Errorf("built %+v in %s, want %+v in %s", k.Manifest, filepath.Dir(k.Path), want, folder)
	}
	config, err := os.ReadFile(filepath.Join(folder, configName))
	must(t, err)
	if list, err := unmet(string(config), fragment+"CONFIG_UML=y\n"); err != nil || len(list) > 0 {
		t.Errorf("the kept configuration: error %v, unmet %v", err, list)
	}
	for _, part := range []string{"extracting /usr/src/linux-source-6.12.tar.xz\n", "compiling\n", "6.12.1 is built"} {
		if !strings.Contains(said, part) {
			t.Errorf("the progress has no %q:\n%s", part, said)
		}
	}
	if slices.ContainsFunc(f.commands, func(c string) bool { return strings.HasPrefix(c, "apt-get") }) {
		t.Errorf("apt ran although nothing is missing: %q", f.commands)
	}
	wantOnly(t, cache, filepath.Base(folder))
}

// wantOnly fails if other things are in a folder.
func wantOnly(t *testing.T, folder string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	must(t, err)
	for _, e := range entries {
		if !slices.Contains(names, e.Name()) {
			t.Errorf("%s was left in the cache", e.Name())
		}
	}
}

func TestBuildInstallsWhatIsMissing(t *testing.T) {
	f := newFakeHost()
	f.lacks = []string{"bison", "ld", "strip", "/usr/src/linux-source-6.12.tar.xz", "/usr/src/linux-source-6.1.tar.xz"}
	_, _, err := f.buildIn(t.Context(), t.TempDir())
	must(t, err)
	want := "apt-get install -q -y --no-install-recommends binutils bison linux-source-6.12"
	if !slices.Contains(f.commands, want) {
		t.Errorf("commands %q have no %q", f.commands, want)
	}
}

func TestBuildUpdatesListsThatAreOutOfDate(t *testing.T) {
	noSource := []string{"/usr/src/linux-source-6.12.tar.xz", "/usr/src/linux-source-6.1.tar.xz"}
	for _, test := range []struct{ fails, want string }{
		{"", "install -q -y --no-install-recommends linux-source-6.12"},
		{"apt-get update", "install -q -y --no-install-recommends linux-source-6.1"},
	} {
		f := newFakeHost()
		f.lacks, f.stale, f.fails = noSource, true, test.fails
		_, _, err := f.buildIn(t.Context(), t.TempDir())
		must(t, err)
		if want := "apt-get " + test.want; !slices.Contains(f.commands, want) {
			t.Errorf("with %q failing, commands %q have no %q", test.fails, f.commands, want)
		}
	}
}

func TestBuildFallsBackToTheOlderSource(t *testing.T) {
	f := newFakeHost()
	f.lacks = []string{"/usr/src/linux-source-6.12.tar.xz"}
	_, said, err := f.buildIn(t.Context(), t.TempDir())
	must(t, err)
	if !strings.Contains(said, "extracting /usr/src/linux-source-6.1.tar.xz") {
		t.Errorf("the older source that is there was not used:\n%s", said)
	}
}

func TestBuildErrors(t *testing.T) {
	noSource := []string{"/usr/src/linux-source-6.12.tar.xz", "/usr/src/linux-source-6.1.tar.xz"}
	for _, test := range []struct {
		name  string
		spoil func(*fakeHost)
		err   string
	}{
		{"no space", func(f *fakeHost) { f.room = 100 << 20 }, "has 100 MB free and 2048 MB are needed: make room, or set XDG_CACHE_HOME"},
		{"no compiler, not root", func(f *fakeHost) { f.Root, f.lacks = false, []string{"gcc"} }, "not root: run once as root: apt-get install gcc"},
		{"no headers, no apt", func(f *fakeHost) { f.lacks = []string{"apt-get", "/usr/include/gelf.h"} }, "there is no apt here: install these, or what your distribution calls them: libelf-dev"},
		{"no source, not root", func(f *fakeHost) { f.Root, f.lacks = false, noSource }, "not root: run once as root: apt-get install linux-source-6.12"},
		{"no source, no apt", func(f *fakeHost) { f.lacks = append(noSource, "apt-get") }, "install linux-source-6.12 or linux-source-6.1, which has /usr/src/linux-source-6.12.tar.xz"},
		{"unknown source", func(f *fakeHost) { f.lacks, f.unknown = noSource, true }, "apt knows no package linux-source-6.12 or linux-source-6.1: add"},
		{"apt fails", func(f *fakeHost) { f.lacks, f.fails = []string{"bc"}, "apt-get install" }, "install bc: fake failure"},
		{"apt lies", func(f *fakeHost) {
			f.lacks = []string{"/usr/include/openssl/ssl.h"}
			f.stays = f.lacks
		}, "these are installed but not where a build looks for them, in PATH and /usr/include: libssl-dev"},
		{"apt brings no archive", func(f *fakeHost) { f.lacks, f.stays = noSource, noSource }, "the package linux-source-6.12 is installed but has no /usr/src/linux-source-6.12.tar.xz"},
		{"extraction fails", func(f *fakeHost) { f.fails = "tar" }, "fake failure"},
		{"strange source", func(f *fakeHost) { f.strange = "drivers/char/random.c" }, "drivers/char/random.c has \"blake2s_update(&input_pool.hash, buf, len);\" 2 times instead of once: install linux-source-6.12 or linux-source-6.1"},
		{"symbol unknown", func(f *fakeHost) { f.without = "CONFIG_NET_SCH_CAKE" }, "does not take the configuration: CONFIG_NET_SCH_CAKE is n, not y"},
		{"compilation fails", func(f *fakeHost) { f.fails = "ARCH=um linux" }, "fake failure"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cache := t.TempDir()
			f := newFakeHost()
			test.spoil(f)
			_, _, err := f.buildIn(t.Context(), cache)
			wantError(t, err, test.err)
			wantOnly(t, cache)
		})
	}
}

func TestBuildEndsWithItsContext(t *testing.T) {
	cache := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	f := newFakeHost()
	f.Host.Run = func(ctx context.Context, dir string, out io.Writer, name string, args ...string) (string, error) {
		if slices.Contains(args, "linux") {
			cancel()
			return host.This().Run(ctx, dir, out, "sleep", "600")
		}
		return f.run(ctx, dir, out, name, args...)
	}
	if _, _, err := f.buildIn(ctx, cache); err == nil {
		t.Error("the build went on after the end of its context")
	}
	wantOnly(t, cache)
}
