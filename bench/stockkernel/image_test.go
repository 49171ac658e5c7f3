package stockkernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"kiloport/bench/host"
)

func TestNewestFirst(t *testing.T) {
	got := newestFirst(strings.Fields(`
		linux-image-6.12.9+deb12-amd64 linux-image-6.12.117+deb12-amd64 linux-image-6.12.43+deb12-amd64
		linux-image-6.12.117+deb12-amd64-dbg linux-image-6.12.118+deb12-amd64-unsigned linux-image-6.12.118+deb12-cloud-amd64
		linux-image-6.12.118+deb12-rt-amd64 linux-image-6.12.118+deb12-arm64 linux-image-6.12-amd64 linux-image-6.12-amd64-dbg
		linux-image-6.12.9+deb12-amd64 linux-image-6.12.43+bpo-amd64 linux-image-6.12.38-1-amd64 linux-headers-6.12.200+deb12-amd64
		6.12.300+deb12-amd64 Depends:`))
	want := strings.Fields(`
		linux-image-6.12.117+deb12-amd64 linux-image-6.12.43+deb12-amd64 linux-image-6.12.43+bpo-amd64
		linux-image-6.12.38-1-amd64 linux-image-6.12.9+deb12-amd64`)
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestNewestImage(t *testing.T) {
	const policy = "x:\n  Candidate: 6.12.1-1\n"
	for _, test := range []struct {
		name    string
		series  string
		answers map[string]string
		want    image
		err     error
	}{
		{"newest", usualSeries, map[string]string{
			"pkgnames linux-image-6.12.":             "linux-image-6.12.9+deb12-amd64\nlinux-image-6.12.10+deb12-amd64\n",
			"policy linux-image-6.12.9+deb12-amd64":  policy,
			"policy linux-image-6.12.10+deb12-amd64": policy,
		}, image{"linux-image-6.12.10+deb12-amd64", "6.12.1-1"}, nil},
		{"the newest is only mentioned", usualSeries, map[string]string{
			"pkgnames linux-image-6.12.":            "linux-image-6.12.9+deb12-amd64\nlinux-image-6.12.10+deb12-amd64\n",
			"policy linux-image-6.12.9+deb12-amd64": policy,
		}, image{"linux-image-6.12.9+deb12-amd64", "6.12.1-1"}, nil},
		{"the release's own", usualSeries, map[string]string{
			"depends linux-image-amd64":         "linux-image-amd64\n  Depends: linux-image-6.1.0-38-amd64\n  Conflicts: linux-image-amd64-signed\n",
			"policy linux-image-6.1.0-38-amd64": policy,
		}, image{"linux-image-6.1.0-38-amd64", "6.12.1-1"}, nil},
		{"the release's own, because others are only mentioned", usualSeries, map[string]string{
			"pkgnames linux-image-6.12.":        "linux-image-6.12.9+deb12-amd64\n",
			"depends linux-image-amd64":         "Depends: linux-image-6.1.0-38-amd64\n",
			"policy linux-image-6.1.0-38-amd64": policy,
		}, image{"linux-image-6.1.0-38-amd64", "6.12.1-1"}, nil},
		{"an old one", "6.1", map[string]string{
			"pkgnames linux-image-6.1.":         "linux-image-6.1.0-50-amd64\nlinux-image-6.1.0-9-amd64\n",
			"policy linux-image-6.1.0-50-amd64": policy,
		}, image{"linux-image-6.1.0-50-amd64", "6.12.1-1"}, nil},
		{"no old one", "5.10", map[string]string{
			"depends linux-image-amd64":         "Depends: linux-image-6.1.0-38-amd64\n",
			"policy linux-image-6.1.0-38-amd64": policy,
		}, image{}, ErrNoImage},
		{"none", usualSeries, nil, image{}, ErrNoImage},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := &host.Host{Run: func(_ context.Context, _ string, _ io.Writer, name string, args ...string) (string, error) {
				answer, ok := test.answers[strings.Join(args, " ")]
				if !ok && args[0] == "depends" {
					return "", errors.New("no packages found")
				}
				return answer, nil
			}}
			got, err := newestImage(t.Context(), h, test.series)
			if got != test.want || !errors.Is(err, test.err) {
				t.Errorf("%+v, error %v, want %+v and %v", got, err, test.want, test.err)
			}
		})
	}
}

// fakeKernel is as much of a compressed kernel as says its release.
func fakeKernel(release string) []byte {
	const at = 0x300
	kernel := make([]byte, 0x400)
	copy(kernel[magicAt:], "HdrS")
	binary.LittleEndian.PutUint16(kernel[versionAt:], at-versionBase)
	copy(kernel[at:], release+" (debian-kernel@lists.debian.org) #1 SMP\x00")
	return kernel
}

func TestRelease(t *testing.T) {
	for _, test := range []struct {
		name   string
		spoil  func(kernel []byte) []byte
		err    string
		result string
	}{
		{"good", func(k []byte) []byte { return k }, "", "6.12.1-amd64"},
		{"ends with the file", func(k []byte) []byte { return k[:0x340] }, "", "6.12.1-amd64"},
		{"empty", func([]byte) []byte { return nil }, "no boot sector of a kernel: EOF", ""},
		{"something else", func(k []byte) []byte { k[magicAt] = 'X'; return k }, `no boot sector of a kernel: "XdrS" is there, not HdrS`, ""},
		{"cut off", func(k []byte) []byte { return k[:0x2ff] }, "no version at 0x300", ""},
		{"no end", func(k []byte) []byte { return k[:0x310] }, "no end of the version at 0x300", ""},
		{"beyond", func(k []byte) []byte { binary.LittleEndian.PutUint16(k[versionAt:], 0xffff); return k }, "no version at 0x101ff", ""},
	} {
		got, err := release(strings.NewReader(string(test.spoil(fakeKernel("6.12.1-amd64")))))
		wantError(t, err, test.err)
		if got != test.result {
			t.Errorf("%s: %q, want %q", test.name, got, test.result)
		}
	}
}

// FuzzRelease wants no file to be more than no kernel.
func FuzzRelease(f *testing.F) {
	f.Add(fakeKernel("6.12.1-amd64"))
	f.Fuzz(func(t *testing.T, file []byte) {
		if text, err := release(bytes.NewReader(file)); err == nil && len(text) >= versionMost {
			t.Errorf("a release of %d bytes", len(text))
		}
	})
}
