package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
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

// underSystemd is a site whose tunnel systemd runs as the unit says, and a peer.
type underSystemd struct{ site, peer *machine }

func newUnderSystemd(t *testing.T) underSystemd {
	u := underSystemd{newSystemdMachine(t, "site"), newMachine(t, "peer")}
	program, dir := build(t), t.TempDir()
	wire(u.site, "wan", u.peer, "wan")
	output(t, "", program, "setup", "--dir", dir, "a@192.0.2.1", "b@192.0.2.2")
	for i, m := range []*machine{u.site, u.peer} {
		m.run("ip", "address", "add", fmt.Sprintf("192.0.2.%d/24", i+1), "dev", "wan")
		m.put(program, "/usr/bin/kiloport", 0o755)
		m.run("mkdir", "-p", "-m", "700", "/etc/kiloport")
		m.put(filepath.Join(dir, string("ab"[i]), "wg0.conf"), "/etc/kiloport/wg0.conf", 0o600)
	}
	u.site.put("systemd/kiloport@.service", "/usr/lib/systemd/system/kiloport@.service", 0o644)
	u.site.sh("mkdir -p /etc/systemd/system/kiloport@.service.d; printf '[Service]\nStandardError=append:/run/log\n' >/etc/systemd/system/kiloport@.service.d/log.conf")
	await(t, "systemd", func() bool { return u.site.command("systemctl", "show", "-p", "Version").Run() == nil })
	u.peer.run("kiloport", "up", "wg0")
	u.site.run("systemctl", "start", "kiloport@wg0")
	return u
}

// show gives a property of the unit.
func (u underSystemd) show(property string) string {
	return strings.TrimSpace(u.site.run("systemctl", "show", "--value", "-p", property, "kiloport@wg0"))
}

// lostDuring pings through the tunnel 500 times a second while systemctl works, and
// gives how many answers are missing of 1000.
func (u underSystemd) lostDuring(t *testing.T, what string) int {
	t.Helper()
	ping := u.peer.command("ping", "-q", "-i", "0.002", "-c", "1000", "-W", "2", "10.99.0.1")
	var out strings.Builder
	ping.Stdout = &out
	if err := ping.Start(); err != nil {
		t.Fatal(err)
	}
	u.site.sh("sleep 0.3; systemctl %s kiloport@wg0", what)
	ping.Wait() // its status tells of losses
	var sent, got int
	_, counts, _ := strings.Cut(out.String(), "---\n")
	if n, err := fmt.Sscanf(counts, "%d packets transmitted, %d received", &sent, &got); n != 2 || sent != 1000 {
		t.Fatalf("%v %s", err, out.String())
	}
	return sent - got
}

// crowd lets programs take all processors, until the daemon goes before them.
func (u underSystemd) crowd(t *testing.T) {
	t.Helper()
	for range 8 * runtime.NumCPU() {
		busy := exec.Command("sh", "-c", "while :; do :; done")
		busy.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
		if err := busy.Start(); err != nil {
			t.Fatal(err)
		}
		defer busy.Wait()
		defer busy.Process.Kill()
	}
	ping := u.peer.command("ping", "-q", "-f", "10.99.0.1")
	if err := ping.Start(); err != nil {
		t.Fatal(err)
	}
	defer ping.Wait()
	defer ping.Process.Kill()
	await(t, "realtime", func() bool {
		return strings.Contains(u.site.run("kiloport", "show", "wg0"), "realtime: in use since")
	})
}

// systemd itself runs the unit, hardened as it is: a reload loses nothing, a restart
// fewer than 50 packets, and no handshake is made; what was kept meanwhile is let go;
// it may go before other programs; a stop leaves nothing.
func TestUnitUnderSystemd(t *testing.T) {
	u := newUnderSystemd(t)
	u.peer.run("ping", "-q", "-c", "1", "-W", "10", "10.99.0.1")
	handshakes := func() string { return u.site.run("wg", "show", "wg0", "latest-handshakes") }
	pid, handshake := u.show("MainPID"), handshakes()
	u.site.sh("echo 'MTU = 1400' | sed -i '/^ListenPort/r /dev/stdin' /etc/kiloport/wg0.conf")
	if lost := u.lostDuring(t, "reload"); lost != 0 {
		t.Errorf("a reload has lost %d packets", lost)
	}
	if !strings.Contains(u.site.run("ip", "link", "show", "wg0"), "mtu 1400") || u.show("MainPID") != pid {
		t.Error("it was not reloaded, or restarted")
	}
	for range 3 {
		lost, before := u.lostDuring(t, "restart"), pid
		t.Logf("a restart has lost %d packets of 1000", lost)
		if pid = u.show("MainPID"); lost >= 50 || pid == before || u.show("ActiveState") != "active" {
			t.Errorf("a restart has lost %d packets; the process is %s and was %s", lost, pid, before)
		}
		await(t, "an empty store", func() bool { return u.show("NFileDescriptorStore") == "0" })
	}
	if now := handshakes(); now != handshake {
		t.Errorf("there was another handshake: %s, and before: %s", now, handshake)
	}
	u.crowd(t)
	u.peer.run("ping", "-q", "-c", "1", "-W", "10", "10.99.0.1") // what the crowd has sent is over
	u.site.run("systemctl", "stop", "kiloport@wg0")
	if links := u.site.run("ip", "link"); strings.Contains(links, "wg0") {
		t.Errorf("the interface is there: %s", links)
	}
	if log := u.site.run("cat", "/run/log"); strings.Contains(log, "WARN") || strings.Contains(log, "ERROR") || strings.Count(log, "took over") != 3 {
		t.Errorf("its log: %s", log)
	}
}
