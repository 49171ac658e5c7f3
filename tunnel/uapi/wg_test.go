package uapi

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// fill(1) and so on, as wg writes them.
const (
	base1 = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
	base2 = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
	base3 = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM="
)

var wgState = DeviceState{
	PrivateKey: fill(1), ListenPort: 51820, FwMark: 0x10,
	Peers: []PeerState{{
		PublicKey: fill(2), PresharedKey: fill(1), Endpoint: netip.MustParseAddrPort("192.0.2.1:9"), LastHandshake: time.Unix(1700000000, 0),
		RxBytes: 100, TxBytes: 200, PersistentKeepalive: 25, AllowedIPs: prefixes("10.0.0.0/8", "fd00::/64"),
	}, {PublicKey: fill(3), Endpoint: netip.MustParseAddrPort("[fe80::1%lo]:9")}},
}

func TestWgShow(t *testing.T) {
	if _, err := exec.LookPath("wg"); err != nil {
		t.Fatal("wg is missing: install wireguard-tools")
	}
	name := testName("e")
	serve(t, name, &fake{state: wgState})
	out, err := wg(t, "", "show", name, "dump")
	if err != nil {
		t.Fatal(err, out)
	}
	public, err := wg(t, base1, "pubkey")
	if err != nil {
		t.Fatal(err, public)
	}
	want := base1 + "\t" + strings.TrimSpace(public) + "\t51820\t0x10\n" +
		base2 + "\t" + base1 + "\t192.0.2.1:9\t10.0.0.0/8,fd00::/64\t1700000000\t100\t200\t25\n" +
		base3 + "\t(none)\t[fe80::1%lo]:9\t(none)\t0\t0\t0\toff\n"
	if d := cmp.Diff(want, out); d != "" {
		t.Error(d)
	}
	if out, err := wg(t, "", "show", "interfaces"); err != nil || !slices.Contains(strings.Fields(out), name) {
		t.Errorf("wg lists %q, %v", out, err)
	}
}

// TestWgSet compares what the stock tool asks for with what arrives.
func TestWgSet(t *testing.T) {
	name := testName("q")
	f := &fake{state: wgState}
	serve(t, name, f)
	config := filepath.Join(t.TempDir(), "c.conf")
	file := "[Interface]\nPrivateKey=" + base1 + "\n[Peer]\nPublicKey=" + base2 + "\nAllowedIPs=10.0.0.0/8\n"
	if err := os.WriteFile(config, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	none := SecretKey{}
	key, off := ptr(SecretKey(fill(1))), ptr(uint16(0))
	fromFile := PeerChange{PublicKey: fill(2), ReplaceAllowedIPs: true, AllowedIPs: []AllowedIPChange{{Prefix: prefix("10.0.0.0/8")}}}
	for _, c := range []struct {
		stdin string
		args  string
		want  *SetRequest
	}{
		{base1, "set NAME private-key /dev/stdin listen-port 1 fwmark 0x20", &SetRequest{PrivateKey: key, ListenPort: ptr(uint16(1)), FwMark: ptr(uint32(0x20))}},
		{"", "set NAME private-key /dev/null listen-port 0 fwmark off", &SetRequest{PrivateKey: &none, ListenPort: off, FwMark: ptr(uint32(0))}},
		{base1, "set NAME peer " + base2 + " preshared-key /dev/stdin endpoint [2001:db8::1]:2 persistent-keepalive 5 allowed-ips 10.9.0.0/16,fd01::/48",
			&SetRequest{Peers: []PeerChange{{PublicKey: fill(2), PresharedKey: key, Endpoint: ptr(netip.MustParseAddrPort("[2001:db8::1]:2")),
				PersistentKeepalive: ptr(uint16(5)), ReplaceAllowedIPs: true, AllowedIPs: []AllowedIPChange{{Prefix: prefix("10.9.0.0/16")}, {Prefix: prefix("fd01::/48")}}}}}},
		{"", "set NAME peer " + base2 + " preshared-key /dev/null persistent-keepalive off endpoint [fe80::1%lo]:2",
			&SetRequest{Peers: []PeerChange{{PublicKey: fill(2), PresharedKey: &none, PersistentKeepalive: off, Endpoint: ptr(netip.MustParseAddrPort("[fe80::1%lo]:2"))}}}},
		{"", "set NAME peer " + base2 + " remove peer " + base3 + " allowed-ips 0.0.0.0/0",
			&SetRequest{Peers: []PeerChange{{PublicKey: fill(2), Remove: true}, {PublicKey: fill(3), ReplaceAllowedIPs: true, AllowedIPs: []AllowedIPChange{{Prefix: prefix("0.0.0.0/0")}}}}}},
		{"", "setconf NAME " + config, &SetRequest{PrivateKey: key, ListenPort: off, FwMark: ptr(uint32(0)), ReplacePeers: true, Peers: []PeerChange{fromFile}}},
		{"", "addconf NAME " + config, &SetRequest{PrivateKey: key, Peers: []PeerChange{fromFile}}},
		{"", "syncconf NAME " + config, &SetRequest{PrivateKey: key, ListenPort: off, FwMark: ptr(uint32(0)), Peers: []PeerChange{{PublicKey: fill(3), Remove: true}, fromFile}}},
	} {
		if out, err := wg(t, c.stdin, strings.Fields(strings.ReplaceAll(c.args, "NAME", name))...); err != nil {
			t.Errorf("wg %s: %v %s", c.args, err, out)
		}
		if d := cmp.Diff([]*SetRequest{c.want}, f.take(), sameAddresses); d != "" {
			t.Errorf("wg %s: %s", c.args, d)
		}
	}
	f.refuseWith(syscall.EADDRINUSE)
	if out, err := wg(t, "", "set", name, "listen-port", "1"); err == nil || !strings.Contains(out, "Address already in use") {
		t.Errorf("wg shows a port in use as %v %q", err, out)
	}
}

// TestWgWithTenThousandPeers: neither side's bounds are in the way.
func TestWgWithTenThousandPeers(t *testing.T) {
	const peers = 10_000
	name := testName("r")
	f := new(fake)
	var file strings.Builder
	for i := range peers {
		address := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		p := PeerState{PublicKey: PublicKey{1, byte(i), byte(i >> 8)}, AllowedIPs: []netip.Prefix{netip.PrefixFrom(address, 32)}}
		f.state.Peers = append(f.state.Peers, p)
		fmt.Fprintf(&file, "[Peer]\nPublicKey=%v\nAllowedIPs=%v\nPersistentKeepalive=25\n", p.PublicKey, p.AllowedIPs[0])
	}
	serve(t, name, f)
	if out, err := wg(t, file.String(), "setconf", name, "/dev/stdin"); err != nil {
		t.Fatal(err, out)
	}
	if r := f.take(); len(r) != 1 || len(r[0].Peers) != peers {
		t.Errorf("wg set %d peers", len(r[0].Peers))
	}
	if out, err := wg(t, "", "show", name, "dump"); err != nil || strings.Count(out, "\n") != peers+1 {
		t.Errorf("wg shows %d lines, %v", strings.Count(out, "\n"), err)
	}
}
