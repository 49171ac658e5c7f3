package ecn_test

import (
	"encoding"
	"flag"
	"strconv"
	"strings"
	"testing"

	"kiloport/tunnel/ecn"
)

var (
	_ flag.Value               = (*ecn.DSCPPolicy)(nil)
	_ encoding.TextMarshaler   = ecn.DSCPPolicy{}
	_ encoding.TextUnmarshaler = (*ecn.DSCPPolicy)(nil)
)

func TestParseDSCP(t *testing.T) {
	for in, want := range map[string]ecn.DSCPPolicy{
		"inherit": {}, "Inherit": {}, "zero": ecn.FixedDSCP(0), "ZERO": ecn.FixedDSCP(0), "0": ecn.FixedDSCP(0),
		"63": ecn.FixedDSCP(63), "007": ecn.FixedDSCP(7),
		"EF": ecn.FixedDSCP(46), "ef": ecn.FixedDSCP(46), "LE": ecn.FixedDSCP(1), "voice-admit": ecn.FixedDSCP(44),
	} {
		if got, err := ecn.ParseDSCP(in); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", in, got, err, want)
		}
	}
}

// CSn is 8n (RFC 2474), AFxy is 8x + 2y (RFC 2597).
func TestParseDSCPClasses(t *testing.T) {
	try := func(name string, want int) {
		if got, err := ecn.ParseDSCP(name); err != nil || got != ecn.FixedDSCP(uint8(want)) {
			t.Errorf("%s: %v, %v, want %d", name, got, err, want)
		}
	}
	for x := range 8 {
		try("CS"+strconv.Itoa(x), 8*x)
	}
	for x := 1; x <= 4; x++ {
		for y := 1; y <= 3; y++ {
			try("AF"+strconv.Itoa(10*x+y), 8*x+2*y)
		}
	}
}

func TestParseDSCPRefuses(t *testing.T) {
	for _, in := range []string{"", " ", "64", "255", "256", "99999999999999999999", "-1", "+1", "0x2e", "1_0", " 1", "1 ", "1.0", "cs8", "af44", "af10", "none", "inherit,zero"} {
		got, err := ecn.ParseDSCP(in)
		if err == nil {
			t.Errorf("%q: parsed as %v", in, got)
			continue
		}
		if got != (ecn.DSCPPolicy{}) {
			t.Errorf("%q: error and %v", in, got)
		}
		for _, part := range []string{strconv.Quote(in), "inherit", "zero", "0 to 63", "AF11", "EF"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q: error %q does not say %s", in, err, part)
			}
		}
	}
}

func TestDSCPRoundTrip(t *testing.T) {
	policies := []ecn.DSCPPolicy{{}}
	for v := range uint8(64) {
		policies = append(policies, ecn.FixedDSCP(v))
	}
	for _, p := range policies {
		if got, err := ecn.ParseDSCP(p.String()); err != nil || got != p {
			t.Errorf("%v read back: %v, %v", p, got, err)
		}
		text, err := p.MarshalText()
		var got ecn.DSCPPolicy
		if err2 := got.UnmarshalText(text); err != nil || err2 != nil || got != p {
			t.Errorf("%v as text %q: %v, %v, %v", p, text, got, err, err2)
		}
	}
	if s := (ecn.DSCPPolicy{}).String(); s != "inherit" {
		t.Errorf("the zero policy is %q", s)
	}
	if s := ecn.FixedDSCP(0).String(); s != "zero" {
		t.Errorf("the policy of zero is %q", s)
	}
}

func TestDSCPOuter(t *testing.T) {
	for inner := range 256 {
		if got := (ecn.DSCPPolicy{}).Outer(uint8(inner)); int(got) != inner%64 {
			t.Errorf("inherit: %d gets %d", inner, got)
		}
		if got := ecn.FixedDSCP(46).Outer(uint8(inner)); got != 46 {
			t.Errorf("46: %d gets %d", inner, got)
		}
	}
	if ecn.FixedDSCP(64+5) != ecn.FixedDSCP(5) {
		t.Error("FixedDSCP keeps bits above the DSCP")
	}
}

func TestDSCPFlag(t *testing.T) {
	p := ecn.FixedDSCP(10)
	if err := p.Set("64"); err == nil || p != ecn.FixedDSCP(10) {
		t.Errorf("after a bad flag: %v, %v", p, err)
	}
	if err := p.Set("inherit"); err != nil || p != (ecn.DSCPPolicy{}) {
		t.Errorf("after inherit: %v, %v", p, err)
	}
	if p.Type() != "dscp" {
		t.Errorf("type %q", p.Type())
	}
}
