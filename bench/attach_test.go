package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"syscall"
	"testing"
	"time"

	"kiloport/bench/guest"
	"kiloport/bench/labkernel"
	"kiloport/bench/netlab"
	"kiloport/bench/netlab/capture"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/stockkernel"
	"kiloport/bench/tunnels"
)

// TestAttach attaches to the WireGuard of the lab kernel, in virtual time.
func TestAttach(t *testing.T) {
	if os.Getenv(builtEnv) == "" {
		k, err := labkernel.Ensure(t.Context(), os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		testInKernel(t, k.Run)
		return
	}
	families(t, func(t *testing.T, ipv6 bool) { attachedFlowsSpread(t, attached(t), ipv6) })
	t.Run("daemon as the peer", func(t *testing.T) { attachedFlowsSpread(t, ours(t), true) })
	t.Run("under load", func(t *testing.T) { attachUnderLoad(t, true) })
	t.Run("peer gone", func(t *testing.T) { attachedPeerGone(t, false) })
	t.Run("stock peer", func(t *testing.T) { attachedStockPeer(t, true) })
}

// TestAttachStockKernel does some of it in the kernel that users run, whose verifier
// has to take the programs.
func TestAttachStockKernel(t *testing.T) {
	if os.Getenv(builtEnv) == "" {
		k, err := stockkernel.Ensure(t.Context(), os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		testInKernel(t, k.Run)
		return
	}
	families(t, func(t *testing.T, ipv6 bool) { attachedFlowsSpread(t, attached(t), ipv6) })
	t.Run("daemon as the peer", func(t *testing.T) { attachedFlowsSpread(t, ours(t), false) })
}

// testInKernel runs the test that calls it in another kernel.
func testInKernel(t *testing.T, run func(context.Context, guest.Guest) error) {
	self := binary(t, testsBinary)
	binary(t, kiloportBinary)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	var said bytes.Buffer
	err := run(ctx, guest.Guest{
		Init: self, Command: []string{self, "-test.v", "-test.run=^" + t.Name() + "$"},
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
	seen map[string]int
	err  error
	stop context.CancelFunc
	done chan struct{}
}

func watchEndpoint(ctx context.Context, e *tunnels.End) *endpoints {
	ctx, stop := context.WithCancel(ctx)
	w := &endpoints{seen: map[string]int{}, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for ctx.Err() == nil {
			out, err := e.Site.Run(context.WithoutCancel(ctx), "wg", "show", e.Dev, "endpoints")
			if err != nil {
				w.err = err
				return
			}
			if fields := strings.Fields(out); len(fields) == 2 {
				w.seen[fields[1]]++
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return w
}

// only is nil if nothing but the endpoint of an end was seen.
func (w *endpoints) only(e *tunnels.End) error {
	w.stop()
	<-w.done
	want := fmt.Sprintf("%v:%d", e.Outer, tunnels.ListenPort)
	if e.Outer.Is6() {
		want = fmt.Sprintf("[%v]:%d", e.Outer, tunnels.ListenPort)
	}
	if w.err != nil || len(w.seen) != 1 || w.seen[want] < 20 {
		return fmt.Errorf("wg shows endpoints %v, want only %s; error %v", w.seen, want, w.err)
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

// attachedFlowsSpread wants 300 flows to be nearly as many outside, and the
// endpoints to stay where they are, between an attached kernel and another.
func attachedFlowsSpread(t *testing.T, atB tunnels.Daemon, ipv6 bool) {
	const flows, fewest = 300, 285
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
	plan := flowsPlan(tun, flows, 2*time.Second, 200*time.Millisecond)
	plan.RollCall = false
	seen, err := observe(t.Context(), tun, plan)
	if err != nil {
		t.Fatal(err)
	}
	check()
	for from, addr := range map[string]*tunnels.End{"A": &tun.A, "B": &tun.B} {
		outer := outerFlows(seen.wire, addr.Outer)
		if len(outer) < fewest {
			t.Errorf("%d flows left site %s in %d outer ones, want %d", flows, from, len(outer), fewest)
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
		if labels[0] || ipv6 && len(labels) < fewest {
			t.Errorf("from site %s: %d flow labels, 0 among them: %v", from, len(labels), labels[0])
		}
		t.Logf("%d flows left site %s in %d outer ones, with %d labels", flows+demoPings, from, len(outer), len(labels))
	}
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
		<-e.Process.Done()
	}
	return nil
}

// attachedPeerGone kills one end's kiloport while flows run. The other has to
// notice, and what is sent from then on is plain WireGuard and arrives.
func attachedPeerGone(t *testing.T, ipv6 bool) {
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
		tun.B.Process.Signal(syscall.SIGKILL)
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
