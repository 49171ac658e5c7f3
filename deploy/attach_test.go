package deploy

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/unit"
)

// TestAttachUnit wants the unit to be one, and its command to be known.
func TestAttachUnit(t *testing.T) {
	f, err := os.Open("attach/kiloport-attach@.service")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	options, err := unit.DeserializeOptions(f)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for _, o := range options {
		found[o.Section+"."+o.Name] = o.Value
	}
	for name, want := range map[string]string{
		"Unit.BindsTo": "sys-subsystem-net-devices-%i.device", "Service.Type": "notify",
		"Install.WantedBy": "sys-subsystem-net-devices-%i.device", "Service.RuntimeDirectory": "kiloport",
	} {
		if found[name] != want {
			t.Errorf("%s is %q, want %q", name, found[name], want)
		}
	}
	checkCommand(t, strings.Replace(found["Service.ExecStart"], "/usr/local/bin/", "", 1))
}

// checkCommand wants the program to understand a command line: all that it may say
// is that there is no such interface.
func checkCommand(t *testing.T, line string) {
	t.Helper()
	words := strings.Fields(strings.ReplaceAll(strings.ReplaceAll(line, "%i", "nosuch0"), `"$interface"`, "nosuch0"))
	if len(words) == 0 || words[0] != "kiloport" {
		t.Fatalf("the command is %q", line)
	}
	out, err := exec.Command(build(t), words[1:]...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "nosuch0") || strings.Contains(string(out), "--help") {
		t.Errorf("%s: %v: %s", line, err, out)
	}
}

func TestAttachHooks(t *testing.T) {
	text, err := os.ReadFile("attach/wg0.conf")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if name, command, ok := strings.Cut(strings.TrimSpace(line), " = "); ok && (name == "PostUp" || name == "PreDown") {
			// Without it, wg-quick would not go down where nothing is attached any more.
			command, _, bears := strings.Cut(command, " || true")
			if bears != (name == "PreDown") {
				t.Errorf("%s bears a failure: %v", name, bears)
			}
			checkCommand(t, command)
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d hooks", n)
	}
}

func TestAttachOpenWrt(t *testing.T) {
	const name = "attach/openwrt.init"
	if out, err := exec.Command("sh", "-n", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	_, command, _ := strings.Cut(string(text), "procd_set_param command /usr/sbin/")
	command, _, _ = strings.Cut(command, "\n")
	checkCommand(t, command)
}
