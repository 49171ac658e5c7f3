package host

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLock(t *testing.T) {
	cache := Cache(filepath.Join(t.TempDir(), "cache"))
	var said strings.Builder
	r := NewReporter(&said, "thing")
	unlock, err := cache.Lock(t.Context(), r)
	must(t, err)
	killed, err := cache.Make()
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error)
	go func() {
		_, err := cache.Lock(ctx, r)
		waited <- err
	}()
	cancel()
	if err := <-waited; err == nil {
		t.Error("two hold the lock")
	}
	if !exists(killed) {
		t.Error("who waits has removed what is being made")
	}
	unlock()
	unlock, err = cache.Lock(t.Context(), r)
	must(t, err)
	unlock()
	r.Close()
	if n := strings.Count(said.String(), "waiting for another process"); n != 1 {
		t.Errorf("said %d times that it waits, want once:\n%s", n, said.String())
	}
	if exists(killed) {
		t.Error("what was never finished is left")
	}
}

func TestPublish(t *testing.T) {
	cache := Cache(t.TempDir())
	for _, version := range []string{"1", "2"} {
		folder, err := cache.Make()
		must(t, err)
		must(t, os.WriteFile(filepath.Join(folder, "file-"+version), nil, 0o644))
		final, err := cache.Publish(folder, "thing-a", map[string]string{"version": version})
		must(t, err)
		var manifest map[string]string
		must(t, ReadManifest(final, &manifest))
		if manifest["version"] != version || !exists(filepath.Join(final, "file-"+version)) {
			t.Errorf("version %s: the manifest says %v", version, manifest)
		}
	}
	must(t, os.MkdirAll(filepath.Join(string(cache), "thing-unfinished"), 0o755))
	folders, err := cache.Find("thing-*")
	must(t, err)
	if len(folders) != 2 || filepath.Base(folders[0]) != "thing-a" {
		t.Errorf("found %q, want thing-a first", folders)
	}
	if exists(filepath.Join(folders[0], "file-1")) {
		t.Error("what was there before is left beside the new")
	}
	if err := ReadManifest(folders[1], &struct{}{}); err == nil {
		t.Error("a manifest was read that is not there")
	}
}

func TestCheckSpace(t *testing.T) {
	h := &Host{Free: func(string) (uint64, error) { return 100 << 20, nil }}
	must(t, h.CheckSpace("/cache", 100<<20))
	wantError(t, h.CheckSpace("/cache", 2<<30), "/cache has 100 MB free and 2048 MB are needed: make room, or set XDG_CACHE_HOME")
}
