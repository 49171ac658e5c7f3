package accord

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// end is one of two that agree, with what the kernel does between them.
type end struct {
	name     string
	address  netip.Addr
	seenAs   uint16 // what a NAT makes of its canonical port, 0: nothing
	blocked  bool   // other ports than the canonical one do not get through
	gone     bool   // nothing is heard or said
	restored uint32 // of the other's
	*Agreement
	local *Local
}

// pair is two ends and a clock. Whatever is said takes 10 ms.
type pair struct {
	*testing.T
	now   time.Time
	a, b  *end
	said  int
	queue []delivery
}

type delivery struct {
	at     time.Time
	to     *end
	from   *end
	h      Hello
	spread bool
}

const (
	latency = 10 * time.Millisecond
	tick    = 250 * time.Millisecond
)

func newPair(t *testing.T) *pair {
	p := &pair{T: t, now: time.Unix(1000, 0)}
	p.a = p.newEnd("a", "192.0.2.1", 1)
	p.b = p.newEnd("b", "198.51.100.1", 2)
	return p
}

func (p *pair) newEnd(name, address string, instance uint64) *end {
	l := &Local{Instance: instance, Port: 51820, Sends: Range{Low: 20480, Count: 8192}, Flags: Origin}
	return &end{name: name, address: netip.MustParseAddr(address), Agreement: NewAgreement(l), local: l}
}

func (p *pair) other(e *end) *end {
	if e == p.a {
		return p.b
	}
	return p.a
}

func (e *end) endpointSeen() netip.AddrPort {
	port := e.local.Port
	if e.seenAs != 0 {
		port = e.seenAs
	}
	return netip.AddrPortFrom(e.address, port)
}

// say sends a HELLO of e, from another port if its mode is such.
func (p *pair) say(e *end, ask bool) {
	h := e.Say(p.now, ask, e.restored, 0)
	p.said++
	p.queue = append(p.queue, delivery{p.now.Add(latency), p.other(e), e, h, e.Mode == Spread || e.Mode == Probe && ask})
}

func (p *pair) deliver(d delivery) {
	if d.to.gone || d.from.gone || d.spread && d.from.blocked {
		return
	}
	if d.spread {
		if !d.to.Restores(p.now).Contains(d.from.local.Sends.Low) {
			p.Errorf("%v: %s sent from another port to %s, which does not put it back", p.now, d.from.name, d.to.name)
		}
		d.to.restored++
	}
	parsed, err := Parse(d.h.Append(nil))
	if err != nil {
		p.Fatal(err)
	}
	if d.to.Listen(p.now, parsed) {
		p.say(d.to, false)
	}
}

// run lets time pass; data tells whether it flows.
func (p *pair) run(d time.Duration, data bool) {
	for until := p.now.Add(d); p.now.Before(until); p.now = p.now.Add(latency) {
		for len(p.queue) > 0 && !p.queue[0].at.After(p.now) {
			first := p.queue[0]
			p.queue = p.queue[1:]
			p.deliver(first)
		}
		if p.now.UnixNano()%int64(tick) != 0 {
			continue
		}
		for _, e := range []*end{p.a, p.b} {
			if e.gone {
				continue
			}
			if data {
				e.Flowed(p.now)
			}
			e.Observe(p.now, p.other(e).endpointSeen(), time.Unix(999, 0))
			if e.Step(p.now) {
				p.say(e, true)
			}
		}
	}
}

func (p *pair) want(a, b Mode, reasons ...string) {
	p.Helper()
	if p.a.Mode != a || p.b.Mode != b {
		p.Errorf("modes are %d (%s) and %d (%s), want %d and %d", p.a.Mode, p.a.Reason, p.b.Mode, p.b.Reason, a, b)
	}
	for i, want := range reasons {
		if got := []*end{p.a, p.b}[i].Reason; !strings.Contains(got, want) {
			p.Errorf("reason of %s is %q, want %q", "ab"[i:i+1], got, want)
		}
	}
}

func TestAgree(t *testing.T) {
	p := newPair(t)
	p.run(time.Second, true)
	p.want(Spread, Spread)
	if !p.a.Origin() || p.a.Ports() != 8192 {
		t.Errorf("origin %v, %d ports", p.a.Origin(), p.a.Ports())
	}
	said := p.said
	p.run(10*time.Minute, true)
	p.want(Spread, Spread)
	if n := p.said - said; n > 1300 {
		t.Errorf("%d HELLOs in ten minutes", n)
	}
}

// TestOneBegins: an end whose peer comes later is heard when that comes.
func TestOneBegins(t *testing.T) {
	p := newPair(t)
	p.b.gone = true
	p.run(time.Minute, true)
	p.want(Plain, Plain, "stock WireGuard")
	if p.said != len(offerAfter) {
		t.Errorf("a stock peer got %d HELLOs, want %d", p.said, len(offerAfter))
	}
	p.b.gone = false
	p.run(2*time.Second, true)
	p.want(Spread, Spread)
}

func TestIdle(t *testing.T) {
	p := newPair(t)
	p.run(time.Second, true)
	p.run(idleAfter+silentAfter+helloEvery, false)
	p.want(Plain, Plain, "idle", "idle")
	said := p.said
	p.run(time.Hour, false)
	if p.said != said || !p.a.Resting(p.now) {
		t.Errorf("%d HELLOs in an idle hour, resting: %v", p.said-said, p.a.Resting(p.now))
	}
	p.run(time.Second, true)
	p.want(Spread, Spread)
}

