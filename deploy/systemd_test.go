package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// greatestExposure is what systemd-analyze may say of a unit.
const greatestExposure = 3.0

// The unit is one that systemd understands wholly, names the commands that there
// are, and lets a process do no more than it must.
func TestUnit(t *testing.T) {
	text, err := os.ReadFile("systemd/kiloport@.service")
	if err != nil {
		t.Fatal(err)
	}
	program := build(t)
	path := filepath.Join(t.TempDir(), "kiloport@.service")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), "/usr/bin/kiloport", program)), 0o644); err != nil {
		t.Fatal(err)
	}
	instance := strings.Replace(path, "@.", "@wg0.", 1)
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", instance).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v %s", err, out)
	}
	out, err = exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=100", path).CombinedOutput()
	found := regexp.MustCompile(`exposure level for .*: ([0-9.]+)`).FindSubmatch(out)
	if err != nil || found == nil {
		t.Fatalf("systemd-analyze security: %v %s", err, out)
	}
	if exposure, err := strconv.ParseFloat(string(found[1]), 64); err != nil || exposure >= greatestExposure {
		t.Errorf("its exposure is %s, want less than %v", found[1], greatestExposure)
	}
	for _, command := range []string{"up", "reload"} {
		if !strings.Contains(string(text), "/usr/bin/kiloport "+command) {
			t.Errorf("the unit does not call kiloport %s", command)
		}
		output(t, "", program, command, "--help")
	}
}
