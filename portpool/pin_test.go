package portpool

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestPin(t *testing.T) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	for n := range 2 * all.Count() {
		done := make(chan struct{})
		go func() { // its thread ends with it
			defer close(done)
			if err := Pin(n); err != nil {
				t.Error(err)
				return
			}
			var mine unix.CPUSet
			if err := unix.SchedGetaffinity(0, &mine); err != nil {
				t.Error(err)
			}
			before := 0
			for cpu := range 64 * len(all) {
				if mine.IsSet(cpu) {
					break
				}
				if all.IsSet(cpu) {
					before++
				}
			}
			if mine.Count() != 1 || before != n%all.Count() {
				t.Errorf("pinned to the %d-th of %d processors, and %d in all; want the %d-th", before, all.Count(), mine.Count(), n%all.Count())
			}
		}()
		<-done
	}
}
