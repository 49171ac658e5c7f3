package main

import (
	"strings"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/tunnels"
)

// TestFirewallThatAdmitsOnePort puts a firewall between the sites that lets
// through WireGuard's own port alone. No other port gets an answer, so there is one
// outer 5-tuple, in which over IPv6 labels tell flows apart; nothing is lost, and
// `kiloport show` says why.
func TestFirewallThatAdmitsOnePort(t *testing.T) {
	families(t, func(t *testing.T, ipv6 bool) {
		s := netlab.ForTest(t, netlab.SitesConfig{})
		rules := "add table inet f; add chain inet f forward { type filter hook forward priority 0 ; policy accept ; };" +
			"add rule inet f forward udp sport != 51820 drop; add rule inet f forward udp dport != 51820 drop"
		if out, err := s.Router.Run(t.Context(), "nft", rules); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		tun, err := tunnels.Start(t.Context(), s, ours(t), ours(t), tunnels.Config{IPv6: ipv6})
		if err != nil {
			t.Fatal(err)
		}
		mode := "fallback"
		if ipv6 {
			mode = "labels"
		}
		awaitModes(t, tun, mode, mode)
		seen, err := observe(t.Context(), tun, flowsPlan(tun, 100, 4*time.Second, demoInterval))
		if err != nil {
			t.Fatal(err)
		}
		for from, lanes := range map[string][]lane{"A": seen.up, "B": seen.down} {
			got := spread(lanes)
			if got.Tuples != 1 || ipv6 && got.Labels != got.Flows {
				t.Errorf("from site %s: %+v, want one outer 5-tuple, and over IPv6 a label for each flow", from, got)
			}
		}
		for _, e := range []tunnels.End{tun.A, tun.B} {
			status, err := tunnels.Show(t.Context(), e.Site.Node, binary(t, kiloportBinary), e.Dev)
			if err != nil {
				t.Fatal(err)
			}
			peer, err := status.Peer()
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(peer.Reason, "port") {
				t.Errorf("%s is in mode %s, and does not say that it is for the ports: %s", e.Dev, peer.Mode, peer.Reason)
			}
		}
	})
}
