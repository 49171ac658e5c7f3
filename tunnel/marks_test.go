package tunnel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"kiloport/tunnel/ecn"
	"kiloport/tunnel/noise"
)

// withOptions changes the options of a site.
func withOptions(change func(*Options)) siteOption { return func(c *Config) { change(&c.Options) } }

// through lets what goes to a site meet a path; the way back is clean.
func (n *memNet) through(to *site, path classPath) {
	n.setPath(func(d *memDatagram) []time.Duration {
		if kind, _ := noise.MessageType(d.bytes); d.to.Addr() == to.addr && kind == noise.MessageTransport {
			class, ok := path(d.class)
			if !ok {
				return nil
			}
			d.class = class
		}
		return []time.Duration{10 * time.Millisecond}
	})
}

// classed is udp with a traffic class; outside it is as long as no control message.
func (s *site) classed(other *site, port uint16, number uint64, class uint8) []byte {
	p := s.udp(other, port, number, classedSize)
	ecn.SetClass(p, class)
	return p
}

const (
	classedSize  = 300
	classedOuter = headerSize + 304 + tagSize // padded
)

// classesOf counts inner packets by their traffic class.
func classesOf(packets [][]byte) map[uint8]int {
	counts := make(map[uint8]int)
	for _, p := range packets {
		cp, dscp, _ := ecn.Of(p)
		counts[ecn.TrafficClass(dscp, cp)]++
	}
	return counts
}

// TestPathsThatMeddle begins on each kind of path, and lets a clean one become
// such under traffic. Each end sees what the path does, says it, and acts.
func TestPathsThatMeddle(t *testing.T) {
	for _, c := range paths {
		for _, later := range []bool{false, true} {
			if later && unnoticed[c.name] {
				continue
			}
			t.Run(fmt.Sprintf("%s, later %v", c.name, later), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					network := newMemNet()
					a, b := pair(t, network)
					defer b.stop()
					defer a.stop()
					if later {
						network.through(b, clean)
						exchangeECT(a, b, 5*time.Second)
						if s := a.peerStatus(); s.ECN != "normal" || s.Sent.ECT0 < 100 {
							t.Fatalf("mode %s (%s), sent %+v", s.ECN, s.ECNReason, s.Sent)
						}
					}
					network.through(b, c.path)
					exchangeECT(a, b, 10*time.Second)
					checkPath(t, a, b, c.found, c.normal, c.reason)

					// From now on all is as over a clean path.
					b.tun.received()
					sent := exchangeECT(a, b, time.Second)
					if got := classesOf(b.tun.received()); got[uint8(ecn.ECT0)] != sent || len(got) != 1 {
						t.Errorf("b got %v of %d packets sent ECT(0), drops %v", got, sent, b.peerStatus().Drops)
					}
				})
			})
		}
	}
}

// exchangeECT sends ECT(0) both ways for d and lets it arrive.
func exchangeECT(a, b *site, d time.Duration) (sent int) {
	for start := time.Now(); time.Since(start) < d; time.Sleep(5 * time.Millisecond) {
		sent++
		a.tun.in <- a.classed(b, 1, uint64(sent), uint8(ecn.ECT0))
		b.tun.in <- b.classed(a, 1, uint64(sent), uint8(ecn.ECT0))
	}
	time.Sleep(500 * time.Millisecond)
	return sent
}

// checkPath wants both ends to know what the path from a to b does, and that the
// way back is clean.
func checkPath(t *testing.T, a, b *site, found verdicts, normal bool, reason string) {
	t.Helper()
	to, back := a.peerStatus(), b.peerStatus()
	if (to.ECN == "normal") != normal || !strings.Contains(to.ECNReason, reason) {
		t.Errorf("a sends in mode %s (%s)", to.ECN, to.ECNReason)
	}
	if back.ECN != "normal" {
		t.Errorf("b sends in mode %s (%s) over a clean path", back.ECN, back.ECNReason)
	}
	want := *found.status(normal)
	if got := *to.PathTo; got.ECT0 != want.ECT0 || got.ECT1 != want.ECT1 || got.CE != want.CE || got.NotECT != want.NotECT {
		t.Errorf("a found %+v, want %+v", got, want)
	}
	if diff := cmp.Diff(&want, back.PathFrom); diff != "" {
		t.Errorf("what b heard from a: %s", diff)
	}
	if to.PathFrom == nil || to.PathFrom.ECT0 != "passes" || to.PathFrom.Mode != "normal" {
		t.Errorf("a heard %+v from b", to.PathFrom)
	}
	if back.MarksIgnored != found.blind() {
		t.Errorf("marks ignored: %v", back.MarksIgnored)
	}
}

