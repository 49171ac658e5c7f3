package queue

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// rateSteps is a path that changes its rate at some times, in seconds.
func rateSteps(rates []float64, at ...float64) func(int64) float64 {
	return func(now int64) float64 {
		i := 0
		for i < len(at) && float64(now) >= at[i]*1e9 {
			i++
		}
		return rates[i]
	}
}

// A path whose rate goes from 50 to 10 to 30 Mbit/s: the delay is below 10 ms within
// 3 s of the step down, and 0.85 of the rate is used within 15 s of the step up,
// whenever the steps come and however often the reports.
func TestAutorateFollowsSteps(t *testing.T) {
	for _, report := range []int64{100 * ms, 200 * ms, 250 * ms} {
		var slowestDown, slowestUp time.Duration
		for phase := 0.0; phase < 8; phase += 1.13 {
			down, up := 20+phase, 40+1.7*phase
			p := newSimPath(DefaultAutorate(2e6, 100e6), rateSteps([]float64{50e6, 10e6, 30e6}, down, up))
			p.report = report
			p.run(t, time.Duration((up+25)*1e9))
			if took := p.reached(0, 0.85); took > 15*time.Second {
				t.Errorf("reports every %v: 0.85 of the first rate is used after %v", time.Duration(report), took)
			}
			if took := p.settled(down, 10*time.Millisecond); took > 3*time.Second {
				t.Errorf("reports every %v, step at %.1f s: the delay is below 10 ms after %v", time.Duration(report), down, took)
			}
			if took := p.reached(up, 0.85); took > 15*time.Second {
				t.Errorf("reports every %v, step at %.1f s: 0.85 of the rate is used after %v", time.Duration(report), up, took)
			}
			slowestDown, slowestUp = max(slowestDown, p.settled(down, 10*time.Millisecond)), max(slowestUp, p.reached(up, 0.85))
			for _, s := range [][2]float64{{12, down}, {down + 4, up}, {up + 15, up + 25}} {
				course := p.span(s[0], s[1])
				if share, delay := used(course), delayQuantile(course, 0.99); share < 0.93 || delay > 12*time.Millisecond {
					t.Errorf("reports every %v: from %.1f to %.1f s %.3f of the path is used, and the delay is %v in 1 %% of the time", time.Duration(report), s[0], s[1], share, delay)
				}
			}
			if t.Failed() {
				return
			}
		}
		t.Logf("reports every %v: after the step down below 10 ms within %v, after the step up 0.85 within %v", time.Duration(report), slowestDown, slowestUp)
	}
}

// lte is a path whose rate wanders by a tenth a second, between two bounds, and now
// and then drops to a third for some seconds.
func lte(seed uint64, low, high float64, seconds int) func(int64) float64 {
	r := rand.New(rand.NewPCG(seed, 7))
	rates := make([]float64, seconds+1)
	rate, dip := math.Sqrt(low*high), 0
	for i := range rates {
		rate = min(max(rate*math.Exp(0.1*r.NormFloat64()), low), high)
		if dip--; dip < -10 && r.IntN(20) == 0 {
			dip = 5
		}
		rates[i] = rate
		if dip > 0 {
			rates[i] = rate / 3
		}
	}
	return func(now int64) float64 { return rates[int(now/1e9)] }
}

func TestAutorateOnLTE(t *testing.T) {
	for seed := range uint64(5) {
		c := DefaultAutorate(2e6, 100e6)
		c.Delay = 25 * time.Millisecond
		p := newSimPath(c, lte(seed, 10e6, 60e6, 121))
		p.way = func(int64) int64 { return simWay + p.rng.Int64N(10*ms) }
		p.run(t, 120*time.Second)
		course := p.span(10, 120)
		share, median, high := used(course), delayQuantile(course, 0.5), delayQuantile(course, 0.95)
		t.Logf("%.2f of the path is used, delay %v, %v in 5 %% of the time", share, median, high)
		if share < 0.65 || median > 10*time.Millisecond || high > 300*time.Millisecond {
			t.Errorf("seed %d: %.2f of the path is used, the delay is %v, %v in 5 %% of the time", seed, share, median, high)
		}
	}
}

