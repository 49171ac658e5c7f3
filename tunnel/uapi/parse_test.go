package uapi

import (
	"bufio"
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const (
	hexA = "0101010101010101010101010101010101010101010101010101010101010101"
	hexB = "0202020202020202020202020202020202020202020202020202020202020202"
)

func ptr[T any](v T) *T { return &v }

func fill(b byte) (k [32]byte) {
	for i := range k {
		k[i] = b
	}
	return k
}

var sameAddresses = cmpopts.EquateComparable(netip.AddrPort{}, netip.Prefix{})

func parse(text string) (*SetRequest, error) {
	return ParseSet(bufio.NewReaderSize(strings.NewReader(text), maxLine+1))
}

func TestParseSet(t *testing.T) {
	text := strings.Join([]string{
		"private_key=" + hexA, "listen_port=51820", "fwmark=4294967295", "replace_peers=true",
		"public_key=" + hexB, "preshared_key=" + hexA, "endpoint=[fe80::1%eth0]:1", "persistent_keepalive_interval=25",
		"replace_allowed_ips=true", "allowed_ip=10.1.2.3/8", "allowed_ip=-2001:db8::1/32", "allowed_ip=::ffff:192.0.2.1/128", "protocol_version=1",
		"public_key=" + hexA, "remove=true", "public_key=" + hexB, "update_only=true", "endpoint=[::ffff:192.0.2.1]:9",
		"", "ignored",
	}, "\n")
	got, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	want := &SetRequest{
		PrivateKey: ptr(SecretKey(fill(1))), ListenPort: ptr(uint16(51820)), FwMark: ptr(uint32(4294967295)), ReplacePeers: true,
		Peers: []PeerChange{
			{PublicKey: fill(2), PresharedKey: ptr(SecretKey(fill(1))), Endpoint: ptr(netip.MustParseAddrPort("[fe80::1%eth0]:1")),
				PersistentKeepalive: ptr(uint16(25)), ReplaceAllowedIPs: true,
				AllowedIPs: []AllowedIPChange{
					{Prefix: netip.MustParsePrefix("10.0.0.0/8")},
					{Prefix: netip.MustParsePrefix("2001:db8::/32"), Remove: true},
					{Prefix: netip.MustParsePrefix("192.0.2.1/32")},
				}},
			{PublicKey: fill(1), Remove: true},
			{PublicKey: fill(2), UpdateOnly: true, Endpoint: ptr(netip.MustParseAddrPort("192.0.2.1:9"))},
		},
	}
	if d := cmp.Diff(want, got, sameAddresses); d != "" {
		t.Error(d)
	}
}

func TestParseSetRefuses(t *testing.T) {
	secret := "k" + strings.Repeat("QUJD", 11)
	peer := "public_key=" + hexB + "\n"
	for _, c := range []struct {
		text  string
		errno syscall.Errno
		line  int
		says  string
	}{
		{"nonsense\n", syscall.EPROTO, 1, "key=value"},
		{"listen_port=65536\n", syscall.EINVAL, 1, "0 to 65535"},
		{"listen_port=\n", syscall.EINVAL, 1, "0 to 65535"},
		{"fwmark=0x10\n", syscall.EINVAL, 1, "decimal"},
		{"replace_peers=false\n", syscall.EINVAL, 1, "true"},
		{"private_key=" + hexA[1:] + "\n", syscall.EINVAL, 1, "64 hexadecimal"},
		{"private_key=zz" + hexA[2:] + "\n", syscall.EINVAL, 1, "hexadecimal"},
		{"allowed_ip=10.0.0.0/8\n", syscall.EINVAL, 1, "unknown key"},
		{"colour=blue\n", syscall.EINVAL, 1, "unknown key"},
		{"listen_port=1\npublic_key=12\n", syscall.EINVAL, 2, "64 hexadecimal"},
		{peer + "listen_port=1\n", syscall.EINVAL, 2, "before the first public_key"},
		{peer + "endpoint=example.com:1\n", syscall.EINVAL, 2, "192.0.2.1:51820"},
		{peer + "endpoint=192.0.2.1:0\n", syscall.EINVAL, 2, "port 0"},
		{peer + "allowed_ip=10.0.0.0\n", syscall.EINVAL, 2, "10.0.0.0/8"},
		{peer + "allowed_ip=10.0.0.0/33\n", syscall.EINVAL, 2, "prefix"},
		{peer + "allowed_ip=::ffff:10.0.0.0/90\n", syscall.EINVAL, 2, "write it as IPv4"},
		{peer + "persistent_keepalive_interval=-1\n", syscall.EINVAL, 2, "seconds"},
		{peer + "protocol_version=2\n", syscall.EINVAL, 2, "version 1"},
		{peer + "remove=1\n", syscall.EINVAL, 2, "true"},
		{peer + "update_only=\n", syscall.EINVAL, 2, "true"},
		{peer + "replace_allowed_ips=no\n", syscall.EINVAL, 2, "true"},
		{peer + "preshared_key=" + secret + "\n", syscall.EINVAL, 2, "hexadecimal"},
		{secret + "\n", syscall.EPROTO, 1, "key=value"},
		{"fwmark=" + secret + "\n", syscall.EINVAL, 1, "decimal"},
		{secret + "=1\n", syscall.EINVAL, 1, "unknown key"},
	} {
		// Line ends and what follows the wrong line must not matter.
		got, err := parse(c.text + "\nset=1\n")
		var refused *Error
		if !errors.As(err, &refused) {
			t.Errorf("%q: %+v, %v; want it refused", c.text, got, err)
			continue
		}
		if refused.Errno != c.errno || refused.Line != c.line || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: errno %v, %v; want %v, line %d, %q", c.text, refused.Errno, err, c.errno, c.line, c.says)
		}
		for _, never := range []string{secret, hexA[2:]} {
			if strings.Contains(err.Error(), never) {
				t.Errorf("%q: the error shows what may be a secret: %v", c.text, err)
			}
		}
	}
}

