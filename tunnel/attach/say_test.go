package attach

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func prefixes(text string) (all []netip.Prefix) {
	for _, p := range strings.Fields(text) {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

// TestTargets: HELLO goes to addresses that the peer has, or that nobody has.
func TestTargets(t *testing.T) {
	for name, test := range map[string]struct{ allowed, own, want string }{
		"host":               {"10.0.0.2/32 fd00::2/128", "10.0.0.1/24 fd00::1/64", "10.0.0.2 fd00::2"},
		"hosts first":        {"10.9.0.0/16 10.0.0.2/32", "10.0.0.1/24", "10.0.0.2 10.9.0.0"},
		"site":               {"10.2.0.0/16 fd02::/48", "10.1.0.1/32 fd01::1/128", "10.2.0.0 fd02::"},
		"our own network":    {"10.0.0.0/24", "10.0.0.5/24", "10.0.0.1"},
		"we are the first":   {"10.0.0.0/24", "10.0.0.1/24", "10.0.0.2"},
		"everything":         {"0.0.0.0/0 ::/0", "10.0.0.2/24 fd00::2/64", "10.0.0.1 fd00::1"},
		"everything, alone":  {"0.0.0.0/0 ::/0", "10.0.0.2/32 fd00::2/128", "192.0.0.8 100::1"},
		"one family":         {"0.0.0.0/0 ::/0", "10.0.0.2/32", "192.0.0.8"},
		"no address":         {"10.2.0.0/16 fd02::/48", "", "10.2.0.0 fd02::"},
		"another family":     {"fd02::/48", "10.0.0.1/24", ""},
		"no more than four":  {"1.0.0.1/32 1.0.0.2/32 1.0.0.3/32 1.0.0.4/32 1.0.0.5/32", "10.0.0.1/24", "1.0.0.1 1.0.0.2 1.0.0.3 1.0.0.4"},
		"allowed of nothing": {"", "10.0.0.1/24", ""},
	} {
		var got []string
		for _, a := range targets(prefixes(test.allowed), prefixes(test.own)) {
			got = append(got, a.String())
		}
		if want := strings.Fields(test.want); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestFrom(t *testing.T) {
	own := prefixes("10.0.0.1/24 10.1.0.1/16 fd00::1/64")
	for to, want := range map[string]string{"10.0.0.9": "10.0.0.1", "10.1.2.3": "10.1.0.1", "10.9.0.0": "invalid IP", "fd09::": "fd00::1"} {
		if got := from(own, netip.MustParseAddr(to)); got.String() != want {
			t.Errorf("from %v to %s, want %s", got, to, want)
		}
	}
	if got := from(prefixes("fd00::1/64"), netip.MustParseAddr("10.0.0.1")); got.IsValid() {
		t.Errorf("from %v", got)
	}
}