// TestPathThatMarksEverything marks Not-ECT packets too: until that is known they
// are dropped, as RFC 6040 wants it, and afterwards the tunnel goes on.
func TestPathThatMarksEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		a, b := pair(t, network)
		defer b.stop()
		defer a.stop()
		network.through(b, markAll)
		send := func(d time.Duration) (sent int) {
			for start := time.Now(); time.Since(start) < d; time.Sleep(5 * time.Millisecond) {
				sent++
				a.tun.in <- a.classed(b, 1, uint64(sent), 0)
			}
			time.Sleep(100 * time.Millisecond)
			return sent
		}
		send(4 * time.Second)
		if s := b.peerStatus(); !s.MarksIgnored || s.Drops[dropECN.String()] == 0 {
			t.Fatalf("marks ignored %v, drops %v", s.MarksIgnored, s.Drops)
		}
		b.tun.received()
		sent := send(time.Second)
		if got := classesOf(b.tun.received()); got[0] != sent {
			t.Errorf("of %d packets arrived %v", sent, got)
		}
		// The path is mended: marks count again.
		network.through(b, clean)
		send(4 * time.Minute)
		if s, to := b.peerStatus(), a.peerStatus(); s.MarksIgnored || to.ECN != "normal" {
			t.Errorf("after the path was mended: marks ignored %v, mode %s (%s)", s.MarksIgnored, to.ECN, to.ECNReason)
		}
	})
}

// TestEveryPairOfCodepoints lets each inner codepoint meet each outer one, in
// compatibility and in normal mode, as RFC 6040, figure 4, has it.
func TestEveryPairOfCodepoints(t *testing.T) {
	// Columns are the outer codepoint on the wire: Not-ECT, ECT(1), ECT(0), CE.
	want := map[ecn.Codepoint]string{
		ecn.NotECT: "0 0! 0! drop!", ecn.ECT1: "1 1 1! 3", ecn.ECT0: "2 1 2 3", ecn.CE: "3 3! 3 3",
	}
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		a, b := pair(t, network)
		defer b.stop()
		defer a.stop()
		a.tun.in <- a.udp(b, 1, 0, 100)
		time.Sleep(3 * time.Second)
		if s := a.peerStatus(); s.ECN != "normal" {
			t.Fatalf("mode %s (%s)", s.ECN, s.ECNReason)
		}
		b.tun.received()
		anomalies := b.peerStatus().Anomalies
		if len(anomalies) != 0 {
			t.Errorf("before: %v", anomalies)
		}
		for inner, row := range want {
			for outer, cell := range strings.Fields(row) {
				sentAs := uint8(255)
				network.setPath(func(d *memDatagram) []time.Duration {
					if d.to == b.at && len(d.bytes) == classedOuter {
						sentAs = d.class
						d.class = d.class&^3 | uint8(outer)
					}
					return []time.Duration{0}
				})
				a.tun.in <- a.classed(b, 1, 1, uint8(inner)|46<<2)
				synctest.Wait()
				if sentAs != uint8(inner)|46<<2 {
					t.Errorf("%v was sent in class %#x", inner, sentAs)
				}
				got := "drop"
				for class := range classesOf(b.tun.received()) {
					if got = fmt.Sprint(class & 3); class>>2 != 46 {
						t.Errorf("the DSCP became %d", class>>2)
					}
				}
				if wanted := strings.TrimSuffix(cell, "!"); got != wanted {
					t.Errorf("%v inside %v: %s, want %s", inner, ecn.Codepoint(outer), got, wanted)
				}
				now := b.peerStatus().Anomalies
				pair := inner.String() + "/" + ecn.Codepoint(outer).String()
				if counted := now[pair] == 1; counted != strings.HasSuffix(cell, "!") {
					t.Errorf("%s: counted %v", pair, counted)
				}
			}
		}
	})
}

