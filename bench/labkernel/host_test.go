package labkernel

import (
	"context"
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

func TestLock(t *testing.T) {
	cache := t.TempDir()
	var said strings.Builder
	r := newReporter(&said)
	unlock, err := lock(t.Context(), cache, r)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error)
	go func() {
		_, err := lock(ctx, cache, r)
		waited <- err
	}()
	cancel()
	if err := <-waited; err == nil {
		t.Error("two hold the lock")
	}
	unlock()
	unlock, err = lock(t.Context(), cache, r)
	must(t, err)
	unlock()
	r.close()
	if n := strings.Count(said.String(), "waiting for another process"); n != 1 {
		t.Errorf("said %d times that it waits, want once:\n%s", n, said.String())
	}
}