// TestGone: who goes without a word, or comes back without kiloport, is not sent
// any more from other ports within seconds, and asked less and less.
func TestGone(t *testing.T) {
	p := newPair(t)
	p.run(time.Second, true)
	p.b.gone = true
	p.run(silentAfter+tick, true)
	if p.a.Mode != Plain || p.a.Reason != silent {
		t.Errorf("mode %d, %s", p.a.Mode, p.a.Reason)
	}
	said := p.said
	p.run(time.Hour, true)
	if n := p.said - said; n > 40 {
		t.Errorf("%d HELLOs in an hour to who does not answer", n)
	}
	p.b.gone = false // the same process, cut off for an hour
	p.run(40*time.Second, true)
	p.want(Spread, Spread)
}

func TestOutageOfAMinute(t *testing.T) {
	p := newPair(t)
	p.run(time.Second, true)
	p.a.gone, p.b.gone = true, true
	p.run(time.Minute, true)
	p.a.gone, p.b.gone = false, false
	p.run(40*time.Second, true)
	p.want(Spread, Spread)
}

func TestRestart(t *testing.T) {
	p := newPair(t)
	p.run(time.Second, true)
	p.b = p.newEnd("b", "198.51.100.1", 3)
	p.run(2*time.Second, true)
	p.want(Spread, Spread)
}

// TestMoves: an end whose own address changes knows it by what the peer sees, and
// probes again, for data that leaves from there is not spread.
func TestMoves(t *testing.T) {
	p := newPair(t)
	p.run(time.Second, true)
	p.a.address = netip.MustParseAddr("192.0.2.77")
	probed := p.a.probed
	p.run(silentAfter, true)
	p.want(Spread, Spread)
	if !p.a.probed.After(probed) || p.a.probed.Sub(probed) > silentAfter {
		t.Errorf("probed again %v after the first time", p.a.probed.Sub(probed))
	}
}

func TestLeave(t *testing.T) {
	p := newPair(t)
	p.run(time.Second, true)
	p.a.Leave()
	p.say(p.a, true)
	p.run(5*latency, true)
	p.want(Plain, Plain, "leaving", "has left")
	if !p.a.Left(p.now) {
		t.Error("the peer does not know")
	}
	if p.b.Restores(p.now).Count == 0 {
		t.Error("what was sent before is not put back any more")
	}
	said := p.said
	p.a.gone = true
	p.run(time.Minute, true)
	if p.said != said {
		t.Errorf("%d HELLOs to who has left", p.said-said)
	}
}

func TestObstacles(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(p *pair)
		a, b    Mode
		reasons []string
	}{
		"firewall":     {func(p *pair) { p.a.blocked = true }, Plain, Spread, []string{"HELLO from other ports does not get through"}},
		"NAT":          {func(p *pair) { p.a.seenAs = 1024 }, Plain, Plain, []string{"the peer sees our port 51820 as 1024: a NAT", "the peer sends from port 51820, which arrives as 1024: a NAT"}},
		"same address": {func(p *pair) { p.a.Shared = "another" }, Plain, Plain, []string{"another peer at the same address has the same ports: another", "does not put our ports back"}},
		"leaves alone": {func(p *pair) { p.b.local.Sends.Count = 0 }, Spread, Plain, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			test.change(p)
			p.run(10*time.Second, true)
			p.want(test.a, test.b, test.reasons...)
		})
	}
}

// TestFirewallGoes: other ports are tried again, less and less often.
func TestFirewallGoes(t *testing.T) {
	p := newPair(t)
	p.a.blocked = true
	p.run(5*time.Minute, true)
	p.want(Plain, Spread)
	p.a.blocked = false
	p.run(10*time.Minute, true)
	p.want(Spread, Spread)
}

// TestFirewallComes: HELLO goes the way of data, so that what stops that is noticed.
func TestFirewallComes(t *testing.T) {
	p := newPair(t)
	p.run(time.Second, true)
	p.a.blocked = true
	p.run(silentAfter+2*tick, true)
	if p.a.Mode == Spread {
		t.Error("data goes where nothing gets through")
	}
}

func TestIgnores(t *testing.T) {
	p := newPair(t)
	p.run(time.Second, true)
	own := p.a.Say(p.now, true, 0, 0)
	if p.a.Listen(p.now, own) {
		t.Error("an end answers itself")
	}
	old := p.a.Theirs
	old.Flags |= Leaving
	if p.a.Listen(p.now, old); p.a.Mode != Spread {
		t.Error("an old HELLO counts")
	}
	p.want(Spread, Spread)
}

func TestLimit(t *testing.T) {
	for limit, want := range map[uint16]struct {
		ports  uint16
		origin bool
	}{0: {8192, true}, 1: {1, false}, 17: {16, true}, 9000: {8192, true}} {
		p := newPair(t)
		p.run(time.Second, true)
		h := p.a.Theirs
		h.Sequence, h.Limit = 1<<20, limit
		p.a.Listen(p.now, h)
		if got := fmt.Sprint(p.a.Ports(), p.a.Origin()); got != fmt.Sprint(want.ports, want.origin) {
			t.Errorf("limit %d: %s, want %v", limit, got, want)
		}
	}
}