// A stock peer gets no mark, and all that it is sent.
func TestStockPeerGetsCompatibilityMode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		network.keep = true
		a, b := newSite(t, network, 1), newStock(t, network, 2)
		defer b.wg.Close()
		defer a.stop()
		a.knows(&b.site, b.at)
		b.knows(a, noise.PresharedKey{})
		synctest.Wait()
		const each = 100
		for i := range 4 * each {
			a.tun.in <- a.classed(&b.site, 1, uint64(i), uint8(i%4))
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if got := classesOf(b.tun.received()); got[0] != each || got[1] != each || got[2] != each || got[3] != each {
			t.Errorf("the stock peer got %v, want %d of each", got, each)
		}
		for _, d := range network.taken() {
			if d.from == a.at && d.class&3 != 0 {
				t.Fatalf("a datagram in class %#x to a stock peer", d.class)
			}
		}
		if s := a.peerStatus(); s.ECN != "compatibility" || !strings.Contains(s.ECNReason, "stock") || s.PathTo != nil {
			t.Errorf("mode %s (%s), path %v", s.ECN, s.ECNReason, s.PathTo)
		}
	})
}

// TestRekeyKeepsNormalMode looks at every datagram across several rekeys.
func TestRekeyKeepsNormalMode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		a, b := pair(t, network, withConstants(rekeying()))
		defer b.stop()
		defer a.stop()
		network.through(b, clean)
		a.tun.in <- a.udp(b, 1, 0, 100)
		time.Sleep(3 * time.Second)
		b.tun.received()
		compatible := 0
		network.setPath(func(d *memDatagram) []time.Duration {
			if d.to == b.at && len(d.bytes) == classedOuter && d.class != uint8(ecn.ECT1) {
				compatible++
			}
			return []time.Duration{15 * time.Millisecond}
		})
		keypairs := make(map[*noise.Keypair]bool)
		for i := range 2000 {
			a.tun.in <- a.classed(b, 1, uint64(i), uint8(ecn.ECT1))
			time.Sleep(5 * time.Millisecond)
			keypairs[a.sending(b).keypair] = true
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := classesOf(b.tun.received()); got[uint8(ecn.ECT1)] != 2000 || len(keypairs) < 4 || compatible > 0 {
			t.Errorf("got %v over %d keypairs, %d datagrams not ECT(1)", got, len(keypairs), compatible)
		}
	})
}

// TestFlowThatChangesItsDSCP sends one flow whose class changes, once or all the
// time, over a path on which one class waits for a second, and no two lanes take the
// same time: nothing is lost, though more packets are overtaken than a replay window
// holds, and each class stays in order, an assured forwarding class whatever its drop
// precedence.
func TestFlowThatChangesItsDSCP(t *testing.T) {
	for name, classes := range map[string][]uint8{
		"best effort and EF":      {0, 46},
		"AF41, AF42 and CS1":      {34, 8, 36},
		"lower effort beside all": {1, 0, 46},
	} {
		for _, run := range []int{3000, 10} {
			t.Run(fmt.Sprintf("%s, %d in a row", name, run), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testChangingDSCP(t, classes, run) })
			})
		}
	}
}

