package tunnel

import (
	"net/netip"
	"testing"
)

func TestParseSpread(t *testing.T) {
	for word, want := range map[string]SpreadMode{
		"off": SpreadOff, "auto": SpreadAuto, "ports": SpreadPorts, "Labels": SpreadLabels, "addresses": SpreadAddresses,
		"ports+addresses": SpreadPorts | SpreadAddresses, "addresses + labels": SpreadLabels | SpreadAddresses,
	} {
		got, err := ParseSpread(word)
		if err != nil || got != want {
			t.Errorf("ParseSpread(%q) = %v, %v", word, got, err)
		}
		if again, err := ParseSpread(got.String()); err != nil || again != got {
			t.Errorf("ParseSpread(%q) = %v, %v", got, again, err)
		}
	}
	for _, word := range []string{"", "port", "ports+", "ports+off", "auto+ports"} {
		if got, err := ParseSpread(word); err == nil {
			t.Errorf("ParseSpread(%q) = %v", word, got)
		}
	}
}

func TestParseSourcePrefixes(t *testing.T) {
	for s, want := range map[string]string{
		"none": "none", "2001:db8:1::/64": "2001:db8:1::/64", "2001:db8:1::5/64": "2001:db8:1::/64",
		"2001:db8::/48, 192.0.2.0/24": "192.0.2.0/24,2001:db8::/48",
	} {
		p, err := ParseSourcePrefixes(s)
		if err != nil || p.String() != want {
			t.Errorf("ParseSourcePrefixes(%q) = %v, %v; want %s", s, p, err, want)
		}
	}
	for _, s := range []string{"", "2001:db8::1", "2001:db8::/121", "192.0.2.0/29", "192.0.2.0/24,10.0.0.0/8"} {
		if p, err := ParseSourcePrefixes(s); err == nil {
			t.Errorf("ParseSourcePrefixes(%q) = %v", s, p)
		}
	}
}

// TestSourceAddressesAreDistinct: lanes have addresses of their own, out of the prefix,
// while it has enough.
func TestSourceAddressesAreDistinct(t *testing.T) {
	l := labels{factor: 7, offset: 9}
	for _, s := range []string{"2001:db8:1::/64", "2001:db8::/48", "2001:db8::/112", "198.18.0.0/16"} {
		prefix, seen := netip.MustParsePrefix(s), make(map[netip.Addr]uint16)
		for lane := uint16(1); lane <= 1024; lane++ {
			a := l.source(prefix, lane)
			if other, taken := seen[a]; taken || !prefix.Contains(a) {
				t.Errorf("lane %d of %v has %v, lane %d too", lane, prefix, a, other)
			}
			seen[a] = lane
		}
	}
}
