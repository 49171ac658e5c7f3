package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kiloport/bench/labkernel"
	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/stockkernel"
	"kiloport/bench/tunnels"
)

// built is the folder of the binaries that the tests drive.
var built string

// TestMain lets the test binary be what bench starts again: the first process of
// a lab kernel, the command in it, a helper.
func TestMain(m *testing.M) {
	labkernel.RunIfInit()
	stockkernel.RunIfInit()
	traffic.RunIfHelper()
	if len(os.Args) > 1 && os.Args[1] == "guest" {
		main()
	}
	os.Exit(testMain(m))
}

// builtEnv names the folder of binaries that are built already, where these tests
// run in another kernel.
const builtEnv = "KILOPORT_BENCH_BUILT"

func testMain(m *testing.M) int {
	if built = os.Getenv(builtEnv); built != "" {
		return m.Run()
	}
	folder, err := os.MkdirTemp("", "kiloport-bench-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	built = folder
	return m.Run()
}

// build makes a static binary of a package.
func build(name, pkg string) func() (string, error) { return buildBy(name, "build", pkg) }

// buildBy makes a static binary by a subcommand of go and its arguments.
func buildBy(name string, args ...string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		path := filepath.Join(built, name)
		if os.Getenv(builtEnv) != "" {
			return path, nil
		}
		cmd := exec.Command("go", slices.Insert(args, 1, "-o", path)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		if err != nil {
			os.Stderr.Write(out)
		}
		return path, err
	})
}

var (
	kiloportBinary    = build("kiloport", "kiloport/cmd/kiloport")
	wireguardGoBinary = build("wireguard-go", "golang.zx2c4.com/wireguard")
	// These tests themselves, as they can be the first process of a kernel.
	testsBinary = buildBy("bench.test", "test", "-c", ".")
)

func binary(t *testing.T, build func() (string, error)) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// stock is a WireGuard peer that has never heard of kiloport.
func stock(t *testing.T) tunnels.Daemon {
	t.Helper()
	return tunnels.WireguardGo{Binary: binary(t, wireguardGoBinary), HostChecksums: true}
}

// families runs a test over both families of outer addresses.
func families(t *testing.T, test func(t *testing.T, ipv6 bool)) {
	t.Run("outer IPv4", func(t *testing.T) { test(t, false) })
	t.Run("outer IPv6", func(t *testing.T) { test(t, true) })
}

// TestStockTunnelIsOneFlow proves the instrument on a tunnel of which one knows
// what it does: wireguard-go puts everything into one outer flow.
func TestStockTunnelIsOneFlow(t *testing.T) {
	families(t, func(t *testing.T, ipv6 bool) {
		s := netlab.ForTest(t, netlab.SitesConfig{})
		tun, err := tunnels.Start(t.Context(), s, stock(t), stock(t), tunnels.Config{IPv6: ipv6})
		if err != nil {
			t.Fatal(err)
		}
		const flows = 100
		seen, err := observe(t.Context(), tun, flowsPlan(tun, flows, 500*time.Millisecond, demoInterval))
		if err != nil {
			t.Fatal(err)
		}
		for _, lanes := range [][]lane{seen.up, seen.down} {
			got := spread(lanes)
			if got.Flows != flows+demoPings || got.Tuples != 1 || got.Ports != 1 || got.Alone != 0 {
				t.Errorf("%+v, want %d flows in one", got, flows+demoPings)
			}
			if got.check(ipv6) == nil {
				t.Error("the check of lanes has no objection to a single one")
			}
		}
	})
}

func TestCommandLineMistakes(t *testing.T) {
	for _, test := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"frobnicate"}, exitUsage, "unknown command"},
		{[]string{"demo", "--frobnicate"}, exitUsage, "unknown flag"},
		{[]string{"demo", "--flows", "many"}, exitUsage, "invalid argument"},
		{[]string{"demo", "too", "much"}, exitUsage, "unknown command"},
		{[]string{"demo", "--flows", "3"}, exitFailed, "not within 4 to 2000"},
		{[]string{"demo", "--seconds", "0"}, exitFailed, "not within 1 to 60"},
		{[]string{"demo", "--flows", "500", "--ports", "400"}, exitFailed, "do not fit"},
	} {
		var out, errs bytes.Buffer
		status := run(t.Context(), test.args, nil, &out, &errs)
		if status != test.status || !strings.Contains(errs.String(), test.want) || out.Len() > 0 {
			t.Errorf("%q: status %d, %q, %q; want %d and %q", test.args, status, out.String(), errs.String(), test.status, test.want)
		}
	}
}

func TestDemoWithoutItsBinary(t *testing.T) {
	var out, errs bytes.Buffer
	status := run(t.Context(), []string{"demo", "--kiloport", filepath.Join(t.TempDir(), "kiloport")}, nil, &out, &errs)
	if status != exitFailed || !strings.Contains(errs.String(), "no such file") {
		t.Errorf("status %d, %q", status, errs.String())
	}
}

func TestInterruptedDemo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	if status := run(ctx, []string{"demo", "--kiloport", "/bin/true"}, nil, &out, &errs); status != exitFailed {
		t.Errorf("status %d, %q", status, errs.String())
	}
}