func testChangingDSCP(t *testing.T, classes []uint8, run int) {
	network := newMemNet()
	a, b := pair(t, network)
	defer b.stop()
	defer a.stop()
	a.tun.in <- a.udp(b, 1, 0, 100)
	time.Sleep(3 * time.Second)
	b.tun.received()
	slow := ecn.PHB(classes[0])
	network.setPath(func(d *memDatagram) []time.Duration {
		delay := time.Duration(d.from.Port()%16) * 10 * time.Millisecond
		if ecn.PHB(d.class>>2) == slow {
			delay += time.Second
		}
		return []time.Duration{delay}
	})
	const each = 3000 // in less than a second, hence on their way together
	for i := range each * len(classes) {
		a.tun.in <- a.classed(b, 7, uint64(i+1), classes[i/run%len(classes)]<<2|2)
		if i%30 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	time.Sleep(3 * time.Second)
	last, got := map[uint8]uint64{}, map[uint8]int{}
	for _, p := range b.tun.received() {
		_, dscp, _ := ecn.Of(p)
		_, number := parseUDP(p)
		if phb := ecn.PHB(dscp); number <= last[phb] {
			t.Fatalf("DSCP %d: packet %d after %d", dscp, number, last[phb])
		}
		last[ecn.PHB(dscp)] = number
		got[dscp]++
	}
	for _, dscp := range classes {
		if got[dscp] != each {
			t.Errorf("DSCP %d: %d of %d arrived, drops %v", dscp, got[dscp], each, b.peerStatus().Drops)
		}
	}
}

func TestOuterDSCP(t *testing.T) {
	for _, c := range []struct {
		policy  string
		control uint8
		decap   ecn.Model
		inner   uint8
		outer   uint8
		result  uint8 // inside, where the path turns every DSCP into CS1
	}{
		{"inherit", 34, ecn.Pipe, 46, 46, 46},
		{"zero", 0, ecn.Pipe, 46, 0, 46},
		{"10", 48, ecn.Uniform, 46, 10, 8},
		{"AF41=CS1,EF=0", 34, ecn.Pipe, 34, 8, 34},
		{"AF41=CS1,*=LE", 34, ecn.Uniform, 46, 1, 8},
	} {
		t.Run(c.policy, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet()
				change := withOptions(func(o *Options) {
					if err := o.DSCP.Set(c.policy); err != nil {
						t.Fatal(err)
					}
					o.ControlDSCP, o.DSCPDecap = c.control, c.decap
				})
				a, b := pair(t, network, change)
				defer b.stop()
				defer a.stop()
				seen := make(map[int]map[uint8]int) // by length
				network.setPath(func(d *memDatagram) []time.Duration {
					if d.to == b.at {
						n := len(d.bytes)
						if seen[n] == nil {
							seen[n] = make(map[uint8]int)
						}
						seen[n][d.class>>2]++
						d.class = d.class&3 | 8<<2
					}
					return []time.Duration{0}
				})
				for i := range 100 {
					a.tun.in <- a.classed(b, 1, uint64(i), c.inner<<2)
					time.Sleep(50 * time.Millisecond)
				}
				synctest.Wait()
				if got := seen[classedOuter]; len(got) != 1 || got[c.outer] != 100 {
					t.Errorf("outer DSCPs %v, want %d", got, c.outer)
				}
				if got := seen[noise.InitiationSize]; len(got) != 1 || got[c.control] != 1 {
					t.Errorf("DSCPs of handshakes %v, want %d", got, c.control)
				}
				if got := classesOf(b.tun.received()); len(got) != 1 || got[c.result<<2] != 100 {
					t.Errorf("inside %v, want %d", got, c.result<<2)
				}
				found := a.peerStatus().PathTo.DSCP
				if word := found[ecn.NameDSCP(c.outer)]; c.outer != 0 && word != ternary(c.outer == 8, "passes", "rewritten as CS1") {
					t.Errorf("found %v of %s", found, ecn.NameDSCP(c.outer))
				}
			})
		})
	}
}

// TestReportsTellWhatArrived sends over a path that loses every tenth datagram of
// data, marks every fifth, and becomes slower and longer half-way.
func TestReportsTellWhatArrived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		a, b := pair(t, network)
		defer b.stop()
		defer a.stop()
		hop, delay := uint8(60), 10*time.Millisecond
		n, lost, marked := 0, uint64(0), uint64(0)
		network.setPath(func(d *memDatagram) []time.Duration {
			d.hop = hop
			if d.to == b.at && len(d.bytes) == classedOuter {
				switch n++; {
				case n%10 == 2 && n > 100: // on its lane, and not the last, of which nobody can know
					lost++
					return nil
				case n%5 == 1 && d.class&3 != 0:
					d.class |= 3
					marked++
				}
			}
			if d.to == b.at {
				return []time.Duration{delay}
			}
			return []time.Duration{10 * time.Millisecond}
		})
		run := func(d time.Duration) {
			for start := time.Now(); time.Since(start) < d; time.Sleep(10 * time.Millisecond) {
				a.tun.in <- a.classed(b, 5, 1, uint8(ecn.ECT0))
			}
			time.Sleep(2 * time.Second)
		}
		run(20 * time.Second)
		network.mu.Lock()
		hop, delay = 58, 17*time.Millisecond
		network.mu.Unlock()
		run(20 * time.Second)
		synctest.Wait()

		sent, received := laneWithData(t, a.peerStatus()).Sent, laneWithData(t, b.peerStatus()).Received
		if sent.LaneCounts != received.LaneCounts {
			t.Errorf("a was told %+v, b counts %+v", sent.LaneCounts, received.LaneCounts)
		}
		if sent.Lost != lost || sent.CE != marked || sent.ECT0+sent.CE < sent.Packets*9/10 || sent.HopLimit != 58 {
			t.Errorf("%+v, with %d lost and %d marked", sent, lost, marked)
		}
		if received.HopLimitChanges != 1 {
			t.Errorf("%d changes of the hop limit", received.HopLimitChanges)
		}
		for what, ms := range map[string]*float64{"a's delay": sent.DelayMs, "a's round trip": sent.RTTAboveMs, "b's delay": received.DelayMs} {
			if ms == nil || *ms < 6.9 || *ms > 7.1 {
				t.Errorf("%s is %v ms above its minimum, want 7", what, ms)
			}
		}
		d := a.device.peer(b.key.Public()).reports.lanes[laneWithData(t, a.peerStatus()).Lane]
		if d.Delay < 6900 || d.Delay > 7100 || d.Base == delayUnknown || d.Base > 100 {
			t.Errorf("b reports a delay of %d us, the lane's least %d above the fastest's", d.Delay, d.Base)
		}
	})
}

