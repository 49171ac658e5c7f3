package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
)

// These scenarios follow the marks of the gateways to the hosts behind the tunnel.
func init() {
	Scenarios = append(Scenarios,
		Scenario{
			Name: "marks", Title: "4 TCP flows each way with ECN: of the marks made outside, how many come out inside",
			Load: 10 * time.Second, Repetitions: usualRepetitions, ECN: true,
			custom: func(ctx context.Context, b *bench) error { return b.marks(ctx, append(b.probes(), b.bulk(4, 0)...)) },
		},
		Scenario{
			Name: "marks-l4s", Title: "2 DCTCP flows each way through ce_threshold 1 ms: likewise",
			Load: 10 * time.Second, Repetitions: usualRepetitions, ECN: true, CEThreshold: time.Millisecond,
			custom: func(ctx context.Context, b *bench) error { return b.marks(ctx, l4s(b)) },
		})
}

// settled is how long after the load nothing is on its way any more.
const settled = 2 * time.Second

// marks runs groups of flows and counts marks at the gateways and at the hosts.
func (b *bench) marks(ctx context.Context, groups []traffic.Group) error {
	if err := b.announceMTU(ctx); err != nil {
		return err
	}
	before, err := b.countMarks()
	if err != nil {
		return err
	}
	if err := b.traffic(ctx, groups); err != nil {
		return err
	}
	time.Sleep(settled)
	after, err := b.countMarks()
	if err != nil {
		return err
	}
	for way, direction := range []string{"up", "down"} {
		outside, inside := after.gateway[way]-before.gateway[way], after.host[way]-before.host[way]
		b.run.Metrics["marks_outside_"+direction+"_count"] = float64(outside)
		b.run.Metrics["marks_inside_"+direction+"_count"] = float64(inside)
	}
	return nil
}

// announceMTU tells the hosts the MTU of the tunnel, as a router does with an
// advertisement (RFC 4861, section 4.6.4) or with DHCP. Without it the first
// window of the first flow, whose segments are too long for any tunnel, is lost to
// path MTU discovery and sent again.
func (b *bench) announceMTU(ctx context.Context) error {
	if b.tunnel == nil {
		return nil
	}
	for _, site := range []*netlab.Site{b.sites.A, b.sites.B} {
		dev := b.tunnel.A.Dev
		if site == b.sites.B {
			dev = b.tunnel.B.Dev
		}
		link, err := site.Link(dev)
		if err != nil {
			return err
		}
		mtu := strconv.Itoa(link.Attrs().MTU)
		for family, via := range map[string]string{"-4": site.Inner4(1).Addr().String(), "-6": site.Inner6(1).Addr().String()} {
			out, err := site.Host.Run(ctx, "ip", family, "route", "replace", "default", "via", via, "mtu", mtu)
			if err != nil {
				return fmt.Errorf("announce an MTU of %s: %w: %s", mtu, err, out)
			}
		}
	}
	return nil
}

// A markCount is the marks so far: made by the gateways and arrived at the hosts,
// up and down.
type markCount struct{ gateway, host [2]uint64 }

func (b *bench) countMarks() (c markCount, err error) {
	up, down, err := b.sites.Bottlenecks()
	if err != nil {
		return c, err
	}
	c.gateway = [2]uint64{up.ECNMarks + up.CEMarks, down.ECNMarks + down.CEMarks}
	for way, host := range []*netlab.Node{b.sites.B.Host, b.sites.A.Host} {
		if c.host[way], err = arrivedCE(host); err != nil {
			return c, err
		}
	}
	return c, nil
}

// arrivedCE is how many packets a node has received with CE, of both families.
func arrivedCE(n *netlab.Node) (count uint64, err error) {
	err = n.Do(func() error {
		snmp6, err6 := os.ReadFile("/proc/thread-self/net/snmp6")
		netstat, err4 := os.ReadFile("/proc/thread-self/net/netstat")
		if err := errors.Join(err4, err6); err != nil {
			return fmt.Errorf("count what arrived with CE: %w", err)
		}
		six, ok6 := counterOf6(string(snmp6), "Ip6InCEPkts")
		four, ok4 := counterOf4(string(netstat), "IpExt:", "InCEPkts")
		if !ok4 || !ok6 {
			return errors.New("count what arrived with CE: this kernel does not count it")
		}
		count = four + six
		return nil
	})
	return count, err
}

// counterOf6 finds a counter in the format of snmp6: a name and a number a line.
func counterOf6(text, name string) (uint64, bool) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			n, err := strconv.ParseUint(f[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// counterOf4 finds a counter in the format of netstat: a line of names, then a
// line of numbers, both after the group's name.
func counterOf4(text, group, name string) (uint64, bool) {
	var names []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != group {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		for i := range min(len(names), len(f)) {
			if names[i] == name {
				n, err := strconv.ParseUint(f[i], 10, 64)
				return n, err == nil
			}
		}
	}
	return 0, false
}
