package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kiloport/tunnel/noise"
	"kiloport/tunnel/uapi"
)

// TestMain lets the test binary be the program: the tests of whole daemons start
// it again.
func TestMain(m *testing.M) {
	if os.Getenv(envBeKiloport) == "1" {
		shortenTimers(os.Getenv(envRekeyAfter))
		main()
	}
	code := m.Run()
	// Of daemons that tests kill something stays, as of any.
	left, _ := filepath.Glob(strings.TrimSuffix(uapi.SocketPath(linkName("*")), ".sock"))
	for _, path := range left {
		os.Remove(path)
	}
	os.Exit(code)
}

// The environment of a test binary that is to be the program, and after how
// long it makes new keys instead of the protocol's two minutes. The tests of
// bench use it too.
const (
	envBeKiloport = "KILOPORT_TEST_IS_KILOPORT"
	envRekeyAfter = "KILOPORT_TEST_REKEY_AFTER"
)

func shortenTimers(rekeyAfter string) {
	d, err := time.ParseDuration(rekeyAfter)
	if err != nil {
		return
	}
	k := noise.Default()
	k.RekeyAfterTime, k.RejectAfterTime = d, 5*d
	k.RekeyTimeout, k.KeepaliveTimeout = d/2, d/2
	constants = &k
}

