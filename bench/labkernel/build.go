package labkernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"kiloport/bench/host"
)

// neededSpace is what a build takes on disk: the source and the objects.
const neededSpace = 2 << 30

// builder builds a kernel into the cache, whose lock is held.
type builder struct {
	host     *host.Host
	cache    host.Cache
	wanted   string // configuration fragment
	changes  []change
	reporter *host.Reporter
}

// build returns the folder in the cache where the kernel then is.
func (b *builder) build(ctx context.Context) (string, error) {
	src, err := b.prepare(ctx)
	if err != nil {
		return "", err
	}
	temp, err := b.cache.Make()
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	tree, result := filepath.Join(temp, "source"), filepath.Join(temp, "result")
	if err := errors.Join(os.Mkdir(tree, 0o755), os.Mkdir(result, 0o755)); err != nil {
		return "", err
	}
	b.reporter.Step("extracting " + src.archive())
	if _, err := b.host.Run(ctx, tree, nil, "tar", "-xJf", src.archive(), "--strip-components=1"); err != nil {
		return "", err
	}
	for _, c := range b.changes {
		if err := c.make(tree); err != nil {
			return "", err
		}
	}
	if err := b.configure(ctx, tree); err != nil {
		return "", err
	}
	if err := b.compile(ctx, tree, result); err != nil {
		return "", err
	}
	m := &Manifest{Package: src.pkg, PackageVersion: src.version, Recipe: hashRecipe(b.wanted, b.changes)}
	kernel := filepath.Join(result, binaryName)
	if m.SHA256, err = host.HashFile(kernel); err != nil {
		return "", err
	}
	if m.Release, err = askRelease(ctx, kernel); err != nil {
		return "", err
	}
	folder, err := b.cache.Publish(result, m.folder(), m)
	if err == nil {
		b.reporter.Say("%s is built: %s", m.Release, folder)
	}
	return folder, err
}

// prepare sees to it that everything is there that a build needs.
func (b *builder) prepare(ctx context.Context) (source, error) {
	if err := b.host.CheckSpace(b.cache, neededSpace); err != nil {
		return source{}, err
	}
	src, err := b.source(ctx)
	if err != nil {
		return source{}, err
	}
	packages := b.host.Missing(needs)
	if !src.installed {
		packages = append(packages, src.pkg)
	}
	if len(packages) == 0 {
		return src, nil
	}
	b.reporter.Step("installing with apt: " + strings.Join(packages, " "))
	if err := b.host.Install(ctx, packages); err != nil {
		return source{}, err
	}
	return b.installed(ctx, src)
}

// source finds the source. Where apt would have to bring one and knows none, or
// no better one than an old release's, it may be that its lists are out of date.
func (b *builder) source(ctx context.Context) (source, error) {
	src, err := findSource(ctx, b.host)
	best := err == nil && (src.installed || src.pkg == sourcePackages[0])
	if best || !b.host.Root || err != nil && !errors.Is(err, errNoSource) {
		return src, err
	}
	b.reporter.Step("updating apt's lists")
	if updateErr := b.host.Update(ctx); updateErr != nil {
		if err == nil {
			return src, nil
		}
		return source{}, updateErr
	}
	return findSource(ctx, b.host)
}

// installed looks whether the packages have brought what they were to bring,
// and which version of the source it is.
func (b *builder) installed(ctx context.Context, src source) (source, error) {
	if packages := b.host.Missing(needs); len(packages) > 0 {
		return source{}, fmt.Errorf("these are installed but not where a build looks for them, in PATH and /usr/include: %s", strings.Join(packages, " "))
	}
	now, ok := installedSource(ctx, b.host, src.pkg)
	if !ok {
		return source{}, fmt.Errorf("the package %s is installed but has no %s", src.pkg, src.archive())
	}
	return now, nil
}

// configure writes the kernel's configuration, and checks that all of the
// wanted is in it.
func (b *builder) configure(ctx context.Context, tree string) error {
	b.reporter.Step("configuring")
	path := filepath.Join(tree, ".config")
	if _, err := b.host.Run(ctx, tree, nil, "make", "ARCH=um", "defconfig"); err != nil {
		return err
	}
	base, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	merged, err := mergeConfig(string(base), b.wanted)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(merged), 0o644); err != nil {
		return err
	}
	if _, err := b.host.Run(ctx, tree, nil, "make", "ARCH=um", "olddefconfig"); err != nil {
		return err
	}
	got, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	list, err := unmet(string(got), b.wanted)
	if err != nil {
		return err
	}
	if len(list) > 0 {
		return fmt.Errorf("this kernel source does not take the configuration: %s", strings.Join(list, ", "))
	}
	return nil
}

// compile makes the kernel and puts it and its configuration into result.
func (b *builder) compile(ctx context.Context, tree, result string) error {
	b.reporter.Step("compiling")
	jobs := "-j" + strconv.Itoa(runtime.NumCPU())
	if _, err := b.host.Run(ctx, tree, b.reporter.Count(compileSteps), "make", jobs, "ARCH=um", "linux"); err != nil {
		return err
	}
	if _, err := b.host.Run(ctx, tree, nil, "strip", "-o", filepath.Join(result, binaryName), "linux"); err != nil {
		return err
	}
	config, err := os.ReadFile(filepath.Join(tree, ".config"))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(result, configName), config, 0o644)
}

// compileSteps is how many lines make writes while it compiles a 6.12, which is
// all that a percentage has to go by.
const compileSteps = 1800
