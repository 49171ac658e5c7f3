package ecn_test

import (
	"encoding"
	"flag"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

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
	inherit, fixed := ecn.DSCPPolicy{}, ecn.FixedDSCP(46)
	for inner := range 256 {
		if got := inherit.Outer(uint8(inner)); int(got) != inner%64 {
			t.Errorf("inherit: %d gets %d", inner, got)
		}
		if got := fixed.Outer(uint8(inner)); got != 46 {
			t.Errorf("46: %d gets %d", inner, got)
		}
	}
	if ecn.FixedDSCP(64+5) != ecn.FixedDSCP(5) {
		t.Error("FixedDSCP keeps bits above the DSCP")
	}
	if !inherit.Inherits() || fixed.Inherits() {
		t.Error("Inherits")
	}
}

// maps are what people write, with the outer DSCP of some inner ones, and what
// String makes of it.
var maps = []struct {
	in, canonical string
	outer         map[uint8]uint8
}{
	{"AF41=CS1,EF=0", "AF41=CS1,EF=CS0", map[uint8]uint8{34: 8, 46: 0, 0: 0, 10: 10, 63: 63}},
	{" af41 = cs1 , ef = le ", "AF41=CS1,EF=LE", map[uint8]uint8{34: 8, 46: 1, 8: 8}},
	{"*=0,EF=EF,46x", "", nil},
	{"*=0,EF=EF", "*=CS0,EF=inherit", map[uint8]uint8{46: 46, 0: 0, 10: 0, 63: 0}},
	{"EF=inherit,*=zero", "*=CS0,EF=inherit", map[uint8]uint8{46: 46, 10: 0}},
	{"*=inherit,7=9", "7=9", map[uint8]uint8{7: 9, 9: 9}},
	{"*=46", "46", map[uint8]uint8{7: 46}},
	{"*=CS0", "zero", map[uint8]uint8{7: 0}},
	{"EF=EF", "inherit", map[uint8]uint8{46: 46}},
}

func TestDSCPMap(t *testing.T) {
	for _, m := range maps {
		p, err := ecn.ParseDSCP(m.in)
		if m.outer == nil {
			if err == nil {
				t.Errorf("%q: parsed as %v", m.in, p)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", m.in, err)
			continue
		}
		for inner, want := range m.outer {
			if got := p.Outer(inner); got != want {
				t.Errorf("%q: %d gets %d, want %d", m.in, inner, got, want)
			}
		}
		if got := p.String(); got != m.canonical {
			t.Errorf("%q is written %q, want %q", m.in, got, m.canonical)
		}
		if again, err := ecn.ParseDSCP(p.String()); err != nil || again != p {
			t.Errorf("%q read back: %v, %v", p, again, err)
		}
	}
}

func TestDSCPMapRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"AF41=": `""`, "=CS1": `""`, "AF41=CS1,": "no pair", "AF41=CS1,,": "no pair", "AF41": "", "AF41=64": "64",
		"EF=1,EF=2": "twice", "EF=1,46=2": "same", "*=1,*=2": "twice", "AF41=CS1=CS2": "CS1=CS2", "inherit=0": "inherit", "*=EF=1": "EF",
	} {
		if p, err := ecn.ParseDSCP(in); err == nil && in != "AF41" {
			t.Errorf("%q: parsed as %v", in, p)
		} else if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %q does not say %s", in, err, want)
		}
	}
}

// Any map at all is written so that it reads back the same.
func TestAnyDSCPMapRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pairs := rapid.MapOf(rapid.IntRange(0, 63), rapid.IntRange(0, 63)).Draw(t, "map")
		var text []string
		if rapid.Bool().Draw(t, "others") {
			text = append(text, "*="+strconv.Itoa(rapid.IntRange(0, 63).Draw(t, "other")))
		}
		for inner, outer := range pairs {
			text = append(text, strconv.Itoa(inner)+"="+strconv.Itoa(outer))
		}
		if len(text) == 0 {
			return
		}
		p, err := ecn.ParseDSCP(strings.Join(text, ","))
		if err != nil {
			t.Fatal(err)
		}
		for inner, outer := range pairs {
			if got := p.Outer(uint8(inner)); int(got) != outer {
				t.Fatalf("%d gets %d, want %d", inner, got, outer)
			}
		}
		if again, err := ecn.ParseDSCP(p.String()); err != nil || again != p {
			t.Fatalf("%q read back: %v, %v", p, again, err)
		}
	})
}

func FuzzParseDSCP(f *testing.F) {
	for _, m := range maps {
		f.Add(m.in)
	}
	f.Add("inherit")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ecn.ParseDSCP(s)
		if err != nil {
			return
		}
		if again, err := ecn.ParseDSCP(p.String()); err != nil || again != p {
			t.Fatalf("%q is %q, read back: %v, %v", s, p, again, err)
		}
	})
}

func TestNameDSCP(t *testing.T) {
	for v := range uint8(64) {
		if got, err := ecn.ParseCodepoint(ecn.NameDSCP(v)); err != nil || got != v {
			t.Errorf("%d is called %s, which is %d, %v", v, ecn.NameDSCP(v), got, err)
		}
	}
	for v, want := range map[uint8]string{0: "CS0", 46: "EF", 34: "AF41", 1: "LE", 2: "2", 63: "63"} {
		if got := ecn.NameDSCP(v); got != want {
			t.Errorf("%d is called %s, want %s", v, got, want)
		}
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
