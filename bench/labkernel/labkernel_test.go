package labkernel

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kiloport/bench/host"
)

const testHash = "0123456789abcdef"

// fakeKernel is what answers like a kernel that is asked for its version.
const fakeKernel = "#!/bin/sh\necho 6.12.1\n"

// addKernel puts a fake kernel with a true manifest, changed by change, into a
// cache.
func addKernel(t *testing.T, cache, version string, age time.Duration, change func(folder string, m *Manifest)) string {
	t.Helper()
	m := Manifest{Package: "linux-source-6.12", PackageVersion: version, Release: "6.12.1", Recipe: testHash}
	folder := filepath.Join(cache, m.folder())
	kernel := filepath.Join(folder, binaryName)
	must(t, os.MkdirAll(folder, 0o755))
	must(t, os.WriteFile(kernel, []byte(fakeKernel), 0o755))
	var err error
	m.SHA256, err = host.HashFile(kernel)
	must(t, err)
	if change != nil {
		change(folder, &m)
	}
	text, err := json.Marshal(&m)
	must(t, err)
	manifest := filepath.Join(folder, "manifest.json")
	must(t, os.WriteFile(manifest, text, 0o644))
	built := time.Now().Add(-age)
	must(t, os.Chtimes(manifest, built, built))
	return kernel
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestManifestVerification(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(folder string, m *Manifest)
		err    string
	}{
		{"sound", nil, ""},
		{"other configuration", func(_ string, m *Manifest) { m.Recipe = "0123456789abcdee" }, `built by the recipe "0123456789abcdee", not "0123456789abcdef"`},
		{"no hash", func(_ string, m *Manifest) { m.SHA256 = "" }, `the manifest says ""`},
		{"other release", func(_ string, m *Manifest) { m.Release = "6.12.2" }, `it says that it is "6.12.1", the manifest says "6.12.2"`},
		{"changed", func(folder string, _ *Manifest) {
			must(t, os.WriteFile(filepath.Join(folder, binaryName), []byte(fakeKernel+"\n"), 0o755))
		}, "the file's SHA-256 is"},
		{"gone", func(folder string, _ *Manifest) { must(t, os.Remove(filepath.Join(folder, binaryName))) }, "no such file"},
		{"not executable", func(folder string, _ *Manifest) { must(t, os.Chmod(filepath.Join(folder, binaryName), 0o644)) }, "ask for its version"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cache := t.TempDir()
			want := addKernel(t, cache, "6.12.1-1", 0, test.change)
			k, err := find(t.Context(), host.Cache(cache), testHash)
			wantError(t, err, test.err)
			if err != nil && !errors.Is(err, errNone) {
				t.Errorf("error %v is not errNone", err)
			}
			if err == nil && k.Path != want {
				t.Errorf("found %s, want %s", k.Path, want)
			}
		})
	}
}

func TestFindChoosesTheLatestSoundKernel(t *testing.T) {
	cache := t.TempDir()
	addKernel(t, cache, "6.12.1-1", 2*time.Hour, nil)
	want := addKernel(t, cache, "6.12.1-2", time.Hour, nil)
	addKernel(t, cache, "6.12.1-3", 0, func(_ string, m *Manifest) { m.SHA256 = "bad" })
	must(t, os.Mkdir(filepath.Join(cache, "build-"+testHash[:12]), 0o755)) // one that was killed
	k, err := find(t.Context(), host.Cache(cache), testHash)
	must(t, err)
	if k.Path != want {
		t.Errorf("found %s, want %s", k.Path, want)
	}
	if _, err := find(t.Context(), host.Cache(cache), "another configuration"); !errors.Is(err, errNone) {
		t.Errorf("another configuration: error %v, want errNone", err)
	}
}