// laneWithData is the busiest lane above 0.
func laneWithData(t *testing.T, s PeerStatus) LaneDetail {
	t.Helper()
	packets := func(d LaneDetail) (n uint64) {
		if d.Sent != nil {
			n = d.Sent.Packets
		}
		if d.Received != nil {
			n = max(n, d.Received.Packets)
		}
		return n
	}
	lanes := slices.DeleteFunc(s.LaneDetails, func(d LaneDetail) bool { return d.Lane == 0 })
	if len(lanes) == 0 {
		t.Fatal("no lane above 0")
	}
	return slices.MaxFunc(lanes, func(a, b LaneDetail) int { return int(packets(a)) - int(packets(b)) })
}

// Two ends that only hear each other's control messages fall silent.
func TestReportsDoNotAnswerReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		a, b := pair(t, network)
		defer b.stop()
		defer a.stop()
		for i := range 100 {
			a.tun.in <- a.udp(b, 1, uint64(i), 100)
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		network.mu.Lock()
		network.keep = true
		network.mu.Unlock()
		network.taken()
		time.Sleep(time.Minute)
		if n := len(network.taken()); n > 0 {
			t.Errorf("%d datagrams in a minute without data", n)
		}
	})
}

// A report of many lanes comes in several messages, and of all lanes in the end.
func TestReportsOfManyLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		a, b := pair(t, network)
		defer b.stop()
		defer a.stop()
		a.tun.in <- a.udp(b, 1, 0, 100)
		time.Sleep(3 * time.Second)
		network.mu.Lock()
		network.keep = true
		network.mu.Unlock()
		const flows = 300
		for range 12 {
			for flow := range uint16(flows) {
				a.tun.in <- a.udp(b, 100+flow, 1, 100)
			}
			time.Sleep(500 * time.Millisecond)
		}
		told := 0
		for _, d := range a.peerStatus().LaneDetails {
			if d.Lane > 0 && d.Sent != nil && d.Sent.Packets > 0 {
				told++
			}
		}
		if told < flows {
			t.Errorf("%d of %d lanes were reported", told, flows)
		}
		large := 0
		for _, d := range network.taken() {
			if d.from == b.at && len(d.bytes) > 1000 {
				large++
			}
		}
		if large > 7*reportPayloads {
			t.Errorf("%d large messages in 6 s", large)
		}
	})
}

// A peer that has moved is behind another path, with other delays.
func TestMoveForgetsTheDelays(t *testing.T) {
	a, b, _ := stillPair(t)
	p := a.peer(b)
	known := func() (sent, received int) {
		for i := range p.reports.lanes {
			if p.reports.lanes[i].delay.way.known {
				sent++
			}
		}
		p.arrivals.from(0, func(_ uint16, a *arrivals) bool {
			if a.way.known {
				received++
			}
			return true
		})
		return sent, received
	}
	for lane := range p.reports.lanes {
		p.reports.lanes[lane].delay.add(1, 2, 3)
	}
	if sent, received := known(); sent == 0 || received == 0 {
		t.Fatalf("%d and %d delays are known", sent, received)
	}
	p.roamed(a.clock.Now())
	if sent, received := known(); sent != 0 || received != 0 {
		t.Errorf("%d and %d delays are known after a move", sent, received)
	}
}

