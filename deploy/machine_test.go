package deploy

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long something may take that is expected to happen.
const patience = 30 * time.Second

// machine is a network namespace with processes and files of its own: /run is empty, and what
// is written to /etc, /usr and /var goes nowhere else.
type machine struct {
	t    *testing.T
	name string
	pid  string // of the process that holds the namespaces
	dir  string // outside and inside
	bin  string // comes first in its PATH
}

func newMachine(t *testing.T, name string) *machine {
	t.Helper()
	m := &machine{t: t, name: name, dir: t.TempDir()}
	m.bin = filepath.Join(m.dir, "bin")
	hold := exec.Command("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-ec", `
		mount -t tmpfs tmpfs "$0" # an overlay cannot lie upon another one
		mkdir "$0/bin" "$0/upper" "$0/work"
		for d in etc usr var; do
			mkdir "$0/upper/$d" "$0/work/$d"
			mount -t overlay -o "lowerdir=/$d,upperdir=$0/upper/$d,workdir=$0/work/$d" overlay "/$d"
		done
		mount -t tmpfs tmpfs /run
		mkdir /run/wireguard
		ip link set lo up
		read -r pid rest </proc/self/stat # as the outside numbers it
		echo "$pid"
		exec sleep 600`, m.dir)
	hold.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var errs bytes.Buffer
	hold.Stderr = &errs
	out, err := hold.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hold.Process.Kill(); hold.Wait() })
	if m.pid, err = bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("make machine %s: %v %s", name, err, errs.String())
	}
	m.pid = strings.TrimSpace(m.pid)
	return m
}

// command is one inside.
func (m *machine) command(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"-n", "-m", "-p", "-t", m.pid, "--"}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+m.bin+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run runs one and gives what it printed.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	out, err := m.command(args...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("%s: %v: %v: %s", m.name, args, err, out)
	}
	return string(out)
}

// sh runs a line of shell.
func (m *machine) sh(line string, args ...any) string {
	m.t.Helper()
	return m.run("sh", "-ec", fmt.Sprintf(line, args...))
}

// stub puts a program of shell into the machine's PATH.
func (m *machine) stub(name, text string) {
	m.t.Helper()
	cmd := m.command("sh", "-c", `cat >"$0" && chmod 755 "$0"`, filepath.Join(m.bin, name))
	cmd.Stdin = strings.NewReader("#!/bin/sh -e\n" + text)
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("%v %s", err, out)
	}
}

// put copies a file of the outside into the machine.
func (m *machine) put(from, to string, mode os.FileMode) {
	m.t.Helper()
	f, err := os.Open(from)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	cmd := m.command("sh", "-ec", fmt.Sprintf(`cat >"$0"; chmod %o "$0"`, mode), to)
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("%v %s", err, out)
	}
}

// wire lays a cable between two machines.
func wire(a *machine, nameA string, b *machine, nameB string) {
	a.t.Helper()
	// From outside of a's processes, which do not know the number of b's.
	if out, err := exec.Command("nsenter", "-n", "-t", a.pid, "--", "ip", "link", "add", nameA, "type", "veth", "peer", "name", nameB, "netns", b.pid).CombinedOutput(); err != nil {
		a.t.Fatalf("%v %s", err, out)
	}
	for m, name := range map[*machine]string{a: nameA, b: nameB} {
		m.run("sysctl", "-qw", "net.ipv6.conf."+name+".accept_dad=0")
		m.run("ip", "link", "set", name, "up")
	}
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}