func TestParseSetReadsToTheEndOfARefusedRequest(t *testing.T) {
	r := bufio.NewReaderSize(strings.NewReader("bad\nlisten_port=1\n\nnext\n"), maxLine+1)
	if _, err := ParseSet(r); err == nil {
		t.Fatal("not refused")
	}
	if line, err := readLine(r); line != "next" || err != nil {
		t.Errorf("the next request begins with %q, %v", line, err)
	}
}

func TestParseSetBoundsALine(t *testing.T) {
	if _, err := parse("public_key=" + strings.Repeat("0", 2*maxLine) + "\n"); err == nil || !strings.Contains(err.Error(), "longer") {
		t.Errorf("a line of %d bytes: %v", 2*maxLine, err)
	}
}

func TestWriteGet(t *testing.T) {
	var b strings.Builder
	err := WriteGet(&b, DeviceState{
		PrivateKey: fill(1), ListenPort: 51820, FwMark: 7,
		Peers: []PeerState{{
			PublicKey: fill(2), Endpoint: netip.MustParseAddrPort("[2001:db8::1]:9"), LastHandshake: time.Unix(100, 5),
			RxBytes: 1, TxBytes: 2, PersistentKeepalive: 25,
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::/0")},
		}, {PublicKey: fill(1), PresharedKey: fill(2)}},
	})
	want := "private_key=" + hexA + "\nlisten_port=51820\nfwmark=7\n" +
		"public_key=" + hexB + "\npreshared_key=" + strings.Repeat("0", 64) + "\nprotocol_version=1\nendpoint=[2001:db8::1]:9\n" +
		"last_handshake_time_sec=100\nlast_handshake_time_nsec=5\ntx_bytes=2\nrx_bytes=1\npersistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\nallowed_ip=::/0\n" +
		"public_key=" + hexA + "\npreshared_key=" + hexB + "\nprotocol_version=1\n" +
		"last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\npersistent_keepalive_interval=0\n"
	if d := cmp.Diff(want, b.String()); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
	b.Reset()
	if WriteGet(&b, DeviceState{}); b.String() != "" {
		t.Errorf("an empty device gives %q", b.String())
	}
}

// FuzzParseSet: whatever arrives, no panic, no secret in an error; and what is
// accepted means the same when it is written and read again.
func FuzzParseSet(f *testing.F) {
	f.Add("private_key=" + hexA + "\nlisten_port=1\npublic_key=" + hexB + "\nallowed_ip=-10.0.0.0/8\nendpoint=[fe80::1%1]:2\n\n")
	f.Add("fwmark=1\nreplace_peers=true\n")
	f.Add("public_key=" + hexB + "\npreshared_key=" + hexA + "\nremove=true\nupdate_only=true\nreplace_allowed_ips=true\npersistent_keepalive_interval=1\nprotocol_version=1")
	f.Add("=\n==\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parse(text)
		if err != nil {
			if strings.Contains(err.Error(), hexA) {
				t.Fatalf("a secret in %v", err)
			}
			return
		}
		var b strings.Builder
		if err := got.WriteSet(&b); err != nil {
			t.Fatal(err)
		}
		again, err := parse(b.String())
		if err != nil {
			t.Fatalf("%q became %q: %v", text, b.String(), err)
		}
		if d := cmp.Diff(got, again, sameAddresses, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}
