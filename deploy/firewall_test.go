package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// firewalls is where .ci/deps has unpacked firewalld and ufw.
func firewalls(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "kiloport", "firewalls")
	if _, err := os.Stat(filepath.Join(dir, "usr/bin/firewall-offline-cmd")); err != nil {
		t.Fatalf("%v: run make deps-test", err)
	}
	return dir
}

// python runs one of their programs.
func python(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("/usr/bin/python3", args...)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+filepath.Join(dir, "usr/lib/python3/dist-packages"), "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v %s", args, err, out)
	}
	return string(out)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// firewalld takes the service, and a zone with it.
func TestFirewalld(t *testing.T) {
	dir, own := firewalls(t), t.TempDir()
	copyFile(t, filepath.Join(dir, "etc/firewalld/firewalld.conf"), filepath.Join(own, "firewalld.conf"))
	copyFile(t, "firewall/kiloport.xml", filepath.Join(own, "services/kiloport.xml"))
	run := func(args ...string) string {
		return python(t, dir, append([]string{filepath.Join(dir, "usr/bin/firewall-offline-cmd"),
			"--system-config=" + own, "--default-config=" + filepath.Join(dir, "usr/lib/firewalld")}, args...)...)
	}
	run("--check-config")
	if info := run("--info-service=kiloport"); !strings.Contains(info, "ports: 51820/udp") {
		t.Errorf("the service: %s", info)
	}
	run("--zone=public", "--add-service=kiloport")
	run("--zone=trusted", "--add-interface=wg0")
	run("--check-config")
	if zone := run("--zone=public", "--list-services"); !strings.Contains(zone, "kiloport") {
		t.Errorf("the zone has %s", zone)
	}
}

// ufw takes the application.
func TestUFW(t *testing.T) {
	dir, own := firewalls(t), t.TempDir()
	copyFile(t, "firewall/kiloport.ufw", filepath.Join(own, "kiloport"))
	got := python(t, dir, "-c", `
import builtins, sys
builtins._ = str
import ufw.applications as a
profiles = a.get_profiles(sys.argv[1])
print(a.verify_profile("kiloport", profiles["kiloport"]), a.get_ports(profiles["kiloport"]))`, own)
	if strings.TrimSpace(got) != "True ['51820/udp']" {
		t.Errorf("ufw: %s", got)
	}
}

// nft loads the router's firewall; a lane from any port gets in, and is not
// tracked.
func TestRouterFirewall(t *testing.T) {
	site, peer := newMachine(t, "site"), newMachine(t, "peer")
	wire(site, "wan", peer, "eth0")
	site.run("ip", "address", "add", "192.0.2.1/24", "dev", "wan")
	peer.run("ip", "address", "add", "192.0.2.2/24", "dev", "eth0")
	rules, err := filepath.Abs("firewall/nftables.conf")
	if err != nil {
		t.Fatal(err)
	}
	site.run("nft", "-f", rules)
	site.sh("nft insert rule inet filter input udp dport 51820 counter")
	peer.run("/usr/bin/python3", "-c", `
import socket
for port in range(40000, 40010):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("", port))
    s.sendto(b"x", ("192.0.2.1", 51820))`)
	if list := site.run("nft", "list", "chain", "inet", "filter", "input"); !strings.Contains(list, "counter packets 10 ") {
		t.Errorf("nothing arrived: %s", list)
	}
	if count := strings.TrimSpace(site.run("cat", "/proc/sys/net/netfilter/nf_conntrack_count")); count != "0" {
		t.Errorf("%s connections are tracked", count)
	}
}

// Every key of the sysctl files is one of the kernel's, and takes its value.
func TestSysctls(t *testing.T) {
	files, err := filepath.Glob("sysctl/*.conf")
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	m := newMachine(t, "site")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			key, value, ok := strings.Cut(strings.TrimSpace(line), " = ")
			if !ok || strings.HasPrefix(line, "#") {
				continue
			}
			path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
			// What is not of a namespace is the machine's own, and is left alone.
			if strings.HasPrefix(key, "net.core.") || key == "net.netfilter.nf_conntrack_max" {
				if _, err := os.Stat(path); err != nil {
					t.Errorf("%s: %v", file, err)
				}
				continue
			}
			if got := m.sh("sysctl -qw '%s=%s'; cat %s", key, value, path); strings.TrimSpace(got) != value {
				t.Errorf("%s: %s is %q", file, key, got)
			}
		}
	}
}
