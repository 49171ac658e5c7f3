package uapi

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func wg(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "wg", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestWithWg has the stock tool set and show everything.
func TestWithWg(t *testing.T) {
	if _, err := exec.LookPath("wg"); err != nil {
		t.Fatal("wg is missing: install wireguard-tools")
	}
	name := testName("e")
	private, public := "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
	f := &fake{state: DeviceState{
		PrivateKey: fill(1), ListenPort: 51820, FwMark: 0x10,
		Peers: []PeerState{{
			PublicKey: fill(2), PresharedKey: fill(1), Endpoint: netip.MustParseAddrPort("192.0.2.1:9"), LastHandshake: time.Unix(1700000000, 0),
			RxBytes: 100, TxBytes: 200, PersistentKeepalive: 25, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/64")},
		}},
	}}
	serve(t, name, f)

	out, err := wg(t, "", "show", name, "dump")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err != nil || len(lines) != 2 {
		t.Fatalf("wg show: %v %q", err, out)
	}
	if fields := strings.Fields(lines[0]); fields[0] != private || fields[2] != "51820" || fields[3] != "0x10" {
		t.Errorf("interface: %v", fields)
	}
	want := []string{public, private, "192.0.2.1:9", "10.0.0.0/8,fd00::/64", "1700000000", "100", "200", "25"}
	if d := cmp.Diff(want, strings.Fields(lines[1])); d != "" {
		t.Error(d)
	}

	if out, err := wg(t, private, "set", name, "private-key", "/dev/stdin", "listen-port", "1", "fwmark", "0x20",
		"peer", public, "endpoint", "[2001:db8::1]:2", "persistent-keepalive", "5", "allowed-ips", "10.9.0.0/16,fd01::/48"); err != nil {
		t.Fatalf("wg set: %v %s", err, out)
	}
	wanted := &SetRequest{
		PrivateKey: ptr(SecretKey(fill(1))), ListenPort: ptr(uint16(1)), FwMark: ptr(uint32(0x20)),
		Peers: []PeerChange{{
			PublicKey: fill(2), Endpoint: ptr(netip.MustParseAddrPort("[2001:db8::1]:2")), PersistentKeepalive: ptr(uint16(5)), ReplaceAllowedIPs: true,
			AllowedIPs: []AllowedIPChange{{Prefix: netip.MustParsePrefix("10.9.0.0/16")}, {Prefix: netip.MustParsePrefix("fd01::/48")}},
		}},
	}
	got := f.take()
	if len(got) != 1 {
		t.Fatalf("%d requests", len(got))
	}
	if d := cmp.Diff(wanted, got[0], sameAddresses); d != "" {
		t.Error(d)
	}

	config := filepath.Join(t.TempDir(), "c.conf")
	os.WriteFile(config, []byte("[Interface]\nPrivateKey="+private+"\n[Peer]\nPublicKey="+public+"\nAllowedIPs=10.0.0.0/8\n"), 0o600)
	for _, verb := range []string{"setconf", "syncconf", "addconf"} {
		if out, err := wg(t, "", verb, name, config); err != nil {
			t.Errorf("wg %s: %v %s", verb, err, out)
		}
		if r := f.take(); len(r) != 1 || len(r[0].Peers) != 1 || r[0].ReplacePeers != (verb == "setconf") {
			t.Errorf("wg %s sent %+v", verb, r)
		}
	}
	if out, err := wg(t, "", "set", name, "peer", public, "remove"); err != nil {
		t.Errorf("wg set peer remove: %v %s", err, out)
	}
	if r := f.take(); len(r) != 1 || !r[0].Peers[0].Remove {
		t.Errorf("remove sent %+v", r)
	}

	f.refuseWith(syscall.EADDRINUSE)
	if out, err := wg(t, "", "set", name, "listen-port", "1"); err == nil || !strings.Contains(out, "in use") {
		t.Errorf("wg shows a port in use as %v %q", err, out)
	}
}
