package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/capture"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/tunnels"
)

// hastyBinary is kiloport with keys that last two seconds: the program's own
// test binary, which is the program if its environment says so.
var hastyBinary = sync.OnceValues(func() (string, error) {
	program := filepath.Join(built, "kiloport.test")
	out, err := exec.Command("go", "test", "-c", "-o", program, "kiloport/cmd/kiloport").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	script := filepath.Join(built, "hasty")
	text := "#!/bin/sh\nexport KILOPORT_TEST_IS_KILOPORT=1 KILOPORT_TEST_REKEY_AFTER=2s\nexec " + program + ` "$@"` + "\n"
	return script, os.WriteFile(script, []byte(text), 0o700)
})

// TestRekeysUnderTraffic runs 4 TCP flows and 200 small flows between two
// kiloports over at least three rekeys: nothing is lost, and nothing is out of
// order in its flow.
func TestRekeysUnderTraffic(t *testing.T) {
	families(t, func(t *testing.T, ipv6 bool) {
		s := netlab.ForTest(t, netlab.SitesConfig{})
		hasty := tunnels.Kiloport{Binary: binary(t, hastyBinary)}
		tun, err := tunnels.Start(t.Context(), s, hasty, hasty, tunnels.Config{IPv6: ipv6})
		if err != nil {
			t.Fatal(err)
		}
		if err := tun.AwaitLanes(t.Context(), hasty.Binary); err != nil {
			t.Fatal(err)
		}
		handshakes := countHandshakes(t, s)
		v4, v6 := s.B.Inner4(1).Addr(), s.B.Inner6(1).Addr()
		r, err := traffic.Between(t.Context(), s.A.End(), s.B.End(), traffic.Plan{
			Duration: 10 * time.Second,
			Groups: []traffic.Group{
				{Kind: traffic.TCPEcho, Count: 2, To: v4, Size: 1300, Interval: 2 * time.Millisecond},
				{Kind: traffic.TCPEcho, Count: 2, To: v6, Size: 1300, Interval: 2 * time.Millisecond},
				{Kind: traffic.UDPEcho, Count: 100, To: v4, Interval: 50 * time.Millisecond},
				{Kind: traffic.UDPEcho, Count: 100, To: v6, Interval: 50 * time.Millisecond},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Check(); err != nil {
			t.Errorf("%v%s", err, tun.Unread())
		}
		if n := handshakes(); n < 3 {
			t.Errorf("%d handshakes, want at least three rekeys", n)
		}
		if err := tun.A.CheckLanes(t.Context(), hasty.Binary); err != nil {
			t.Errorf("after the rekeys: %v", err)
		}
	})
}

// countHandshakes counts initiations on site A's link, in both directions.
func countHandshakes(t *testing.T, s *netlab.Sites) (stop func() int) {
	t.Helper()
	n := 0
	watch, err := capture.Start(s.Router, s.A.RouterDev, capture.Config{OnPacket: func(p *capture.Packet) {
		if p.Payload == initiationSize && p.Head[0] == initiationType {
			n++
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	return func() int {
		t.Helper()
		if _, err := watch.Stop(); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// A handshake initiation as the wire shows it (WireGuard white paper, section
// 5.4.2).
const initiationType, initiationSize = 1, 148