// Loss by chance, as on a radio, is no reason to slow down.
func TestAutorateIgnoresLossByChance(t *testing.T) {
	p := newSimPath(DefaultAutorate(2e6, 100e6), rateSteps([]float64{30e6}))
	p.loss = 0.02
	p.run(t, 60*time.Second)
	if share := used(p.span(15, 60)); share < 0.93 {
		t.Errorf("with 2 %% lost only %.2f of the path is used", share)
	}
}

// A bottleneck that drops at once what is too much, as a policer does, shows no
// delay but loss.
func TestAutorateFindsAPolicersRate(t *testing.T) {
	p := newSimPath(DefaultAutorate(2e6, 100e6), rateSteps([]float64{30e6}))
	p.fifo = 4
	p.run(t, 60*time.Second)
	course := p.span(20, 60)
	over := 0.0
	for _, m := range course {
		over = max(over, m.rate)
	}
	if share := used(course); share < 0.9 || over > 32e6 || p.reasons[RateLoss] == 0 {
		t.Errorf("%.2f of the path is used, the rate is up to %.1f of 30 Mbit/s, %v", share, over/1e6, p.reasons)
	}
}

// Without load the rate goes to Base, from above and from below; with some load, of
// which there is no queue, it neither grows nor falls below that.
func TestAutorateGoesToBaseWithoutLoad(t *testing.T) {
	for name, test := range map[string]struct{ base, before float64 }{"down": {20e6, 50e6}, "up": {20e6, 8e6}} {
		c := DefaultAutorate(2e6, 100e6)
		c.Base = int64(test.base)
		p := newSimPath(c, rateSteps([]float64{test.before, 90e6}, 20))
		p.load = func(now int64) float64 {
			if now < 20e9 {
				return 1e9
			}
			return 1e6
		}
		p.run(t, 20*time.Second)
		if got := float64(p.auto.Rate()); math.Abs(got/test.before-1) > 0.1 {
			t.Errorf("%s: the rate is %.1f Mbit/s, the path's is %.1f", name, got/1e6, test.before/1e6)
		}
		p.run(t, 10*time.Second)
		if got := float64(p.auto.Rate()); math.Abs(got/test.before-1) < 0.2 || p.reasons[RateIdle] == 0 {
			t.Errorf("%s: after 10 s without load it is still %.1f Mbit/s", name, got/1e6)
		}
		p.run(t, 30*time.Second)
		if got := p.auto.Rate(); got != c.Base || p.auto.Last().Reason != RateHold {
			t.Errorf("%s: after 40 s without load the rate is %d, %v", name, got, p.auto.Last())
		}
	}
}

func TestAutorateGrowsUnderLoadOnly(t *testing.T) {
	p := newSimPath(DefaultAutorate(2e6, 100e6), rateSteps([]float64{90e6}))
	p.load = func(int64) float64 { return 12e6 }
	p.run(t, 30*time.Second)
	for _, m := range p.span(10, 30) {
		if m.rate < 12e6 || m.rate > 12e6/highLoad*1.1 {
			t.Fatalf("with a load of 12 Mbit/s the rate is %.1f", m.rate/1e6)
		}
	}
}

// The rate never leaves its bounds, whatever the path is.
func TestAutorateKeepsItsBounds(t *testing.T) {
	c := DefaultAutorate(20e6, 40e6)
	p := newSimPath(c, rateSteps([]float64{100e6, 5e6, 100e6}, 20, 40))
	p.run(t, 60*time.Second)
	for _, m := range p.course {
		if m.rate < 20e6 || m.rate > 40e6 {
			t.Fatalf("the rate is %.1f Mbit/s", m.rate/1e6)
		}
	}
	if p.course[19_999].rate != 40e6 || p.course[38_000].rate != 20e6 || p.course[59_999].rate != 40e6 {
		t.Errorf("rates %.1f, %.1f, %.1f", p.course[19_999].rate/1e6, p.course[38_000].rate/1e6, p.course[59_999].rate/1e6)
	}
	if p.reasons[RateLonger] > 0 {
		t.Error("a queue that the least rate does not drain was taken for a longer way")
	}
}

