package deploy

import (
	"os"
	"strings"
	"testing"
)

// The README's way from two fresh machines to a tunnel, command by command, with
// a router in between that knows nothing of the tunnel. apt, scp and systemctl are
// stand-ins: the package is installed for good in TestPackages, and there is
// no systemd in a namespace; what is started is what the unit says.
func TestTwoFreshMachines(t *testing.T) {
	sides := readmeCommands(t)
	program := build(t)
	berlin, paris, router := newMachine(t, "berlin"), newMachine(t, "paris"), newMachine(t, "router")
	router.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	for m, net := range map[*machine]string{berlin: "2001:db8:a::", paris: "2001:db8:b::"} {
		wire(router, "to-"+m.name, m, "wan")
		router.run("ip", "address", "add", net+"ffff/64", "dev", "to-"+m.name)
		m.run("ip", "address", "add", net+"1/64", "dev", "wan")
		m.run("ip", "route", "add", "default", "via", net+"ffff")
		m.stub("apt", `test "$*" = "install ./kiloport_*.deb"; mkdir -p -m 700 /etc/kiloport; ln -s `+program+` "`+m.bin+`/kiloport"`)
		m.stub("systemctl", systemctl(t, m))
	}
	berlin.stub("scp", `
		test "$2" = "root@[2001:db8:b::1]:/etc/kiloport/"
		nsenter -m -t `+paris.pid+` sh -c 'umask 77; cat >"/etc/kiloport/$0"' "${1##*/}" <"$1"`)

	runAll := func(m *machine, lines []string) {
		for _, line := range lines {
			t.Logf("%s# %s\n%s", m.name, line, m.sh("cd %s; %s", m.dir, line))
		}
	}
	runAll(paris, sides[1][:1])
	runAll(berlin, sides[0])
	runAll(paris, sides[1][1:])
	berlin.run("ping", "-q", "-c", "1", "10.99.0.2")
	if shown := paris.run("kiloport", "show", "wg0"); !strings.Contains(shown, "mode: direct") {
		t.Errorf("the tunnel has no lanes: %s", shown)
	}
	berlin.run("nft", "-f", berlin.dir+"/berlin/wg0.nft")
}

// readmeCommands gives the commands of berlin and of paris, five at most.
func readmeCommands(t *testing.T) (sides [2][]string) {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Join two sites\n")
	section, _, _ = strings.Cut(section, "\n## ")
	side := -1
	for line := range strings.SplitSeq(section, "\n") {
		if command, ok := strings.CutPrefix(line, "    "); ok && side < len(sides) {
			sides[side] = append(sides[side], command)
		} else if line == "root:" || strings.HasPrefix(line, "and on paris") {
			side++
		}
	}
	for i, commands := range sides {
		if len(commands) < 2 || len(commands) > 5 {
			t.Fatalf("side %d has the commands %q, want 2 to 5", i, commands)
		}
	}
	return sides
}

// systemctl starts what the unit would, and returns when that is up.
func systemctl(t *testing.T, m *machine) string {
	t.Helper()
	unit, err := os.ReadFile("systemd/kiloport@.service")
	if err != nil {
		t.Fatal(err)
	}
	_, start, _ := strings.Cut(string(unit), "\nExecStart=/usr/bin/")
	start, _, _ = strings.Cut(start, "\n")
	return `
		test "$1 $2" = "enable --now"
		name=${3#kiloport@}
		` + strings.ReplaceAll(start, "%i", "$name") + ` </dev/null >` + m.dir + `/log 2>&1 &
		for try in $(seq 200); do
			if kiloport show $name >/dev/null 2>&1 && ip -o link show $name up | grep -q UP; then exit 0; fi
			sleep 0.05
		done
		cat ` + m.dir + `/log; exit 1`
}
