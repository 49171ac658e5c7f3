package tunnel

import (
	"math"
	"slices"
	"testing"

	"kiloport/tunnel/ecn"
)

var fullReport = report{
	Epoch: 0x01020304, Number: 0x05060708, Found: verdicts{1, 2, 3, 4}, Normal: 1, Arrived: markCounts{1, 2, 3, 4},
	Totals: reportTotals{Time: 0x0a0b0c0d, Bytes: 5, Expected: 6, Low: 7},
	Lanes: []reportLane{
		{Lane: 0x0102, Packets: 3, Bytes: 4, Expected: 5, ECT1: 6, ECT0: 7, CE: 8, Delay: 9, Low: 10, Base: 11, Hop: 12},
		{Lane: 0x4000, Packets: math.MaxUint64, Delay: delayUnknown, Low: delayUnknown, Base: delayUnknown},
	},
}

func init() {
	controlVectors = append(controlVectors, []controlVector{
		{"report", controlReport, &fullReport, "f105" + "00ad" + "45" + "33" + "01020304" + "05060708" + "01020304" + "01" +
			"0000000000000001" + "0000000000000002" + "0000000000000003" + "0000000000000004" +
			"0a0b0c0d" + "0000000000000005" + "0000000000000006" + "00000007" +
			"0102" + "0000000000000003" + "0000000000000004" + "0000000000000005" + "00000006" + "00000007" + "00000008" +
			"00000009" + "0000000a" + "0000000b" + "0c" +
			"4000" + "ffffffffffffffff" + "0000000000000000" + "0000000000000000" + "00000000" + "00000000" + "00000000" +
			"ffffffff" + "ffffffff" + "ffffffff" + "00"},
		{"report of nothing", controlReport, &report{Epoch: 1},
			"f105" + "0047" + "45" + "33" + "00000001" + "00000000" + "00000000" + "00" +
				"0000000000000000" + "0000000000000000" + "0000000000000000" + "0000000000000000" +
				"00000000" + "0000000000000000" + "0000000000000000" + "00000000"},
	}...)
}

// A later version's report, with longer headers and lanes, reads as what we know
// of it.
func TestReportSkipsTheUnknown(t *testing.T) {
	old := fullReport.append(nil)
	b := []byte{reportHeaderLen + 3, reportLaneLen + 2}
	b = append(b, old[2:2+reportHeaderLen]...)
	b = append(b, 0xff, 0xff, 0xff)
	for lanes := old[2+reportHeaderLen:]; len(lanes) > 0; lanes = lanes[reportLaneLen:] {
		b = append(b, lanes[:reportLaneLen]...)
		b = append(b, 0xee, 0xee)
	}
	got, err := parseReport(b)
	if err != nil || got.Number != fullReport.Number || got.Arrived != fullReport.Arrived || !slices.Equal(got.Lanes, fullReport.Lanes) {
		t.Errorf("read %+v, %v", got, err)
	}
}

// An earlier version's report has no totals.
func TestReportWithoutTotals(t *testing.T) {
	whole := fullReport.append(nil)
	b := []byte{reportHeaderMin, reportLaneLen}
	b = append(b, whole[2:2+reportHeaderMin]...)
	b = append(b, whole[2+reportHeaderLen:]...)
	got, err := parseReport(b)
	if err != nil || got.Totals != (reportTotals{}) || got.Arrived != fullReport.Arrived || !slices.Equal(got.Lanes, fullReport.Lanes) {
		t.Errorf("read %+v, %v", got, err)
	}
}

func TestReportRefusesTheMalformed(t *testing.T) {
	whole := fullReport.append(nil)
	for n := range whole {
		r, err := parseReport(whole[:n])
		if lanes := n - 2 - reportHeaderLen; err == nil && (lanes < 0 || lanes%reportLaneLen != 0) {
			t.Errorf("the first %d bytes were read as %+v", n, r)
		}
	}
	for i, short := range [][2]byte{{reportHeaderMin - 1, reportLaneLen}, {reportHeaderLen, reportLaneLen - 1}, {0, 0}} {
		b := slices.Clone(whole)
		b[0], b[1] = short[0], short[1]
		if _, err := parseReport(b); err == nil {
			t.Errorf("%d: lengths %v were read", i, short)
		}
	}
	long := report{Lanes: make([]reportLane, reportMaxLanes+1)}
	if _, err := parseReport(long.append(nil)); err == nil {
		t.Error("a report of too many lanes was read")
	}
}

func TestLargestReportFits(t *testing.T) {
	full := report{Lanes: make([]reportLane, reportMaxLanes)}
	if n := len(appendControl(nil, controlReport, &full)); n > maxControlPayload || n < maxControlPayload-reportLaneLen {
		t.Errorf("%d bytes for %d lanes, there is room for %d", n, reportMaxLanes, maxControlPayload)
	}
}

