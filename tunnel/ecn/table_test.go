package ecn_test

import (
	"strings"
	"testing"

	"kiloport/tunnel/ecn"
)

var all = []ecn.Codepoint{ecn.NotECT, ecn.ECT1, ecn.ECT0, ecn.CE}

// figure4 is RFC 6040's, section 4.2, to the letter.
const figure4 = `
   +---------+------------------------------------------------+
   |Arriving |            Arriving Outer Header               |
   |   Inner +---------+------------+------------+------------+
   |  Header | Not-ECT | ECT(0)     | ECT(1)     |     CE     |
   +---------+---------+------------+------------+------------+
   | Not-ECT | Not-ECT |Not-ECT(!!!)|Not-ECT(!!!)| <drop>(!!!)|
   |  ECT(0) |  ECT(0) | ECT(0)     | ECT(1)     |     CE     |
   |  ECT(1) |  ECT(1) | ECT(1) (!) | ECT(1)     |     CE     |
   |    CE   |      CE |     CE     |     CE(!!!)|     CE     |
   +---------+---------+------------+------------+------------+
`

// rows are the lines of a figure that have cells, in order.
func rows(figure string) [][]string {
	var list [][]string
	for line := range strings.Lines(figure) {
		line = strings.TrimSpace(line)
		if cells := strings.Split(strings.Trim(line, "|"), "|"); len(cells) == 5 {
			for i := range cells {
				cells[i] = strings.ReplaceAll(cells[i], " ", "")
			}
			list = append(list, cells)
		}
	}
	return list
}

func codepoint(t *testing.T, s string) ecn.Codepoint {
	t.Helper()
	for _, c := range all {
		if c.String() == s {
			return c
		}
	}
	t.Fatalf("no codepoint is called %q", s)
	return 0
}

func TestDecapsulateIsFigure4(t *testing.T) {
	table := rows(figure4)
	outers := table[0][1:]
	tested := 0
	for _, row := range table[1:] {
		inner := codepoint(t, row[0])
		for i, cell := range row[1:] {
			outer := codepoint(t, outers[i])
			got := ecn.Decapsulate(inner, outer)
			result, marks, _ := strings.Cut(cell, "(!")
			if drop := result == "<drop>"; got.Drop != drop {
				t.Errorf("%v in %v: drop %v, want %v", inner, outer, got.Drop, drop)
			} else if !drop && got.Inner != codepoint(t, result) {
				t.Errorf("%v in %v: becomes %v, want %s", inner, outer, got.Inner, result)
			}
			if anomalous := marks != ""; anomalous != (got.Anomaly != ecn.AnomalyNone) {
				t.Errorf("%v in %v: anomaly %v, the RFC has %q", inner, outer, got.Anomaly, cell)
			}
			if dangerous := marks == "!!)"; dangerous != got.Anomaly.Dangerous() {
				t.Errorf("%v in %v: dangerous %v, the RFC has %q", inner, outer, got.Anomaly.Dangerous(), cell)
			}
			if want := outer.String() + " outside " + inner.String(); got.Anomaly != ecn.AnomalyNone && got.Anomaly.String() != want {
				t.Errorf("%v in %v: anomaly is called %q, want %q", inner, outer, got.Anomaly, want)
			}
			tested++
		}
	}
	if tested != 16 {
		t.Fatalf("figure has %d cells, want 16", tested)
	}
}

// figure3 is RFC 6040's, section 4.1, to the letter.
const figure3 = `
   | Incoming Header |     Departing Outer Header    |
   | (also equal to  +---------------+---------------+
   | departing Inner | Compatibility |    Normal     |
   |     Header)     |     Mode      |     Mode      |
   |    Not-ECT      |   Not-ECT     |   Not-ECT     |
   |     ECT(0)      |   Not-ECT     |    ECT(0)     |
   |     ECT(1)      |   Not-ECT     |    ECT(1)     |
   |       CE        |   Not-ECT     |      CE       |
`

func TestEncapsulateIsFigure3(t *testing.T) {
	tested := 0
	for line := range strings.Lines(figure3) {
		word := strings.Fields(strings.ReplaceAll(line, "|", " "))
		if len(word) != 3 || !strings.Contains("Not-ECT ECT(0) ECT(1) CE", word[0]) {
			continue
		}
		inner := codepoint(t, word[0])
		for i, mode := range []ecn.Mode{ecn.Compatibility, ecn.Normal} {
			if got, want := ecn.Encapsulate(mode, inner), codepoint(t, word[1+i]); got != want {
				t.Errorf("%v mode: %v gets %v, want %v", mode, inner, got, want)
			}
			tested++
		}
	}
	if tested != 8 {
		t.Fatalf("figure has %d cells, want 8", tested)
	}
}

// What a tunnel does when nothing on its path marks: the packet is unchanged, in
// either mode, and nothing is reported.
func TestTunnelIsTransparent(t *testing.T) {
	for _, mode := range []ecn.Mode{ecn.Compatibility, ecn.Normal} {
		for _, inner := range all {
			got := ecn.Decapsulate(inner, ecn.Encapsulate(mode, inner))
			if got != (ecn.Decapsulation{Inner: inner}) {
				t.Errorf("%v mode, %v: got %+v", mode, inner, got)
			}
		}
	}
}

func TestAnomaliesAreDistinct(t *testing.T) {
	seen := map[ecn.Anomaly]int{}
	for _, inner := range all {
		for _, outer := range all {
			a := ecn.Decapsulate(inner, outer).Anomaly
			if a >= ecn.Anomalies {
				t.Errorf("%v in %v: anomaly %d is outside an array of counters", inner, outer, a)
			}
			seen[a]++
		}
	}
	if len(seen) != ecn.Anomalies || seen[ecn.AnomalyNone] != 16-(ecn.Anomalies-1) {
		t.Errorf("anomalies %v, want each in one cell", seen)
	}
}

// Values out of range are cut to two bits, and never a panic.
func TestOutOfRange(t *testing.T) {
	for i := range 256 {
		for j := range 256 {
			got := ecn.Decapsulate(ecn.Codepoint(i), ecn.Codepoint(j))
			if want := ecn.Decapsulate(ecn.Codepoint(i%4), ecn.Codepoint(j%4)); got != want {
				t.Fatalf("%d in %d: %+v, want %+v", i, j, got, want)
			}
			if got, want := ecn.Encapsulate(ecn.Normal, ecn.Codepoint(i)), ecn.Codepoint(i%4); got != want {
				t.Fatalf("normal mode: %d gets %v, want %v", i, got, want)
			}
		}
		if i > 1 && ecn.Encapsulate(ecn.Mode(i), ecn.CE) != ecn.NotECT {
			t.Errorf("mode %d lets CE out, want it to be compatible", i)
		}
		_, _, _ = ecn.Codepoint(i).String(), ecn.Mode(i).String(), ecn.Anomaly(i).String()
		if ecn.Anomaly(i).Dangerous() && i >= ecn.Anomalies {
			t.Errorf("anomaly %d is dangerous but does not exist", i)
		}
	}
}

func TestNames(t *testing.T) {
	for want, got := range map[string]interface{ String() string }{
		"compatibility": ecn.Compatibility, "normal": ecn.Normal, "mode 2": ecn.Mode(2),
		"Not-ECT": ecn.Codepoint(0), "ECT(1)": ecn.Codepoint(1), "ECT(0)": ecn.Codepoint(2), "CE": ecn.Codepoint(3),
		"none": ecn.AnomalyNone, "anomaly 6": ecn.Anomaly(6),
	} {
		if got.String() != want {
			t.Errorf("%v, want %s", got, want)
		}
	}
}
