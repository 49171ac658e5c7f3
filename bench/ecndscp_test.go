package main

import (
	"maps"
	"strings"
	"sync"
	"testing"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/capture"
	"kiloport/bench/tunnels"
)

// Differentiated services codepoints (RFC 2474, RFC 2597, RFC 3246).
const (
	cs1  = 8
	af41 = 34
	ef   = 46
)

// A dscpCase is how both ends treat the DSCP, and what becomes of some.
type dscpCase struct {
	name     string
	settings []string
	outside  map[uint8]uint8 // on the wire, by inner DSCP
	inside   map[uint8]uint8 // at the other end, where the router makes CS0 of EF
	control  uint8           // of handshakes
	words    []string        // in what kiloport show says
}

var dscpCases = []dscpCase{
	{
		name:    "inherited",
		outside: map[uint8]uint8{0: 0, af41: af41, ef: ef}, inside: map[uint8]uint8{0: 0, af41: af41, ef: ef},
		control: af41, words: []string{"dscp to the peer: passes: AF41; bleached: EF\n"},
	},
	{
		name: "mapped", settings: []string{"DSCP = AF41=CS1,EF=0", "ControlDSCP = CS6"},
		outside: map[uint8]uint8{0: 0, af41: cs1, ef: 0}, inside: map[uint8]uint8{0: 0, af41: af41, ef: ef},
		control: 48, words: []string{"dscp to the peer: passes: CS1, CS6\n"},
	},
	{
		name: "fixed", settings: []string{"DSCP = EF", "ControlDSCP = 0"},
		outside: map[uint8]uint8{0: ef, af41: ef, ef: ef}, inside: map[uint8]uint8{0: 0, af41: af41, ef: ef},
		words: []string{"dscp to the peer: bleached: EF\n"},
	},
	{
		name: "uniform", settings: []string{"DSCPDecap = uniform"},
		outside: map[uint8]uint8{0: 0, af41: af41, ef: ef}, inside: map[uint8]uint8{0: 0, af41: af41, ef: 0},
		control: af41, words: []string{"inherit (uniform)", "bleached: EF"},
	},
}

// TestDSCPOutsideAndInside looks at the DSCP on the wire and at the far end, in
// every way to treat it, through a router that bleaches one.
func TestDSCPOutsideAndInside(t *testing.T) {
	for _, c := range dscpCases {
		t.Run(c.name, func(t *testing.T) {
			families(t, func(t *testing.T, ipv6 bool) { testDSCP(t, &c, ipv6) })
		})
	}
}

func testDSCP(t *testing.T, c *dscpCase, ipv6 bool) {
	const each, size = 100, 600
	s := netlab.ForTest(t, netlab.SitesConfig{})
	meddle(t, s, meddler{[]string{"IP dscp ef IP dscp set cs0"}})
	var mu sync.Mutex
	wire, handshakes := map[kind]int{}, map[uint8]int{}
	const initiation = 148
	tap, err := capture.Start(s.A.Node, s.A.Wan, capture.Config{Snap: 96, OnPacket: func(p *capture.Packet) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case !p.Outgoing || p.Proto != 17:
		case p.Payload == initiation:
			handshakes[p.DSCP()]++
		case p.Payload > size && p.Payload < 2*size: // larger ones are probes of the path's size
			wire[kind{p.Payload + 8, p.DSCP()}]++
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	daemon := tunnels.Kiloport{Binary: binary(t, kiloportBinary), Settings: c.settings}
	tun, err := tunnels.Start(t.Context(), s, daemon, daemon, tunnels.Config{IPv6: ipv6})
	if err != nil {
		t.Fatal(err)
	}
	roomy(t, tun)
	l := listenForMarks(t, s.B.Node)
	inner := []uint8{0, af41, ef}
	wantInside, wantWire := map[kind]int{}, map[kind]int{}
	for i, dscp := range inner {
		k := kind{size + 48*i, dscp << 2}
		wantInside[kind{k.size, c.inside[dscp] << 2}] += 2 * each
		for _, to := range innerAddrs(tun) {
			wantWire[kind{outerLength(k.size, to), c.outside[dscp]}] += each
			sender := newMarkSender(t, s.A.Node, to, k)
			paced(each, 2000, func(int) { sender.send(t) })
		}
	}
	if got := l.await(2 * each * len(inner)); !maps.Equal(got, wantInside) {
		t.Errorf("inside %v, want %v", got, wantInside)
	}
	awaitMarks(t, &tun.A, "a test of the DSCPs", func(p *peerMarks) bool {
		words := showWords(t, &tun.A)
		for _, want := range c.words {
			if !strings.Contains(words, want) {
				return false
			}
		}
		return true
	})
	if _, err := tap.Stop(); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(wire, wantWire) {
		t.Errorf("on the wire %v, want %v", wire, wantWire)
	}
	if len(handshakes) != 1 || handshakes[c.control] == 0 {
		t.Errorf("handshakes in %v, want DSCP %d", handshakes, c.control)
	}
}