// A way that becomes longer for good, as by another route, looks like a queue, until
// sending less has not helped.
func TestAutorateGetsUsedToALongerWay(t *testing.T) {
	p := newSimPath(DefaultAutorate(2e6, 100e6), rateSteps([]float64{30e6}))
	p.way = func(now int64) int64 {
		switch {
		case now < 20e9:
			return simWay
		case now < 50e9:
			return simWay + 60*ms
		}
		return simWay + 5*ms
	}
	p.run(t, 80*time.Second)
	if p.reasons[RateLonger] != 1 {
		t.Errorf("%d times it was noticed, want once", p.reasons[RateLonger])
	}
	if took := p.reached(21, 0.85); took > 4*time.Second {
		t.Errorf("0.85 of the path is used after %v", took)
	}
	for _, s := range [][2]float64{{30, 50}, {55, 80}} {
		if share, delay := used(p.span(s[0], s[1])), delayQuantile(p.span(s[0], s[1]), 0.99); share < 0.85 || delay > 25*time.Millisecond {
			t.Errorf("from %.0f to %.0f s %.2f of the path is used, with a queue of %v", s[0], s[1], share, delay)
		}
	}
}

// Without reports the rate stays for three seconds and goes down then; with the
// first report it goes up again.
func TestAutorateWithoutReports(t *testing.T) {
	p := newSimPath(DefaultAutorate(2e6, 100e6), rateSteps([]float64{30e6}))
	p.deaf = func(now int64) bool { return now > 20e9 && now < 30e9 }
	p.run(t, 60*time.Second)
	if before, after := p.course[20_000].rate, p.course[22_500].rate; after != before {
		t.Errorf("after 2.5 s without reports the rate is %.1f Mbit/s, it was %.1f", after/1e6, before/1e6)
	}
	if got := p.course[29_500].rate; got != 2e6 {
		t.Errorf("after 9.5 s without reports the rate is %.1f Mbit/s", got/1e6)
	}
	if share := used(p.span(50, 60)); share < 0.9 {
		t.Errorf("20 s after reports come again %.2f of the path is used", share)
	}
	quiet := NewAutorate(DefaultAutorate(2e6, 100e6))
	if d := quiet.Tick(100e9, true); d.Rate != quiet.Rate() || d.Reason != RateStart {
		t.Errorf("before the first report: %v", d)
	}
	quiet.Report(100e9, PathSample{Delay: -1})
	if d := quiet.Tick(200e9, false); d.Reason == RateSilent {
		t.Errorf("with nothing to send: %v", d)
	}
}

// Delay that somebody else's packets make takes from us what it would take from a
// user of cake-autorate, but in steps: how little arrives is not the path's rate.
func TestAutorateWithALittleLoadAndAForeignQueue(t *testing.T) {
	a := NewAutorate(DefaultAutorate(2e6, 100e6))
	now := int64(1e9)
	base := float64(a.Rate())
	for i := range 60 {
		now += 100 * ms
		d := a.Report(now, PathSample{Elapsed: 100 * time.Millisecond, Packets: 12, Bytes: 12500, Delay: 80 * time.Millisecond})
		if want := max(base*math.Pow(0.75, float64(i/3+1)), 2e6); math.Abs(float64(d.Rate)/want-1) > 0.01 || d.Reason != RateDrain {
			t.Fatalf("after %d ms: %v, want %.2f Mbit/s", 100*i, d, want/1e6)
		}
	}
}

// When the path becomes slower, what TCP has on its way waits there, and there is
// nothing to send before acknowledgements come, as slowly as the path is: the rate
// is the path's within three reports.
func TestAutorateWhenAcknowledgementsCome(t *testing.T) {
	a := NewAutorate(DefaultAutorate(2e6, 100e6))
	now := int64(1e9)
	report := func(mbit float64, delay time.Duration, busy bool) RateDecision {
		now += 200 * ms
		return a.Report(now, PathSample{Elapsed: 200 * time.Millisecond, Packets: uint64(mbit * 20), Bytes: uint64(mbit * 1e6 / 8 / 5), Delay: delay, Busy: busy})
	}
	for a.Rate() < 48e6 {
		report(float64(a.Rate())/1e6, 0, true)
	}
	report(30, 90*time.Millisecond, false)
	report(10, 100*time.Millisecond, false)
	if d := report(10, 100*time.Millisecond, false); d.Rate < 8e6 || d.Rate > 9.5e6 || d.Reason != RateDrain {
		t.Errorf("%v", d)
	}
}

