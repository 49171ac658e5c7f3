package noise_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/tun/tuntest"

	"kiloport/tunnel/noise"
)

// Here wireguard-go's device and our timers go through the same hours, in
// virtual time: what each sends, and when, must be the same but for the jitter.

// event is one datagram that the subject sent.
type event struct {
	at   time.Duration
	what string
}

// scenario is what happens to the subject. Times are from its start; those of
// different lists must differ, lest two things race at one instant.
type scenario struct {
	name      string
	keepalive int // persistent, seconds
	lasts     time.Duration
	dead      func(at time.Duration) bool // whether the other end is silent
	send      []time.Duration             // the subject has a packet to send
	receive   []time.Duration             // the other end sends a packet, if there is a keypair
	handshake []time.Duration             // the other end initiates a handshake
	endless   bool                        // it never becomes quiet
}

const second = time.Second

func every(step, from, to time.Duration) (all []time.Duration) {
	for at := from; at < to; at += step {
		all = append(all, at)
	}
	return all
}

func never(time.Duration) bool  { return false }
func always(time.Duration) bool { return true }
func from(x time.Duration) func(time.Duration) bool {
	return func(at time.Duration) bool { return at >= x }
}

var scenarios = []scenario{
	{name: "peer is dead, one packet", lasts: 900 * second, dead: always, send: []time.Duration{0}},
	{name: "peer is dead, another packet later", lasts: 900 * second, dead: always, send: []time.Duration{0, 33500 * time.Millisecond, 400 * second}},
	{name: "peer is dead, persistent keepalive", endless: true, keepalive: 25, lasts: 600 * second, dead: always},
	{name: "peer comes up late", endless: true, keepalive: 25, lasts: 300 * second, dead: func(at time.Duration) bool { return at < 61*second }},
	{name: "one packet, no answer", lasts: 700 * second, dead: from(3 * second), send: []time.Duration{0, 5 * second}},
	{name: "one packet each way", lasts: 700 * second, dead: never, send: []time.Duration{0}, receive: []time.Duration{2 * second}},
	{name: "receives all the time", lasts: 700 * second, dead: never, send: []time.Duration{0}, receive: every(3100*time.Millisecond, 2*second, 600*second)},
	{name: "sends all the time", lasts: 700 * second, dead: never, send: every(170*time.Millisecond, 0, 100*second)},
	{name: "both all the time", lasts: 700 * second, dead: never, send: every(1700*time.Millisecond, 0, 600*second), receive: every(2300*time.Millisecond, 100*time.Millisecond, 600*second)},
	{name: "idle with persistent keepalive", endless: true, keepalive: 20, lasts: 700 * second, dead: never},
	{name: "peer dies under traffic", lasts: 900 * second, dead: from(200 * second), send: every(1700*time.Millisecond, 0, 201*second), receive: every(2300*time.Millisecond, 100*time.Millisecond, 200*second)},
	{name: "peer dies, persistent keepalive", endless: true, keepalive: 10, lasts: 600 * second, dead: from(30 * second), send: []time.Duration{0}},
	{name: "responder, then idle", lasts: 700 * second, dead: never, handshake: []time.Duration{second}},
	{name: "responder sends", lasts: 700 * second, dead: never, handshake: []time.Duration{second}, send: every(170*time.Millisecond, 2*second, 100*second)},
	{name: "responder receives", lasts: 400 * second, dead: never, handshake: []time.Duration{second, 122 * second}, receive: every(2900*time.Millisecond, 3*second, 300*second)},
	{name: "both initiate in turns", lasts: 400 * second, dead: never, send: []time.Duration{0, 4 * second, 31 * second}, handshake: []time.Duration{3 * second, 30 * second}},
	{name: "both initiate at once", lasts: 400 * second, dead: func(at time.Duration) bool { return at < second }, send: []time.Duration{0}, handshake: []time.Duration{2 * second}},
	{name: "both initiate at once, never confirmed", lasts: 700 * second, dead: always, send: []time.Duration{0}, handshake: []time.Duration{2 * second}},
	{name: "responds, never confirmed, packets later", lasts: 700 * second, dead: always, send: []time.Duration{7 * second}, handshake: []time.Duration{2 * second}},
}

