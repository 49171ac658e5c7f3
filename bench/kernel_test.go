package main

import (
	"bytes"
	"testing"
)

// TestKernelRun wants what a command says and its exit status to be bench's own.
func TestKernelRun(t *testing.T) {
	var out, errs bytes.Buffer
	status := run(t.Context(), []string{"kernel", "run", "--", "sh", "-c", "echo said; exit 3"}, nil, &out, &errs)
	if status != 3 || out.String() != "said\n" {
		t.Errorf("status %d, said %q, and %q; want 3", status, out.String(), errs.String())
	}
}