// Loss of what is far from filling the path is not the path's limit.
func TestAutorateWithALittleLoadAndLoss(t *testing.T) {
	a := NewAutorate(DefaultAutorate(2e6, 100e6))
	for i := range int64(4) {
		d := a.Report(1e9+i*200*ms, PathSample{Elapsed: 200 * time.Millisecond, Packets: 5, Lost: 5, Bytes: 5000})
		if d.Rate != d.Was {
			t.Errorf("%v", d)
		}
	}
}

// If nothing arrives there is no rate to go to.
func TestAutorateWhenAllIsLost(t *testing.T) {
	a := NewAutorate(DefaultAutorate(2e6, 100e6))
	base := a.Rate()
	for i := range int64(2) {
		a.Report(1e9+i*200*ms, PathSample{Elapsed: 200 * time.Millisecond, Lost: 100, Delay: -1, Busy: true})
	}
	if d := a.Last(); d.Rate != base*3/4 || d.Reason != RateLoss || d.Loss != 1 {
		t.Errorf("%v", d)
	}
}

// A way of 300 ms, as by satellite: what was done a report ago does not show yet.
func TestAutorateOnALongWay(t *testing.T) {
	p := newSimPath(DefaultAutorate(2e6, 100e6), rateSteps([]float64{30e6}))
	p.report, p.far = 100*ms, 285*ms
	p.run(t, 90*time.Second)
	course := p.span(30, 90)
	if share, delay := used(course), delayQuantile(course, 0.95); share < 0.93 || delay > 30*time.Millisecond {
		t.Errorf("%.2f of the path is used, the delay is %v in 5 %% of the time", share, delay)
	}
}

// A pause shorter than a second is no lack of load.
func TestAutorateBearsAPause(t *testing.T) {
	a := NewAutorate(DefaultAutorate(2e6, 100e6))
	now := int64(1e9)
	for range 10 {
		now += 200 * ms
		a.Report(now, PathSample{Elapsed: 200 * time.Millisecond, Packets: 200, Bytes: 300000, Busy: true})
	}
	for i := range 10 {
		now += 200 * ms
		d := a.Report(now, PathSample{Elapsed: 200 * time.Millisecond, Packets: 1, Bytes: 100})
		if pause := 200 * (i + 1); (d.Reason == RateHold) != (pause < 1000) {
			t.Errorf("%d ms after the load: %v", pause, d)
		}
	}
}

func TestAutorateTicksAsOftenAsItLikes(t *testing.T) {
	a := NewAutorate(DefaultAutorate(1e6, 100e6))
	a.Report(1e9, PathSample{Delay: -1})
	for now := int64(1e9); now <= 6e9; now += 100 * ms {
		a.Tick(now, true)
	}
	if got, want := a.Rate(), a.config.Base/8-1; got < want || got > want+2 { // after 3, 4 and 5 s
		t.Errorf("5 s after the last report the rate is %d, want %d", got, want)
	}
}

// Marks on the way are as good as losses.
func TestAutorateHeedsMarks(t *testing.T) {
	a := NewAutorate(DefaultAutorate(2e6, 100e6))
	base := a.Rate()
	now := int64(1e9)
	for range 2 {
		now += 200 * ms
		a.Report(now, PathSample{Elapsed: 200 * time.Millisecond, Packets: 200, CE: 20, Bytes: uint64(base/8/5) * 9 / 10, Delay: 0, Busy: true})
	}
	if d := a.Last(); d.Reason != RateLoss || d.Rate >= base || d.Loss < 0.09 || d.Loss > 0.11 {
		t.Errorf("%v", d)
	}
}

