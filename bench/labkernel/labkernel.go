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
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	binaryName   = "linux"
	manifestName = "manifest.json"
	configName   = "config"
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
	// ConfigHash is the hash of the configuration fragment, in hexadecimal.
	ConfigHash string
	// SHA256 is the hash of the executable, in hexadecimal.
	SHA256 string
}

// folder is the name of a kernel's folder in the cache: its key.
func (m *Manifest) folder() string {
	return m.PackageVersion + "-" + m.ConfigHash[:12]
}

// Built tells whether a kernel of today's configuration is in the cache, sound,
// and returns it. It never builds one.
func Built() (*Kernel, bool) {
	cache, err := cacheFolder()
	if err != nil {
		return nil, false
	}
	k, err := find(context.Background(), cache, hashConfig(fragment))
	return k, err == nil
}

// cacheFolder is where kernels are kept and built. It may not exist.
func cacheFolder() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder of the lab kernel: %w: set HOME or XDG_CACHE_HOME", err)
	}
	return filepath.Join(base, "kiloport", "labkernel"), nil
}

// errNone is the answer of find where no kernel can be used.
var errNone = errors.New("no lab kernel is built yet")

// find returns a sound kernel of this configuration, the one built last where
// there are several: a newer source package is no reason to build again. Where
// there is none, the error wraps errNone and says what is wrong with those that
// are there.
func find(ctx context.Context, cache, configHash string) (*Kernel, error) {
	folders, err := filepath.Glob(filepath.Join(cache, "*-"+configHash[:12]))
	if err != nil {
		return nil, fmt.Errorf("look for a lab kernel in %s: %w", cache, err)
	}
	slices.SortFunc(folders, func(a, b string) int { return builtAt(b).Compare(builtAt(a)) })
	found := errNone
	for _, folder := range folders {
		k, err := load(ctx, folder, configHash)
		if err == nil {
			return k, nil
		}
		found = errors.Join(found, err)
	}
	return nil, found
}

// load returns the kernel in a folder after it has verified it.
func load(ctx context.Context, folder, configHash string) (*Kernel, error) {
	k := &Kernel{Path: filepath.Join(folder, binaryName)}
	text, err := os.ReadFile(filepath.Join(folder, manifestName))
	if err != nil {
		return nil, fmt.Errorf("read the lab kernel's manifest: %w", err)
	}
	if err := json.Unmarshal(text, &k.Manifest); err != nil {
		return nil, fmt.Errorf("read the lab kernel's manifest in %s: %w", folder, err)
	}
	if err := k.verify(ctx, configHash); err != nil {
		return nil, fmt.Errorf("verify the lab kernel %s: %w", k.Path, err)
	}
	return k, nil
}

// verify compares the kernel with its manifest, and runs it to see that it can.
func (k *Kernel) verify(ctx context.Context, configHash string) error {
	if k.Manifest.ConfigHash != configHash {
		return fmt.Errorf("built from configuration %q, not %q", k.Manifest.ConfigHash, configHash)
	}
	sum, err := hashFile(k.Path)
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

// hashFile returns the SHA-256 of a file in hexadecimal.
func hashFile(path string) (string, error) {
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
