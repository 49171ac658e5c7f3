package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/capture"
	"kiloport/bench/tunnels"
)

// attachedReplayWindow has a path that holds the upper half of the ports back for so
// long that more messages overtake than the kernel's one replay window bears. The
// receiver finds that WireGuard drops them and asks for fewer ports, which are the
// lower ones; from then on nothing is lost, and both ends say why.
func attachedReplayWindow(t *testing.T) {
	const (
		low, high = 20480, 32767
		middle    = low + (high-low+1)/2
		flows     = 40
		each      = 275                  // messages of a flow
		interval  = 4 * time.Millisecond // between them: 10 000 of all flows a second
		delay     = "1s"                 // of them: the window is 8128
	)
	s := netlab.ForTest(t, netlab.SitesConfig{})
	tun := startAttached(t, s, false, "--port-range", fmt.Sprintf("%d-%d", low, high))
	slowPorts(t, s, middle, high, delay)
	check := watchBoth(t, tun)
	received, before := listenForMarks(t, s.B.Node), 0
	// send tells how many messages arrive. It takes few processes and few wake-ups:
	// those are what costs time in the lab kernel.
	send := func(size int) int {
		t.Helper()
		k := kind{size: size}
		var senders [flows]*markSender
		for i := range senders {
			senders[i] = newMarkSender(t, s.A.Node, s.B.Inner4(1).Addr(), k)
		}
		for range each {
			for _, sender := range senders {
				sender.send(t)
			}
			time.Sleep(interval)
		}
		before += received.await(before + each*flows)[k]
		return received.counts()[k]
	}
	if n := send(64); n > each*flows-500 {
		t.Errorf("of %d messages %d arrived, which proves nothing", each*flows, n)
	}
	for began := time.Now(); attachedStatus(t, &tun.A).Peers[0].Lanes.Agreed > high-low; time.Sleep(time.Second) {
		if time.Since(began) > 20*time.Second {
			t.Fatal("the spread is as wide as ever")
		}
	}
	c, err := capture.Start(s.Router, s.A.RouterDev, capture.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if n := send(128); n != each*flows {
		t.Errorf("when the spread is narrow, %d of %d messages arrive", n, each*flows)
	}
	wire, err := c.Stop()
	if err != nil {
		t.Fatal(err)
	}
	check()
	outer := outerFlows(wire, tun.A.Outer)
	for _, f := range outer {
		if f.Src.Port() >= middle && f.Src.Port() <= high {
			t.Errorf("still from port %d", f.Src.Port())
		}
	}
	if len(outer) < flows/2 {
		t.Errorf("%d flows in %d outer ones", flows, len(outer))
	}
	said := errors.Join(
		shows(t, &tun.A, "the peer asks for "),
		shows(t, &tun.B, "not accepted by WireGuard", "; the peer is asked to use "))
	if said != nil {
		t.Error(said)
	}
}

// slowPorts delays what comes from some UDP ports on its way to site B.
func slowPorts(t *testing.T, s *netlab.Sites, first, last int, delay string) {
	t.Helper()
	dev := s.B.RouterDev
	for _, line := range []string{
		"tc qdisc add dev " + dev + " root handle 1: prio bands 2 priomap 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
		"tc qdisc add dev " + dev + " parent 1:2 netem limit 100000 delay " + delay,
		"nft add table ip slow",
		"nft add chain ip slow forward { type filter hook forward priority 0 ; }",
		fmt.Sprintf("nft add rule ip slow forward udp sport %d-%d meta priority set 1:2", first, last),
	} {
		words := strings.Fields(line)
		if out, err := s.Router.Run(t.Context(), words[0], words[1:]...); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
}

// shows wants kiloport show to say some words of an end.
func shows(t *testing.T, e *tunnels.End, words ...string) error {
	t.Helper()
	out, err := e.Site.Run(t.Context(), binary(t, kiloportBinary), "show", e.Dev)
	for _, w := range words {
		if err == nil && !strings.Contains(out, w) {
			err = fmt.Errorf("kiloport show %s does not say %q: %s", e.Dev, w, out)
		}
	}
	return err
}