// TestPeerCannotMakeUsRemember sends reports of lanes that nobody sent on.
func TestPeerCannotMakeUsRemember(t *testing.T) {
	a, b, _ := stillPair(t)
	p := a.peer(b)
	r := report{Epoch: 1, Number: 1}
	for lane := range uint16(reportMaxLanes) {
		r.Lanes = append(r.Lanes, reportLane{Lane: 9000 + lane}, reportLane{Lane: 0xffff - lane})
	}
	r.Lanes = r.Lanes[:reportMaxLanes]
	s := p.sending.Load()
	p.mu.Lock()
	p.heardReport(a.clock.Now(), s, r.append(nil))
	p.mu.Unlock()
	if n := len(p.reports.lanes); n > probeLanes+1 {
		t.Errorf("%d lanes are remembered", n)
	}
	if !p.reports.seen || p.drops[dropControl].Load() > 0 {
		t.Error("the report was not taken")
	}
}

// What RFC 6040 calls unused or dangerous is told to people, each kind at a limited
// rate, and counted every time.
func TestAnomaliesAreToldAtALimitedRate(t *testing.T) {
	var log bytes.Buffer
	a, b, _ := stillPair(t, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	p := b.peer(a)
	log.Reset()
	for range 100 {
		p.decapsulate(a.classed(b.site, 1, 1, uint8(ecn.ECT1)), uint8(ecn.ECT0))
		p.decapsulate(a.classed(b.site, 1, 1, uint8(ecn.NotECT)), uint8(ecn.CE))
	}
	for _, what := range []string{"ECT(0) outside ECT(1)", "CE outside Not-ECT"} {
		if n := strings.Count(log.String(), what); n != 1 {
			t.Errorf("%q was said %d times in an instant", what, n)
		}
	}
	b.clock.now.Add(limitedEvery)
	p.decapsulate(a.classed(b.site, 1, 1, uint8(ecn.NotECT)), uint8(ecn.CE))
	if !strings.Contains(log.String(), `"left out since"=99`) {
		t.Errorf("not said how many were left out:\n%s", log.String())
	}
	if got := p.anomalyCounts(); got["ECT(1)/ECT(0)"] != 100 || got["Not-ECT/CE"] != 101 {
		t.Errorf("counted %v", got)
	}
}

func TestMarksDoNotAllocate(t *testing.T) {
	a, b, _ := stillPair(t)
	p, s := b.peer(a), b.peer(a).sending.Load()
	p.normalECN.Store(true)
	packets := [][]byte{a.classed(b.site, 1, 1, 46<<2|2), a.classed(b.site, 1, 1, 1), a.classed(b.site, 1, 1, 0)}
	l := rxLane{counts: p.arrivals.lane(7)}
	sequence, sum := uint64(0), uint64(0)
	if n := testing.AllocsPerRun(200, func() {
		for _, packet := range packets {
			class := p.encapsulate(s, packet)
			sum += laneFlow(5, class)
			l.counts.count(1e9, 100, l.ahead(sequence), class, 64)
			var one tally
			one.count(1, 100, 100, class)
			p.rx.add(&one)
			p.decapsulate(packet, class)
			p.decapsulate(packets[2], 3)
			sequence++
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Of inner IPv4 packets the checksum is right afterwards; the tables are the same.
func TestDecapsulationOfIPv4(t *testing.T) {
	a, b, _ := stillPair(t)
	p := b.peer(a)
	for inner := range ecn.Codepoint(4) {
		for outer := range uint8(4) {
			packet := make([]byte, 28)
			packet[0], packet[8], packet[9] = 0x45, 64, 17
			binary.BigEndian.PutUint16(packet[2:], 28)
			packet[1] = 46<<2 | uint8(inner)
			binary.BigEndian.PutUint16(packet[10:], ipv4Sum(packet))
			kept := p.decapsulate(packet, outer)
			want := ecn.Decapsulate(inner, ecn.Codepoint(outer))
			if kept == want.Drop || kept && (packet[1] != 46<<2|uint8(want.Inner) || ipv4Sum(packet) != binary.BigEndian.Uint16(packet[10:])) {
				t.Errorf("%v in %v: kept %v, %x", inner, ecn.Codepoint(outer), kept, packet)
			}
		}
	}
}

func ipv4Sum(header []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		if i != 10 {
			sum += uint32(binary.BigEndian.Uint16(header[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
