package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// packages makes the packages of two versions.
func packages(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	first := exec.Command("package/make", "1.0.0", runtime.GOARCH)
	first.Env = append(os.Environ(), "OUT="+dir)
	second := exec.Command("bin/package/nfpm", "package", "-f", "deploy/package/nfpm.yaml", "-p", "deb", "-t", dir+"/")
	second.Dir = ".."
	second.Env = append(os.Environ(), "VERSION=1.1.0", "ARCH="+runtime.GOARCH)
	for _, cmd := range []*exec.Cmd{first, second} {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v %s", cmd.Args, err, out)
		}
	}
	return dir
}

// The .deb is installed, updated, removed and purged with the real dpkg, in a place
// that is thrown away: a fresh installation starts nothing, an update restarts the
// tunnels that run and leaves configurations alone, a removal ends them and keeps
// keys, a purge leaves nothing. The .rpm has the same files.
func TestPackages(t *testing.T) {
	dir := packages(t)
	m := newMachine(t, "debian")
	calls := filepath.Join(m.dir, "calls")
	m.stub("systemctl", `echo "$*" >>`+calls)
	m.sh("mkdir -p /run/systemd/system; : >%s", calls)
	said := func() string { return m.sh("cat %s; : >%s", calls, calls) }
	deb := func(version string) string {
		found, err := filepath.Glob(filepath.Join(dir, "kiloport_"+version+"_*.deb"))
		if err != nil || len(found) != 1 {
			t.Fatalf("packages of version %s: %v, %v", version, found, err)
		}
		return found[0]
	}
	before := m.sh("find /etc /usr /var/lib -path /var/lib/dpkg -prune -o -name '*kiloport*' -print")

	m.run("dpkg", "-i", deb("1.0.0"))
	if calls := said(); strings.Contains(calls, "start kiloport") {
		t.Errorf("an installation called systemctl: %s", calls)
	}
	if version := m.run("/usr/bin/kiloport", "version"); version != "kiloport 1.0.0\n" {
		t.Errorf("version %q", version)
	}
	m.sh("kiloport setup --dir /tmp/%s --here a a@192.0.2.1 b >/dev/null; rm -r /tmp/%s; kiloport check wg0", m.name, m.name)
	m.sh("gzip -dc /usr/share/man/man8/kiloport.8.gz | man --warnings -l - | grep -q reload")
	m.sh("bash -n /usr/share/bash-completion/completions/kiloport")
	if mode := m.sh("stat -c %%a /etc/kiloport"); mode != "700\n" {
		t.Errorf("mode of /etc/kiloport: %s", mode)
	}
	config := m.sh("cat /etc/kiloport/wg0.conf")
	m.sh("cd /usr/lib/systemd/system; grep -h '^Exec[A-Za-z]*=' kiloport@.service kiloport-attach@.service | cut -d= -f2 | cut -d' ' -f1 | xargs ls >/dev/null")

	m.run("dpkg", "-i", deb("1.1.0"))
	if calls := said(); !strings.Contains(calls, "try-restart kiloport@*.service") || strings.Contains(calls, "stop ") {
		t.Errorf("an update called systemctl: %s", calls)
	}
	if now := m.sh("cat /etc/kiloport/wg0.conf"); now != config {
		t.Error("the update changed a configuration")
	}
	m.run("dpkg", "-r", "kiloport")
	if calls := said(); !strings.Contains(calls, "stop kiloport@*.service") {
		t.Errorf("a removal called systemctl: %s", calls)
	}
	if now := m.sh("cat /etc/kiloport/wg0.conf"); now != config {
		t.Error("the removal took a key")
	}
	m.run("dpkg", "-P", "kiloport")
	if after := m.sh("find /etc /usr /var/lib -path /var/lib/dpkg -prune -o -name '*kiloport*' -print"); after != before {
		t.Errorf("purged, but left: %s; before: %s", after, before)
	}

	rpms, err := filepath.Glob(filepath.Join(dir, "*.rpm"))
	if err != nil || len(rpms) != 1 {
		t.Fatalf("%v %v", rpms, err)
	}
	listed := output(t, "", "rpm", "-qp", "--nosignature", "--list", rpms[0])
	for _, file := range []string{"/usr/bin/kiloport", "/usr/lib/systemd/system/kiloport@.service", "/usr/share/man/man8/kiloport.8.gz", "/usr/share/zsh/site-functions/_kiloport"} {
		if !strings.Contains(listed, file) {
			t.Errorf("the rpm lacks %s: %s", file, listed)
		}
	}
}

// Every script passes shellcheck.
func TestScripts(t *testing.T) {
	for _, pattern := range []string{"package/make", "package/static", "package/*.sh"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, file := range files {
			if out, err := exec.Command("shellcheck", file).CombinedOutput(); err != nil {
				t.Errorf("%v %s", err, out)
			}
		}
	}
}