// call runs a command line in this process.
func call(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

const (
	privateKey = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
	publicKey  = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="
	otherKey   = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
)

func TestWrongCommandLines(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		args  string
		stdin string
		code  int
		says  string
	}{
		{"", "", 2, "name one interface, such as kiloport wg0"},
		{"a b", "", 2, "name one interface"},
		{"--colour wg0", "", 2, "unknown flag: --colour: see kiloport --help"},
		{"--ports", "", 2, "needs an argument"},
		{"--ports 0 wg0", "", 2, "ports: 0 is out of range, use 1 to 16383"},
		{"--ports 16384 wg0", "", 2, "use 1 to 16383"},
		{"--ports many wg0", "", 2, `"many" is not a number`},
		{"--port-range 9-1 wg0", "", 2, `"9-1" is not a port range: use LOW-HIGH`},
		{"--port-range 0-9 wg0", "", 2, "LOW-HIGH"},
		{"--ports 8 --port-range 40000-40006 sixteen-letters-", "", 2, "ports: 8 do not fit into the port range 40000-40006, which has 7"},
		{"--port-range 40000-40006 --ports 8 sixteen-letters-", "", 2, "ports: 8 do not fit into the port range 40000-40006"},
		{"--port-range 40000-40006 sixteen-letters-", "", 2, "ports: 1024 do not fit"},
		{"--lane-idle 5 wg0", "", 2, "such as 60s"},
		{"--lane-idle 1ms wg0", "", 2, "use at least 1s"},
		{"--spread colours wg0", "", 2, `"colours" is none of auto, off, ports`},
		{"--ecn maybe wg0", "", 2, `"maybe" is none of auto, on, off`},
		{"--dscp 64 wg0", "", 2, "64"},
		{"--dscp AF41=64 wg0", "", 2, "AF41=64"},
		{"--dscp-decap copy wg0", "", 2, "uniform"},
		{"--control-dscp 64 wg0", "", 2, "AF11"},
		{"--metrics 9586 wg0", "", 2, `"9586" is not an address to listen on: use :9586 for this host alone`},
		{"--metrics example.com:80 wg0", "", 2, "[::]:9586 for everybody, or off"},
		{"--log-level loud wg0", "", 2, "use verbose, info, error or silent"},
		{"up", "", 2, "kiloport up wants one configuration file"},
		{"up no-such-interface", "", 1, "no configuration no-such-interface.conf in /etc/kiloport or /etc/wireguard"},
		{"up " + dir + "/nosuch.conf", "", 1, "nosuch.conf: no such file"},
		{"check " + write("sixteen-letters-.conf", ""), "", 1, "1 to 15 of letters"},
		{"check " + write("a.conf", "[Interface]\nAdress = x\n"), "", 1, "a.conf:2: unknown key \"Adress\", did you mean Address?"},
		{"check " + write("b.conf", "[Interface]\nPrivateKey="+privateKey+"\nPorts = 0\nDSCP = 99\nPortRange = x\nLaneIdle = 3\nSpread = x\nECN = x\n"), "", 1, "b.conf:3: \"Ports\": ports: 0 is out of range"},
		{"check " + write("c.conf", "[Interface]\nPrivateKey="+privateKey+"x\n"), "", 1, "c.conf:2: PrivateKey: (hidden) is no key"},
		{"check " + write("d.conf", "[Interface]\nPortRange = 40000-40006\nLaneIdle = 5s\nPorts = 8\nPrivateKey="+privateKey+"\n"), "", 1, "d.conf: ports: 8 do not fit into the port range 40000-40006"},
		{"up " + dir + "/d.conf", "", 1, "d.conf: ports: 8 do not fit"},
		{"up -f " + dir + "/d.conf", "", 1, "d.conf: ports: 8 do not fit"},
		{"check " + write("e.conf", "[Interface]\nPorts = 7\nPortRange = 40000-40006\nPrivateKey="+privateKey+"\n") + " --ports 8", "", 1, "e.conf: ports: 8 do not fit"},
		{"down", "", 2, "kiloport down wants the name of an interface"},
		{"down no-such-if", "", 1, "is the interface up?"},
		{"down a/b/much-too-long-a-name", "", 1, "1 to 15"},
		{"show a b", "", 2, "wants one interface at most"},
		{"show no-such-if", "", 1, "interface no-such-if: no daemon listens on /var/run/wireguard/no-such-if.sock"},
		{"genkey x", "", 2, "takes no arguments"},
		{"pubkey", "not a key", 1, "read a private key from standard input"},
		{"pubkey", privateKey + "=", 1, "read a private key from standard input"},
		{"sixteen-letters-", "", 1, "15"},
		{"a/b", "", 1, "a/b"},
	} {
		code, stdout, stderr := call(t, c.stdin, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stderr, c.says) || stdout != "" {
			t.Errorf("kiloport %s: status %d, %q%q; want %d and %q", c.args, code, stdout, stderr, c.code, c.says)
		}
		if !strings.HasPrefix(stderr, "kiloport: ") {
			t.Errorf("kiloport %s: says %q", c.args, stderr)
		}
		if strings.Contains(stderr, privateKey[:43]) {
			t.Errorf("kiloport %s: the key is in %q", c.args, stderr)
		}
	}
	if _, _, stderr := call(t, "", "check", filepath.Join(dir, "b.conf")); strings.Count(stderr, "b.conf:") != 6 {
		t.Errorf("not every wrong option was reported: %s", stderr)
	}
}

// A key may come in place of anything: no message shows it.
func TestNoMessageShowsAKey(t *testing.T) {
	const hex = "C809F3E5317E9575C9B5ED78B638B7CE530DABE85DDAB614220241801DDF0669"
	for _, args := range []string{
		"%", "-f %", "% %", "--% wg0", "-% wg0", "--ports % wg0", "--ports=% wg0", "--log-level % wg0", "--dscp % wg0", "--ecn % wg0",
		"--port-range % wg0", "--lane-idle % wg0", "up %", "up -f %", "up /etc/%", "up %.conf", "up % %", "check %", "down %",
		"show %", "show % %", "pubkey %", "genkey %", "genpsk %", "version %", "man %",
	} {
		for _, key := range []string{privateKey, publicKey, otherKey, hex} {
			code, stdout, stderr := call(t, "", strings.Fields(strings.ReplaceAll(args, "%", key))...)
			if code == 0 || strings.Contains(stdout+stderr, key[1:43]) {
				t.Errorf("kiloport %s: status %d, the key is in %q%q", args, code, stdout, stderr)
			}
		}
	}
}

