package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/tunnels"
)

// attachedOffload sends streams both ways over links that leave segmentation and
// checksums to the other end: datagrams of a daemon then come as super-packets, and
// checksums are sums of the pseudo header. Or, with whole, that do not. The streams
// arrive to the byte, and no datagram was dropped for its checksum.
func attachedOffload(t *testing.T, atB tunnels.Daemon, ipv6, whole bool) {
	s := netlab.ForTest(t, netlab.SitesConfig{Offload: !whole})
	if whole {
		for node, dev := range map[*netlab.Node]string{s.A.Node: s.A.Wan, s.B.Node: s.B.Wan} {
			if err := node.ChecksumOff(dev); err != nil {
				t.Fatal(err)
			}
		}
	}
	tun, err := tunnels.Start(t.Context(), s, attached(t), atB, tunnels.Config{IPv6: ipv6})
	if err != nil {
		t.Fatal(err)
	}
	if err := tun.AwaitLanes(t.Context(), binary(t, kiloportBinary)); err != nil {
		t.Fatal(err)
	}
	check := watchEndpoint(t.Context(), &tun.A)
	to := s.B.Inner6(1).Addr()
	r, err := traffic.Between(t.Context(), s.A.End(), s.B.End(), traffic.Plan{
		Duration: time.Second, Linger: 5 * time.Second,
		Groups: []traffic.Group{{Kind: traffic.TCPBulk, Count: 2, To: to}, {Kind: traffic.TCPBulk, Count: 2, To: to, Down: true}},
	})
	if err == nil {
		err = r.Check()
	}
	if err != nil {
		t.Error(err)
	}
	if err := check.only(&tun.B); err != nil {
		t.Error(err)
	}
	for _, n := range []*netlab.Node{s.A.Node, s.B.Node} {
		if n, err := badChecksums(n); n != 0 || err != nil {
			t.Errorf("%d datagrams had bad checksums, error %v", n, err)
		}
	}
	p := attachedStatus(t, &tun.A).Peers[0]
	link, err := s.A.Link(s.A.Wan)
	if err != nil {
		t.Fatal(err)
	}
	_, daemon := atB.(tunnels.Kiloport)
	if in := link.Attrs().Statistics.RxPackets; (p.Received.Packets > in) != (daemon && !whole) {
		t.Errorf("%d packets came in as %d", p.Received.Packets, in)
	}
	if p.Attached.Restored == 0 || p.Attached.Spread == 0 || p.Attached.Strange != 0 {
		t.Errorf("%+v", p.Attached)
	}
	t.Logf("%.0f Mbit/s up and %.0f down", r.Groups[0].Goodput/1e6, r.Groups[1].Goodput/1e6)
}

// badChecksums counts the UDP datagrams that a node has dropped for their checksums.
func badChecksums(n *netlab.Node) (bad int, err error) {
	var four, six []byte
	err = n.Do(func() (err error) {
		if four, err = os.ReadFile("/proc/thread-self/net/snmp"); err == nil {
			six, err = os.ReadFile("/proc/thread-self/net/snmp6")
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(four)) {
		words := strings.Fields(line)
		switch {
		case words[0] != "Udp:":
		case names == nil:
			names = words
		default:
			for i, name := range names {
				if name == "InCsumErrors" {
					bad, err = strconv.Atoi(words[i])
				}
			}
		}
	}
	_, after, ok := strings.Cut(string(six), "Udp6InCsumErrors")
	if names == nil || !ok || err != nil {
		return 0, fmt.Errorf("count bad checksums in %q and %q: error %v", four, six, err)
	}
	more, err := strconv.Atoi(strings.Fields(after)[0])
	return bad + more, err
}
