package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Everything is written once, with modes that keep keys to their owner, and
// checks out together; nothing is ever overwritten.
func TestSetup(t *testing.T) {
	dir := t.TempDir()
	args := []string{"setup", "--dir", dir, "--ports", "64", "--inner", "10.9.0.0/24", "a@192.0.2.1,10.1.0.0/16", "b"}
	code, stdout, stderr := call(t, "", args...)
	if code != 0 || strings.Count(stdout, "\n") != 2 || !strings.Contains(stdout, "a/wg0.conf goes to /etc/kiloport there") {
		t.Fatalf("status %d, %s%s", code, stdout, stderr)
	}
	a, b := filepath.Join(dir, "a/wg0.conf"), filepath.Join(dir, "b/wg0.conf")
	text, err := os.ReadFile(a)
	if err != nil || !strings.Contains(string(text), "Ports = 64\nPortRange = 40000-40063\n") || !strings.Contains(string(text), "Address = 10.9.0.1/24\n") {
		t.Errorf("%v %s", err, text)
	}
	if info, err := os.Stat(a); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", err, info)
	}
	if code, stdout, stderr := call(t, "", "check", a, b); code != 0 || strings.Count(stdout, ": ok, interface wg0, 1 peers") != 2 {
		t.Errorf("check: status %d, %s%s", code, stdout, stderr)
	}
	if code, _, stderr := call(t, "", args...); code != 1 || !strings.Contains(stderr, "not overwritten") {
		t.Errorf("again: status %d, %s", code, stderr)
	}
	if now, err := os.ReadFile(a); err != nil || string(now) != string(text) {
		t.Errorf("it was overwritten: %v", err)
	}
	if err := os.RemoveAll(filepath.Dir(a)); err != nil {
		t.Fatal(err)
	}
	if code, _, _ := call(t, "", args...); code != 1 {
		t.Errorf("with the files of one site: status %d", code)
	}
	if _, err := os.Stat(a); err == nil {
		t.Error("one site has new files, the other old ones")
	}
	if err := os.MkdirAll(filepath.Dir(a), 0o700); err != nil {
		t.Fatal(err)
	}
	moved := strings.Replace(string(text), "ListenPort = 51820", "ListenPort = 51821", 1)
	if err := os.WriteFile(a, []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := call(t, "", "check", a, b); code != 1 || !strings.Contains(stderr, "listens on 51821") {
		t.Errorf("check of what does not go together: status %d, %s", code, stderr)
	}
}

func TestWrongSetups(t *testing.T) {
	for args, says := range map[string]string{
		"":                                    "at least two sites",
		"a b":                                 "neither a nor b",
		"a@192.0.2.1 b --name no/name":        "no name of an interface",
		"a@192.0.2.1 b --inner x":             "--inner",
		"a@192.0.2.1 b --here c":              "none of the sites",
		"a@192.0.2.1 b,x":                     "is no network",
		"a@192.0.2.1 b --port-range 1-9":      "do not fit",
		"a@192.0.2.1 b --listen-port 40001":   "lies in the port range",
		"a@192.0.2.1 b --listen-port 70000":   "70000",
		"a@192.0.2.1:40001 b":                 "lies in the port range",
		"a@192.0.2.1 b --ports 0":             "out of range",
		"a@192.0.2.1 b --hub c --ports 16384": "16384",
	} {
		code, stdout, stderr := call(t, "", append([]string{"setup", "--dir", t.TempDir()}, strings.Fields(args)...)...)
		if code != 2 || stdout != "" || !strings.Contains(stderr, says) {
			t.Errorf("setup %s: status %d, %s%s; want it to say %q", args, code, stdout, stderr, says)
		}
	}
}
