package main

import (
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/capture"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/tunnels"
)

// silentRouter keeps a router from saying anything by ICMP about what is too big.
const silentRouter = "add table inet mute; add chain inet mute out { type filter hook output priority 0 ; };" +
	"add rule inet mute out icmp type destination-unreachable drop; add rule inet mute out icmpv6 type packet-too-big drop"

// TestPathsThatGrowNarrow sends through a router whose link carries less and less, and
// more again, and which tells nobody: neither TCP nor datagrams are ever silent for
// longer than 2 s, and no outer packet is a fragment.
func TestPathsThatGrowNarrow(t *testing.T) {
	families(t, func(t *testing.T, ipv6 bool) {
		const jumbo, patience, phase = 9000, 2 * time.Second, 2 * time.Second
		sizes := []int{1500, 1492, 1400, 1280}
		s := netlab.ForTest(t, netlab.SitesConfig{MTU: jumbo})
		if out, err := s.Router.Run(t.Context(), "nft", silentRouter); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		// The machine is to be busy with the paths, not with as much as it can carry.
		daemon := tunnels.Kiloport{Binary: binary(t, kiloportBinary), Settings: []string{"Bandwidth = 50mbit"}}
		tun, err := tunnels.Start(t.Context(), s, daemon, daemon, tunnels.Config{IPv6: ipv6})
		if err != nil {
			t.Fatal(err)
		}
		headers := 60
		if ipv6 {
			headers = 80
		}
		for _, e := range []tunnels.End{tun.A, tun.B} {
			if err := e.Site.Up(e.Dev, jumbo-80); err != nil {
				t.Fatal(err)
			}
		}
		awaitPathMTU(t, tun, jumbo-80+headers)
		watch, err := capture.Start(s.Router, s.B.RouterDev, capture.Config{})
		if err != nil {
			t.Fatal(err)
		}
		changed := make(chan error, 1)
		go func() {
			time.Sleep(time.Second)
			for _, size := range sizes {
				time.Sleep(phase)
				if err := s.Router.Up(s.B.RouterDev, size); err != nil {
					changed <- err
					return
				}
			}
			changed <- nil
		}()
		r, err := traffic.Between(t.Context(), s.A.End(), s.B.End(), traffic.Plan{
			Duration: time.Duration(len(sizes)+1)*phase + time.Second, Series: true, Linger: 4 * time.Second, Abandon: true,
			Groups: []traffic.Group{
				{Kind: traffic.TCPBulk, Count: 1, To: s.B.Inner4(1).Addr()},
				{Kind: traffic.TCPBulk, Count: 1, To: s.B.Inner6(1).Addr(), Down: true},
				{Kind: traffic.TCPEcho, Count: 2, To: s.B.Inner6(1).Addr(), Size: 1400, Interval: 20 * time.Millisecond},
				{Kind: traffic.UDPEcho, Count: 2, To: s.B.Inner4(1).Addr(), Size: 1400, Interval: 20 * time.Millisecond},
				{Kind: traffic.UDPEcho, Count: 2, To: s.B.Inner6(1).Addr(), Size: 1400, Interval: 20 * time.Millisecond},
			},
		})
		if err := <-changed; err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range r.Flows {
			stall := longestStall(f)
			t.Logf("%s to %v: silent for up to %v, up %+v, down %+v", f.Kind, f.Dst, stall, f.Up, f.Down)
			if f.Error != "" || stall > patience {
				t.Errorf("%s to %v: silent for %v; %s", f.Kind, f.Dst, stall, f.Error)
			}
		}
		awaitPathMTU(t, tun, sizes[len(sizes)-1])
		checkNoFragments(t, watch)
	})
}

// longestStall is the longest time in which nothing of a flow came through.
func longestStall(f traffic.Flow) (longest time.Duration) {
	const bin = 200 * time.Millisecond // of Plan.Series
	for i, empty := 0, time.Duration(0); i < len(f.Series.Bytes); i++ {
		empty += bin
		if f.Series.Bytes[i] > 0 {
			empty = 0
		}
		longest = max(longest, empty)
	}
	last := time.Duration(0)
	for _, p := range f.Series.Probes {
		if !p.Lost {
			longest = max(longest, p.At+p.RTT-last)
			last = p.At + p.RTT
		}
	}
	return longest
}

// awaitPathMTU waits until both ends have found what the path carries.
func awaitPathMTU(t *testing.T, tun *tunnels.Tunnel, want int) {
	t.Helper()
	// The search ends before it knows to the byte, and a veth takes a VLAN tag more
	// than its MTU.
	const below, above = 8, 4
	for _, e := range []tunnels.End{tun.A, tun.B} {
		for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			status, err := tunnels.Show(t.Context(), e.Site.Node, binary(t, kiloportBinary), e.Dev)
			if err != nil {
				t.Fatal(err)
			}
			peer, err := status.Peer()
			if err != nil {
				t.Fatal(err)
			}
			if peer.PathMTU <= want+above && peer.PathMTU > want-below {
				break
			}
			if time.Since(began) > 5*time.Second {
				t.Fatalf("%s takes the path to carry %d, want %d", e.Dev, peer.PathMTU, want)
			}
		}
	}
}

func checkNoFragments(t *testing.T, watch *capture.Capture) {
	t.Helper()
	report, err := watch.Stop()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Flows {
		if f.Fragments > 0 {
			t.Errorf("%d of %d packets from %v to %v were fragments", f.Fragments, f.Packets, f.Src, f.Dst)
		}
	}
}
