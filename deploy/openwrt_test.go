package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// openWrt stands in for OpenWrt's /lib/functions.sh and procd.sh: enough of UCI to
// read the configuration, and procd's calls as lines of text.
const openWrt = `
config_load() {
	sections=
	eval "$(awk -v q="'" '
		function value(s) { sub(/^[^'"'"']*'"'"'/, "", s); sub(/'"'"'[^'"'"']*$/, "", s); return s }
		$1 == "config" { n++; s = $3 == "" ? "cfg" n : value($0); print "sections=\"$sections " s ":" $2 "\"" }
		$1 == "option" { print s "_" $2 "=" q value($0) q }
		$1 == "list" { k = s "_" $2; l[k]++; print k "_" l[k] "=" q value($0) q "; " k "_n=" l[k] }
	' "$UCI/$1")"
}
config_get() { eval "$1=\"\${${2}_$3:-$4}\""; }
config_get_bool() { config_get "$@"; }
config_foreach() {
	f=$1 type=$2; shift 2
	for each in $sections; do [ "${each#*:}" != "$type" ] || "$f" "${each%%:*}" "$@"; done
}
config_list_foreach() {
	eval "count=\${${1}_${2}_n:-0}"
	i=0
	while [ $i -lt "$count" ]; do
		i=$((i + 1))
		eval "item=\$${1}_${2}_$i"
		"$3" "$item" "$4"
	done
}
for call in open_instance set_param close_instance add_reload_trigger; do
	eval "procd_$call() { echo $call \"\$@\"; }"
done
start() { start_service; }
`

// The init script makes of the UCI configuration a file that kiloport takes, for its
// owner alone, and gives procd the command for it; what is not enabled is left.
func TestOpenWrtInit(t *testing.T) {
	program := build(t)
	dir := t.TempDir()
	text, err := os.ReadFile("openwrt/files/kiloport.config")
	if err != nil {
		t.Fatal(err)
	}
	private := output(t, "", program, "genkey")
	public := output(t, output(t, "", program, "genkey")+"\n", program, "pubkey")
	filled := strings.NewReplacer(privateBlank, private, publicBlank, public, "enabled '0'", "enabled '1'",
		"# option bandwidth", "option bandwidth", "# option overhead", "option overhead", "vpn.example.com", "192.0.2.1").Replace(string(text))
	run := func(config, call string) string {
		if err := os.WriteFile(filepath.Join(dir, "kiloport"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		script := openWrt + ". openwrt/files/kiloport.init\nCONFIGS=" + dir + "/run\nPROG=" + program + "\n" + call
		cmd := exec.Command("sh", "-ec", script)
		cmd.Env = append(os.Environ(), "UCI="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v %s", err, out)
		}
		return string(out)
	}
	if out := run(string(text), "start_service"); out != "" {
		t.Errorf("what is not enabled was started: %s", out)
	}
	file := filepath.Join(dir, "run/wg0.conf")
	for _, call := range []string{"start_service", "reload_service"} {
		out := run(filled, call)
		if !strings.Contains(out, "set_param command "+program+" up -f "+file) {
			t.Errorf("%s: procd was told %s", call, out)
		}
		info, err := os.Stat(file)
		if err != nil || info.Mode() != 0o600 {
			t.Fatalf("%s: %v %v", call, info, err)
		}
	}
	if got := output(t, "", program, "check", file); !strings.HasSuffix(got, "ok, interface wg0, 1 peers") {
		t.Errorf("check: %s", got)
	}
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"Address = fd99::2/64", "PortRange = 40000-40255", "Bandwidth = 18mbit", "Overhead = pppoe-ptm", "AllowedIPs = 10.1.0.0/16", "PersistentKeepalive = 25"} {
		if !strings.Contains(string(written), line+"\n") {
			t.Errorf("the file lacks %q: %s", line, written)
		}
	}
	if out := run(filled, "service_triggers"); out != "add_reload_trigger kiloport\n" {
		t.Errorf("triggers: %s", out)
	}
}

// Each of kiloport's own keys can be said in UCI.
func TestOpenWrtKnowsEveryKey(t *testing.T) {
	script, err := os.ReadFile("openwrt/files/kiloport.init")
	if err != nil {
		t.Fatal(err)
	}
	manual := output(t, "", build(t), "man")
	_, keys, _ := strings.Cut(manual, "SH Configuration")
	found := regexp.MustCompile(`(?m)^\\fB([A-Za-z]+)\\fP = `).FindAllStringSubmatch(keys, -1)
	if len(found) < 10 {
		t.Fatalf("%d keys in the manual", len(found))
	}
	for _, key := range found {
		if !strings.Contains(string(script), "="+key[1]+" ") && !strings.Contains(string(script), "="+key[1]+"\n") {
			t.Errorf("the init script does not know %s", key[1])
		}
	}
}

func TestOpenWrtScripts(t *testing.T) {
	for _, file := range []string{"openwrt/files/kiloport.init", "openwrt/files/kiloport.defaults"} {
		// OpenWrt's shell has local.
		if out, err := exec.Command("shellcheck", "--shell=dash", "--exclude=SC3043", file).CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, out)
		}
	}
	// The batch goes through a stand-in for uci that takes only what uci takes.
	dir := t.TempDir()
	stub := "#!/bin/sh\n[ \"$2\" = batch ] || exit 1\ncat >" + dir + "/batch\n"
	if err := os.WriteFile(filepath.Join(dir, "uci"), []byte(stub), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "openwrt/files/kiloport.defaults")
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	batch, err := os.ReadFile(filepath.Join(dir, "batch"))
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`^(set firewall\.[a-z_]+(=[a-z]+|\.[a-z_]+='[A-Za-z0-9-]+')|add_list firewall\.[a-z_]+\.[a-z]+='[a-z0-9]+'|commit firewall)$`)
	for l := range strings.Lines(string(batch)) {
		if !line.MatchString(strings.TrimSuffix(l, "\n")) {
			t.Errorf("uci would not take %q", l)
		}
	}
}

// The package's Makefile is one: make reads it, with OpenWrt's files empty.
func TestOpenWrtMakefile(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{"rules.mk", "include/package.mk", "feeds/packages/lang/golang/golang-package.mk"} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := output(t, "", "make", "-C", "openwrt", "-pnq", "TOPDIR="+dir, "INCLUDE_DIR="+dir+"/include", "nothing_to_do", "--eval=nothing_to_do: ;")
	for _, part := range []string{"define Package/kiloport/install", "PKG_NAME := kiloport"} {
		if !strings.Contains(out, part) {
			t.Errorf("make does not know %s", part)
		}
	}
	for _, file := range regexp.MustCompile(`\./files/[a-z.]+`).FindAllString(out, -1) {
		if _, err := os.Stat(filepath.Join("openwrt", file)); err != nil {
			t.Error(err)
		}
	}
}
