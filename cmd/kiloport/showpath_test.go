package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"kiloport/tunnel"
)

func ms(v float64) *float64 { return &v }

// TestShowTellsOfThePath is what a person reads.
func TestShowTellsOfThePath(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	tested := now.Add(-42 * time.Second)
	good := tunnel.PathStatus{NotECT: "passes", ECT0: "passes", ECT1: "passes", CE: "passes", Mode: "normal"}
	bad := good
	bad.ECT1, bad.Mode, bad.Tested = "bleached", "compatibility", &tested
	bad.DSCP = map[string]string{"AF41": "passes", "EF": "bleached", "CS1": "passes"}
	blind := tunnel.PathStatus{NotECT: "marked CE every time", ECT0: "marked CE every time", ECT1: "marked CE every time", CE: "passes", Mode: "compatibility"}
	for _, c := range []struct {
		name string
		peer tunnel.PeerStatus
		want []string
	}{
		{"stock", tunnel.PeerStatus{ECN: "compatibility", ECNReason: "it is a stock WireGuard"},
			[]string{"ecn: compatibility (it is a stock WireGuard)"}},
		{"all well", tunnel.PeerStatus{ECN: "normal", PathTo: &good, PathFrom: &good, Sent: tunnel.TrafficStatus{Packets: 3, Bytes: 4, ECT0: 1, CE: 1}},
			[]string{"ecn: normal\n", "path to the peer: passes: ECT(0), ECT(1), CE\n", "path from the peer: passes: ECT(0), ECT(1), CE; it sends in normal mode\n",
				"sent: 3 packets, 4 bytes, 1 with ECT(0), 0 with ECT(1), 1 with CE\n", "received: 0 packets, 0 bytes\n"}},
		{"bleached", tunnel.PeerStatus{ECN: "compatibility", ECNReason: "the path to the peer bleaches ECT(1)", PathTo: &bad},
			[]string{"ecn: compatibility (the path to the peer bleaches ECT(1))\n", "path to the peer: passes: ECT(0), CE; bleached: ECT(1) (tested 42s ago)\n",
				"dscp to the peer: passes: AF41, CS1; bleached: EF\n"}},
		{"blind", tunnel.PeerStatus{ECN: "normal", PathFrom: &blind, MarksIgnored: true},
			[]string{"path from the peer: marked CE every time: ECT(0), ECT(1), Not-ECT; passes: CE; it sends in compatibility mode\n", "marks from the peer: ignored"}},
		{"lanes", tunnel.PeerStatus{LaneDetails: []tunnel.LaneDetail{
			{Sent: &tunnel.LaneSent{DelayMs: ms(0.34)}},
			{Lane: 1, Sent: &tunnel.LaneSent{DelayMs: ms(12.06)}, Received: &tunnel.LaneReceived{LaneCounts: tunnel.LaneCounts{HopLimit: 62}}},
			{Lane: 2, Received: &tunnel.LaneReceived{LaneCounts: tunnel.LaneCounts{HopLimit: 62}}},
			{Lane: 3, Received: &tunnel.LaneReceived{LaneCounts: tunnel.LaneCounts{HopLimit: 61}, HopLimitChanges: 2}},
		}}, []string{"delay above the least: 12.1 ms to the peer, unknown back, on the slowest lane\n", "hop limit: 62 on 2 lanes, 61 on 1 lanes at arrival, changed 2 times\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			writePeer(&b, &c.peer, "ports", now)
			for _, want := range c.want {
				if !strings.Contains(b.String(), want) {
					t.Errorf("no %q in\n%s", want, b.String())
				}
			}
		})
	}
}
