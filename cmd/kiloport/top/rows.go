package top

import (
	"fmt"
	"math"
	"time"

	"kiloport/tunnel"
)

// sample is a status, and when it was.
type sample struct {
	status *tunnel.Status
	at     time.Time
}

// look is two samples, one after the other, and what has changed in between. The
// first look has no rates.
type look struct {
	now, before sample
	seconds     float64 // 0: there is nothing before
	peers       map[string]*tunnel.PeerStatus
	lanes       map[laneKey]*tunnel.LaneDetail
	flows       map[flowKey]*tunnel.FlowDetail
}

type (
	laneKey struct {
		peer string
		lane uint16
	}
	flowKey struct{ flow, peer string }
)

// compare makes a look. Statuses of two daemons, one of which took the other's
// place, have nothing to do with each other.
func compare(before, now sample) *look {
	l := &look{now: now}
	if before.status == nil || before.status.Name != now.status.Name || !now.at.After(before.at) || restarted(before.status, now.status) {
		return l
	}
	l.before, l.seconds = before, now.at.Sub(before.at).Seconds()
	l.peers = make(map[string]*tunnel.PeerStatus)
	l.lanes = make(map[laneKey]*tunnel.LaneDetail)
	l.flows = make(map[flowKey]*tunnel.FlowDetail)
	for i := range before.status.Peers {
		p := &before.status.Peers[i]
		l.peers[p.PublicKey] = p
		for j := range p.LaneDetails {
			l.lanes[laneKey{p.PublicKey, p.LaneDetails[j].Lane}] = &p.LaneDetails[j]
		}
	}
	for i := range before.status.Flows {
		f := &before.status.Flows[i]
		l.flows[flowKey{f.Flow, f.Peer}] = f
	}
	return l
}

// restarted tells whether totals, which never fall, have fallen.
func restarted(before, now *tunnel.Status) bool {
	b, n := &before.Totals, &now.Totals
	return n.Sent.Packets < b.Sent.Packets || n.Received.Packets < b.Received.Packets
}

// rate is how much a counter grows in a second. One that fell began again.
func (l *look) rate(before, now uint64) float64 {
	if now < before {
		before = 0
	}
	return float64(now-before) / l.seconds
}

// perSecond makes a cell of a counter's rate, times a factor.
func (l *look) perSecond(known bool, before, now uint64, times float64) cell {
	if l.seconds == 0 || !known {
		return cell{text: unknown, number: -1}
	}
	r := l.rate(before, now) * times
	return cell{text: short(r), number: r}
}

func (c cell) alarming() cell {
	c.alarm = c.number > 0
	return c
}

func count(n int) cell { return cell{text: short(float64(n)), number: float64(n)} }

func word(s string) cell { return cell{text: clean(s)} }

// times makes a cell of milliseconds that may not be known.
func times(x *float64) cell {
	if x == nil {
		return cell{text: unknown, number: -1}
	}
	return cell{text: ms(*x), number: *x}
}

const bits = 8

var peerColumns = []column{
	{title: "PEER", width: 12, help: "public key"},
	{title: "ENDPOINT", width: 22, from: 112, help: "where the peer is"},
	{title: "MODE", width: 8, help: "direct: flows have lanes; stock: a peer without kiloport; fallback: lane 0 alone"},
	{title: "SENT", width: 5, number: true, help: "bits a second to the peer"},
	{title: "RECV", width: 5, number: true, help: "bits a second from the peer"},
	{title: "SOJ", width: 5, number: true, help: "ms that packets waited in the queue, mean"},
	{title: "ASKS", width: 5, number: true, from: 126, help: "bits a second that the peer asks to be sent at most"},
	{title: "RTT", width: 5, number: true, from: 100, help: "ms, of the last probe on the fastest lane"},
	{title: "MS>", width: 5, number: true, from: 100, help: "ms above the least to the peer, on the slowest lane"},
	{title: "<MS", width: 5, number: true, from: 100, help: "the same from the peer"},
	{title: "LANES", width: 5, number: true, help: "lanes in use"},
	{title: "FLOWS", width: 5, number: true, help: "flows that hold a lane"},
	{title: "CE>", width: 5, number: true, from: 100, help: "packets a second sent with CE outside"},
	{title: "<CE", width: 5, number: true, help: "packets a second received with CE outside"},
	{title: "DROPS", width: 5, number: true, help: "packets a second dropped, for any reason"},
	{title: "SEEN", width: 4, number: true, help: "time since the last handshake"},
}

