package tunnel

import "kiloport/tunnel/ecn"

// delays is how much longer than at best packets took to a peer and from it, by
// probes, of all lanes. It is behind the peer's mutex.
type delays struct{ to, from histogram }

// keptDelays makes room for a peer's delays when the first is measured. The
// caller holds mu.
func (p *peer) keptDelays() *delays {
	if p.delays == nil {
		p.delays = new(delays)
	}
	return p.delays
}

// totals is what all peers together have counted. The device keeps those of peers
// that were removed, so that none of it ever falls.
type totals struct {
	sent, received trafficTotals
	drops          [dropReasonCount]uint64
	delays         delays
}

// trafficTotals is a traffic at some moment.
type trafficTotals struct {
	packets, bytes uint64
	codepoints     [4]uint64
}

func (t *trafficTotals) add(o *traffic) {
	t.packets += o.packets.Load()
	t.bytes += o.bytes.Load()
	for cp := range o.codepoints {
		t.codepoints[cp] += o.codepoints[cp].Load()
	}
}

// addDrops adds the drops of a peer, or those of none.
func (t *totals) addDrops(o *drops) {
	for reason := range o {
		t.drops[reason] += o[reason].Load()
	}
}

// add adds what a peer has counted.
func (t *totals) add(p *peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.sent.add(&p.tx)
	t.received.add(&p.rx)
	t.addDrops(&p.drops)
	if p.delays != nil {
		t.delays.to.add(&p.delays.to)
		t.delays.from.add(&p.delays.from)
	}
}

// totalsNow adds up everything since the device was made. The caller holds
// config.
func (d *Device) totalsNow() TotalStatus {
	t := d.retired
	t.addDrops(&d.drops)
	for _, p := range d.order {
		t.add(p)
	}
	return TotalStatus{
		Sent: t.sent.status(), Received: t.received.status(), Drops: t.dropsByName(),
		DelayTo: t.delays.to.status(), DelayFrom: t.delays.from.status(),
	}
}

func (t *trafficTotals) status() TrafficStatus {
	return TrafficStatus{
		Packets: t.packets, Bytes: t.bytes,
		ECT0: t.codepoints[ecn.ECT0], ECT1: t.codepoints[ecn.ECT1], CE: t.codepoints[ecn.CE],
	}
}

func (t *totals) dropsByName() map[string]uint64 {
	m := make(map[string]uint64)
	for reason, n := range t.drops {
		if n > 0 {
			m[dropNames[reason]] = n
		}
	}
	return m
}

// DropReasons lists all reasons under which packets are counted as dropped.
func DropReasons() []string { return dropNames[:] }
