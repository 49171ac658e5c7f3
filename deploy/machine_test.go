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

// machine is a network namespace with processes and files of its own: /run is empty,
// and what is written to /etc, /usr and /var goes nowhere else.
type machine struct {
	t    *testing.T
	name string
	pid  string // of the process that holds the namespaces
	dir  string // outside and inside
	bin  string // comes first in its PATH
}

func newMachine(t *testing.T, name string) *machine {
	t.Helper()
	return boot(t, name, "exec sleep 600", &syscall.SysProcAttr{})
}

// newSystemdMachine is a machine in which systemd is at work, with none of this host's
// units.
func newSystemdMachine(t *testing.T, name string) *machine {
	t.Helper()
	return boot(t, name, `
		mount -t proc proc /proc
		mount -t tmpfs tmpfs /sys/fs/cgroup
		mount -t cgroup2 cgroup2 /sys/fs/cgroup
		mount -t tmpfs tmpfs /etc/systemd/system
		mount -t tmpfs tmpfs /usr/lib/systemd/system/sysinit.target.wants
		printf '[Unit]\nDefaultDependencies=no\n' >/etc/systemd/system/test.target
		exec env -i container=test PATH="$PATH" /usr/lib/systemd/systemd --system --log-target=null --unit=test.target`,
		&syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: newCgroup(t)}, "--cgroup", "--ipc", "--uts")
}

// newCgroup gives a descriptor of a new group of processes.
func newCgroup(t *testing.T) int {
	t.Helper()
	root := "/sys/fs/cgroup/unified" // beside the old kind
	if _, err := os.Stat(root); err != nil {
		root = "/sys/fs/cgroup"
	}
	dir, err := os.MkdirTemp(root, "kiloport-test-")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		// Only its folders can be removed, and only when all processes have gone.
		await(t, "the end of "+dir, func() bool {
			return exec.Command("find", dir, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+").Run() == nil
		})
	})
	return int(f.Fd())
}

// boot makes a machine, of whose first process end is the last line.
func boot(t *testing.T, name, end string, attributes *syscall.SysProcAttr, namespaces ...string) *machine {
	t.Helper()
	m := &machine{t: t, name: name, dir: t.TempDir()}
	m.bin = filepath.Join(m.dir, "bin")
	args := append([]string{"--net", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"}, namespaces...)
	hold := exec.Command("unshare", append(args, "sh", "-ec", `
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
		`+end, m.dir)...)
	attributes.Pdeathsig = syscall.SIGKILL
	hold.SysProcAttr = attributes
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
