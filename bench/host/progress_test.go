package host

import (
	"strings"
	"testing"
	"time"
)

func TestCut(t *testing.T) {
	for _, test := range []struct {
		line string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abc", 2, "ab"}, {"äöü", 2, "äö"}, {"abc", -1, ""}} {
		if got := cut(test.line, test.n); got != test.want {
			t.Errorf("%q to %d: %q", test.line, test.n, got)
		}
	}
}

// TestFollow shows what a function says, and nothing where it says nothing.
func TestFollow(t *testing.T) {
	var out strings.Builder
	r := NewReporter(&out, "thing")
	defer r.Close()
	state := ""
	r.Follow(func() string { return state })
	r.show(r.start)
	state = "half done"
	r.show(r.start.Add(3 * time.Second))
	if got := out.String(); got != "thing: 3s half done\n" {
		t.Errorf("%q", got)
	}
}

// TestStep shows each step once at its beginning.
func TestStep(t *testing.T) {
	var out strings.Builder
	r := NewReporter(&out, "thing")
	defer r.Close()
	for _, step := range []string{"one", "one", "", "", "two"} {
		r.Step(step)
	}
	if got := out.String(); got != "thing: 0s one\nthing: 0s two\n" {
		t.Errorf("%q", got)
	}
}