// Options that go together only when all have been read.
func TestOptionsInAnyOrder(t *testing.T) {
	for _, text := range []string{"PortRange = 40000-40006\nLaneIdle = 5s\nPorts = 7\n", "Ports = 7\nLaneIdle = 5s\nPortRange = 40000-40006\n"} {
		path := filepath.Join(t.TempDir(), "wg0.conf")
		os.WriteFile(path, []byte("[Interface]\nPrivateKey = "+privateKey+"\n"+text), 0o600)
		for _, args := range [][]string{nil, {"--port-range=40000-40003", "--lane-idle=9s", "--ports=4"}, {"--port-range=auto", "--ports=2000"}} {
			if code, _, stderr := call(t, "", append(args, "check", path)...); code != 0 {
				t.Errorf("%q with %v: status %d, %s", text, args, code, stderr)
			}
		}
	}
}

func TestCheckOfAGoodFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "good.conf")
	text := "[Interface]\nPrivateKey = " + privateKey + "\nDNS = 1.1.1.1\nPorts = 64\nPortRange = 40000-40063\nLaneIdle = 5m\nSpread = off\nDSCP = EF\nECN = off\n" +
		"[Peer]\nPublicKey = " + otherKey + "\nAllowedIPs = 10.0.0.0/8\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := call(t, "", "check", path)
	if code != 0 || stdout != path+": ok, interface good, 1 peers\n" {
		t.Errorf("status %d, %q", code, stdout)
	}
	for _, note := range []string{"DNS is left alone", "can be read by others"} {
		if !strings.Contains(stderr, note) {
			t.Errorf("%q lacks a note %q", stderr, note)
		}
	}
}

func TestFlagsOverrideTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wg0.conf")
	os.WriteFile(path, []byte("[Interface]\nPrivateKey = "+privateKey+"\nPorts = 64\nECN = off\n"), 0o600)
	c := &command{stderr: new(bytes.Buffer)}
	root := c.root()
	if err := root.ParseFlags([]string{"--ports=7", "--dscp=46"}); err != nil {
		t.Fatal(err)
	}
	l, err := c.load(path, c.stderr)
	if err != nil {
		t.Fatal(err)
	}
	if o := l.options; o.Ports != 7 || o.DSCP.String() != "46" || o.ECN.String() != "off" {
		t.Errorf("options %+v", o)
	}
}

func TestKeys(t *testing.T) {
	code, stdout, _ := call(t, privateKey+"\n", "pubkey")
	if code != 0 || stdout != publicKey+"\n" {
		t.Errorf("pubkey: status %d, %q", code, stdout)
	}
	for _, command := range []string{"genkey", "genpsk"} {
		_, first, _ := call(t, "", command)
		_, second, _ := call(t, "", command)
		if len(first) != 45 || first == second {
			t.Errorf("%s gave %q, then %q", command, first, second)
		}
	}
}

// The man page, the help and the completion come from the commands and from the
// table of options, and tell of all of them.
func TestDocumentation(t *testing.T) {
	_, man, _ := call(t, "", "man")
	_, help, _ := call(t, "", "--help")
	for _, o := range options {
		if !strings.Contains(help, "--"+o.flag) || !strings.Contains(man, strings.ReplaceAll("--"+o.flag, "-", `\-`)) && !strings.Contains(man, "--"+o.flag) {
			t.Errorf("--%s is not in the help or the man page", o.flag)
		}
		if !strings.Contains(man, o.key) {
			t.Errorf("%s is not in the man page", o.key)
		}
	}
	for _, sub := range []string{"up", "down", "check", "show", "genkey", "genpsk", "pubkey"} {
		if !strings.Contains(help, "\n  "+sub) || !strings.Contains(man, "kiloport "+sub) {
			t.Errorf("%s is not in the help or the man page", sub)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, script, _ := call(t, "", "completion", shell); code != 0 || !strings.Contains(script, "kiloport") {
			t.Errorf("completion %s: status %d", shell, code)
		}
	}
	if code, out, _ := call(t, "", "version"); code != 0 || !strings.HasPrefix(out, "kiloport ") {
		t.Errorf("version: %d %q", code, out)
	}
}
