package stockkernel

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const sampleDep = `kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/fs/netfs/netfs.ko.xz:
kernel/net/9p/9pnet.ko.xz: kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/sound/snd-a.ko: kernel/sound/snd-b.ko
kernel/sound/snd-b.ko: kernel/sound/snd-a.ko
kernel/broken.ko: kernel/gone.ko
`

const sampleBuiltin = "kernel/drivers/virtio/virtio_pci.ko\nkernel/fs/overlayfs/overlay.ko\n"

func sampleModules(t *testing.T) *modules {
	t.Helper()
	folder := t.TempDir()
	must(t, os.WriteFile(filepath.Join(folder, depName), []byte(sampleDep), 0o644))
	must(t, os.WriteFile(filepath.Join(folder, builtinName), []byte(sampleBuiltin), 0o644))
	m, err := readModules(folder)
	must(t, err)
	return m
}

func TestModuleOrder(t *testing.T) {
	m := sampleModules(t)
	for _, test := range []struct{ names, want, err string }{
		{"9pnet_virtio", "netfs.ko.xz 9pnet.ko.xz 9pnet_virtio.ko.xz", ""},
		{"virtio_pci 9pnet_virtio 9p overlay", "netfs.ko.xz 9pnet.ko.xz 9pnet_virtio.ko.xz 9p.ko.xz", ""},
		{"9p 9p netfs", "netfs.ko.xz 9pnet.ko.xz 9p.ko.xz", ""},
		{"snd_a", "snd-b.ko snd-a.ko", ""}, // in a circle
		{"virtio_pci", "", ""},
		{"none", "", "the kernel has no module none"},
		{"broken", "", "the kernel has no module gone, which broken needs"},
	} {
		paths, err := m.order(strings.Fields(test.names)...)
		wantError(t, err, test.err)
		var got []string
		for _, path := range paths {
			got = append(got, filepath.Base(path))
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %q, want %q", test.names, got, test.want)
		}
	}
}

func TestModulesThatCannotBeRead(t *testing.T) {
	folder := t.TempDir()
	_, err := readModules(folder)
	wantError(t, err, "read which modules there are")
	for _, text := range []string{"kernel/a.ko\n", "../a.ko:\n", "/a.ko:\n", ":\n"} {
		must(t, os.WriteFile(filepath.Join(folder, depName), []byte(text), 0o644))
		_, err := readModules(folder)
		wantError(t, err, "is not a module's path and a colon")
	}
}

// FuzzModuleOrder wants each module once, and never before what it needs unless
// that needs it.
func FuzzModuleOrder(f *testing.F) {
	f.Add(sampleDep)
	f.Add("a.ko: b.ko\nb.ko: c.ko a.ko\nc.ko:\n")
	f.Fuzz(func(t *testing.T, dep string) {
		m := &modules{paths: map[string]string{}, needs: map[string][]string{}}
		if m.parseDep(strings.NewReader(dep)) != nil {
			return
		}
		for name := range m.paths {
			paths, err := m.order(name)
			if err != nil {
				continue
			}
			if paths[len(paths)-1] != m.paths[name] {
				t.Errorf("%s is not the last of %q", name, paths)
			}
			sorted := slices.Sorted(slices.Values(paths))
			if len(slices.Compact(sorted)) != len(paths) {
				t.Errorf("some are there twice: %q", paths)
			}
			for _, need := range m.needs[name] {
				if !slices.Contains(paths, m.paths[need]) {
					t.Errorf("%s needs %s, which is not in %q", name, need, paths)
				}
			}
		}
	})
}
