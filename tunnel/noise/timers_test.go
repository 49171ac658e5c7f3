package noise_test

import (
	"testing"
	"time"

	"kiloport/tunnel/noise"
)

// bench is a Timers without jitter on a clock that the test turns.
type bench struct {
	*testing.T
	timers *noise.Timers
	now    int64
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, timers: noise.NewTimers(nil, func(uint32) uint32 { return 0 }), now: now}
	b.timers.Start()
	return b
}

func (b *bench) pass(d time.Duration) { b.now += int64(d) }

// fires wants the next thing to happen after d, and to be a.
func (b *bench) fires(d time.Duration, a noise.Action) {
	b.Helper()
	next := b.timers.Next()
	if next == 0 {
		b.Fatalf("nothing pending, want %04b after %v", a, d)
	}
	if got := time.Duration(next - b.now); got != d {
		b.Fatalf("next after %v, want %v", got, d)
	}
	if early := b.timers.Fire(next - 1); early != 0 {
		b.Fatalf("%04b before it is due", early)
	}
	b.now = next
	if got := b.timers.Fire(next); got != a {
		b.Fatalf("after %v: %04b, want %04b", d, got, a)
	}
}

func (b *bench) quiet() {
	b.Helper()
	if next := b.timers.Next(); next != 0 {
		b.Fatalf("something is pending in %v", time.Duration(next-b.now))
	}
}

func (b *bench) mayInitiate(want bool) {
	b.Helper()
	if got := b.timers.Initiate(b.now); got != want {
		b.Fatalf("initiation allowed: %v", got)
	}
}

const retry = noise.SendInitiation | noise.ForgetSource

func TestTimersGiveUp(t *testing.T) {
	b := newBench(t)
	b.quiet()
	b.mayInitiate(true)
	b.timers.InitiationSent(b.now)
	for range 19 { // 20 initiations in all, as every other implementation sends
		b.fires(5*second, retry)
		b.timers.InitiationSent(b.now)
	}
	b.timers.DataReceived(b.now) // on an old keypair; the keepalive for it is given up, too
	b.fires(5*second, noise.GiveUp)
	b.fires(540*second, noise.ZeroKeys)
	b.quiet()
	b.mayInitiate(true) // a new packet begins anew
}

func TestTimersOneInitiationInFiveSeconds(t *testing.T) {
	b := newBench(t)
	b.mayInitiate(true)
	b.mayInitiate(false)
	b.pass(5*second - 1)
	b.mayInitiate(false)
	b.pass(1)
	b.mayInitiate(true)
	b.pass(second)
	b.timers.ResponseSent(b.now) // a response counts, too
	b.pass(4999 * time.Millisecond)
	b.mayInitiate(false)
	b.pass(time.Millisecond)
	b.mayInitiate(true)
}

func TestTimersAnswerEndsRetries(t *testing.T) {
	b := newBench(t)
	b.mayInitiate(true)
	b.timers.InitiationSent(b.now)
	b.fires(5*second, retry)
	b.timers.InitiationSent(b.now)
	b.timers.ResponseReceived(b.now)
	if b.timers.LastHandshake() != b.now {
		t.Error("the time of the handshake is not kept")
	}
	b.fires(540*second, noise.ZeroKeys)
	b.quiet()
}

func TestTimersKeepaliveForData(t *testing.T) {
	b := newBench(t)
	b.timers.DataReceived(b.now)
	b.fires(10*second, noise.SendKeepalive)
	b.timers.KeepaliveSent(b.now)
	b.quiet()

	b.timers.DataReceived(b.now)
	b.pass(4 * second)
	b.timers.DataReceived(b.now) // asks for another, after the one that is due
	b.fires(6*second, noise.SendKeepalive)
	b.fires(10*second, noise.SendKeepalive)
	b.quiet()

	b.timers.DataReceived(b.now)
	b.pass(second)
	b.timers.InitiationSent(b.now) // anything sent is as good
	b.fires(5*second, retry)
}

func TestTimersKeepalivesAreNotAnswered(t *testing.T) {
	b := newBench(t)
	b.timers.KeepaliveReceived(b.now)
	b.timers.KeepaliveSent(b.now)
	b.timers.InitiationReceived(b.now)
	b.quiet()
}

