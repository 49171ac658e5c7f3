package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kiloport/bench/netlab/capture"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/tunnels"
)

var (
	tapStart = time.Unix(1_000_000, 0)
	tapA     = netip.MustParseAddr("2001:db8:a::1")
	tapB     = netip.MustParseAddr("2001:db8:b::1")
)

// tapped is a packet from site A, at a number of seconds after the start.
func tapped(second int, port uint16, label uint32, inner int) *capture.Packet {
	return &capture.Packet{
		Tuple: capture.Tuple{Src: netip.AddrPortFrom(tapA, port), Dst: netip.AddrPortFrom(tapB, 51820), Proto: 17},
		Time:  tapStart.Add(time.Duration(second) * time.Second), Payload: inner + transportOverhead, Label: label,
	}
}

// turn is a roll call from one second to another.
func turn(flow, inner, from, to int) traffic.RollCall {
	return traffic.RollCall{Flow: flow, InnerLength: inner, Packets: 1, From: tapStart.Add(time.Duration(from) * time.Second), To: tapStart.Add(time.Duration(to) * time.Second)}
}

func TestWiretapFindsLanes(t *testing.T) {
	for _, test := range []struct {
		name    string
		packets []*capture.Packet
		calls   []traffic.RollCall
		want    spreading
		ok      bool   // spreading.check
		err     string // lanes
	}{
		{
			name:    "a lane for each",
			packets: []*capture.Packet{tapped(1, 1001, 1, 160), tapped(1, 1002, 2, 176), tapped(2, 1001, 1, 160)},
			calls:   []traffic.RollCall{turn(0, 160, 1, 3), turn(1, 176, 1, 3)},
			want:    spreading{Flows: 2, Tuples: 2, Ports: 2, Labels: 2, Alone: 2}, ok: true,
		},
		{
			name:    "the same length at another time is another flow",
			packets: []*capture.Packet{tapped(1, 1001, 1, 160), tapped(5, 1002, 2, 160)},
			calls:   []traffic.RollCall{turn(0, 160, 1, 3), turn(1, 160, 4, 6)},
			want:    spreading{Flows: 2, Tuples: 2, Ports: 2, Labels: 2, Alone: 2}, ok: true,
		},
		{
			name:    "control messages of the same length",
			packets: []*capture.Packet{tapped(1, 1001, 1, 160), tapped(1, tunnels.ListenPort, 5, 160)},
			calls:   []traffic.RollCall{turn(0, 160, 1, 3)},
			want:    spreading{Flows: 1, Tuples: 1, Ports: 1, Labels: 1, Alone: 1}, ok: true,
		},
		{
			name:    "a packet that went elsewhere",
			packets: []*capture.Packet{tapped(1, 1001, 1, 160)},
			calls:   []traffic.RollCall{{InnerLength: 160, Packets: 2, From: tapStart, To: tapStart.Add(time.Hour)}},
			err:     "flow 0 sent 2 packets, of which 1",
		},
		{
			name:    "two share a lane",
			packets: []*capture.Packet{tapped(1, 1001, 1, 160), tapped(1, 1001, 1, 176), tapped(1, 1003, 3, 192)},
			calls:   []traffic.RollCall{turn(0, 160, 1, 3), turn(1, 176, 1, 3), turn(2, 192, 1, 3)},
			want:    spreading{Flows: 3, Tuples: 2, Ports: 2, Labels: 2, Alone: 1},
		},
		{
			name:    "no label",
			packets: []*capture.Packet{tapped(1, 1001, 1, 160), tapped(1, 1002, 0, 176)},
			calls:   []traffic.RollCall{turn(0, 160, 1, 3), turn(1, 176, 1, 3)},
			want:    spreading{Flows: 2, Tuples: 2, Ports: 2, Labels: 1, Unlabelled: 1, Alone: 2},
		},
		{
			name:    "one label for two",
			packets: []*capture.Packet{tapped(1, 1001, 7, 160), tapped(1, 1002, 7, 176)},
			calls:   []traffic.RollCall{turn(0, 160, 1, 3), turn(1, 176, 1, 3)},
			want:    spreading{Flows: 2, Tuples: 2, Ports: 2, Labels: 1, Alone: 2},
		},
		{
			name:    "a flow in two lanes",
			packets: []*capture.Packet{tapped(1, 1001, 1, 160), tapped(2, 1002, 2, 160)},
			calls:   []traffic.RollCall{turn(0, 160, 1, 3)},
			err:     "flow 0 was seen both",
		},
		{
			name:    "a label that changes",
			packets: []*capture.Packet{tapped(1, 1001, 1, 160), tapped(2, 1001, 2, 160)},
			calls:   []traffic.RollCall{turn(0, 160, 1, 3)},
			err:     "flow 0 was seen both",
		},
		{
			name:    "a flow that moves between two turns",
			packets: []*capture.Packet{tapped(1, 1001, 1, 160), tapped(9, 1002, 2, 160)},
			calls:   []traffic.RollCall{turn(0, 160, 1, 3), turn(0, 160, 8, 10)},
			err:     "flow 0 moved under load",
		},
		{
			name:    "a flow that nobody saw",
			packets: []*capture.Packet{tapped(7, 1001, 1, 160)},
			calls:   []traffic.RollCall{turn(0, 160, 1, 3)},
			err:     "flow 0 was not seen",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			tap := newWiretap()
			for _, p := range test.packets {
				tap.packet(p)
				answer := *p
				answer.Src, answer.Dst = p.Dst, p.Src
				tap.packet(&answer)
			}
			lanes, err := tap.lanes(test.calls, &tunnels.End{Outer: tapA})
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := spread(lanes)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if err := got.check(true); (err == nil) != test.ok {
				t.Errorf("verdict %v, want good: %v", err, test.ok)
			}
		})
	}
}

func TestWiretapIsBounded(t *testing.T) {
	tap := newWiretap()
	tap.sightings = make([]sighting, maxSightings)
	tap.packet(tapped(1, 1001, 1, 160))
	if len(tap.sightings) > maxSightings {
		t.Errorf("%d sightings", len(tap.sightings))
	}
	if _, err := tap.lanes(nil, &tunnels.End{Outer: tapA}); err == nil {
		t.Error("an incomplete wiretap gave a verdict")
	}
}
