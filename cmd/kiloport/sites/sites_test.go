package sites

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kiloport/cmd/kiloport/quick"
	"kiloport/tunnel"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text string
		want Site
		says string
	}{
		{text: "home", want: Site{Name: "home"}},
		{text: "a@192.0.2.1", want: Site{Name: "a", Host: "192.0.2.1"}},
		{text: "a@192.0.2.1:99", want: Site{Name: "a", Host: "192.0.2.1", Port: 99}},
		{text: "a@2001:db8::1", want: Site{Name: "a", Host: "2001:db8::1"}},
		{text: "a@[2001:db8::1]", want: Site{Name: "a", Host: "2001:db8::1"}},
		{text: "a@[2001:db8::1]:99", want: Site{Name: "a", Host: "2001:db8::1", Port: 99}},
		{text: "a@vpn.example.com:99", want: Site{Name: "a", Host: "vpn.example.com", Port: 99}},
		{text: "a,10.1.0.0/16,2001:db8:1::/48", want: Site{Name: "a", Networks: prefixes("10.1.0.0/16", "2001:db8:1::/48")}},
		{text: "", says: "is no name"},
		{text: "../x@192.0.2.1", says: "is no name"},
		{text: "a@", says: "is no address or name"},
		{text: "a@192.0.2.1:0", says: "is no address or name"},
		{text: "a@x y", says: "is no address or name"},
		{text: "a@h:70000", says: "is no address or name"},
		{text: "a,10.1.0.0", says: "is no network"},
		{text: "a,", want: Site{Name: "a"}},
		{text: "a,10.1.0.1/16", says: "write 10.1.0.0/16"},
	} {
		got, err := Parse(c.text)
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q: %v; want it to say %q", c.text, err, c.says)
			}
			continue
		}
		if d := cmp.Diff(c.want, got, comparePrefix); err != nil || d != "" {
			t.Errorf("%q: %v %s", c.text, err, d)
		}
	}
}

var comparePrefix = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func plan(hub string, sites ...string) *Plan {
	p := &Plan{
		Hub: hub, Interface: "wg0", ListenPort: 51820, Ports: 64, PortRange: tunnel.PortRange{Low: 40000, High: 40063},
		Inner: prefixes("10.99.0.0/24", "fd99::/64"),
	}
	for _, text := range sites {
		s, err := Parse(text)
		if err != nil {
			panic(err)
		}
		p.Sites = append(p.Sites, s)
	}
	return p
}

// repeatable is a source of keys for tests.
func repeatable() *rand.ChaCha8 { return rand.NewChaCha8([32]byte{1}) }

func read(t *testing.T, file, text string) Named {
	t.Helper()
	config, problems := quick.Parse(strings.NewReader(text), file, func(key, _ string) error {
		if key == "ports" || key == "portrange" {
			return nil
		}
		return quick.ErrUnknownKey
	})
	for _, p := range problems {
		t.Error(p)
	}
	if config == nil {
		t.FailNow()
	}
	return Named{file, config}
}

// What is made can be read, goes together, and gives each site every network of
// the others.
func TestMake(t *testing.T) {
	for name, p := range map[string]*Plan{
		"pair":      plan("", "a@192.0.2.1,10.1.0.0/16", "b@[2001:db8::2]:99,10.2.0.0/16"),
		"nat":       plan("", "a@vpn.example.com,10.1.0.0/16", "b,192.168.7.0/24"),
		"mesh of 5": plan("", "a@192.0.2.1", "b@192.0.2.2", "c@192.0.2.3,10.3.0.0/16", "d@192.0.2.4", "e"),
		"hub":       plan("a", "a@192.0.2.1,10.1.0.0/16", "b,10.2.0.0/16", "c", "d@192.0.2.4"),
	} {
		files, err := p.Make(repeatable())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var all []Named
		for _, f := range files {
			all = append(all, read(t, f.Site, f.Config))
		}
		for _, problem := range Compare(all) {
			t.Errorf("%s: %v", name, problem)
		}
		for i := range all {
			everythingBehind(t, name, p, all, i)
		}
	}
}

// everythingBehind wants what belongs to others to lie behind some peer, and
// nothing of the site's own.
func everythingBehind(t *testing.T, name string, p *Plan, all []Named, site int) {
	t.Helper()
	var behind []netip.Prefix
	for _, peer := range all[site].Config.Peers {
		behind = append(behind, peer.AllowedIPs...)
	}
	for other, s := range p.Sites {
		for _, network := range s.Networks {
			if covered(behind, network.Addr()) == (other == site) {
				t.Errorf("%s: at %s, %v of %s lies behind the wrong end: %v", name, p.Sites[site].Name, network, s.Name, behind)
			}
		}
		if a := address(p.Inner[0], other); other != site && !covered(behind, a) {
			t.Errorf("%s: at %s, %v lies behind no peer", name, p.Sites[site].Name, a)
		}
	}
}

