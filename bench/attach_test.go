package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"

	"kiloport/bench/guest"
	"kiloport/bench/labkernel"
	"kiloport/bench/netlab"
	"kiloport/bench/netlab/capture"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/stockkernel"
	"kiloport/bench/tunnels"
)

var long = flag.Bool("long", false, "TestAttach tests more than takes six minutes")

// emulated is held by who runs an emulator, which takes a processor: two at a time, and
// another test, are more than a small machine has.
var emulated sync.Mutex

// TestAttach attaches to the WireGuard of the lab kernel, in virtual time.
func TestAttach(t *testing.T) {
	if !inVirtualTime(t) {
		return
	}
	families(t, func(t *testing.T, ipv6 bool) { attachedFlowsSpread(t, attached(t), ipv6, manyFlows) })
	t.Run("daemon as the peer", func(t *testing.T) { attachedFlowsSpread(t, ours(t), true, manyFlows) })
	t.Run("under load", func(t *testing.T) { attachUnderLoad(t, true) })
	t.Run("peer gone", func(t *testing.T) { attachedPeerGone(t, false) })
	if *long {
		t.Run("moves", attachedMoves)
		t.Run("several", attachedMany)
		t.Run("NAT", func(t *testing.T) { attachedBehindNAT(t, "", tunnels.ModeDirect) })
		t.Run("NAT that changes ports", func(t *testing.T) { attachedBehindNAT(t, " random", "fallback") })
		t.Run("replay window", attachedReplayWindow)
	}
	t.Run("wg-quick", attachedByQuick)
	t.Run("stock peer", func(t *testing.T) { attachedStockPeer(t, true) })
	t.Run("ECN", func(t *testing.T) {
		s := netlab.ForTest(t, netlab.SitesConfig{})
		attachedECN(t, startAttached(t, s, false), attachedInside)
	})
	t.Run("ECN of the kernel alone", func(t *testing.T) {
		s := netlab.ForTest(t, netlab.SitesConfig{})
		tun, err := tunnels.Start(t.Context(), s, tunnels.Kernel{}, tunnels.Kernel{}, tunnels.Config{})
		if err != nil {
			t.Fatal(err)
		}
		inside := attachedInside
		inside[notECT][ce] = "Not-ECT"
		attachedECN(t, tun, inside)
	})
	t.Run("DSCP inherited", func(t *testing.T) {
		attachedDSCP(t, "inherit", map[uint8]uint8{0: 0, af41: af41, ef: ef}, true)
	})
	t.Run("DSCP mapped", func(t *testing.T) {
		attachedDSCP(t, "AF41=CS1,EF=0", map[uint8]uint8{0: 0, af41: cs1, ef: 0}, false)
	})
	t.Run("refusals", attachRefusals)
}