func (l *look) peerRows() (rows []row) {
	for i := range l.now.status.Peers {
		p := &l.now.status.Peers[i]
		b, known := l.peers[p.PublicKey]
		if !known {
			b = new(tunnel.PeerStatus)
		}
		rtt, to, from := lanesOf(p)
		rows = append(rows, row{key: p.PublicKey, peer: p.PublicKey, cells: []cell{
			word(p.PublicKey), word(p.Endpoint), word(p.Mode),
			l.perSecond(known, b.Sent.Bytes, p.Sent.Bytes, bits),
			l.perSecond(known, b.Received.Bytes, p.Received.Bytes, bits),
			l.sojourn(b.Sojourn, p.Sojourn), asked(p.Asks),
			times(rtt), times(to), times(from),
			count(p.Lanes.InUse), count(p.Lanes.Flows),
			l.perSecond(known, b.Sent.CE, p.Sent.CE, 1), l.perSecond(known, b.Received.CE, p.Received.CE, 1),
			l.perSecond(known, sum(b.Drops), sum(p.Drops), 1).alarming(),
			l.since(p.LastHandshake),
		}})
	}
	return rows
}

func asked(a *tunnel.AskStatus) cell {
	if a == nil {
		return cell{text: unknown, number: -1}
	}
	return cell{text: short(float64(a.BitS)), number: float64(a.BitS)}
}

