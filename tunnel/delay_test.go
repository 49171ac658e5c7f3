package tunnel

import (
	"testing"
	"time"
)

const second = int64(time.Second)

func TestDelayIsAboveItsMinimum(t *testing.T) {
	var d delay
	for i, c := range []struct{ t, above int64 }{{-5e9, 0}, {-5e9 + 70, 70}, {-5e9 - 30, 0}, {-5e9, 30}} {
		d.add(int64(i+1)*second, c.t)
		if got := d.above(); got != c.above {
			t.Errorf("%d: %d above, want %d", i, got, c.above)
		}
	}
}

// A minimum counts for five minutes at least, for ten at most.
func TestDelayForgetsItsMinimum(t *testing.T) {
	for start := range 20 {
		var d delay
		now := int64(start) * 30 * second
		for at := int64(1); at < now; at += second {
			d.add(at, 0)
		}
		d.add(now+1, -1000)
		for after := second; after < 700*second; after += second {
			d.add(now+1+after, 0)
			switch {
			case after < delayWindow && d.above() != 1000:
				t.Fatalf("forgotten after %d s", after/second)
			case after >= 2*delayWindow && d.above() != 0:
				t.Fatalf("known after %d s", after/second)
			}
		}
	}
}

// Clocks that drift apart by 100 microseconds a second, over an idle path: by
// itself the delay rises by up to 60 ms, with the round trip it stays at none.
func TestDriftingClocks(t *testing.T) {
	for _, drift := range []int64{-100e3, 0, 100e3} {
		var d laneDelay
		worst, alone := int64(0), int64(0)
		for i := range int64(1800) {
			sent := 1 + i*second
			d.add(sent, sent+20e6, 1e18+sent+10e6+drift*i)
			above, known := d.above()
			if !known {
				t.Fatal("not known")
			}
			worst, alone = max(worst, above), max(alone, d.way.above())
		}
		if worst != 0 {
			t.Errorf("drift %d ns/s: %d ns above the minimum on an idle path", drift, worst)
		}
		if drift > 0 && (alone < 30e6 || alone > 60e6) {
			t.Errorf("without the round trip %d ns, which the documentation says otherwise", alone)
		}
		if drift <= 0 && alone != 0 {
			t.Errorf("drift %d: %d", drift, alone)
		}
	}
}

// What stands in a queue on the way there shows, on the way back it does not.
func TestOneWayDelayTellsTheDirections(t *testing.T) {
	var d laneDelay
	d.add(1, 1+20e6, 1e18+10e6)
	d.add(2, 2+50e6, 1e18+1+40e6) // 30 ms there
	if above, _ := d.above(); above != 30e6 {
		t.Errorf("30 ms there: %d", above)
	}
	d.add(3, 3+50e6, 1e18+2+10e6) // 30 ms back
	if above, _ := d.above(); above != 0 {
		t.Errorf("30 ms back: %d", above)
	}
	d.add(4, 4+25e6, 5e18) // the peer's clock was set
	if above, _ := d.above(); above != 5e6 {
		t.Errorf("after the peer's clock was set: %d, want no more than the round trip's 5 ms", above)
	}
}

func TestNoTimestampNoDelay(t *testing.T) {
	var d laneDelay
	d.add(1, 21e6, 0)
	if _, known := d.above(); known || !d.trip.known {
		t.Error("a delay without the time of arrival")
	}
}
