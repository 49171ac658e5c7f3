package main

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"

	"kiloport/bench/guest"
	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/stockkernel"
	"kiloport/bench/tunnels"
)

// TestKernelPeer boots the kernel that users run, and there runs flows between
// kiloport and the WireGuard in it. Outside of it, this is the host's part.
func TestKernelPeer(t *testing.T) {
	if os.Getenv(builtEnv) != "" {
		mixedCases(t, inKernel, kernelPeer)
		return
	}
	k, err := stockkernel.Ensure(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	self := binary(t, testsBinary)
	binary(t, kiloportBinary)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var said bytes.Buffer
	err = k.Run(ctx, guest.Guest{
		Init: self, Command: []string{self, "-test.v", "-test.run=^TestKernelPeer$"},
		Env: append(os.Environ(), builtEnv+"="+built), Stdout: &said, Stderr: &said,
	})
	t.Logf("in Linux %s, by %s:\n%s", k.Manifest.Release, k.Accelerator(), said.String())
	if err != nil || bytes.Contains(said.Bytes(), []byte("--- SKIP")) {
		t.Errorf("error %v, want none and nothing skipped", err)
	}
}

func inKernel(*testing.T) tunnels.Daemon { return tunnels.Kernel{} }

// kernelPeer wants 40 flows both ways without a loss in the one outer flow that the
// kernel expects, and then large transfers both ways to arrive.
func kernelPeer(t *testing.T, atA, atB tunnels.Daemon, c tunnels.Config) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	tun, err := tunnels.Start(t.Context(), s, atA, atB, c)
	if err != nil {
		t.Fatal(err)
	}
	// An emulated processor may be too busy for a moment, and what waits too long
	// is dropped, as it should be. That does not happen every time.
	var seen *observation
	for range 3 {
		if seen, err = observe(t.Context(), tun, flowsPlan(tun, 40, time.Second, demoInterval)); err == nil {
			break
		}
		t.Log(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	checkOneOuterFlow(t, seen, tun.A.Outer, tun.B.Outer)
	to := s.B.Inner6(1).Addr()
	r, err := traffic.Between(t.Context(), s.A.End(), s.B.End(), traffic.Plan{
		Duration: time.Second, Linger: 5 * time.Second,
		Groups: []traffic.Group{{Kind: traffic.TCPBulk, Count: 2, To: to}, {Kind: traffic.TCPBulk, Count: 2, To: to, Down: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	t.Logf("%.0f Mbit/s up and %.0f down", r.Groups[0].Goodput/1e6, r.Groups[1].Goodput/1e6)
}
