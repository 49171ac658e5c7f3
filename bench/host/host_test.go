package host

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestRunSaysWhatFailed(t *testing.T) {
	_, err := run(t.Context(), "", nil, "sh", "-c", "echo why >&2; exit 7")
	wantError(t, err, "sh: exit status 7: why")
	out, err := run(t.Context(), "/", nil, "pwd")
	wantError(t, err, "")
	if out != "/\n" {
		t.Errorf("output %q, want the folder", out)
	}
}

func TestBuildEnv(t *testing.T) {
	got := buildEnv([]string{"PATH=/bin", "MAKEFLAGS=-j --jobserver-auth=3,4", "ARCH=arm64", "LANG=de_DE", "LLVM_X=1"})
	want := []string{"PATH=/bin", "LLVM_X=1", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	if !slices.Equal(got, want) {
		t.Errorf("environment %q, want %q", got, want)
	}
}

func TestCandidate(t *testing.T) {
	for policy, want := range map[string]string{
		"linux-source-6.12:\n  Installed: (none)\n  Candidate: 6.12.1-1~deb12u1\n  Version table:\n": "6.12.1-1~deb12u1",
		"linux-source-6.12:\n  Installed: (none)\n  Candidate: (none)\n":                             "",
		"": "",
	} {
		if got := candidate(policy); got != want {
			t.Errorf("candidate(%q) = %q, want %q", policy, got, want)
		}
	}
}

func TestInstall(t *testing.T) {
	for _, test := range []struct {
		name     string
		root     bool
		apt      bool
		outdated bool
		err      string
		commands int
	}{
		{"at once", true, true, false, "", 1},
		{"after an update", true, true, true, "", 3},
		{"not root", false, true, false, "not root: run once as root: apt-get install a b", 0},
		{"no apt", true, false, false, "there is no apt here: install these, or what your distribution calls them: a b", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			commands := 0
			h := &Host{Root: test.root, Exists: func(string) bool { return test.apt }}
			h.Run = func(_ context.Context, _ string, _ io.Writer, _ string, args ...string) (string, error) {
				commands++
				switch {
				case args[0] == "update":
					test.outdated = false
				case test.outdated:
					return "", errors.New("404 not found")
				}
				return "", nil
			}
			wantError(t, h.Install(t.Context(), []string{"a", "b"}), test.err)
			if commands != test.commands {
				t.Errorf("%d commands, want %d", commands, test.commands)
			}
		})
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var tail Tail
	for range 3000 {
		if _, err := tail.Write([]byte("a line\r\n\n")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tail.Write([]byte("end\n")); err != nil {
		t.Fatal(err)
	}
	lines := tail.Lines()
	if len(tail.text) > tailLimit || lines[len(lines)-1] != "end" || lines[len(lines)-2] != "a line" {
		t.Errorf("%d bytes kept, the last lines are %q", len(tail.text), lines[len(lines)-2:])
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError fails unless err contains part; "" is no error at all.
func wantError(t *testing.T, err error, part string) {
	t.Helper()
	switch {
	case part == "" && err != nil:
		t.Errorf("error %v, want none", err)
	case part != "" && (err == nil || !strings.Contains(err.Error(), part)):
		t.Errorf("error %v, want one with %q", err, part)
	}
}