func TestReportDelay(t *testing.T) {
	for ns, want := range map[int64]uint32{-5: 0, 0: 0, 1500: 1, 1e9: 1e6, math.MaxInt64: delayMost} {
		if got := reportDelay(ns); got != want {
			t.Errorf("%d ns is %d, want %d", ns, got, want)
		}
	}
}

func TestReportsAreTakenInOrder(t *testing.T) {
	var r reports
	take := func(epoch, number uint32, packets uint64) (anew, ok bool) {
		return r.take(1, &report{Epoch: epoch, Number: number, Lanes: []reportLane{{Lane: 2, Packets: packets}}})
	}
	for i, c := range []struct {
		epoch, number uint32
		anew, ok      bool
	}{
		{7, 10, true, true}, {7, 11, false, true}, {7, 11, false, false}, {7, 10, false, false}, {7, 1<<31 + 10, false, true},
		{7, 5, false, true}, {8, 1, true, true}, {8, 0, false, false},
	} {
		if anew, ok := take(c.epoch, c.number, uint64(i)); anew != c.anew || ok != c.ok {
			t.Errorf("%d: anew %v, taken %v", i, anew, ok)
		} else if got := r.lanes[2].Packets == uint64(i); got != ok {
			t.Errorf("%d: the lane has %d", i, r.lanes[2].Packets)
		}
	}
}

func TestArrivals(t *testing.T) {
	var table arrivalTable
	if table.from(0, func(uint16, *arrivals) bool { t.Error("a lane"); return true }); table.lanes.Load() != nil {
		t.Error("looking made state")
	}
	l := rxLane{counts: table.lane(300)}
	for i, m := range []struct {
		sequence   uint64
		class, hop uint8
	}{{0, 0, 64}, {2, 2, 64}, {1, 1, 64}, {5, 3, 63}, {6, 0x8b, 63}, {7, 0, 64}} {
		l.counts.count(int64(i+1), 100, l.ahead(m.sequence), m.class, m.hop)
	}
	a := table.lane(300)
	if a.packets.Load() != 6 || a.bytes.Load() != 600 || a.expected.Load() != 8 || a.lost() != 2 {
		t.Errorf("%d packets, %d bytes, %d expected, %d lost", a.packets.Load(), a.bytes.Load(), a.expected.Load(), a.lost())
	}
	if a.marks[ecn.ECT0].Load() != 1 || a.marks[ecn.ECT1].Load() != 1 || a.marks[ecn.CE].Load() != 2 || a.hop.Load() != 64 || a.hops.Load() != 2 {
		t.Errorf("marks %d %d %d, hop %d changed %d times", a.marks[ecn.ECT0].Load(), a.marks[ecn.ECT1].Load(), a.marks[ecn.CE].Load(), a.hop.Load(), a.hops.Load())
	}
	for _, lane := range []uint16{0, 1, 63, 64, 5000, maxLanes} {
		table.lane(lane).count(1, 1, 1, 0, 64)
	}
	for from, want := range map[uint16][]uint16{
		0: {0, 1, 63, 64, 300, 5000, maxLanes}, 1: {1, 63, 64, 300, 5000, maxLanes, 0}, 301: {5000, maxLanes, 0, 1, 63, 64, 300},
		maxLanes: {maxLanes, 0, 1, 63, 64, 300, 5000}, 70: {300, 5000, maxLanes, 0, 1, 63, 64},
	} {
		var got []uint16
		table.from(from, func(lane uint16, _ *arrivals) bool { got = append(got, lane); return true })
		if !slices.Equal(got, want) {
			t.Errorf("from %d: %v, want %v", from, got, want)
		}
	}
}

func TestReporter(t *testing.T) {
	var r reporter
	now := 100 * second
	if r.due(now) {
		t.Error("due without a reason")
	}
	sent := 0
	for end := now + 10*second; now < end; now += 10e6 {
		r.arrived(now)
		if r.due(now) {
			sent++
		}
	}
	if sent < 10 || sent > 11 {
		t.Errorf("%d reports in ten seconds of data", sent)
	}
	for end := now + 10*second; now < end; now += 10e6 {
		if r.due(now) {
			sent++
		}
	}
	if sent > 12 || r.at != 0 {
		t.Errorf("goes on without data: %d", sent)
	}
	r.found(now)
	sent = 0
	for end := now + 10*second; now < end; now += 10e6 {
		if r.due(now) {
			sent++
		}
	}
	if sent != 2 {
		t.Errorf("news were told %d times, want twice", sent)
	}
}
