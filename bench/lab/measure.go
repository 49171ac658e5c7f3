package lab

import (
	"fmt"
	"math"
	"time"

	"kiloport/bench/netlab/traffic"
	"kiloport/bench/report"
)

// put turns what became of the traffic into series and metrics.
func (b *bench) put(r *traffic.Result, groups []traffic.Group) {
	b.run.Metrics[report.MetricBaseRTT] = milliseconds(r.Idle.Median)
	names := newNamer()
	count := map[string]int{}
	for i := range r.Flows {
		f := &r.Flows[i]
		g := &groups[f.Group]
		switch {
		case f.Series == nil:
		case f.Kind == traffic.TCPBulk:
			direction := report.Up
			if g.Down {
				direction = report.Down
			}
			count[direction]++
			b.run.Series = append(b.run.Series, goodput(f, direction, count[direction], classNames[g.TOS]))
		default:
			b.run.Series = append(b.run.Series, roundTrips(f, names.of(g), classNames[g.TOS]))
		}
	}
	b.congestion(r, groups)
	b.fairness(r, groups)
	b.pages(r)
}

// pages sums up how long pages took that were asked for after the warm-up.
func (b *bench) pages(r *traffic.Result) {
	var took []float64
	asked := 0
	for i := range r.Flows {
		f := &r.Flows[i]
		if f.Kind != traffic.TCPBurst || f.Series == nil {
			continue
		}
		for _, p := range f.Series.Probes {
			if p.At < quiet+warmUp {
				continue
			}
			asked++
			if !p.Lost {
				took = append(took, milliseconds(p.RTT))
			}
		}
	}
	if asked == 0 {
		return
	}
	b.run.Metrics[report.MetricPagesLost] = 100 * float64(asked-len(took)) / float64(asked)
	if d := report.NewDistribution(took); d.Count() > 0 {
		b.run.Metrics[report.MetricPageMedian] = d.Quantile(0.5)
		b.run.Metrics[report.MetricPageP99] = d.Quantile(0.99)
		b.run.Metrics[report.MetricPageWorst] = d.Quantile(1)
	}
}

// A namer gives the series of probes names that differ.
type namer map[string]int

func newNamer() namer { return namer{} }

// of names a flow: the first UDP probe and the first ping are those that the
// report looks for.
func (n namer) of(g *traffic.Group) string {
	name := map[traffic.Kind]string{
		traffic.UDPEcho: report.ProbeName, traffic.ICMPEcho: report.PingName,
		traffic.TCPEcho: "tcp echo", traffic.TCPBurst: report.PageName,
	}[g.Kind]
	n[name]++
	if n[name] > 1 {
		name = fmt.Sprintf("%s %d", name, n[name])
	}
	return name
}

func roundTrips(f *traffic.Flow, name, dscp string) report.Series {
	s := report.Series{Name: name, Kind: report.KindRTT, Unit: report.UnitMs, DSCP: dscp}
	for _, p := range f.Series.Probes {
		s.T = append(s.T, (p.At - quiet).Seconds())
		s.V = append(s.V, probeValue(p))
	}
	return s
}

// probeValue is a probe's round trip in ms, NaN if it was lost.
func probeValue(p traffic.Sample) float64 {
	if p.Lost {
		return math.NaN()
	}
	return milliseconds(p.RTT)
}

// goodput is a bulk flow's rate in every bin of the load.
func goodput(f *traffic.Flow, direction string, number int, dscp string) report.Series {
	s := report.Series{Name: "tcp", Kind: report.KindGoodput, Unit: report.UnitMbit, Direction: direction, DSCP: dscp, Flow: number, Begins: f.Late.Seconds()}
	for i, n := range f.Series.Bytes {
		at := time.Duration(i)*bin - quiet
		if at < 0 {
			continue
		}
		s.T = append(s.T, at.Seconds())
		s.V = append(s.V, float64(n)*8/bin.Seconds()/1e6)
	}
	return s
}

// congestion sums up what the senders know.
func (b *bench) congestion(r *traffic.Result, groups []traffic.Group) {
	var again, twice, overtaken, delivered, marked uint32
	for i := range r.Flows {
		if t := r.Flows[i].TCP; t != nil && groups[r.Flows[i].Group].Kind == traffic.TCPBulk {
			again += t.Retransmits
			twice += t.Duplicates
			overtaken += t.Reorderings
			delivered += t.Delivered
			marked += t.DeliveredCE
		}
	}
	b.run.Metrics["retransmits_count"] = float64(again)
	b.run.Metrics["retransmits_for_nothing_count"] = float64(twice)
	b.run.Metrics["reorderings_count"] = float64(overtaken)
	b.run.Metrics["segments_delivered_count"] = float64(delivered)
	b.run.Metrics["segments_delivered_ce_count"] = float64(marked)
}

// fairness is Jain's index over the bulk flows of each direction, by what they
// brought after the warm-up.
func (b *bench) fairness(r *traffic.Result, groups []traffic.Group) {
	var shares [2][]float64
	for i := range r.Flows {
		f := &r.Flows[i]
		g := &groups[f.Group]
		if f.Kind != traffic.TCPBulk || f.Series == nil {
			continue
		}
		total := uint64(0)
		for _, n := range f.Series.Bytes[min(len(f.Series.Bytes), int((quiet+warmUp)/bin)):] {
			total += n
		}
		way := 0
		if g.Down {
			way = 1
		}
		shares[way] = append(shares[way], float64(total))
	}
	for way, name := range []string{report.MetricJainUp, report.MetricJainDown} {
		if index := jain(shares[way]); len(shares[way]) > 1 && !math.IsNaN(index) {
			b.run.Metrics[name] = index
		}
	}
}

// jain is the fairness index of Jain, Chiu and Hawe (DEC-TR-301, 1984): 1 if all
// have the same, 1/n if one has all, NaN if none has anything.
func jain(x []float64) float64 {
	sum, squares := 0.0, 0.0
	for _, v := range x {
		sum += v
		squares += v * v
	}
	if squares == 0 {
		return math.NaN()
	}
	return sum * sum / (float64(len(x)) * squares)
}
