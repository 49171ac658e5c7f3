package netlab

import (
	"context"
	"os"
)

// TB is the part of testing.TB that a lab needs.
type TB interface {
	Helper()
	Cleanup(func())
	Context() context.Context
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// ForTest is [NewSites] for a test: it fails the test if the sites cannot be
// built or not be removed completely, and removes them when the test ends. Only
// a test that does not run as root is skipped.
func ForTest(tb TB, c SitesConfig) *Sites {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skipf("network namespaces need root; run the tests as root")
	}
	s, err := NewSites(context.WithoutCancel(tb.Context()), c)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close the lab: %v", err)
		}
	})
	return s
}
