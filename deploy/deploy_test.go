package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// build makes the program that reads the files.
func build(t *testing.T) string {
	t.Helper()
	program, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// buildDir is where the program is, once it was built.
var buildDir string

// built builds it, statically, once for all tests.
var built = sync.OnceValues(func() (program string, err error) {
	program = filepath.Join(buildDir, "kiloport")
	cmd := exec.Command("go", "build", "-o", program, "kiloport/cmd/kiloport")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return program, nil
})

func TestMain(m *testing.M) {
	var err error
	if buildDir, err = os.MkdirTemp("", "kiloport-deploy-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(buildDir)
	os.Exit(code)
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
	files = slices.DeleteFunc(files, func(name string) bool {
		text, _ := os.ReadFile(name)
		return !strings.Contains(string(text), "\n[Interface]\n") // a firewall's, or sysctl's
	})
	if err != nil || len(files) < 6 {
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
		text = []byte(strings.ReplaceAll(string(text), "vpn.example.com", "192.0.2.1"))
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

// The commands of README.md make what they say they make.
func TestExamplesAreGenerated(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	program := build(t)
	commands := regexp.MustCompile("`kiloport (setup [^`]*)`").FindAllStringSubmatch(string(text), -1)
	if len(commands) != 4 {
		t.Fatalf("%d commands, want 4", len(commands))
	}
	most := 0
	for _, c := range commands {
		dir := t.TempDir()
		output(t, "", program, append(strings.Fields(c[1]), "--dir", dir)...)
		files, err := filepath.Glob(filepath.Join(dir, "*/wg0.conf"))
		if err != nil || len(files) < 2 {
			t.Fatalf("%s: %v, %v", c[1], files, err)
		}
		if checked := output(t, "", program, append([]string{"check"}, files...)...); strings.Count(checked, ": ok,") != len(files) {
			t.Errorf("%s: %s", c[1], checked)
		}
		most = max(most, len(files))
	}
	if most != 5 {
		t.Errorf("the mesh has %d sites", most)
	}
}

// What the documents link to is there.
func TestLinks(t *testing.T) {
	for _, name := range []string{"../README.md", "README.md", "CHOOSING.md", "TROUBLESHOOTING.md", "ROUTERS.md", "PROTOCOL.md", "firewall/README.md"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), link[1])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// Routers have other processors than ours: the one that is most unlike is built for.
func TestRouterBinary(t *testing.T) {
	cmd := exec.Command("go", "build", "-o", filepath.Join(t.TempDir(), "kiloport"), "kiloport/cmd/kiloport")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=mips", "GOMIPS=softfloat")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
}
