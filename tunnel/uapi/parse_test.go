package uapi

import (
	"bufio"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const (
	hexA = "0101010101010101010101010101010101010101010101010101010101010101"
	hexB = "0202020202020202020202020202020202020202020202020202020202020202"

	onePeer = "public_key=" + hexB + "\n"
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
	return ParseSet(strings.NewReader(text))
}

func TestParseSet(t *testing.T) {
	text := strings.Join([]string{
		"private_key=" + hexA, "listen_port=51820", "fwmark=4294967295", "replace_peers=true",
		"public_key=" + hexB, "preshared_key=" + hexA, "endpoint=[fe80::1%eth0]:1", "persistent_keepalive_interval=25",
		"allowed_ip=10.255.0.0/16", "replace_allowed_ips=true", "allowed_ip=10.1.2.3/8", "allowed_ip=-2001:db8::1/32\r", "allowed_ip=::ffff:192.0.2.1/128", "protocol_version=1",
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

// misplaced is what people paste into the wrong place.
var misplaced = "k" + strings.Repeat("QUJD", 10) + "Q0="

// refused are requests with one wrong line.
var refused = []struct {
	text  string
	errno syscall.Errno
	line  int
	says  string
}{
	{"nonsense\n", syscall.EPROTO, 1, "key=value"},
	{"listen_port=65536\n", syscall.EINVAL, 1, `"listen_port=65536": not a port, 0 to 65535`},
	{"listen_port=\n", syscall.EINVAL, 1, "0 to 65535"},
	{"listen_port=+1\n", syscall.EINVAL, 1, "0 to 65535"},
	{"listen_port=1\r\r\n", syscall.EINVAL, 1, `"listen_port=1\r"`},
	{"fwmark=0x10\n", syscall.EINVAL, 1, "decimal"},
	{"fwmark=4294967296\n", syscall.EINVAL, 1, "decimal"},
	{"replace_peers=false\n", syscall.EINVAL, 1, "true"},
	{"private_key=" + hexA[1:] + "\n", syscall.EINVAL, 1, "64 hexadecimal"},
	{"private_key=zz" + hexA[2:] + "\n", syscall.EINVAL, 1, `"private_key=(hidden)": a key has hexadecimal`},
	{"allowed_ip=10.0.0.0/8\n", syscall.EINVAL, 1, "after the public_key"},
	{"colour=blue\n", syscall.EINVAL, 1, `"colour=(hidden)": unknown key, use one of private_key`},
	{"listen_port=1\npublic_key=12\n", syscall.EINVAL, 2, "64 hexadecimal"},
	{onePeer + "listen_port=1\n", syscall.EINVAL, 2, "before the first public_key"},
	{onePeer + "endpoint=example.com:1\n", syscall.EINVAL, 2, "192.0.2.1:51820"},
	{onePeer + "allowed_ip=10.0.0.0\n", syscall.EINVAL, 2, "10.0.0.0/8"},
	{onePeer + "allowed_ip=10.0.0.0/33\n", syscall.EINVAL, 2, "prefix"},
	{onePeer + "allowed_ip=--10.0.0.0/8\n", syscall.EINVAL, 2, "prefix"},
	{onePeer + "allowed_ip=fe80::1%1/64\n", syscall.EINVAL, 2, "prefix"},
	{onePeer + "persistent_keepalive_interval=-1\n", syscall.EINVAL, 2, "seconds"},
	{onePeer + "persistent_keepalive_interval=off\n", syscall.EINVAL, 2, "seconds"},
	{onePeer + "protocol_version=2\n", syscall.EINVAL, 2, "version 1"},
	{onePeer + "remove=1\n", syscall.EINVAL, 2, "true"},
	{onePeer + "update_only=\n", syscall.EINVAL, 2, "true"},
	{onePeer + "replace_allowed_ips=no\n", syscall.EINVAL, 2, "true"},
	{onePeer + "preshared_key=" + misplaced + "\n", syscall.EINVAL, 2, "hexadecimal"},
	{onePeer + "colour=blue\n", syscall.EINVAL, 2, "use one of remove"},
	{misplaced[:43] + "\n", syscall.EPROTO, 1, "key=value"},
	{"fwmark=" + misplaced + "\n", syscall.EINVAL, 1, `"fwmark=(hidden)": not a mark in decimal`},
	{onePeer + "endpoint=x:" + hexA + "\n", syscall.EINVAL, 2, `"endpoint=(hidden)"`},
	{"privatekey=" + misplaced + "\n", syscall.EINVAL, 1, "unknown key"},
	{misplaced + "\n", syscall.EINVAL, 1, "unknown key"},
	{"=" + misplaced + "\n", syscall.EINVAL, 1, "unknown key"},
	{hexA + "=" + hexA + "\n", syscall.EINVAL, 1, "unknown key"},
}

// stricter are requests that wireguard-go takes.
var stricter = []struct{ text, says string }{
	{onePeer + "endpoint=192.0.2.1:0\n", "port 0"},
	{onePeer + "allowed_ip=::ffff:10.0.0.0/90\n", "write it as IPv4"},
}

func TestParseSetRefuses(t *testing.T) {
	for _, c := range refused {
		// What follows the wrong line must not matter.
		got, err := parse(c.text + "fwmark=\n\nset=1\n")
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%q: %+v, %v; want it refused", c.text, got, err)
			continue
		}
		if e.Errno != c.errno || e.Line != c.line || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: errno %v, %v; want %v, line %d, %q", c.text, e.Errno, err, c.errno, c.line, c.says)
		}
		for _, never := range []string{misplaced[:10], hexA[2:12]} {
			if strings.Contains(err.Error(), never) {
				t.Errorf("%q: the error shows what may be a secret: %v", c.text, err)
			}
		}
	}
	for _, c := range stricter {
		if _, err := parse(c.text + "\n"); errno(err) != syscall.EINVAL || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v; want %q", c.text, err, c.says)
		}
	}
}

func TestParseSetShowsWhatIsNoSecret(t *testing.T) {
	for _, line := range []string{
		"listen_port=x", "public_key=" + hexA[1:], "endpoint=[2001:0db8:0000:0000:0000:0000:0000:0001]",
		"allowed_ip=2001:0db8:0000:0000:0000:0000:0000:0001/129",
	} {
		if got := shown(line); got != line {
			t.Errorf("%q is shown as %q", line, got)
		}
	}
	if got := shown("endpoint=" + strings.Repeat(".", 3000)); len(got) > 120 {
		t.Errorf("a long value is shown with %d bytes", len(got))
	}
}

// TestParseSetReadsToTheEndOfARefusedRequest: what follows a wrong line is not
// taken for requests.
func TestParseSetReadsToTheEndOfARefusedRequest(t *testing.T) {
	r := bufio.NewReaderSize(strings.NewReader("bad\nlisten_port=1\n\nnext\n"), maxLine)
	if _, inStep, err := parseSet(r); err == nil || !inStep {
		t.Fatalf("in step %v, %v", inStep, err)
	}
	if line, err := readLine(r); line != "next" || err != nil {
		t.Errorf("the next request begins with %q, %v", line, err)
	}
}

func TestParseSetTakesWholeRequestsOnly(t *testing.T) {
	for _, text := range []string{"", "listen_port=1", "listen_port=1\n", onePeer + "allowed_ip=10.0.0.0/1", "bad\n"} {
		got, err := parse(text)
		if got != nil || !errors.Is(err, io.ErrUnexpectedEOF) || errno(err) != syscall.EIO {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	if _, err := ParseSet(iotest.ErrReader(syscall.ECONNRESET)); !errors.Is(err, syscall.ECONNRESET) || errno(err) != syscall.EIO {
		t.Errorf("a broken reader: %v", err)
	}
}

func TestParseSetBounds(t *testing.T) {
	longest := "public_key=" + strings.Repeat("0", maxLine-len("public_key=")-1) + "\n"
	if _, err := parse(longest + "\n"); errno(err) != syscall.EINVAL {
		t.Errorf("a line of %d bytes: %v", len(longest), err)
	}
	if _, err := parse("x" + longest + "\n"); errno(err) != syscall.EIO || !errors.Is(err, errLongLine) {
		t.Errorf("a line of %d bytes: %v", len(longest)+1, err)
	}
	// The same line over and over: the wrong one first, so that nothing is kept.
	endless := io.MultiReader(strings.NewReader("bad\n"), strings.NewReader(strings.Repeat(longest, maxRequest/maxLine)))
	if _, err := ParseSet(endless); errno(err) != syscall.E2BIG {
		t.Errorf("a request of more than %d bytes: %v", maxRequest, err)
	}
}

func TestTenThousandPeers(t *testing.T) {
	want := &SetRequest{ReplacePeers: true}
	for i := range 10_000 {
		address := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		want.Peers = append(want.Peers, PeerChange{
			PublicKey: PublicKey{byte(i), byte(i >> 8)}, PresharedKey: ptr(SecretKey(fill(1))), Endpoint: ptr(netip.AddrPortFrom(address, 51820)),
			ReplaceAllowedIPs: true, AllowedIPs: []AllowedIPChange{{Prefix: netip.PrefixFrom(address, 32)}},
		})
	}
	var b strings.Builder
	if err := want.Write(&b); err != nil {
		t.Fatal(err)
	}
	got, err := parse(b.String())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(want, got) {
		t.Error("10 000 peers come back changed")
	}
}

// FuzzParseSet: whatever arrives, no panic, no secret in an error; and what is
// accepted means the same when it is written and read again.
func FuzzParseSet(f *testing.F) {
	f.Add("private_key=" + hexA + "\nlisten_port=1\npublic_key=" + hexB + "\nallowed_ip=-10.0.0.0/8\nendpoint=[fe80::1%1]:2\n\n")
	f.Add("fwmark=1\nreplace_peers=true\n\n")
	f.Add("public_key=" + hexB + "\npreshared_key=" + hexA + "\nremove=true\nupdate_only=true\nreplace_allowed_ips=true\npersistent_keepalive_interval=1\nprotocol_version=1\n\n")
	f.Add("=\n==\n\n")
	for _, c := range refused {
		f.Add(c.text + "\n")
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parse(text)
		if err != nil {
			if strings.Contains(err.Error(), hexA) && !strings.Contains(err.Error(), `"public_key=`) {
				t.Fatalf("a secret in %v", err)
			}
			if errno(err) == 0 {
				t.Fatalf("%v has no errno", err)
			}
			return
		}
		var b strings.Builder
		if err := got.Write(&b); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(b.String(), "\n\n"); n > 1 {
			t.Fatalf("%q became %d requests", text, n)
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