// subject is wireguard-go or we.
type subject interface {
	deliver(msg []byte)
	data(packet []byte)
}

// otherEnd is the far side of the subject: it answers handshakes unless it is
// dead, does what the scenario says, and writes down what it sees.
type otherEnd struct {
	t       *testing.T
	s       scenario
	self    *side
	start   time.Time
	subject subject
	seen    []event

	keypair   *noise.Keypair
	counter   uint64
	handshake *noise.Handshake
	index     uint32
}

// play goes through the scenario with the subject's datagrams coming on link.
func (o *otherEnd) play(link <-chan []byte) []event {
	type stimulus struct {
		at time.Duration
		do func()
	}
	packet := tuntest.Ping(ours, theirs)
	var todo []stimulus
	for _, at := range o.s.send {
		todo = append(todo, stimulus{at, func() { o.subject.data(packet) }})
	}
	for _, at := range o.s.receive {
		todo = append(todo, stimulus{at, o.sendData})
	}
	for _, at := range o.s.handshake {
		todo = append(todo, stimulus{at, o.initiate})
	}
	todo = append(todo, stimulus{o.s.lasts, nil})
	slices.SortStableFunc(todo, func(a, b stimulus) int { return int(a.at - b.at) })
	for _, next := range todo {
		timer := time.NewTimer(time.Until(o.start.Add(next.at)))
		for waiting := true; waiting; {
			select {
			case msg := <-link:
				o.see(msg)
			case <-timer.C:
				waiting = false
			}
		}
		if next.do != nil {
			next.do()
		}
	}
	return o.seen
}

func (o *otherEnd) at() time.Duration { return time.Since(o.start) }

func (o *otherEnd) see(msg []byte) {
	kind, _ := noise.MessageType(msg)
	what := [...]string{"?", "initiation", "response", "cookie", "data"}[kind]
	if kind == noise.MessageTransport && len(msg) == noise.TransportOverhead {
		what = "keepalive"
	}
	o.seen = append(o.seen, event{o.at(), what})
	if o.s.dead(o.at()) {
		return
	}
	// wireguard-go sets the timer of an initiation after it has sent it; an
	// answer in no time at all could come before.
	time.Sleep(time.Millisecond)
	switch kind {
	case noise.MessageInitiation:
		o.respond(msg)
	case noise.MessageResponse:
		o.finish(msg)
	}
}

func (o *otherEnd) respond(msg []byte) {
	in, err := noise.OpenInitiation(o.self.static, msg)
	if err == nil {
		err = in.Accept(&o.self.remote, int64(o.at())+1)
	}
	if err != nil {
		o.t.Error(err)
		return
	}
	o.index++
	answer, k, err := in.Respond(fixedRand(byte(o.index)), noise.PresharedKey{}, o.index)
	if err != nil {
		o.t.Error(err)
		return
	}
	noise.AddMACs(answer[:], &o.self.remote, int64(o.at())+1)
	o.keypair, o.counter = k, 0
	o.subject.deliver(answer[:])
}

func (o *otherEnd) initiate() {
	o.index++
	msg, h, err := noise.Initiate(fixedRand(byte(o.index)), o.self.static, &o.self.remote, o.index, time.Now())
	if err != nil {
		o.t.Error(err)
		return
	}
	noise.AddMACs(msg[:], &o.self.remote, int64(o.at())+1)
	o.handshake = h
	o.subject.deliver(msg[:])
}

func (o *otherEnd) finish(msg []byte) {
	k, err := o.handshake.OpenResponse(o.self.static, noise.PresharedKey{}, msg)
	if err != nil {
		o.t.Error(err)
		return
	}
	o.keypair, o.counter = k, 0
	o.send(nil) // confirms the keypair
}

func (o *otherEnd) sendData() { o.send(tuntest.Ping(theirs, ours)) }

func (o *otherEnd) send(payload []byte) {
	if o.keypair == nil || o.s.dead(o.at()) {
		return
	}
	o.subject.deliver(o.keypair.Seal(nil, payload, o.counter))
	o.counter++
}

type wireguardSubject struct {
	t *testing.T
	*wireguard
}

