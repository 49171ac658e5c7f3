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
