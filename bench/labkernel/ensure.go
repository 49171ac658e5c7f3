package labkernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// buildPrefix begins the names of folders in the cache that are not finished.
const buildPrefix = "build-"

// Ensure returns the lab kernel from the user's cache folder (XDG_CACHE_HOME or
// ~/.cache, below kiloport/labkernel) and builds it before, if it is not there:
// for some five minutes on two cores, with about 2 GB of disk while it lasts. A
// build installs with apt what it lacks, which needs root. It reports to
// progress, which may be nil; nothing is written there if there is nothing to
// build. Several processes may call it at once: one builds, the others wait. At
// the end of ctx a build stops, and leaves nothing behind.
func Ensure(ctx context.Context, progress io.Writer) (*Kernel, error) {
	cache, err := cacheFolder()
	if err != nil {
		return nil, err
	}
	hash := hashConfig(fragment)
	if k, err := find(ctx, cache, hash); err == nil {
		return k, nil
	}
	reporter := newReporter(progress)
	defer reporter.close()
	unlock, err := lock(ctx, cache, reporter)
	if err != nil {
		return nil, fmt.Errorf("build the lab kernel: %w", err)
	}
	defer unlock()
	k, why := find(ctx, cache, hash) // built while this process waited
	if why == nil {
		return k, nil
	}
	reporter.say("lab kernel: %v: building it in %s", why, cache)
	if err := sweep(cache); err != nil {
		return nil, fmt.Errorf("build the lab kernel: %w", err)
	}
	b := builder{host: thisHost(), cache: cache, wanted: fragment, reporter: reporter}
	folder, err := b.build(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("build the lab kernel: %w", err)
	}
	return load(ctx, folder, hash)
}

// lock waits until no other process builds in the cache folder, which it makes.
func lock(ctx context.Context, cache string, r *reporter) (unlock func(), err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		r.step("waiting for another process that builds it")
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// sweep removes what builds left that were killed. The lock is held.
func sweep(cache string) error {
	left, err := filepath.Glob(filepath.Join(cache, buildPrefix+"*"))
	if err != nil {
		return err
	}
	for _, folder := range left {
		if err := os.RemoveAll(folder); err != nil {
			return err
		}
	}
	return nil
}

// publish writes the manifest into a folder with a kernel, and gives the folder
// its name in the cache in one step.
func publish(cache, folder string, m *Manifest) (string, error) {
	text, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(folder, manifestName), append(text, '\n'), 0o644); err != nil {
		return "", err
	}
	final := filepath.Join(cache, m.folder())
	// What is there now has been found unsound.
	if err := os.RemoveAll(final); err != nil {
		return "", err
	}
	if err := os.Rename(folder, final); err != nil {
		return "", err
	}
	return final, nil
}

// builtAt is when the kernel in a folder was built; zero if that is unknown.
func builtAt(folder string) time.Time {
	info, err := os.Stat(filepath.Join(folder, manifestName))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