func TestTimersSilenceAfterData(t *testing.T) {
	b := newBench(t)
	b.timers.DataSent(b.now)
	b.pass(3 * second)
	b.timers.DataSent(b.now) // does not put it off
	b.fires(12*second, retry)
	b.timers.InitiationSent(b.now)
	b.timers.DataSent(b.now)
	b.timers.KeepaliveReceived(b.now) // the peer lives
	b.fires(5*second, retry)          // yet the handshake is still open
}

func TestTimersSilenceWithinFiveSecondsOfAHandshake(t *testing.T) {
	b := newBench(t)
	b.timers.DataSent(b.now)
	b.pass(11 * second)
	b.timers.ResponseSent(b.now)
	b.fires(4*second, noise.ForgetSource) // no initiation so soon after a response
	b.fires(536*second, noise.ZeroKeys)
}

func TestTimersPersistentKeepalive(t *testing.T) {
	b := newBench(t)
	if !b.timers.PersistentKeepaliveChanged(25 * second) {
		t.Error("turned on: one should be sent at once")
	}
	if b.timers.PersistentKeepaliveChanged(20 * second) {
		t.Error("changed while on: nothing to send")
	}
	b.quiet()
	for range 3 {
		b.timers.KeepaliveSent(b.now)
		b.fires(20*second, noise.SendKeepalive)
	}
	b.timers.KeepaliveSent(b.now)
	b.pass(15 * second)
	b.timers.KeepaliveReceived(b.now) // puts it off
	b.fires(20*second, noise.SendKeepalive)
	b.timers.KeepaliveSent(b.now)
	b.timers.PersistentKeepaliveChanged(0)
	b.quiet()
	b.timers.PersistentKeepaliveChanged(25 * second)
	b.timers.Stop()
	if !b.timers.Start() {
		t.Error("started with a persistent keepalive: one should be sent at once")
	}
}

func TestTimersLastMinuteOnce(t *testing.T) {
	b := newBench(t)
	for range 2 {
		if !b.timers.LastMinute() || b.timers.LastMinute() {
			t.Error("not once")
		}
		b.timers.Confirmed(b.now)
	}
}

func TestTimersStopped(t *testing.T) {
	b := newBench(t)
	b.timers.PersistentKeepaliveChanged(25 * second)
	events := []func(int64){
		b.timers.InitiationSent, b.timers.InitiationReceived, b.timers.ResponseSent, b.timers.ResponseReceived,
		b.timers.Confirmed, b.timers.DataSent, b.timers.DataReceived, b.timers.KeepaliveSent, b.timers.KeepaliveReceived,
	}
	for _, f := range events {
		f(b.now)
	}
	b.timers.Stop()
	b.quiet()
	for _, f := range events {
		f(b.now)
	}
	b.quiet()
	b.mayInitiate(false)
	if a := b.timers.Fire(b.now + int64(time.Hour)); a != 0 {
		t.Errorf("fires while stopped: %04b", a)
	}
	b.timers.Start()
	b.mayInitiate(true)
}

func TestTimersJitter(t *testing.T) {
	var asked uint32
	timers := noise.NewTimers(nil, func(n uint32) uint32 { asked = n; return n - 1 })
	timers.Start()
	timers.InitiationSent(now)
	if got := time.Duration(timers.Next() - now); got != 5333*time.Millisecond || asked != 334 {
		t.Errorf("retransmits after %v at most (of %d)", got, asked)
	}
	timers.Stop()
	timers.Start()
	timers.DataSent(now)
	if got := time.Duration(timers.Next() - now); got != 15333*time.Millisecond {
		t.Errorf("new handshake after %v at most", got)
	}
}

func TestTimersInjectedConstants(t *testing.T) {
	c := noise.Default()
	c.RekeyTimeout, c.RekeyAttemptTime, c.RejectAfterTime = second, 2*second, 10*second
	b := &bench{T: t, timers: noise.NewTimers(&c, func(uint32) uint32 { return 0 }), now: now}
	b.timers.Start()
	b.mayInitiate(true)
	b.timers.InitiationSent(b.now)
	for range 3 {
		b.fires(second, retry)
		b.timers.InitiationSent(b.now)
	}
	b.fires(second, noise.GiveUp)
	b.fires(30*second, noise.ZeroKeys)
}