// TestAttachStockKernel does some of it in the kernel that users run, whose verifier
// has to take the programs.
func TestAttachStockKernel(t *testing.T) {
	if os.Getenv(builtEnv) == "" {
		k, err := stockkernel.Ensure(t.Context(), os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		emulate(t, k)
		return
	}
	t.Run("outer IPv6", func(t *testing.T) { attachedFlowsSpread(t, attached(t), true, fewFlows) })
	t.Run("daemon as the peer", func(t *testing.T) { attachedFlowsSpread(t, ours(t), false, fewFlows) })
	t.Run("offloads", func(t *testing.T) { attachedOffload(t, ours(t), true, false) })
	t.Run("no offloads", func(t *testing.T) { attachedOffload(t, attached(t), false, true) })
	for _, u := range []underlay{overBond, overBridge, overMacvlan, overPPPoE} {
		t.Run(u.name, func(t *testing.T) { attachedOver(t, u) })
	}
}

// TestAttachOldKernel does some of it where there is no tcx: the programs are filters,
// which stay if their process is killed.
func TestAttachOldKernel(t *testing.T) {
	if os.Getenv(builtEnv) == "" {
		k, err := stockkernel.EnsureSeries(t.Context(), "6.1", os.Stderr)
		if errors.Is(err, stockkernel.ErrNoImage) {
			t.Skipf("this release of Debian has no kernel without tcx: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		emulate(t, k)
		return
	}
	t.Run("outer IPv6", func(t *testing.T) { attachedFlowsSpread(t, attached(t), true, fewFlows) })
	t.Run(overVLAN.name, func(t *testing.T) { attachedOver(t, overVLAN) })
	t.Run("killed", attachedFiltersStay)
}

// attachedFiltersStay kills one end's kiloport, and leaves its filters behind. Both
// ends are plain soon all the same; the next kiloport there takes their place, and
// detach leaves none.
func attachedFiltersStay(t *testing.T) {
	tun := attachedPeerGone(t, false)
	b := &tun.B
	filters := func() (n int) {
		for _, side := range []string{"ingress", "egress"} {
			out, err := b.Site.Run(t.Context(), "tc", "filter", "show", "dev", b.Site.Wan, side)
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			n += strings.Count(out, "kiloport_"+b.Dev)
		}
		return n
	}
	if n := filters(); n != 2 {
		t.Errorf("%d filters are there after a kill, want 2", n)
	}
	kernel := attached(t)
	if err := kernel.Attach(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := tun.AwaitLanes(t.Context(), kernel.Binary); err != nil {
		t.Fatal(err)
	}
	if n := filters(); n != 2 {
		t.Errorf("%d filters are there when kiloport is back, want 2", n)
	}
	b.Attached.Signal(syscall.SIGKILL)
	<-b.Attached.Done()
	if out, err := b.Site.Run(t.Context(), kernel.Binary, "detach", b.Dev); err != nil {
		t.Errorf("detach after a kill: %v: %s", err, out)
	}
	if n := filters(); n != 0 {
		t.Errorf("%d filters are there after detach", n)
	}
}

// inVirtualTime runs the test that calls it in the lab kernel, where time is virtual: what
// is to happen within seconds does so on a busy machine too. It returns true there, and
// false here, where nothing is left to do.
func inVirtualTime(t *testing.T) bool {
	t.Helper()
	if os.Getenv(builtEnv) != "" {
		return true
	}
	k, err := labkernel.Ensure(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Parallel() // it has a kernel of its own, of one processor
	testInKernel(t, k.Run)
	return false
}

// emulate runs the test that calls it in a kernel that users run, and gives it its time
// on a busy machine, too.
func emulate(t *testing.T, k *stockkernel.Kernel) {
	t.Parallel() // it has a kernel of its own, of one processor
	k.Clock = stockkernel.WorkClock
	emulated.Lock()
	defer emulated.Unlock()
	testInKernel(t, k.Run)
}

// testInKernel runs the test that calls it in another kernel.
func testInKernel(t *testing.T, run func(context.Context, guest.Guest) error) {
	self := binary(t, testsBinary)
	binary(t, kiloportBinary)
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	inner := "^" + t.Name() + "$"
	if _, part, ok := strings.Cut(flag.Lookup("test.run").Value.String(), "/"); ok {
		inner += "/" + part
	}
	var said bytes.Buffer
	err := run(ctx, guest.Guest{
		Init: self, Command: []string{self, "-test.v", "-test.run=" + inner, "-long=" + strconv.FormatBool(*long)},
		Env: append(os.Environ(), builtEnv+"="+built), Stdout: &said, Stderr: &said,
	})
	t.Log(said.String())
	if err != nil || bytes.Contains(said.Bytes(), []byte("--- SKIP")) {
		t.Errorf("error %v, want none and nothing skipped", err)
	}
}

func attached(t *testing.T) tunnels.Attached {
	t.Helper()
	return tunnels.Attached{Binary: binary(t, kiloportBinary)}
}

// endpoints samples what WireGuard takes for its peer's endpoint.
type endpoints struct {
	client *wgctrl.Client
	seen   map[netip.AddrPort]int
	err    error
	stop   context.CancelFunc
	done   chan struct{}
}

func watchEndpoint(ctx context.Context, e *tunnels.End) *endpoints {
	ctx, stop := context.WithCancel(ctx)
	w := &endpoints{seen: map[netip.AddrPort]int{}, stop: stop, done: make(chan struct{})}
	// What wg(8) asks, without a process for each sample.
	w.err = e.Site.Do(func() (err error) {
		w.client, err = wgctrl.New()
		return err
	})
	go func() {
		defer close(w.done)
		for w.err == nil && ctx.Err() == nil {
			w.err = w.sample(e.Dev)
			time.Sleep(100 * time.Millisecond)
		}
	}()
	return w
}

func (w *endpoints) sample(dev string) error {
	d, err := w.client.Device(dev)
	if err != nil {
		return err
	}
	for _, p := range d.Peers {
		if p.Endpoint != nil {
			at := p.Endpoint.AddrPort()
			w.seen[netip.AddrPortFrom(at.Addr().Unmap(), at.Port())]++
		}
	}
	return nil
}

// only is nil if nothing but the endpoint of an end was seen.
func (w *endpoints) only(e *tunnels.End) error {
	w.stop()
	<-w.done
	if w.client != nil {
		w.client.Close()
	}
	want := netip.AddrPortFrom(e.Outer, tunnels.ListenPort)
	if w.err != nil || len(w.seen) != 1 || w.seen[want] < 5 {
		return fmt.Errorf("the endpoints were %v, want only %v; error %v", w.seen, want, w.err)
	}
	return nil
}

// watchBoth samples the endpoints of both ends until check is called.
func watchBoth(t *testing.T, tun *tunnels.Tunnel) (check func()) {
	a, b := watchEndpoint(t.Context(), &tun.A), watchEndpoint(t.Context(), &tun.B)
	return func() {
		t.Helper()
		if err := errors.Join(a.only(&tun.B), b.only(&tun.A)); err != nil {
			t.Error(err)
		}
	}
}

// How many flows there are, and how many they have to be outside at least. An
// emulated processor does not get far with many.
type flowCount struct{ flows, fewest int }

var (
	manyFlows = flowCount{300, 285}
	fewFlows  = flowCount{40, 38}
)

// attachedFlowsSpread wants flows to be nearly as many outside, and the
// endpoints to stay where they are, between an attached kernel and another.
func attachedFlowsSpread(t *testing.T, atB tunnels.Daemon, ipv6 bool, n flowCount) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	tun, err := tunnels.Start(t.Context(), s, attached(t), atB, tunnels.Config{IPv6: ipv6})
	if err != nil {
		t.Fatal(err)
	}
	if err := tun.AwaitLanes(t.Context(), binary(t, kiloportBinary)); err != nil {
		t.Fatal(err)
	}
	check := watchBoth(t, tun)
	// No roll call: the kernel may answer a ping in another flow than the last.
	plan := flowsPlan(tun, n.flows, 2*time.Second, 200*time.Millisecond)
	plan.RollCall = false
	seen, err := observe(t.Context(), tun, plan)
	if err != nil {
		t.Fatal(err)
	}
	check()
	for from, addr := range map[string]*tunnels.End{"A": &tun.A, "B": &tun.B} {
		outer := outerFlows(seen.wire, addr.Outer)
		if len(outer) < n.fewest {
			t.Errorf("%d flows left site %s in %d outer ones, want %d", n.flows, from, len(outer), n.fewest)
		}
		labels := map[uint32]bool{}
		for _, f := range outer {
			if f.Dst.Port() != tunnels.ListenPort {
				t.Errorf("from site %s to port %d", from, f.Dst.Port())
			}
			if ipv6 && f.Src.Port() != tunnels.ListenPort {
				labels[f.Label] = true
			}
		}
		if labels[0] || ipv6 && len(labels) < n.fewest {
			t.Errorf("from site %s: %d flow labels, 0 among them: %v", from, len(labels), labels[0])
		}
		t.Logf("%d flows left site %s in %d outer ones, with %d labels", n.flows+demoPings, from, len(outer), len(labels))
	}
}

// attachedBehindNAT has a masquerading router before site A. Where it leaves ports as
// they are, what that site sends is spread, and nothing else, as a firewall does not let
// in from other ports. The endpoints stay where they are.
func attachedBehindNAT(t *testing.T, how, modeA string) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	(&walledCase{nat: true}).raiseWallsAs(t, s, strings.ReplaceAll(masqueradeRules, "masquerade;", "masquerade"+how+";"))
	tun, err := tunnels.Start(t.Context(), s, attached(t), attached(t), tunnels.Config{Responder: true, Keepalive: 5})
	if err != nil {
		t.Fatal(err)
	}
	awaitModes(t, tun, modeA, "fallback")
	ends := []*tunnels.End{&tun.A, &tun.B}
	watched := []*endpoints{watchEndpoint(t.Context(), ends[0]), watchEndpoint(t.Context(), ends[1])}
	plan := flowsPlan(tun, fewFlows.flows, 12*time.Second, 50*time.Millisecond)
	plan.RollCall = false
	seen, err := observe(t.Context(), tun, plan)
	if err := errors.Join(err, seen.result.Check()); err != nil {
		t.Fatal(err)
	}
	for i, e := range ends {
		w := watched[i]
		w.stop()
		<-w.done
		if w.err != nil || len(w.seen) != 1 {
			t.Errorf("%s: the endpoints of the peer were %v, want one; error %v", e.Dev, w.seen, w.err)
		}
		switch n, spreads := len(outerFlows(seen.wire, e.Outer)), i == 0 && modeA == tunnels.ModeDirect; {
		case spreads && n < fewFlows.fewest, !spreads && n != 1:
			t.Errorf("%d flows left %s in %d outer ones", fewFlows.flows, e.Dev, n)
		}
	}
	if total := seen.result.Total(); total.Up.Lost+total.Down.Lost > 0 {
		t.Errorf("%d and %d packets were lost", total.Up.Lost, total.Down.Lost)
	}
	awaitModes(t, tun, modeA, "fallback")
}

// attachUnderLoad attaches to one end after the other while flows run, and detaches
// again.
func attachUnderLoad(t *testing.T, ipv6 bool) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	tun, err := tunnels.Start(t.Context(), s, tunnels.Kernel{}, tunnels.Kernel{}, tunnels.Config{IPv6: ipv6})
	if err != nil {
		t.Fatal(err)
	}
	check := watchBoth(t, tun)
	changed := make(chan error, 1)
	go func() { changed <- attachAndDetach(t, tun) }()
	plan := flowsPlan(tun, 40, 12*time.Second, 20*time.Millisecond)
	plan.RollCall = false
	r, err := traffic.Between(t.Context(), s.A.End(), s.B.End(), plan)
	if err := errors.Join(err, <-changed); err != nil {
		t.Fatal(err)
	}
	check()
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	total := r.Total()
	t.Logf("%d datagrams and messages sent, %d and %d lost", total.Up.Sent+total.Down.Sent, total.Up.Lost, total.Down.Lost)
}

func attachAndDetach(t *testing.T, tun *tunnels.Tunnel) error {
	kiloport := attached(t)
	for _, e := range []*tunnels.End{&tun.A, &tun.B} {
		time.Sleep(time.Second)
		if err := kiloport.Attach(t.Context(), e); err != nil {
			return err
		}
	}
	if err := tun.AwaitLanes(t.Context(), kiloport.Binary); err != nil {
		return err
	}
	for _, e := range []*tunnels.End{&tun.A, &tun.B} {
		time.Sleep(time.Second)
		if out, err := e.Site.Run(t.Context(), kiloport.Binary, "detach", e.Dev); err != nil {
			return fmt.Errorf("detach: %w: %s", err, out)
		}
		<-e.Attached.Done()
	}
	return nil
}

// attachedPeerGone kills one end's kiloport while flows run. The other has to
// notice, and what is sent from then on is plain WireGuard and arrives.
func attachedPeerGone(t *testing.T, ipv6 bool) *tunnels.Tunnel {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	tun, err := tunnels.Start(t.Context(), s, attached(t), attached(t), tunnels.Config{IPv6: ipv6})
	if err != nil {
		t.Fatal(err)
	}
	kiloport := binary(t, kiloportBinary)
	if err := tun.AwaitLanes(t.Context(), kiloport); err != nil {
		t.Fatal(err)
	}
	plan := flowsPlan(tun, 40, 10*time.Second, 50*time.Millisecond)
	plan.RollCall = false
	go func() {
		time.Sleep(time.Second)
		tun.B.Attached.Signal(syscall.SIGKILL)
	}()
	if _, err := traffic.Between(t.Context(), s.A.End(), s.B.End(), plan); err != nil {
		t.Fatal(err)
	}
	status, err := tunnels.Show(t.Context(), s.A.Node, kiloport, tun.A.Dev)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := status.Peer(); err != nil || p.Mode != "fallback" || !strings.Contains(p.Reason, "does not answer HELLO any more") {
		t.Errorf("9 s after its end the peer is %+v, error %v", p, err)
	}
	seen, err := observe(t.Context(), tun, flowsPlan(tun, 40, 2*time.Second, 50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	checkOneOuterFlow(t, seen, tun.A.Outer, tun.B.Outer)
	return tun
}

// attachedStockPeer wants a peer without kiloport to see WireGuard as it is.
func attachedStockPeer(t *testing.T, ipv6 bool) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	c, err := capture.Start(s.Router, s.A.RouterDev, capture.Config{})
	if err != nil {
		t.Fatal(err)
	}
	tun, err := tunnels.Start(t.Context(), s, attached(t), tunnels.Kernel{}, tunnels.Config{IPv6: ipv6})
	if err != nil {
		t.Fatal(err)
	}
	plan := flowsPlan(tun, 40, 12*time.Second, 100*time.Millisecond)
	plan.RollCall = false
	r, err := traffic.Between(t.Context(), s.A.End(), s.B.End(), plan)
	if err := errors.Join(err, r.Check()); err != nil {
		t.Error(err)
	}
	wire, err := c.Stop()
	if err != nil {
		t.Fatal(err)
	}
	checkOneOuterFlow(t, &observation{wire: wire}, tun.A.Outer, tun.B.Outer)
	status, err := tunnels.Show(t.Context(), s.A.Node, binary(t, kiloportBinary), tun.A.Dev)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := status.Peer(); err != nil || p.Mode != "stock" {
		t.Errorf("the peer is %+v, error %v", p, err)
	}
}

// attachedInside is what comes out inside of attached kernels, by the inner codepoint
// and that to which a router has changed the outer one. The kernel's decapsulation is
// that of RFC 6040 but for Not-ECT inside CE, which it takes: the drop is ours.
var attachedInside = [4][4]string{
	notECT: {notECT: "Not-ECT", ect1: "Not-ECT", ect0: "Not-ECT", ce: ""},
	ect1:   {notECT: "ECT(1)", ect1: "ECT(1)", ect0: "ECT(1)", ce: "CE"},
	ect0:   {notECT: "ECT(0)", ect1: "ECT(1)", ect0: "ECT(0)", ce: "CE"},
	ce:     {notECT: "CE", ect1: "CE", ect0: "CE", ce: "CE"},
}

// startAttached brings both ends up, lanes agreed on.
func startAttached(t *testing.T, s *netlab.Sites, ipv6 bool, flags ...string) *tunnels.Tunnel {
	t.Helper()
	kernel := attached(t)
	kernel.Flags = flags
	tun, err := tunnels.Start(t.Context(), s, kernel, kernel, tunnels.Config{IPv6: ipv6})
	if err != nil {
		t.Fatal(err)
	}
	if err := tun.AwaitLanes(t.Context(), kernel.Binary); err != nil {
		t.Fatal(err)
	}
	return tun
}

// attachedECN sends all codepoints through a router that makes all of them of each.
func attachedECN(t *testing.T, tun *tunnels.Tunnel, inside [4][4]string) {
	const each = 20
	s := tun.Sites
	var m meddler
	for inner := range 4 {
		for outer := range 4 {
			for _, to := range innerAddrs(tun) {
				m.rules = append(m.rules, fmt.Sprintf("udp length %d IP ecn set %d", outerLength(pairSize(inner, outer), to), outer))
			}
		}
	}
	meddle(t, s, m)
	l := listenForMarks(t, s.B.Node)
	want := map[kind]int{}
	for inner := range 4 {
		for outer := range 4 {
			size := pairSize(inner, outer)
			for cp, name := range codepointNames {
				if name == inside[inner][outer] {
					want[kind{size, uint8(cp)}] = 2 * each
				}
			}
			for _, to := range innerAddrs(tun) {
				sender := newMarkSender(t, s.A.Node, to, kind{size, uint8(inner)})
				paced(each, 2000, func(int) { sender.send(t) })
			}
		}
	}
	if got := l.await(2 * 16 * each); !maps.Equal(got, want) {
		t.Errorf("arrived %v, want %v", got, want)
	}
	if tun.B.Attached == nil {
		return
	}
	status, err := tunnels.Show(t.Context(), s.B.Node, binary(t, kiloportBinary), tun.B.Dev)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := status.Peer(); err != nil || p.Drops["ecn"] != 2*each {
		t.Errorf("dropped %v, want %d for CE outside Not-ECT; error %v", p.Drops, 2*each, err)
	}
}

// attachedDSCP looks at the DSCP on the wire, where it is what the inner one says,
// and inside, where it is as it was.
func attachedDSCP(t *testing.T, policy string, outside map[uint8]uint8, ipv6 bool) {
	const each, size = 50, 600
	s := netlab.ForTest(t, netlab.SitesConfig{})
	tun := startAttached(t, s, ipv6, "--dscp", policy)
	var mu sync.Mutex
	wire, wantWire, wantInside := map[kind]int{}, map[kind]int{}, map[kind]int{}
	tap, err := capture.Start(s.Router, s.A.RouterDev, capture.Config{Snap: 96, OnPacket: func(p *capture.Packet) {
		mu.Lock()
		defer mu.Unlock()
		if !p.Outgoing && p.Proto == 17 && p.Payload > size {
			wire[kind{p.Payload + 8, p.DSCP()}]++
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	l := listenForMarks(t, s.B.Node)
	for i, dscp := range []uint8{0, af41, ef} {
		k := kind{size + 48*i, dscp << 2}
		wantInside[k] += 2 * each
		for _, to := range innerAddrs(tun) {
			wantWire[kind{outerLength(k.size, to), outside[dscp]}] += each
			sender := newMarkSender(t, s.A.Node, to, k)
			paced(each, 2000, func(int) { sender.send(t) })
		}
	}
	if got := l.await(6 * each); !maps.Equal(got, wantInside) {
		t.Errorf("inside %v, want %v", got, wantInside)
	}
	if _, err := tap.Stop(); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(wire, wantWire) {
		t.Errorf("on the wire %v, want %v", wire, wantWire)
	}
}

// attachRefusals wants each reason not to attach to be told.
func attachRefusals(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	tun := startAttached(t, s, false)
	a, kiloport := &tun.A, binary(t, kiloportBinary)
	elsewhere := s.Router
	if _, err := a.Site.Run(t.Context(), "ip", "link", "add", "moved0", "type", "wireguard"); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"set moved0 listen-port 4711", "link set moved0 up", "link set moved0 netns " + elsewhere.Namespace(), "link add idle0 type wireguard"} {
		program := "ip"
		if strings.HasPrefix(args, "set") {
			program = "wg"
		}
		if out, err := a.Site.Run(t.Context(), program, strings.Fields(args)...); err != nil {
			t.Fatalf("%s: %v: %s", args, err, out)
		}
	}
	if out, err := elsewhere.Run(t.Context(), "ip", "link", "set", "moved0", "up"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	detached := &tun.B
	if out, err := detached.Site.Run(t.Context(), kiloport, "detach", detached.Dev); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b := detached.Dev
	listener := listenForMarks(t, s.B.Node) // on port 4747
	defer listener.conn.Close()
	for _, c := range []struct {
		node *netlab.Node
		args []string
		want string
	}{
		{a.Site.Node, []string{"attach", "nosuch0"}, "there is no WireGuard interface nosuch0"},
		{a.Site.Node, []string{"attach", a.Site.Wan}, "there is no WireGuard interface " + a.Site.Wan},
		{a.Site.Node, []string{"attach", a.Dev}, "kiloport is attached to " + a.Dev + " already"},
		{a.Site.Node, []string{"attach", "idle0"}, "idle0 has no listen port: bring it up first"},
		{elsewhere, []string{"attach", "moved0"}, "is not in this network namespace"},
		{s.B.Node, []string{"attach", b, "--port-range", "4700-4800"}, "a UDP socket has port 4747"},
		{s.B.Node, []string{"attach", b, "--port-range", "40000-41000"}, "the kernel gives 40000 to others"},
		{s.B.Node, []string{"attach", b, "--port-range", "51800-51900"}, "WireGuard itself listens on 51820"},
		{s.B.Node, []string{"attach", b, "--bandwidth", "20mbit"}, "--bandwidth is for kiloport's own tunnel"},
		{s.B.Node, []string{"detach", b}, "kiloport is not attached to it"},
		{s.B.Node, []string{"attach", "status", b}, "kiloport is not attached to it"},
	} {
		out, err := c.node.Run(t.Context(), kiloport, c.args...)
		if err == nil || !strings.Contains(err.Error()+out, c.want) {
			t.Errorf("kiloport %v: error %v, said %q, want %q", c.args, err, out, c.want)
		}
	}
}