func TestPlansThatCannotWork(t *testing.T) {
	inner := func(p *Plan, texts ...string) *Plan { p.Inner = prefixes(texts...); return p }
	inRange := plan("", "a@192.0.2.1", "b")
	inRange.ListenPort = 40001
	for says, p := range map[string]*Plan{
		"at least two sites":                plan("", "a@192.0.2.1"),
		"two sites are called a":            plan("", "a@192.0.2.1", "a"),
		"neither a nor b has an address":    plan("", "a", "b"),
		"the hub x is none of the sites":    plan("x", "a@192.0.2.1", "b"),
		"the hub a has no address":          plan("a", "a", "b@192.0.2.1"),
		"10.1.0.0/16 of a and 10.1.2.0/24 ": plan("", "a@192.0.2.1,10.1.0.0/16", "b,10.1.2.0/24"),
		"of the tunnel and 10.99.0.0/16":    plan("", "a@192.0.2.1,10.99.0.0/16", "b"),
		"too small for 3 sites":             inner(plan("", "a@192.0.2.1", "b@192.0.2.2", "c"), "10.9.0.0/30"),
		"write 10.9.0.0/24":                 inner(plan("", "a@192.0.2.1", "b"), "10.9.0.1/24"),
		"no network of its own":             inner(plan("", "a@192.0.2.1", "b")),
		"lies in the port range":            inRange,
	} {
		if _, err := p.Make(repeatable()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want it to say %q", err, says)
		}
	}
}

// Each change to one of two files that fit together is noticed.
func TestCompare(t *testing.T) {
	files, err := plan("", "a@192.0.2.1,10.1.0.0/16", "b@192.0.2.2,10.2.0.0/16").Make(repeatable())
	if err != nil {
		t.Fatal(err)
	}
	other, err := plan("", "a@192.0.2.1", "b").Make(bytes.NewReader(bytes.Repeat([]byte{7, 8, 9}, 500)))
	if err != nil {
		t.Fatal(err)
	}
	value := func(text, key string) string {
		_, rest, _ := strings.Cut(text, key+" = ")
		line, _, _ := strings.Cut(rest, "\n")
		return line
	}
	swap := func(old, new string) string {
		changed := strings.Replace(files[1].Config, old, new, 1)
		if changed == files[1].Config {
			t.Fatalf("there is no %q in %s", old, changed)
		}
		return changed
	}
	for says, b := range map[string]string{
		"b: has the same private key as a":             files[0].Config,
		"a: has no [Peer] with the PublicKey":          swap(value(files[1].Config, "PrivateKey"), value(other[1].Config, "PrivateKey")),
		"b: has no [Peer] with the PublicKey":          swap(value(files[1].Config, "PublicKey"), value(other[1].Config, "PublicKey")),
		"do not know each other":                       other[1].Config,
		"PresharedKey is not that of a":                swap(value(files[1].Config, "PresharedKey"), value(other[1].Config, "PresharedKey")),
		"a:13: Endpoint has port 51820, but b listens": swap("ListenPort = 51820", "ListenPort = 51821"),
		"b: has no ListenPort, though a, line 13":      swap("ListenPort = 51820\n", ""),
		"AllowedIPs lacks 10.99.0.9, the address of b": swap("10.99.0.2/24", "10.99.0.9/24"),
		"b: has the Address 10.99.0.1, as a has":       swap("10.99.0.2/24", "10.99.0.1/24"),
		"which is this site's own address":             swap("10.99.0.1/32", "10.99.0.1/32, 10.99.0.2/32"),
		"AllowedIPs lacks 10.99.0.1, the address of a": swap("10.99.0.1/32, ", ""),
	} {
		var said []string
		for _, p := range Compare([]Named{read(t, "a", files[0].Config), read(t, "b", b)}) {
			said = append(said, p.Error())
		}
		if !strings.Contains(strings.Join(said, "\n"), says) {
			t.Errorf("want it to say %q: %q", says, said)
		}
	}
	noEndpoint := func(text string) string {
		return strings.ReplaceAll(text, "Endpoint = "+value(text, "Endpoint")+"\n", "")
	}
	got := Compare([]Named{read(t, "a", noEndpoint(files[0].Config)), read(t, "b", noEndpoint(files[1].Config))})
	if len(got) != 1 || !strings.Contains(got[0].Text, "nobody can begin") {
		t.Errorf("without endpoints: %v", got)
	}
}

// nft takes the rules, whether or not there is a firewall already.
func TestFirewallIsLoaded(t *testing.T) {
	files, err := plan("a", "a@192.0.2.1,10.1.0.0/16", "b").Make(repeatable())
	if err != nil {
		t.Fatal(err)
	}
	const debian = "table inet filter { chain input { type filter hook input priority filter; policy drop; }\nchain forward { type filter hook forward priority filter; policy drop; }\n}\n"
	for _, f := range files {
		for _, before := range []string{"", debian} {
			cmd := exec.Command("unshare", "-n", "sh", "-c", "nft -f /dev/stdin && nft list ruleset")
			cmd.Stdin = strings.NewReader(before + f.Firewall)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), fmt.Sprintf("udp dport %d", 51820)) {
				t.Errorf("%s: %v %s", f.Site, err, out)
			}
			if got, want := strings.Contains(string(out), `oifname "wg0"`), f.Site == "a"; got != want {
				t.Errorf("%s: forwards: %v", f.Site, got)
			}
		}
	}
}
