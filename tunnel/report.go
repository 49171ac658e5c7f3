package tunnel

import (
	"encoding/binary"
	"math"
)

// report is the body of REPORT: what its sender has received, in all and on some
// lanes, and what it found of the path on which it sends itself.
//
//	report = header-length(1) lane-length(1) header… lane…
//
// Lengths count themselves not. A reader takes the fields that it knows and skips
// the rest of a header or lane that is longer; shorter ones are refused, but for a
// header without Totals, which an earlier version sends. Counts go on over all keypairs and begin anew, at 0 and with another epoch, when the
// sender has forgotten the peer. Integers are big endian.
type report struct {
	Epoch   uint32     // drawn when the counts began
	Number  uint32     // of this report, so that a late one is known
	Found   verdicts   // on the way from the sender of the report
	Normal  uint8      // 1 if it sends in normal mode, else 0
	Arrived markCounts // messages on all lanes, by codepoint
	Totals  reportTotals
	Lanes   []reportLane
}

// reportTotals is what has arrived on all lanes together. The zero value is not
// known.
type reportTotals struct {
	Time     uint32 // when the report was made, microseconds of the sender's clock modulo 2^32
	Bytes    uint64 // of the UDP payload
	Expected uint64 // packets, by the sequence numbers
	// Low is the least delay of the probes that arrived on lane 0 since the last
	// report, microseconds above the least of late. That lane is there from the
	// start: a lane that began while there was a queue takes that for its own.
	Low uint32
}

// reportLane is what has arrived on one lane.
type reportLane struct {
	Lane     uint16
	Packets  uint64
	Bytes    uint64 // of the UDP payload
	Expected uint64 // packets, by the sequence numbers: less Packets, those lost or still on the way
	ECT1     uint32 // packets, modulo 2^32, as the next two
	ECT0     uint32
	CE       uint32
	Delay    uint32 // of the newest probe, microseconds above Base
	Low      uint32 // the least of the probes since the last report, likewise
	Base     uint32 // the lane's minimum of late, microseconds above that of the peer's fastest lane
	Hop      uint8  // hop limit seen
}

const (
	reportHeaderMin = 4 + 4 + 4 + 1 + 4*8
	reportHeaderLen = reportHeaderMin + 4 + 8 + 8 + 4
	reportLaneLen   = 2 + 3*8 + 6*4 + 1
	reportMaxLanes  = (maxControlPayload - 1 - controlHeaderLen - 2 - reportHeaderLen) / reportLaneLen

	delayUnknown = math.MaxUint32 // no probe
	delayMost    = math.MaxUint32 - 1
)

func (r *report) append(b []byte) []byte {
	b = append(b, reportHeaderLen, reportLaneLen)
	b = binary.BigEndian.AppendUint32(b, r.Epoch)
	b = binary.BigEndian.AppendUint32(b, r.Number)
	for _, v := range r.Found {
		b = append(b, uint8(v))
	}
	b = append(b, r.Normal)
	for _, n := range r.Arrived {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = binary.BigEndian.AppendUint32(b, r.Totals.Time)
	b = binary.BigEndian.AppendUint64(b, r.Totals.Bytes)
	b = binary.BigEndian.AppendUint64(b, r.Totals.Expected)
	b = binary.BigEndian.AppendUint32(b, r.Totals.Low)
	for i := range r.Lanes {
		b = r.Lanes[i].append(b)
	}
	return b
}

func (l *reportLane) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, l.Lane)
	for _, n := range [...]uint64{l.Packets, l.Bytes, l.Expected} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	for _, n := range [...]uint32{l.ECT1, l.ECT0, l.CE, l.Delay, l.Low, l.Base} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return append(b, l.Hop)
}

// parseReport reads a REPORT. It keeps nothing of b. More lanes than a payload of
// ours can hold are a mistake.
func parseReport(b []byte) (r report, err error) {
	if len(b) < 2 || int(b[0]) < reportHeaderMin || int(b[1]) < reportLaneLen || len(b) < 2+int(b[0]) {
		return report{}, errControl
	}
	header, lane := int(b[0]), int(b[1])
	lanes := b[2+header:]
	if len(lanes)%lane != 0 || len(lanes)/lane > reportMaxLanes {
		return report{}, errControl
	}
	b = b[2:]
	r.Epoch = binary.BigEndian.Uint32(b)
	r.Number = binary.BigEndian.Uint32(b[4:])
	for i := range r.Found {
		r.Found[i] = verdict(b[8+i])
	}
	r.Normal = b[12]
	for i := range r.Arrived {
		r.Arrived[i] = binary.BigEndian.Uint64(b[13+8*i:])
	}
	if header >= reportHeaderLen {
		r.Totals = parseReportTotals(b[reportHeaderMin:])
	}
	for ; len(lanes) > 0; lanes = lanes[lane:] {
		r.Lanes = append(r.Lanes, parseReportLane(lanes))
	}
	return r, nil
}

func parseReportTotals(b []byte) reportTotals {
	return reportTotals{
		Time: binary.BigEndian.Uint32(b), Bytes: binary.BigEndian.Uint64(b[4:]),
		Expected: binary.BigEndian.Uint64(b[12:]), Low: binary.BigEndian.Uint32(b[20:]),
	}
}

func parseReportLane(b []byte) (l reportLane) {
	l.Lane = binary.BigEndian.Uint16(b)
	for i, n := range [...]*uint64{&l.Packets, &l.Bytes, &l.Expected} {
		*n = binary.BigEndian.Uint64(b[2+8*i:])
	}
	for i, n := range [...]*uint32{&l.ECT1, &l.ECT0, &l.CE, &l.Delay, &l.Low, &l.Base} {
		*n = binary.BigEndian.Uint32(b[26+4*i:])
	}
	l.Hop = b[50]
	return l
}

// reportDelay is a delay in nanoseconds as it travels.
func reportDelay(d int64) uint32 { return uint32(min(max(d, 0)/1000, delayMost)) }
