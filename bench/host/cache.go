package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// makingPrefix begins the names of folders in a cache that are not finished.
	makingPrefix = "build-"
	manifestName = "manifest.json"
)

// A Cache is a folder in which finished things are kept, each in a folder of its
// own with a manifest that says what it is. It may not exist yet.
type Cache string

// OpenCache is the cache of that name in the user's cache folder
// (XDG_CACHE_HOME or ~/.cache, below kiloport).
func OpenCache(name string) (Cache, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w: set HOME or XDG_CACHE_HOME", err)
	}
	return Cache(filepath.Join(base, "kiloport", name)), nil
}

// Find lists the folders whose names match a pattern of [filepath.Match], that
// which was finished last first.
func (c Cache) Find(pattern string) ([]string, error) {
	folders, err := filepath.Glob(filepath.Join(string(c), pattern))
	if err != nil {
		return nil, fmt.Errorf("look into %s: %w", c, err)
	}
	slices.SortFunc(folders, func(a, b string) int { return finishedAt(b).Compare(finishedAt(a)) })
	return folders, nil
}

// finishedAt is when the thing in a folder was finished; zero if it is not.
func finishedAt(folder string) time.Time {
	info, err := os.Stat(filepath.Join(folder, manifestName))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// ReadManifest reads the manifest of a folder.
func ReadManifest(folder string, manifest any) error {
	text, err := os.ReadFile(filepath.Join(folder, manifestName))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, manifest); err != nil {
		return fmt.Errorf("%s: %w", folder, err)
	}
	return nil
}

// Lock waits until no other process makes something in the cache, whose folder it
// makes, and removes what those have left that were killed.
func (c Cache) Lock(ctx context.Context, r *Reporter) (unlock func(), err error) {
	if err := os.MkdirAll(string(c), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(string(c), "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := flock(ctx, f, r); err != nil {
		f.Close()
		return nil, err
	}
	if err := c.sweep(); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

func flock(ctx context.Context, f *os.File, r *Reporter) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		r.Step("waiting for another process that makes it")
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (c Cache) sweep() error {
	left, err := filepath.Glob(filepath.Join(string(c), makingPrefix+"*"))
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

// Make is a folder to make something in, on the file system of the cache, whose
// lock is held. The caller removes it.
func (c Cache) Make() (string, error) { return os.MkdirTemp(string(c), makingPrefix) }

// Publish writes the manifest into a folder and gives the folder its name in the
// cache in one step, in place of what has that name.
func (c Cache) Publish(folder, name string, manifest any) (string, error) {
	text, err := json.MarshalIndent(manifest, "", "\t")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(folder, manifestName), append(text, '\n'), 0o644); err != nil {
		return "", err
	}
	final := filepath.Join(string(c), name)
	// What is there now has been found unsound.
	if err := os.RemoveAll(final); err != nil {
		return "", err
	}
	if err := os.Rename(folder, final); err != nil {
		return "", err
	}
	return final, nil
}

// CheckSpace tells where the cache has too little room for so many bytes.
func (h *Host) CheckSpace(c Cache, needed uint64) error {
	space, err := h.Free(string(c))
	if err != nil {
		return err
	}
	if space < needed {
		return fmt.Errorf("%s has %d MB free and %d MB are needed: make room, or set XDG_CACHE_HOME to a folder elsewhere",
			c, space>>20, needed>>20)
	}
	return nil
}
