package lab

import (
	"testing"

	"kiloport/bench/report"
)

// TestScenariosAreDoneOftenEnough wants of every scenario as many repetitions as a
// comparison needs.
func TestScenariosAreDoneOftenEnough(t *testing.T) {
	for _, s := range Scenarios {
		if s.Repetitions < report.RepetitionsToTell {
			t.Errorf("%s is done %d times, and it takes %d to tell a difference from chance", s.Name, s.Repetitions, report.RepetitionsToTell)
		}
	}
}
