package report

import (
	"bytes"
	"math"
	"strings"
	"testing"
)

// TestPageLoads wants pages of all browsers of a run together, without the warm-up
// and what did not come, and no figure where nobody browsed.
func TestPageLoads(t *testing.T) {
	doc := sampleDocument(1, 2)
	s := sections(doc)[0]
	if f := pageLoads(s, looks(doc)); f != nil {
		t.Error("a figure of pages without any")
	}
	run := &s.cells[1].runs[0]
	run.Series = append(run.Series,
		Series{Name: PageName, Kind: KindRTT, Unit: UnitMs, T: []float64{0.5, 2, 3}, V: Values{900, 100, math.NaN()}},
		Series{Name: PageName + " 2", Kind: KindRTT, Unit: UnitMs, T: []float64{2.5}, V: Values{300}})
	all := s.cells[1].pages()
	if len(all) != 1 || all[0].Count() != 2 || all[0].Quantile(0) != 100 || all[0].Quantile(1) != 300 {
		t.Errorf("pages %+v", all)
	}
	f := pageLoads(s, looks(doc))
	if f == nil || len(f.legend) != 1 || f.legend[0].text != "kiloport" {
		t.Fatalf("the figure of pages is %+v", f)
	}
	var svg bytes.Buffer
	if err := f.WriteSVG(&svg); err != nil || !strings.Contains(svg.String(), "% of the pages that came") {
		t.Errorf("the figure: %v", err)
	}
}

// TestManyFlowsAreNotDrawn wants the sum alone where there are too many flows.
func TestManyFlowsAreNotDrawn(t *testing.T) {
	run := sampleDocument(1, 1).Runs[0]
	few := overTime(&run, map[string]look{})
	for i := range mostFlowLines {
		run.Series = append(run.Series, Series{Name: "tcp", Kind: KindGoodput, Unit: UnitMbit, Direction: Up, Flow: 5 + i, T: []float64{1, 2}, V: Values{1, 1}})
	}
	many := overTime(&run, map[string]look{})
	if len(few.legend) != len(many.legend)+1 {
		t.Errorf("legends of %d and %d entries", len(few.legend), len(many.legend))
	}
}

func TestLabelled(t *testing.T) {
	for _, test := range [][4]float64{{240, 340, 200, 500}, {0.7, 90, 0.5, 100}, {2, 5, 2, 5}, {11, 12, 10, 20}} {
		low, high := labelled(test[0], test[1])
		if math.Abs(low/test[2]-1) > 1e-9 || math.Abs(high/test[3]-1) > 1e-9 {
			t.Errorf("%v to %v: %v to %v", test[0], test[1], low, high)
		}
	}
}

func TestWrap(t *testing.T) {
	style := sans(textSize, ink)
	text := "4 TCP flows each way; 20/20 Mbit/s, fq_codel, 20 ms"
	if got := wrap(text, style, 10*widthOf(text, style)); len(got) != 1 || got[0] != text {
		t.Errorf("%q", got)
	}
	lines := wrap(text, style, widthOf(text, style)/2)
	if len(lines) < 2 || strings.Join(lines, " ") != text {
		t.Errorf("%q", lines)
	}
	for _, line := range lines {
		if widthOf(line, style) > widthOf(text, style)/2 {
			t.Errorf("%q is too long", line)
		}
	}
	if got := wrap("", style, 100); len(got) != 0 {
		t.Errorf("of nothing: %q", got)
	}
}
