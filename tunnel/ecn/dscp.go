package ecn

import (
	"fmt"
	"strconv"
	"strings"
)

// MaxDSCP is the greatest differentiated services codepoint (RFC 2474).
const MaxDSCP = 63

// DSCPPolicy says which DSCP an outer header gets. The zero value inherits the
// inner one. Policies may be compared with ==.
//
// The pointer is a flag value of package flag and of spf13/pflag.
type DSCPPolicy struct {
	fixed bool
	value uint8
}

// FixedDSCP is the policy that gives every outer header the same DSCP, 0 to 63;
// higher bits are ignored.
func FixedDSCP(dscp uint8) DSCPPolicy {
	return DSCPPolicy{fixed: true, value: dscp & MaxDSCP}
}

// Outer is the DSCP of the outer header of a packet with this inner DSCP, 0 to
// 63.
func (p DSCPPolicy) Outer(inner uint8) uint8 {
	if p.fixed {
		return p.value
	}
	return inner & MaxDSCP
}

// names are the codepoints that have one: RFC 2474 (CS), RFC 2597 (AF), RFC
// 3246 (EF), RFC 5865 (VOICE-ADMIT), RFC 8622 (LE).
var names = map[string]uint8{
	"cs0": 0, "cs1": 8, "cs2": 16, "cs3": 24, "cs4": 32, "cs5": 40, "cs6": 48, "cs7": 56,
	"af11": 10, "af12": 12, "af13": 14, "af21": 18, "af22": 20, "af23": 22,
	"af31": 26, "af32": 28, "af33": 30, "af41": 34, "af42": 36, "af43": 38,
	"ef": 46, "voice-admit": 44, "le": 1,
}

// ParseDSCP reads "inherit", "zero", a number from 0 to 63, or the name of a
// codepoint such as EF, CS1 or AF41, in either case.
func ParseDSCP(s string) (DSCPPolicy, error) {
	word := strings.ToLower(s)
	switch word {
	case "inherit":
		return DSCPPolicy{}, nil
	case "zero":
		return FixedDSCP(0), nil
	}
	if v, ok := names[word]; ok {
		return FixedDSCP(v), nil
	}
	// ParseUint takes no sign, and with base 10 no underscores or prefixes.
	if v, err := strconv.ParseUint(s, 10, 8); err == nil && v <= MaxDSCP {
		return FixedDSCP(uint8(v)), nil
	}
	return DSCPPolicy{}, fmt.Errorf(
		"parse DSCP %q: use inherit, zero, a number from 0 to 63, or a name (CS0 to CS7, AF11 to AF43, EF, VOICE-ADMIT, LE)", s)
}

// String is what [ParseDSCP] reads back: "inherit", "zero" or a number.
func (p DSCPPolicy) String() string {
	switch {
	case !p.fixed:
		return "inherit"
	case p.value == 0:
		return "zero"
	}
	return strconv.Itoa(int(p.value))
}

// MarshalText is [DSCPPolicy.String]; it never fails.
func (p DSCPPolicy) MarshalText() ([]byte, error) {
	return []byte(p.String()), nil
}

// UnmarshalText is [ParseDSCP]; p is unchanged where it fails.
func (p *DSCPPolicy) UnmarshalText(text []byte) error {
	return p.Set(string(text))
}

// Set is [ParseDSCP] for a command-line flag; p is unchanged where it fails.
func (p *DSCPPolicy) Set(s string) error {
	v, err := ParseDSCP(s)
	if err != nil {
		return err
	}
	*p = v
	return nil
}

// Type names the flag's value in a usage text.
func (*DSCPPolicy) Type() string { return "dscp" }
