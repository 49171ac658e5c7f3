package main

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/tunnels"
)

// TestPathThatComesBack takes the path away from under 40 flows between real hosts, in
// virtual time: the link goes down and up, addresses go and come back, either site gets
// other ones. Within two seconds after there is a path again, each flow gets through, by a
// lane of its own.
func TestPathThatComesBack(t *testing.T) {
	if !inVirtualTime(t) {
		return
	}
	const away = 2 * time.Second
	for _, test := range []struct {
		name string
		site func(s *netlab.Sites) *netlab.Site
		do   func(s *netlab.Sites, site *netlab.Site) (back time.Time, err error)
	}{
		{"link", siteA, linkGoesAndComes(away)},
		{"link of the other site", siteB, linkGoesAndComes(away)},
		{"addresses", siteA, addressesGoAndCome(away)},
		{"other addresses", siteA, renumbered},
		{"other addresses of the other site", siteB, renumbered},
	} {
		for _, ipv6 := range []bool{false, true} {
			t.Run(test.name+map[bool]string{true: ", IPv6"}[ipv6], func(t *testing.T) {
				s := netlab.ForTest(t, netlab.SitesConfig{})
				tun := startOurs(t, s, ipv6)
				type end struct {
					back time.Time
					err  error
				}
				ended, began := make(chan end, 1), time.Now()
				go func() {
					time.Sleep(time.Second)
					back, err := test.do(s, test.site(s))
					ended <- end{back, err}
				}()
				const flows, interval = 40, 50 * time.Millisecond
				r, err := traffic.Between(t.Context(), s.A.End(), s.B.End(), traffic.Plan{
					Duration: away + 3500*time.Millisecond, Series: true,
					Groups: []traffic.Group{{Kind: traffic.UDPEcho, Count: flows, To: s.B.Inner6(1).Addr(), Interval: interval}},
				})
				e := <-ended
				if err := errors.Join(err, e.err); err != nil {
					t.Fatal(err)
				}
				// The load has begun some time after began, so this is generous by that.
				since := e.back.Sub(began) + 2*time.Second
				last := time.Duration(0)
				for _, f := range r.Flows {
					for _, probe := range f.Series.Probes {
						if probe.Lost {
							last = max(last, probe.At)
						}
					}
				}
				t.Logf("the path was back after %v, the last datagram that was lost was sent after %v", e.back.Sub(began), last)
				if last > since {
					t.Errorf("not back within two seconds%s", tun.Unread())
				}
				for _, e := range []*tunnels.End{&tun.A, &tun.B} {
					status, err := tunnels.Show(t.Context(), e.Site.Node, binary(t, kiloportBinary), e.Dev)
					if err != nil {
						t.Fatal(err)
					}
					if peer, err := status.Peer(); err != nil || peer.Lanes.InUse < flows || peer.Lanes.Shared > 0 || peer.Lanes.Dead > 0 {
						t.Errorf("%v: mode %s (%s), lanes %+v", err, peer.Mode, peer.Reason, peer.Lanes)
					}
				}
			})
		}
	}
}

func siteA(s *netlab.Sites) *netlab.Site { return s.A }
func siteB(s *netlab.Sites) *netlab.Site { return s.B }

// readdress gives a site addresses, and routes, which go with them.
func readdress(site *netlab.Site, addr4, addr6 netip.Addr) error {
	return errors.Join(
		site.AddAddr(site.Wan, netip.PrefixFrom(addr4, 24)), site.AddAddr(site.Wan, netip.PrefixFrom(addr6, 64)),
		site.EnsureRoute(netip.PrefixFrom(netip.IPv4Unspecified(), 0), site.Gateway4),
		site.EnsureRoute(netip.PrefixFrom(netip.IPv6Unspecified(), 0), site.Gateway6))
}

func unaddress(site *netlab.Site) error {
	return errors.Join(site.DelAddr(site.Wan, netip.PrefixFrom(site.Addr4, 24)), site.DelAddr(site.Wan, netip.PrefixFrom(site.Addr6, 64)))
}

func linkGoesAndComes(away time.Duration) func(*netlab.Sites, *netlab.Site) (time.Time, error) {
	return func(s *netlab.Sites, site *netlab.Site) (time.Time, error) {
		_, err := site.Run(s.Context(), "ip", "link", "set", site.Wan, "down")
		time.Sleep(away)
		_, up := site.Run(s.Context(), "ip", "link", "set", site.Wan, "up")
		// IPv6 addresses and all routes have gone with it.
		return time.Now(), errors.Join(err, up,
			site.AddAddr(site.Wan, netip.PrefixFrom(site.Addr6, 64)),
			site.EnsureRoute(netip.PrefixFrom(netip.IPv4Unspecified(), 0), site.Gateway4),
			site.EnsureRoute(netip.PrefixFrom(netip.IPv6Unspecified(), 0), site.Gateway6))
	}
}

func addressesGoAndCome(away time.Duration) func(*netlab.Sites, *netlab.Site) (time.Time, error) {
	return func(_ *netlab.Sites, site *netlab.Site) (time.Time, error) {
		err := unaddress(site)
		time.Sleep(away)
		err = errors.Join(err, readdress(site, site.Addr4, site.Addr6))
		return time.Now(), err
	}
}

// renumbered gives a site other addresses of its networks.
func renumbered(_ *netlab.Sites, site *netlab.Site) (time.Time, error) {
	other4, other6 := site.Addr4.As4(), site.Addr6.As16()
	other4[3], other6[15] = 77, 0x77
	err := errors.Join(unaddress(site), readdress(site, netip.AddrFrom4(other4), netip.AddrFrom16(other6)))
	return time.Now(), err
}
