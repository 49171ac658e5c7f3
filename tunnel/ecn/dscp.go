package ecn

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// MaxDSCP is the greatest differentiated services codepoint (RFC 2474).
const MaxDSCP = 63

// DSCPPolicy says which DSCP an outer header gets. The zero value inherits the
// inner one. Policies may be compared with ==: those are equal that do the same.
//
// The pointer is a flag value of package flag and of spf13/pflag.
type DSCPPolicy struct {
	change [MaxDSCP + 1]uint8 // by inner DSCP, exclusive-or with the outer one: zeros inherit
}

// FixedDSCP is the policy that gives every outer header the same DSCP, 0 to 63;
// higher bits are ignored.
func FixedDSCP(dscp uint8) (p DSCPPolicy) {
	for inner := range p.change {
		p.put(uint8(inner), dscp)
	}
	return p
}

// put lets an inner DSCP be outer outside.
func (p *DSCPPolicy) put(inner, outer uint8) {
	p.change[inner&MaxDSCP] = (inner ^ outer) & MaxDSCP
}

// Outer is the DSCP of the outer header of a packet with this inner DSCP, 0 to
// 63.
func (p *DSCPPolicy) Outer(inner uint8) uint8 {
	return (inner ^ p.change[inner&MaxDSCP]) & MaxDSCP
}

// Inherits tells whether every outer DSCP is the inner one.
func (p *DSCPPolicy) Inherits() bool { return *p == DSCPPolicy{} }

// Outers are the outer DSCPs that some inner one is changed to, as bits 0 to 63.
func (p *DSCPPolicy) Outers() (set uint64) {
	for inner, change := range p.change {
		if change != 0 {
			set |= 1 << p.Outer(uint8(inner))
		}
	}
	return set
}

// names are the codepoints that have one: RFC 2474 (CS), RFC 2597 (AF), RFC
// 3246 (EF), RFC 5865 (VOICE-ADMIT), RFC 8622 (LE).
var names = map[string]uint8{
	"CS0": 0, "CS1": 8, "CS2": 16, "CS3": 24, "CS4": 32, "CS5": 40, "CS6": 48, "CS7": 56,
	"AF11": 10, "AF12": 12, "AF13": 14, "AF21": 18, "AF22": 20, "AF23": 22,
	"AF31": 26, "AF32": 28, "AF33": 30, "AF41": 34, "AF42": 36, "AF43": 38,
	"EF": 46, "VOICE-ADMIT": 44, "LE": 1,
}

// nameOf is the other way round.
var nameOf = func() (all [MaxDSCP + 1]string) {
	for v := range all {
		all[v] = strconv.Itoa(v)
	}
	for name, v := range maps.All(names) {
		all[v] = name
	}
	return all
}()

// NameDSCP is the name of a codepoint, such as EF, or its number if it has none.
// Higher bits than the DSCP's are ignored.
func NameDSCP(dscp uint8) string { return nameOf[dscp&MaxDSCP] }

// ParseCodepoint reads a single DSCP: a number from 0 to 63, or a name such as
// EF, CS1 or AF41, in either case.
func ParseCodepoint(s string) (uint8, error) {
	if v, ok := names[strings.ToUpper(s)]; ok {
		return v, nil
	}
	// ParseUint takes no sign, and with base 10 no underscores or prefixes.
	if v, err := strconv.ParseUint(s, 10, 8); err == nil && v <= MaxDSCP {
		return uint8(v), nil
	}
	return 0, fmt.Errorf("%q is no DSCP: use a number from 0 to 63, or a name (CS0 to CS7, AF11 to AF43, EF, VOICE-ADMIT, LE)", s)
}

// ParseDSCP reads "inherit", "zero", a codepoint as [ParseCodepoint] does, or a
// map such as "AF41=CS1,EF=0": inner and outer codepoint, where what it does not
// name is inherited, or is what "*=" says.
func ParseDSCP(s string) (DSCPPolicy, error) {
	switch strings.ToLower(s) {
	case "inherit":
		return DSCPPolicy{}, nil
	case "zero":
		return FixedDSCP(0), nil
	}
	if strings.Contains(s, "=") {
		p, err := parseMap(s)
		if err != nil {
			return DSCPPolicy{}, fmt.Errorf("parse DSCP map %q: %w", s, err)
		}
		return p, nil
	}
	v, err := ParseCodepoint(s)
	if err != nil {
		return DSCPPolicy{}, fmt.Errorf("parse DSCP: %w; or inherit, zero, or a map such as AF41=CS1,EF=0,*=inherit", err)
	}
	return FixedDSCP(v), nil
}

const others = "*"

// parseMap reads pairs; the one for all others counts first, wherever it stands.
func parseMap(s string) (p DSCPPolicy, err error) {
	pairs := make(map[string]string)
	for pair := range strings.SplitSeq(s, ",") {
		inner, outer, ok := strings.Cut(pair, "=")
		inner, outer = strings.TrimSpace(inner), strings.TrimSpace(outer)
		if !ok {
			return p, fmt.Errorf("%q is no pair, such as AF41=CS1", pair)
		}
		if _, twice := pairs[inner]; twice {
			return p, fmt.Errorf("%s is there twice", inner)
		}
		pairs[inner] = outer
	}
	if outer, ok := pairs[others]; ok {
		for inner := range p.change {
			if err := p.putText(uint8(inner), outer); err != nil {
				return p, err
			}
		}
		delete(pairs, others)
	}
	seen := make(map[uint8]string)
	for inner, outer := range maps.All(pairs) {
		from, err := ParseCodepoint(inner)
		if err != nil {
			return p, err
		}
		if other, twice := seen[from]; twice {
			return p, fmt.Errorf("%s and %s are the same codepoint", other, inner)
		}
		seen[from] = inner
		if err := p.putText(from, outer); err != nil {
			return p, err
		}
	}
	return p, nil
}

// putText is put of a word: inherit, zero or a codepoint.
func (p *DSCPPolicy) putText(inner uint8, word string) (err error) {
	outer := inner
	switch strings.ToLower(word) {
	case "inherit":
	case "zero":
		outer = 0
	default:
		if outer, err = ParseCodepoint(word); err != nil {
			return err
		}
	}
	p.put(inner, outer)
	return nil
}

// String is what [ParseDSCP] reads back: "inherit", "zero", a number, or a map.
func (p DSCPPolicy) String() string {
	if p.Inherits() {
		return "inherit"
	}
	usual, count := p.usual()
	switch {
	case count == len(p.change) && usual == 0:
		return "zero"
	case count == len(p.change):
		return strconv.Itoa(int(usual))
	}
	var pairs []string
	if count <= len(p.change)/2 {
		usual = MaxDSCP + 1 // none
	} else {
		pairs = append(pairs, others+"="+NameDSCP(usual))
	}
	for inner := range p.change {
		switch outer := p.Outer(uint8(inner)); {
		case outer == usual, usual > MaxDSCP && outer == uint8(inner):
		case outer == uint8(inner):
			pairs = append(pairs, NameDSCP(outer)+"=inherit")
		default:
			pairs = append(pairs, NameDSCP(uint8(inner))+"="+NameDSCP(outer))
		}
	}
	return strings.Join(pairs, ",")
}

// usual is the outer DSCP that most inner ones get, and how many do.
func (p *DSCPPolicy) usual() (outer uint8, count int) {
	var counts [MaxDSCP + 1]int
	for inner := range p.change {
		counts[p.Outer(uint8(inner))]++
	}
	count = slices.Max(counts[:])
	return uint8(slices.Index(counts[:], count)), count
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
