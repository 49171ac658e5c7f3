package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// build makes the program that reads the files.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "kiloport")
	if out, err := exec.Command("go", "build", "-o", program, "kiloport/cmd/kiloport").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

func output(t *testing.T, stdin, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", program, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

const (
	privateBlank = "(what kiloport genkey printed here)"
	publicBlank  = "(what kiloport pubkey made of it there)"
)

// TestConfigurations wants each file to be refused as it is, with a word on what
// is to be filled in, and to be right when it is.
func TestConfigurations(t *testing.T) {
	program := build(t)
	files, err := filepath.Glob("*/*.conf")
	if err != nil || len(files) < 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	private := output(t, "", program, "genkey")
	public := output(t, output(t, "", program, "genkey")+"\n", program, "pubkey")
	for _, name := range files {
		out, err := exec.Command(program, "check", name).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "PrivateKey") || !strings.Contains(string(out), "PublicKey") {
			t.Errorf("%s without keys: %v, %s", name, err, out)
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		filled := strings.NewReplacer(privateBlank, private, publicBlank, public).Replace(string(text))
		path := filepath.Join(t.TempDir(), "wg0.conf")
		if err := os.WriteFile(path, []byte(filled), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := output(t, "", program, "check", path); !strings.HasSuffix(got, "ok, interface wg0, 1 peers") {
			t.Errorf("%s: %s", name, got)
		}
	}
}
