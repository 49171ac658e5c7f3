package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTempFolder(t *testing.T) {
	base := t.TempDir()
	seen := map[string]bool{}
	for range 300 {
		folder, err := TempFolder(base, "x-")
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(folder)
		if filepath.Dir(folder) != base || !strings.HasPrefix(name, "x-") || len(name) != len("x-")+8 || seen[name] {
			t.Fatalf("the folder is %s", folder)
		}
		seen[name] = true
		if info, err := os.Stat(folder); err != nil || info.Mode().Perm() != 0o700 {
			t.Fatalf("%s: %v, %v", folder, info, err)
		}
	}
	if _, err := TempFolder(filepath.Join(base, "missing"), "x-"); err == nil {
		t.Error("no error for a folder that is not there")
	}
	t.Setenv("TMPDIR", base)
	if folder, err := TempFolder("", "y-"); err != nil || filepath.Dir(folder) != base {
		t.Errorf("without a base: %s, %v", folder, err)
	}
}
