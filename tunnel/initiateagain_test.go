package tunnel

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"kiloport/tunnel/noise"
)

// TestBackSoonAfterKeysExpired loses the path for longer than keys live, while one site
// sends: soon after the path is back, at whatever moment, everything arrives, by a lane
// for each flow.
func TestBackSoonAfterKeysExpired(t *testing.T) {
	for phase := time.Duration(0); phase < 5500*time.Millisecond; phase += 700 * time.Millisecond {
		t.Run(fmt.Sprint(phase), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet()
				a, b := pair(t, network)
				defer func() { b.stop(); a.stop() }()
				const flows, delay = 20, 10 * time.Millisecond
				network.setPath(func(*memDatagram) []time.Duration { return []time.Duration{delay} })
				number := uint64(0)
				round := func() int {
					number++
					for flow := range uint16(flows) {
						a.tun.in <- a.udp(b, 1000+flow, number, 200)
					}
					time.Sleep(50 * time.Millisecond)
					synctest.Wait()
					return len(b.tun.received())
				}
				for range 40 {
					round()
				}
				network.setPath(func(*memDatagram) []time.Duration { return nil })
				for start := time.Now(); time.Since(start) < 4*time.Minute+phase; {
					round()
				}
				network.setPath(func(*memDatagram) []time.Duration { return []time.Duration{delay} })
				for start := time.Now(); round() != flows; {
					if time.Since(start) > 2*time.Second {
						t.Fatalf("not back after %v: %+v", time.Since(start), a.peerStatus())
					}
				}
				for range 10 {
					round()
				}
				if s := a.peerStatus(); s.Mode != "direct" || s.Lanes.InUse < flows || s.Lanes.Shared > 0 {
					t.Errorf("mode %s (%s), %+v", s.Mode, s.Reason, s.Lanes)
				}
			})
		})
	}
}

// TestInitiationIsSentAgain looks at what is sent to a peer that does not answer: an
// initiation every 5 s, and each again every second if the peer has been a kiloport, as
// it is not known to be before it was heard of. The peer drops those that come again, and
// says nothing of it.
func TestInitiationIsSentAgain(t *testing.T) {
	for _, spoke := range []bool{false, true} {
		t.Run(fmt.Sprint("spoke ", spoke), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet()
				a, b := pair(t, network)
				defer func() { b.stop(); a.stop() }()
				if spoke {
					a.tun.in <- a.udp(b, 1000, 1, 200)
					time.Sleep(time.Second)
				}
				a.device.order[0].mu.Lock()
				a.device.order[0].clearSessions()
				a.device.order[0].mu.Unlock()
				sent, newest, at := map[string]int{}, "", time.Now()
				network.setPath(func(d *memDatagram) []time.Duration {
					if d.from.Addr() == a.addr && len(d.bytes) == noise.InitiationSize && d.bytes[0] == noise.MessageInitiation {
						is := string(d.bytes[:116]) // without the MACs
						sent[is]++
						if spoke && is != newest && newest != "" && time.Since(at) < 500*time.Millisecond {
							t.Errorf("%v after an initiation there is a new one", time.Since(at))
						}
						newest, at = is, time.Now()
						return []time.Duration{0}
					}
					return nil // answers get lost
				})
				for start := time.Now(); time.Since(start) < 30*time.Second; time.Sleep(100 * time.Millisecond) {
					a.tun.in <- a.udp(b, 1000, 2, 200)
				}
				network.setPath(nil) // which ends what writes to sent
				most := 1
				if spoke {
					most = 5
				}
				for _, n := range sent {
					if n > most {
						t.Errorf("an initiation was sent %d times, want %d at most", n, most)
					}
				}
				total := 0
				for _, n := range sent {
					total += n
				}
				if len(sent) < 5 || len(sent) > 7 || spoke && total < 4*len(sent) {
					t.Errorf("%d initiations, %d with those sent again", len(sent), total)
				}
			})
		})
	}
}