func sum(counts map[string]uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// sojourn is the mean of what left the queue between the two.
func (l *look) sojourn(before, now *tunnel.HistogramStatus) cell {
	if l.seconds == 0 || now == nil {
		return cell{text: unknown, number: -1}
	}
	if before == nil || before.Count > now.Count {
		before = new(tunnel.HistogramStatus)
	}
	if now.Count == before.Count {
		return cell{text: unknown, number: -1}
	}
	mean := (now.SumMs - before.SumMs) / float64(now.Count-before.Count)
	return cell{text: ms(mean), number: mean}
}

// since sorts what is longest ago last.
func (l *look) since(t *time.Time) cell {
	if t == nil {
		return cell{text: unknown, number: math.Inf(-1)}
	}
	d := l.now.at.Sub(*t)
	return cell{text: age(d), number: -d.Seconds()}
}

// lanesOf sums up a peer's lanes.
func lanesOf(p *tunnel.PeerStatus) (rtt, to, from *float64) {
	better := func(best, x *float64, greater bool) *float64 {
		if best == nil || x != nil && (*x > *best) == greater {
			return x
		}
		return best
	}
	for i := range p.LaneDetails {
		if s := p.LaneDetails[i].Sent; s != nil {
			rtt, to = better(rtt, s.RTTMs, false), better(to, s.DelayMs, true)
		}
		if r := p.LaneDetails[i].Received; r != nil {
			from = better(from, r.DelayMs, true)
		}
	}
	return rtt, to, from
}

var laneColumns = []column{
	{title: "PEER", width: 9, help: "public key"},
	{title: "LANE", width: 5, number: true, help: "0 is the ordinary path between the listen ports"},
	{title: "OUT", width: 5, number: true, help: "packets a second that arrived at the peer, by its reports"},
	{title: "BIT>", width: 5, number: true, from: 100, help: "the same in bits a second"},
	{title: "LOST>", width: 5, number: true, help: "packets a second lost on the way to the peer"},
	{title: "CE>", width: 5, number: true, help: "packets a second that arrived there with CE"},
	{title: "MS>", width: 5, number: true, help: "ms above the least to the peer"},
	{title: "RTT", width: 5, number: true, help: "ms, of the last probe"},
	{title: "HOP>", width: 4, number: true, from: 100, help: "hop limit at arrival there"},
	{title: "IN", width: 5, number: true, help: "packets a second from the peer"},
	{title: "<BIT", width: 5, number: true, from: 100, help: "the same in bits a second"},
	{title: "<LOST", width: 5, number: true, help: "packets a second lost on the way here"},
	{title: "<CE", width: 5, number: true, help: "packets a second that arrived here with CE"},
	{title: "<MS", width: 5, number: true, help: "ms above the least from the peer"},
	{title: "<HOP", width: 4, number: true, from: 100, help: "hop limit at arrival here"},
}

func (l *look) laneRows() (rows []row) {
	for i := range l.now.status.Peers {
		p := &l.now.status.Peers[i]
		for j := range p.LaneDetails {
			rows = append(rows, l.laneRow(p.PublicKey, &p.LaneDetails[j]))
		}
	}
	return rows
}

func (l *look) laneRow(peer string, d *tunnel.LaneDetail) row {
	before := l.lanes[laneKey{peer, d.Lane}]
	if before == nil {
		before = new(tunnel.LaneDetail)
	}
	cells := []cell{word(peer), {text: fmt.Sprint(d.Lane), number: -float64(d.Lane)}}
	var to, from, rtt *float64
	out, in := l.wayCells(nil, nil), l.wayCells(nil, nil)
	if s := d.Sent; s != nil {
		to, rtt = s.DelayMs, s.RTTMs
		out = l.wayCells(countsOf(before.Sent), &s.LaneCounts)
	}
	if r := d.Received; r != nil {
		from = r.DelayMs
		var b *tunnel.LaneCounts
		if before.Received != nil {
			b = &before.Received.LaneCounts
		}
		in = l.wayCells(b, &r.LaneCounts)
	}
	cells = append(cells, out[:4]...)
	cells = append(cells, times(to), times(rtt), out[4])
	cells = append(cells, in[:4]...)
	cells = append(cells, times(from), in[4])
	return row{key: fmt.Sprintf("%s %05d", peer, d.Lane), peer: peer, cells: cells}
}

func countsOf(s *tunnel.LaneSent) *tunnel.LaneCounts {
	if s == nil {
		return nil
	}
	return &s.LaneCounts
}

// wayCells are one direction's packets, bits, losses, marks and hop limit; nil is
// what is not known.
func (l *look) wayCells(b, n *tunnel.LaneCounts) [5]cell {
	known := b != nil && n != nil
	if b == nil {
		b = new(tunnel.LaneCounts)
	}
	if n == nil {
		n = new(tunnel.LaneCounts)
	}
	hop := cell{text: unknown, number: -1}
	if n.HopLimit != 0 {
		hop = cell{text: fmt.Sprint(n.HopLimit), number: float64(n.HopLimit)}
	}
	lost := max(n.Lost, b.Lost) // what was late is no loss, and no less
	return [5]cell{
		l.perSecond(known, b.Packets, n.Packets, 1), l.perSecond(known, b.Bytes, n.Bytes, bits),
		l.perSecond(known, b.Lost, lost, 1).alarming(), l.perSecond(known, b.CE, n.CE, 1), hop,
	}
}

var flowColumns = []column{
	{title: "FLOW", width: 30, help: "inner flow on its way out: source > destination"},
	{title: "PEER", width: 9, from: 100, help: "public key"},
	{title: "LANE", width: 5, number: true, help: "of its last packet"},
	{title: "RATE", width: 5, number: true, help: "bits a second"},
	{title: "PKTS", width: 5, number: true, from: 100, help: "packets a second"},
	{title: "QUEUE", width: 5, number: true, from: 90, help: "bytes that wait"},
	{title: "SOJ", width: 5, number: true, help: "ms that its packets waited, mean of the last few"},
	{title: "MAX", width: 5, number: true, from: 100, help: "ms, the longest of all"},
	{title: "MARKS", width: 5, number: true, help: "packets a second that our CoDel marked CE"},
	{title: "DROPS", width: 5, number: true, help: "packets a second that the queue dropped"},
	{title: "KIND", width: 6, help: "bulk had more than a turn's worth waiting within the last second, sparse had not"},
}

func (l *look) flowRows() (rows []row) {
	for i := range l.now.status.Flows {
		f := &l.now.status.Flows[i]
		b := l.flows[flowKey{f.Flow, f.Peer}]
		if b == nil { // it is new, and began with nothing
			b = new(tunnel.FlowDetail)
		}
		kind := "bulk"
		if f.Sparse {
			kind = "sparse"
		}
		rows = append(rows, row{key: f.Flow + " " + f.Peer, peer: f.Peer, cells: []cell{
			word(f.Flow), word(f.Peer), {text: fmt.Sprint(f.Lane), number: -float64(f.Lane)},
			l.perSecond(true, b.Bytes, f.Bytes, bits), l.perSecond(true, b.Packets, f.Packets, 1),
			count(f.Backlog), times(&f.SojournMs), times(&f.SojournMaxMs),
			l.perSecond(true, b.Marks, f.Marks, 1), l.perSecond(true, b.Drops, f.Drops, 1).alarming(),
			word(kind),
		}})
	}
	return rows
}
