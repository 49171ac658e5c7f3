package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"kiloport/bench/netlab"
)

var benchBinary = build("bench", "kiloport/bench")

// TestFailuresSayWhatToDo: what cannot be is said at once, with a way out, and
// leaves nothing behind.
func TestFailuresSayWhatToDo(t *testing.T) {
	kiloport := "--kiloport=" + binary(t, kiloportBinary)
	folder := t.TempDir()
	old := filepath.Join(folder, "report.json")
	if err := os.WriteFile(old, []byte(`{"schema": "kiloport-bench/99"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args string
		want []string
	}{
		{"run frobnicate", []string{`no scenario "frobnicate"`, "choose among", "rrul_be"}},
		{"run --tunnels none,frobnicate", []string{`no tunnel "frobnicate"`, "choose among", "wireguard-go"}},
		{"run --tunnels none --qdisc frobnicate", []string{`"frobnicate"`, "fq_codel"}},
		{"run --tunnels none --rates fast", []string{"--rates fast", "Mbit/s"}},
		{"run --tunnels none --kernel frobnicate", []string{"--kernel frobnicate", "lab"}},
		{"run --tunnels kiloport --kiloport " + folder + "/none", []string{"tunnel kiloport", "make build", "--kiloport"}},
		{"run --tunnels kiloport --kiloport " + file, []string{"is no program", "make build"}},
		{"run --tunnels wireguard-go --wireguard-go " + folder + "/none", []string{"make bin/wireguard-go", "--wireguard-go"}},
		{"run --tunnels none --out " + file + "/below", []string{"the folder of the report", "--out"}},
		{"run --tunnels none --baseline tinc", []string{"--baseline tinc", "--tunnels"}},
		{"run throughput --tunnels none --cases frobnicate", []string{"choose among", "tcp 8 up"}},
		{"run upload --tunnels none --seconds 2", []string{"--seconds 2", "upload", "3 at least"}},
		{"compare " + folder + "/none " + folder, []string{"no such file", "give the folder that bench run wrote"}},
		{"compare " + folder + " " + folder, []string{"newer than this program"}},
		{"flent " + file + " " + folder + "/flent", []string{"no JSON document"}},
		{"headline " + folder + "/none x.svg", []string{"no such file", "give the folder"}},
		{"demo --kiloport " + folder + "/none", []string{"no such file", "make build", "--kiloport"}},
		{"run --tunnels kiloport --seconds 3 --set Frobnicate=1 " + kiloport, []string{"Frobnicate", "set up the network and the tunnel kiloport"}},
	} {
		t.Run(test.args, func(t *testing.T) {
			out := filepath.Join(folder, "out")
			args := strings.Fields(test.args)
			if args[0] == "run" && !strings.Contains(test.args, "--out") {
				args = append(args, "--out", out)
			}
			var stdout, stderr bytes.Buffer
			status := run(t.Context(), args, nil, &stdout, &stderr)
			said := stderr.String()
			for _, want := range test.want {
				if !strings.Contains(said, want) {
					t.Errorf("%q does not say %q", said, want)
				}
			}
			if status == exitOK || stdout.Len() > 0 {
				t.Errorf("status %d, output %q", status, stdout.String())
			}
			if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the folder of the report: %v", err)
			}
		})
	}
}

// TestPreflightLeavesOut wants a tunnel that this machine cannot run to be left out
// and named, unless somebody asked for it.
func TestPreflightLeavesOut(t *testing.T) {
	o := runOptions{tunnels: []string{"none", "wireguard-go"}, wireguardGo: filepath.Join(t.TempDir(), "none"), rates: []string{"20"}, qdisc: netlab.KindFQCodel, repeat: 2}
	plan, err := o.plan(nil)
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	kept, err := o.preflight(t.Context(), slices.Clone(plan), &said)
	if err != nil || len(plan) != 4 || len(kept) != 2 || kept[0].Tunnel != "none" || !slices.Equal(o.tunnels, []string{"none"}) {
		t.Errorf("of %d experiments %d are left, of tunnels %q, error %v", len(plan), len(kept), o.tunnels, err)
	}
	if s := said.String(); !strings.HasPrefix(s, "bench run: without wireguard-go: ") || !strings.Contains(s, "make bin/wireguard-go") {
		t.Errorf("said %q", s)
	}
	o.tunnels, o.tunnelsNamed = []string{"none", "wireguard-go"}, true
	if _, err := o.preflight(t.Context(), plan, io.Discard); err == nil {
		t.Error("a tunnel that was asked for is left out")
	}
}

// TestMachinesThatLackSomething runs the command where something is missing that
// this machine has.
func TestMachinesThatLackSomething(t *testing.T) {
	bench, kiloport := binary(t, benchBinary), binary(t, kiloportBinary)
	folder := t.TempDir()
	missing := netlab.Missing(netlab.Path{RateUp: 20e6, RateDown: 20e6, Qdisc: netlab.Qdisc{Kind: netlab.KindFQCodel}})
	for _, test := range []struct {
		name   string
		script string // bench is $1, kiloport $2, a folder $3
		nobody bool
		here   bool
		want   []string
	}{
		{"not root", `exec $1 run throughput --tunnels none --out $3/out`, true, true, []string{"not root", "sudo"}},
		{"no tun", `mount -t tmpfs none /dev/net && exec $1 run throughput --tunnels kiloport --kiloport $2 --out $3/out`, false, true,
			[]string{"/dev/net/tun", "modprobe tun"}},
		{"disk full", `mkdir $3/full && mount -t tmpfs -o size=1m none $3/full && exec $1 run --tunnels none --out $3/full/out`, false, true,
			[]string{"MiB are free", "--out"}},
		{"no queues", `exec $1 run --real --tunnels none --out $3/out`, false, missing != nil, []string{"fq_codel", "lab kernel"}},
		{"no tincd", `PATH=$3 exec $1 run --tunnels none,tinc --out $3/out`, false, true, []string{"tincd", "install the package tinc"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !test.here {
				return
			}
			if err := errors.Join(os.Chmod(folder, 0o755), os.Chmod(filepath.Dir(folder), 0o755), os.Chmod(built, 0o755)); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("unshare", "--mount", "sh", "-c", test.script, "sh", bench, kiloport, folder)
			if test.nobody {
				cmd = exec.Command("sh", cmd.Args[3:]...)
				const nobody = 65534
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
			}
			said, err := cmd.CombinedOutput()
			exit := new(exec.ExitError)
			if !errors.As(err, &exit) {
				t.Errorf("%v, want a status that is not 0", err)
			}
			for _, want := range test.want {
				if !bytes.Contains(said, []byte(want)) {
					t.Errorf("%q does not say %q", said, want)
				}
			}
			if _, err := os.Stat(filepath.Join(folder, "out")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the folder of the report: %v", err)
			}
		})
	}
}