// Of nothing, nothing is reported: the rate goes to Base all the same.
func TestAutorateGoesToBaseWithoutReports(t *testing.T) {
	a := NewAutorate(DefaultAutorate(2e6, 100e6))
	now := int64(1e9)
	for range 50 {
		now += 200 * ms
		a.Report(now, PathSample{Elapsed: 200 * time.Millisecond, Packets: 200, Bytes: 500000, Busy: true})
	}
	above := a.Rate()
	if above < a.config.Base*2 {
		t.Fatalf("under load the rate is %d", above)
	}
	for range 300 {
		now += 200 * ms
		d := a.Tick(now, false)
		if d.At == now && d.Reason != RateIdle && d.Reason != RateHold {
			t.Fatalf("%v", d)
		}
	}
	if a.Rate() != a.config.Base {
		t.Errorf("after a minute with nothing to send the rate is %d, it was %d", a.Rate(), above)
	}
}

func TestRateDecisionIsWritten(t *testing.T) {
	d := RateDecision{Rate: 9.5e6, Was: 47.25e6, Reason: RateDrain, Achieved: 10.04e6, Loss: 0.0234, Delay: 183456789}
	if got, want := d.String(), "47.25 → 9.50 Mbit/s: queue on the path (delay 183.5ms, 10.04 Mbit/s arrived, 2.3 % lost or marked)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	d.Delay = -1
	if got := d.String(); !strings.Contains(got, "delay unknown") {
		t.Error(got)
	}
	for r := RateStart; r <= RateLonger; r++ {
		if r.String() == "" || r.String() == "?" {
			t.Errorf("reason %d has no words", r)
		}
	}
	if RateReason(200).String() != "?" {
		t.Error("an unknown reason has words")
	}
}

func TestAutorateConfigIsValidated(t *testing.T) {
	if err := DefaultAutorate(2e6, 100e6).Validate(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*AutorateConfig){
		"the least rate is 7999":             func(c *AutorateConfig) { c.Min = 7999 },
		"the most rate is 1000000":           func(c *AutorateConfig) { c.Max = 1e6 },
		"the base rate is 1000000":           func(c *AutorateConfig) { c.Base = 1e6 },
		"the base rate is 200000000":         func(c *AutorateConfig) { c.Base = 200e6 },
		"the delay is 0s":                    func(c *AutorateConfig) { c.Delay = 0 },
		"the delay is 2s":                    func(c *AutorateConfig) { c.Delay = 2 * time.Second },
		"the loss is 0":                      func(c *AutorateConfig) { c.Loss = 0 },
		"the loss is 1.5":                    func(c *AutorateConfig) { c.Loss = 1.5 },
		"the most rate is 10000000000000000": func(c *AutorateConfig) { c.Max = 1e16 },
	} {
		c := DefaultAutorate(2e6, 100e6)
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// Whatever is reported, the rate is in its bounds and the decision is of this call.
func TestAutorateModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := DefaultAutorate(rapid.Int64Range(MinRate, 1e9).Draw(t, "min"), 1e9)
		a := NewAutorate(c)
		now := int64(1)
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			now += rapid.Int64Range(0, 5e9).Draw(t, "wait")
			was := a.Rate()
			var d RateDecision
			if rapid.IntRange(0, 5).Draw(t, "do") == 0 {
				d = a.Tick(now, rapid.Bool().Draw(t, "busy"))
			} else {
				d = a.Report(now, PathSample{
					Elapsed: time.Duration(rapid.Int64Range(-1, 2e9).Draw(t, "elapsed")), Packets: rapid.Uint64().Draw(t, "packets"),
					Lost: rapid.Uint64Range(0, 1e6).Draw(t, "lost"), CE: rapid.Uint64().Draw(t, "ce"), Bytes: rapid.Uint64().Draw(t, "bytes"),
					Delay: time.Duration(rapid.Int64Range(-1, math.MaxInt64).Draw(t, "delay")), Busy: rapid.Bool().Draw(t, "busy"),
				})
				if d.At != now || d.Was != was {
					t.Fatalf("%+v at %d, the rate was %d", d, now, was)
				}
			}
			if d.Rate != a.Rate() || d != a.Last() || d.Rate < c.Min || d.Rate > c.Max || math.IsNaN(a.rate) {
				t.Fatalf("%+v", d)
			}
		}
	})
}
