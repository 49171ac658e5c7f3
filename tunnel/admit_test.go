package tunnel

import (
	"testing"
	"time"

	"kiloport/tunnel/noise"
)

// overloaded carries a flood and a sparse flow from one device to another whose
// socket has kept everything waiting.
type overloaded struct {
	a, b          *still
	out           *countTUN
	flood, sparse []byte
	rounds        int
	refusing      bool // the socket has no room
}

func newOverloaded(t *testing.T) *overloaded {
	a, b, out := stillPair(t)
	return &overloaded{a: a, b: b, out: out, flood: a.udp(b.site, 2000, 1, 1000), sparse: a.udp(b.site, 2001, 1, 60)}
}

const perRound = 60

// round is 5 ms, in which perRound packets of the flood come, and of the sparse flow one
// in four rounds.
func (o *overloaded) round(wait time.Duration) {
	o.a.clock.now.Add(5e6)
	o.b.clock.now.Add(5e6)
	t := o.a.device.transmit[0]
	t.now = o.a.clock.Now()
	for range perRound {
		t.offer(o.flood)
	}
	if o.rounds++; o.rounds%4 == 0 {
		t.offer(o.sparse)
	}
	for t.queue.Len() > 0 {
		t.send()
	}
	for i := range o.a.sent.n {
		m := &o.a.sent.messages[i]
		m.Time = o.b.clock.Wall().Add(-wait).UnixNano()
		if o.refusing {
			m.Refused = 1
		}
	}
	exchange(o.a, o.b)
}

func (o *overloaded) refused() uint64 { return o.b.device.drops[dropAdmission].Load() }

// TestOverloadRefusesTheFlood: when all that arrives has waited for long, part of
// the lane that brings most is refused unread, and nothing of the others.
func TestOverloadRefusesTheFlood(t *testing.T) {
	o := newOverloaded(t)
	for range 100 {
		o.round(time.Millisecond)
	}
	if n := o.refused(); n != 0 {
		t.Fatalf("%d datagrams refused of a socket that is short", n)
	}
	for range 100 {
		o.round(20 * time.Millisecond)
	}
	if n := o.refused(); n != 0 {
		t.Fatalf("%d datagrams refused that have waited for a processor alone", n)
	}
	if at := o.b.device.urgency.lostAt.Load(); at != 0 {
		t.Fatalf("something was lost at %d", at)
	}
	o.refusing = true
	const rounds = 200
	packets, bytes := o.out.packets, o.out.bytes
	for range rounds {
		o.round(20 * time.Millisecond)
	}
	if at, now := o.b.device.urgency.lostAt.Load(), o.b.clock.Now(); at != now {
		t.Errorf("urgency was told of a loss at %d, now is %d", at, now)
	}
	refused := int(o.refused())
	if refused < rounds*perRound/10 || refused > rounds*perRound*98/100 {
		t.Errorf("%d of %d datagrams of the flood refused", refused, rounds*perRound)
	}
	const sparse = rounds / 4
	if got := o.out.packets - packets; got != rounds*perRound+sparse-refused {
		t.Errorf("%d packets arrived and %d were refused, of %d", got, refused, rounds*perRound+sparse)
	}
	// All that was refused is of the flood: so many bytes of each have arrived.
	if got, want := o.out.bytes-bytes, sparse*len(o.sparse)+(rounds*perRound-refused)*len(o.flood); got != want {
		t.Errorf("%d bytes arrived, want %d", got, want)
	}
	if n := testing.AllocsPerRun(100, func() { o.round(20 * time.Millisecond) }); n >= 1 {
		t.Errorf("%v allocations a round", n)
	}
	refused = int(o.refused())
	o.refusing = false
	for range 100 {
		o.round(time.Millisecond)
	}
	late := int(o.refused())
	for range 100 {
		o.round(time.Millisecond)
	}
	if n := int(o.refused()); n != late {
		t.Errorf("%d datagrams refused when it was over, %d soon after", n-late, late-refused)
	}
}

// TestOverloadKeepsHandshakes: they come from one place in numbers, and not one is
// refused.
func TestOverloadKeepsHandshakes(t *testing.T) {
	o := newOverloaded(t)
	o.refusing = true
	for range 100 {
		o.round(20 * time.Millisecond)
	}
	for _, m := range o.a.sent.messages[:1] {
		for name, b := range map[string][]byte{
			"initiation": append([]byte{1, 0, 0, 0}, make([]byte, 144)...),
			"cookie":     append([]byte{3, 0, 0, 0}, make([]byte, 60)...),
			"keepalive":  append([]byte{4, 0, 0, 0}, make([]byte, noise.TransportOverhead-4)...),
		} {
			m.Buf, m.N, m.SegmentSize = b, len(b), 0
			if !o.b.device.receive[0].admission.arrival(&m).Keep {
				t.Errorf("a %s may be refused", name)
			}
		}
		m.Buf, m.N = make([]byte, noise.TransportOverhead+16), noise.TransportOverhead+16
		m.Buf[0] = 4
		if o.b.device.receive[0].admission.arrival(&m).Keep {
			t.Error("data may not be refused")
		}
	}
}
