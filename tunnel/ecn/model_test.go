package ecn_test

import (
	"testing"

	"kiloport/tunnel/ecn"
)

func TestParseModel(t *testing.T) {
	for in, want := range map[string]ecn.Model{"pipe": ecn.Pipe, "Pipe": ecn.Pipe, "UNIFORM": ecn.Uniform} {
		if got, err := ecn.ParseModel(in); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "pipes", "copy"} {
		if got, err := ecn.ParseModel(in); err == nil || got != ecn.Pipe {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, m := range []ecn.Model{ecn.Pipe, ecn.Uniform} {
		if got, err := ecn.ParseModel(m.String()); err != nil || got != m {
			t.Errorf("%v read back: %v, %v", m, got, err)
		}
	}
	if s := ecn.Model(7).String(); s != "model 7" {
		t.Errorf("an unknown model is called %q", s)
	}
}

// The ECN field is never the outer one's by itself, in either model.
func TestModelInner(t *testing.T) {
	for outer := range 256 {
		for _, cp := range all {
			if got, want := ecn.Pipe.Inner(46, uint8(outer), cp), ecn.TrafficClass(46, cp); got != want {
				t.Errorf("pipe, outer %#x, %v: %#x, want %#x", outer, cp, got, want)
			}
			if got, want := ecn.Uniform.Inner(46, uint8(outer), cp), uint8(outer)&^3|uint8(cp); got != want {
				t.Errorf("uniform, outer %#x, %v: %#x, want %#x", outer, cp, got, want)
			}
		}
	}
}

// RFC 2597: packets of one AF class stay in order, whatever their drop
// precedence. No others have to.
func TestPHB(t *testing.T) {
	af := map[uint8]uint8{}
	for class := uint8(1); class <= 4; class++ {
		for drop := uint8(1); drop <= 3; drop++ {
			af[8*class+2*drop] = class
		}
	}
	for a := range uint8(64) {
		for b := range uint8(64) {
			same := a == b || af[a] != 0 && af[a] == af[b]
			if got := ecn.PHB(a) == ecn.PHB(b); got != same {
				t.Errorf("%s and %s in one class: %v, want %v", ecn.NameDSCP(a), ecn.NameDSCP(b), got, same)
			}
		}
	}
	if ecn.PHB(0) != 0 {
		t.Error("the default class is not 0")
	}
}