func (w wireguardSubject) deliver(msg []byte) { w.send(w.t, msg) }
func (w wireguardSubject) data(packet []byte) { w.tun.Outbound <- packet }

// playWireGuard runs the scenario with wireguard-go as the subject.
func playWireGuard(t *testing.T, s scenario) []event {
	a, b := newSides(t)
	start := time.Now()
	w := startWireGuard(t, a.private, b.static.Public(), noise.PresharedKey{}, s.keepalive)
	defer w.close()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-w.tun.Inbound:
			case <-stop:
				return
			}
		}
	}()
	o := &otherEnd{t: t, s: s, self: b, start: start, subject: wireguardSubject{t, w}}
	return o.play(w.from)
}

// miniSubject runs a miniPeer in a goroutine of its own.
type miniSubject struct{ in, packets chan []byte }

func (m miniSubject) deliver(msg []byte) { m.in <- msg }
func (m miniSubject) data(packet []byte) { m.packets <- packet }

// playMini runs the scenario with our timers as the subject.
func playMini(t *testing.T, s scenario) []event {
	a, b := newSides(t)
	start := time.Now()
	sub := miniSubject{make(chan []byte), make(chan []byte)}
	link, stop := make(chan []byte, 1000), make(chan struct{})
	defer close(stop)
	go func() {
		m := newMiniPeer(t, a, time.Duration(s.keepalive)*second, func(msg []byte) { link <- msg })
		for {
			select {
			case msg := <-sub.in:
				m.receive(msg)
			case p := <-sub.packets:
				m.data(p)
			case <-time.After(m.wait()):
				m.fire()
			case <-stop:
				return
			}
		}
	}()
	o := &otherEnd{t: t, s: s, self: b, start: start, subject: sub}
	return o.play(link)
}

// wireguard-go leaves two things to the order in which its goroutines run:
// whether the keepalive just sent cancels the one set to follow it, and whether
// the packet that confirms a keypair counts as an answer to what it set free. It
// nearly always does what we always do, so some of a few runs must agree.
const wireguardRuns = 20

func TestTimersAgainstWireGuard(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			var got []event
			synctest.Test(t, func(t *testing.T) { got = playMini(t, s) })
			var diff string
			for range wireguardRuns {
				var want []event
				synctest.Test(t, func(t *testing.T) { want = playWireGuard(t, s) })
				if len(want) == 0 {
					t.Fatal("wireguard-go sent nothing: the scenario shows nothing")
				}
				wantControl, wantData := split(want)
				gotControl, gotData := split(got)
				diff = compare(s, wantControl, gotControl) + compare(s, wantData, gotData)
				if diff == "" {
					return
				}
			}
			t.Error(diff)
		})
	}
}

// split tells data from the rest: jitter may move the rest past it.
func split(all []event) (control, data []event) {
	for _, e := range all {
		if e.what == "data" {
			data = append(data, e)
		} else {
			control = append(control, e)
		}
	}
	return control, data
}

// compare wants the same events at the same time, or the same time apart, but
// for the jitter of both. What repeats without end may have drifted past the end.
func compare(s scenario, want, got []event) (diff string) {
	const tolerance = 700 * time.Millisecond
	drift := time.Duration(len(want)) * 333 * time.Millisecond
	for i := range max(len(want), len(got)) {
		if s.endless && (i == len(want) && s.lasts-got[i].at < drift || i == len(got) && s.lasts-want[i].at < drift) {
			return ""
		}
		bad := i >= len(want) || i >= len(got) || want[i].what != got[i].what
		if !bad {
			since := (want[i].at - got[i].at).Abs()
			if i > 0 && since > tolerance {
				since = (want[i].at - want[i-1].at - got[i].at + got[i-1].at).Abs()
			}
			bad = since > tolerance
		}
		if bad {
			return fmt.Sprintf("event %d differs\nwireguard-go (%d):\n%swe (%d):\n%s", i, len(want), around(want, i), len(got), around(got, i))
		}
	}
	return ""
}

func around(all []event, i int) string {
	var b strings.Builder
	for j := max(0, i-4); j < min(len(all), i+4); j++ {
		fmt.Fprintf(&b, "  %d %v %s\n", j, all[j].at, all[j].what)
	}
	return b.String()
}
