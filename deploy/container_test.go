package deploy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What the container image has, the program and nothing else, is enough: it brings
// an interface up in an empty root, with the two capabilities that the recipe names,
// and answers.
func TestScratchContainer(t *testing.T) {
	recipe, err := os.ReadFile("container/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"\nFROM scratch\n", "CGO_ENABLED=0", `ENTRYPOINT ["/kiloport"]`} {
		if !strings.Contains(string(recipe), part) {
			t.Errorf("the recipe lacks %q", part)
		}
	}
	m := newMachine(t, "container")
	program := filepath.Join(m.dir, "root", "kiloport")
	m.sh("cd %s; mkdir -p root/etc/kiloport root/dev/net root/proc root/sys root/run/wireguard root/var; ln -s ../run root/var/run; touch root/dev/net/tun root/dev/null", m.dir)
	m.sh("cd %s/root; mount --bind /dev/net/tun dev/net/tun; mount --bind /dev/null dev/null; mount -t proc proc proc; mount --bind /proc/sys proc/sys || true", m.dir)
	static := build(t)
	m.put(static, program, 0o755)
	m.sh("cd %s; kiloport=%s; $kiloport setup a@192.0.2.1 b >/dev/null; cp a/wg0.conf root/etc/kiloport", m.dir, static)

	caps := "setpriv --bounding-set=-all,+net_admin,+net_raw,+sys_chroot --inh-caps=-all "
	run := m.command("sh", "-c", "exec "+caps+"chroot "+m.dir+"/root /kiloport up -f wg0")
	var log bytes.Buffer
	run.Stderr = &log
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { run.Process.Kill(); run.Wait() })
	await(t, "the interface", func() bool {
		out, err := m.command("chroot", m.dir+"/root", "/kiloport", "show", "wg0").CombinedOutput()
		return err == nil && strings.Contains(string(out), "listening port: 51820")
	})
	m.run("chroot", m.dir+"/root", "/kiloport", "restart", "wg0")
	m.run("chroot", m.dir+"/root", "/kiloport", "down", "wg0")
}

// Docker's own reader takes the recipe, and Kubernetes' the DaemonSet.
func TestRecipes(t *testing.T) {
	cmd := exec.Command("go", "test", ".")
	cmd.Dir = "package"
	cmd.Env = append(os.Environ(), "KILOPORT="+build(t))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
}
