package main

import (
	"os"
	"slices"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/stockkernel"
	"kiloport/bench/tunnels"
)

// TestAttachCost compares what a packet costs through kernel WireGuard with and
// without kiloport attached, in turn, in a kernel whose clock counts instructions:
// what gets through in a second of it does not depend on the machine. One emulated
// processor does the work of both ends.
func TestAttachCost(t *testing.T) {
	if os.Getenv(builtEnv) == "" {
		k, err := stockkernel.Ensure(t.Context(), os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		k.Clock = stockkernel.InstructionClock
		testInKernel(t, k.Run)
		return
	}
	const rounds, most = 5, 1.05
	s := netlab.ForTest(t, netlab.SitesConfig{Offload: true})
	tun, err := tunnels.Start(t.Context(), s, tunnels.Kernel{}, tunnels.Kernel{}, tunnels.Config{IPv6: true})
	if err != nil {
		t.Fatal(err)
	}
	kiloport := attached(t)
	var plain, attached []float64
	for range rounds {
		plain = append(plain, goodput(t, tun))
		for _, e := range []*tunnels.End{&tun.A, &tun.B} {
			if err := kiloport.Attach(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		if err := tun.AwaitLanes(t.Context(), kiloport.Binary); err != nil {
			t.Fatal(err)
		}
		attached = append(attached, goodput(t, tun))
		for _, e := range []*tunnels.End{&tun.A, &tun.B} {
			if out, err := e.Site.Run(t.Context(), kiloport.Binary, "detach", e.Dev); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	slices.Sort(plain)
	slices.Sort(attached)
	ratio := plain[rounds/2] / attached[rounds/2]
	t.Logf("Mbit/s without %.4v, attached %.4v: instructions for a packet %.3f times as many", plain, attached, ratio)
	if ratio > most {
		t.Errorf("a packet costs %.3f times as much, want %.2f at most", ratio, most)
	}
}

// goodput is what TCP gets through the tunnel, in Mbit/s.
func goodput(t *testing.T, tun *tunnels.Tunnel) float64 {
	t.Helper()
	to := tun.B.Site.Inner6(1).Addr()
	r, err := traffic.Between(t.Context(), tun.A.Site.End(), tun.B.Site.End(), traffic.Plan{
		Duration: time.Second, Linger: 5 * time.Second, Abandon: true,
		Groups: []traffic.Group{{Kind: traffic.TCPBulk, Count: 4, To: to}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.Groups[0].Goodput / 1e6
}
