package lab

import (
	"os"
	"strings"
	"testing"

	"kiloport/bench/netlab"
)

// TestCongest wants a host to have the congestion control that was asked for, and an
// error that names those that there are.
func TestCongest(t *testing.T) {
	sites, err := netlab.NewSites(t.Context(), netlab.SitesConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sites.Close(); err != nil {
			t.Error(err)
		}
	})
	host := sites.A.End()
	has := func() string {
		var text []byte
		err := host.Do(func() (err error) {
			text, err = os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	before := has()
	for _, test := range []struct{ asked, want string }{{"", before}, {"reno", "reno"}, {"cubic", "cubic"}} {
		b := &bench{Experiment: &Experiment{Congestion: test.asked}}
		if err := b.congest(host); err != nil {
			t.Fatal(err)
		}
		if got := has(); got != test.want {
			t.Errorf("asked for %q, it has %q", test.asked, got)
		}
	}
	b := &bench{Experiment: &Experiment{Congestion: "vegan"}}
	if err := b.congest(host); err == nil || !strings.Contains(err.Error(), "choose another --congestion; this kernel has") || !strings.Contains(err.Error(), "reno") {
		t.Errorf("the error for one that there is not: %v", err)
	}
}
