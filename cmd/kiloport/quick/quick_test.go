package quick

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kiloport/tunnel/uapi"
)

const (
	private = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
	public  = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	other   = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
	psk     = "/UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak="
)

// own knows one key, which takes one value.
func own(key, value string) error {
	if key != "ports" {
		return ErrUnknownKey
	}
	if value != "64" {
		return errors.New("use 64")
	}
	return nil
}

var same = cmp.Options{
	cmpopts.EquateComparable(netip.AddrPort{}, netip.Prefix{}), cmpopts.IgnoreUnexported(Config{}), cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b uapi.SecretKey) bool { return a == b }),
}

func ptr[T any](v T) *T { return &v }

func TestParse(t *testing.T) {
	text := "\ufeff# a comment\r\n[interface]\r\n" +
		"privatekey = " + private + " # ours\nListenPort=51820\nFwMark = 0xca6c\nAddress = 10.0.0.1/24, fd00::1/64\nAddress=10.1.1.1\n" +
		"MTU = 1400\nTable = 0x10\nDNS = 1.1.1.1, example.com\nPreUp = a = b, c\nPostUp = echo %i\nPostUp = second\nPreDown = x\nPostDown = y\nSaveConfig = true\nPorts = 64\n" +
		"\n[Peer]\nPublicKey = " + public + "\nPresharedKey = " + psk + "\nAllowedIPs = 10.0.0.2/32, fd00::2/64\nAllowedIPs = 0.0.0.0/0\nEndpoint = [fe80::1%eth0]:1\nPersistentKeepalive = 25\n" +
		"[Peer]\nPublicKey=" + other + "\nEndpoint = vpn.example.com:51820\nPersistentKeepalive = off\n"
	got, problems := Parse(strings.NewReader(text), "wg0.conf", own)
	if problems != nil {
		t.Fatal(problems)
	}
	want := &Config{
		Interface: Interface{
			PrivateKey: secret(private), ListenPort: ptr(uint16(51820)), FwMark: ptr(uint32(0xca6c)),
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fd00::1/64"), netip.MustParsePrefix("10.1.1.1/32")},
			MTU:       1400, Table: "16", DNS: []string{"1.1.1.1", "example.com"},
			PreUp: []string{"a = b, c"}, PostUp: []string{"echo %i", "second"}, PreDown: []string{"x"}, PostDown: []string{"y"},
		},
		Peers: []Peer{{
			PublicKey: uapi.PublicKey(*secret(public)), PresharedKey: secret(psk),
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32"), netip.MustParsePrefix("fd00::/64"), netip.MustParsePrefix("0.0.0.0/0")},
			Endpoint:   Endpoint{Host: "fe80::1%eth0", Port: 1, Addr: netip.MustParseAddrPort("[fe80::1%eth0]:1"), Line: 24}, PersistentKeepalive: ptr(uint16(25)), Line: 19,
		}, {
			PublicKey: uapi.PublicKey(*secret(other)), Endpoint: Endpoint{Host: "vpn.example.com", Port: 51820, Line: 28}, PersistentKeepalive: ptr(uint16(0)), Line: 26,
		}},
		Notes: []Problem{
			{"wg0.conf", 10, "DNS is left alone: set it up in resolvectl or resolv.conf, for instance by PostUp"},
			{"wg0.conf", 16, "SaveConfig is left alone: kiloport does not write configuration files, see wg showconf"},
			{"wg0.conf", 22, "AllowedIPs fd00::2/64 means fd00::/64"},
		},
	}
	if d := cmp.Diff(want, got, same); d != "" {
		t.Error(d)
	}

	r, err := got.Request(func(e Endpoint) (netip.AddrPort, error) {
		return netip.AddrPortFrom(netip.MustParseAddr("192.0.2.7"), e.Port), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !r.ReplacePeers || *r.ListenPort != 51820 || len(r.Peers) != 2 || !r.Peers[0].ReplaceAllowedIPs || len(r.Peers[0].AllowedIPs) != 3 ||
		*r.Peers[1].Endpoint != netip.MustParseAddrPort("192.0.2.7:51820") {
		t.Errorf("request %+v", r)
	}
	_, err = got.Request(func(Endpoint) (netip.AddrPort, error) { return netip.AddrPort{}, errors.New("no such host") })
	if err == nil || !strings.HasPrefix(err.Error(), "wg0.conf:28: endpoint vpn.example.com: no such host") {
		t.Errorf("a name that is not found: %v", err)
	}
}

func secret(s string) *uapi.SecretKey {
	var k *uapi.SecretKey
	if err := readSecret(s, &k); err != nil {
		panic(err)
	}
	return k
}

const goodInterface = "[Interface]\nPrivateKey = " + private + "\n"

func TestParseReportsEveryProblem(t *testing.T) {
	peer := goodInterface + "[Peer]\nPublicKey = " + public + "\n"
	for _, c := range []struct {
		text string
		want []string // "line: part of the text"
	}{
		{"", []string{"0: no [Interface] section"}},
		{"[Interface]\n", []string{"1: no usable PrivateKey"}},
		{"PrivateKey = " + private, []string{"1: before any section", "0: no [Interface]"}},
		{goodInterface + "[Pear]\nPublicKey = x\n", []string{`3: "[Pear]" is no section`}},
		{goodInterface + "[Interface]\n", []string{"3: a second [Interface] section, the first is at line 1"}},
		{goodInterface + "nonsense\nMTU =\n", []string{"3: Key = Value", "4: has no value"}},
		{goodInterface + "Adress = 10.0.0.1\n", []string{"3: did you mean Address?"}},
		{goodInterface + "Colour = blue\n", []string{`3: unknown key "Colour"`}},
		{goodInterface + "PublicKey = " + public + "\n", []string{"3: PublicKey belongs in [Peer]"}},
		{peer + "ListenPort = 1\n", []string{"5: ListenPort belongs in [Interface]"}},
		{peer + "Ports = 64\n", []string{"5: unknown key"}},
		{goodInterface + "Ports = 65\n", []string{`3: "Ports": use 64`}},
		{goodInterface + "Ports = 64\nPorts = 64\n", []string{"4: ports again, it is at line 3"}},
		{goodInterface + "MTU = 1400\nmtu = 1400\n", []string{"4: MTU again, it is at line 3"}},
		{goodInterface + "ListenPort = 65536\nFwMark = x\nMTU = 100\nTable = -1\nAddress = 10.0.0.256\n",
			[]string{"3: no port", "4: no mark", "5: no MTU", "6: no routing table", "7: no address or prefix"}},
		{goodInterface + "Address = 10.0.0.1,,10.0.0.2\n", []string{"3: an empty place"}},
		{goodInterface + "Table = 0\n", []string{"3: no routing table"}},
		{goodInterface + "[Peer]\nAllowedIPs = 10.0.0.0/8\n", []string{"3: no usable PublicKey"}},
		{peer + "[Peer]\nPublicKey = " + public + "\n", []string{"5: the same peer is at line 3"}},
		{peer + "Endpoint = example.com\n", []string{"5: no endpoint, such as"}},
		{peer + "Endpoint = 192.0.2.1:0\n", []string{"5: no endpoint"}},
		{peer + "Endpoint = a b:1\n", []string{"5: no endpoint"}},
		{peer + "Endpoint = fd00::1:51820\n", []string{"5: no endpoint"}},
		{peer + "PersistentKeepalive = 65536\n", []string{"5: no interval"}},
		{peer + "AllowedIPs = 10.0.0.0/33\n", []string{"5: no address or prefix"}},
		{peer + "AllowedIPs = ::ffff:10.0.0.0/100\n", []string{"5: no address or prefix"}},
		{"[Interface]\nPrivateKey = " + private[1:] + "\n", []string{"2: (hidden) is no key", "1: no usable PrivateKey"}},
		{goodInterface + "ListenPort = " + private + "\n", []string{`3: "(hidden)" is no port`}},
		{goodInterface + private + "\n", []string{`3: "(hidden)" has no value`}},
		{peer + "PresharedKey = " + private + "x\n", []string{"5: (hidden) is no key"}},
		{goodInterface + strings.Repeat("x", maxLine+1), []string{"3: a line is longer than 64 KiB"}},
	} {
		_, problems := Parse(strings.NewReader(c.text), "f", own)
		if len(problems) != len(c.want) {
			t.Errorf("%.200q:\n%v, want %d problems", c.text, problems, len(c.want))
			continue
		}
		for i, p := range problems {
			line, part, _ := strings.Cut(c.want[i], ": ")
			got := p.Error()
			if line != "0" && !strings.HasPrefix(got, "f:"+line+": ") || !strings.Contains(got, part) {
				t.Errorf("%.200q: %q, want line %s with %q", c.text, got, line, part)
			}
			if strings.Contains(got, private[1:43]) {
				t.Errorf("the key is in %q", got)
			}
		}
	}
}

func TestAPrefixOfTwoPeersIsNoted(t *testing.T) {
	got, problems := Parse(strings.NewReader(goodInterface+"[Peer]\nPublicKey="+public+"\nAllowedIPs=10.0.0.0/8\n[Peer]\nPublicKey="+other+"\nAllowedIPs=10.0.0.0/8\n"), "f", own)
	if problems != nil || len(got.Notes) != 1 || !strings.Contains(got.Notes[0].Error(), "f:6: AllowedIPs 10.0.0.0/8 is taken from the peer at line 3") {
		t.Errorf("%v %+v", problems, got)
	}
}

func TestInterfaceName(t *testing.T) {
	for path, want := range map[string]string{"wg0": "wg0", "/etc/wireguard/wg0.conf": "wg0", "a.b-c_d=e+f": "a.b-c_d=e+f", "x/fifteen-letters.conf": "fifteen-letters"} {
		if got, err := InterfaceName(path); got != want || err != nil {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	for _, path := range []string{"", "sixteen-letters-.conf", "a b.conf", "..", ".conf", "wg%d.conf"} {
		if got, err := InterfaceName(path); err == nil {
			t.Errorf("%q gives %q", path, got)
		}
	}
}

func TestHide(t *testing.T) {
	const hex = "c809f3e5317e9575c9b5ed78b638b7ce530dabe85ddab614220241801ddf0669"
	for text, want := range map[string]string{
		private:                                  "(hidden)",
		private[:43]:                             "(hidden)",
		hex:                                      "(hidden)",
		strings.ToUpper(hex):                     "(hidden)",
		"wg set wg0 psk <(echo " + psk + ")":     "wg set wg0 psk <(echo (hidden))",
		`"PrivateKey=` + private + `", ` + other: `"PrivateKey=(hidden)", (hidden)`,
		"/etc/" + private + "/x":                 "(hidden)/x",
		private[:30]:                             private[:30],
		"/home/user/documents/tunnels/offices/north/a.conf":          "/home/user/documents/tunnels/offices/north/a.conf",
		"/srv/Customers/northernoffices/gateway01/tunnels/wireguard": "/srv/Customers/northernoffices/gateway01/tunnels/wireguard",
		"/tmp/TestWrongCommandLines20675652920/001/k.conf":           "/tmp/TestWrongCommandLines20675652920/001/k.conf",
		"": "",
	} {
		if got := Hide(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// FuzzParse: whatever the file, no panic, no key in a problem, and never a
// config together with problems.
func FuzzParse(f *testing.F) {
	f.Add(goodInterface + "Address = fd00::1/64\nPorts = 64\n[Peer]\nPublicKey = " + public + "\nEndpoint = [::1]:1\nAllowedIPs = ::/0\n")
	f.Add("[Interface]\nPrivateKey = " + private + "=\n")
	f.Add("[Peer]\n" + private + " = " + private)
	f.Add("=\n[\n[]\n#\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, problems := Parse(strings.NewReader(text), "f", own)
		if (c == nil) != (len(problems) > 0) {
			t.Fatalf("%v with %v", c, problems)
		}
		for _, p := range problems {
			if strings.Contains(p.Error(), private[:43]) {
				t.Fatalf("the key is in %q", p)
			}
		}
		if c != nil {
			c.Request(func(e Endpoint) (netip.AddrPort, error) { return netip.AddrPort{}, errors.New("no") })
		}
	})
}
