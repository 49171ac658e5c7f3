package attach

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"kiloport/tunnel/attach/accord"
)

// peersAt makes peers whose endpoints are these.
func peersAt(t *testing.T, table *peerTable, endpoints ...string) []wgtypes.Peer {
	t.Helper()
	var list []wgtypes.Peer
	for i, at := range endpoints {
		list = append(list, wgtypes.Peer{
			PublicKey: wgtypes.Key{byte(i + 1)}, Endpoint: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at)),
			AllowedIPs: []net.IPNet{{IP: net.IPv4(10, byte(i+1), 0, 0).To4(), Mask: net.CIDRMask(16, 32)}},
		})
	}
	if err := table.refresh(time.Unix(1000, 0), list, nil); err != nil {
		t.Fatal(err)
	}
	return list
}

// says lets a peer say where it sends from.
func says(p *peer, instance uint64, sends accord.Range) {
	p.Listen(time.Unix(1001, 0), accord.Hello{Version: 1, Instance: instance, Sequence: 1, Port: p.Endpoint.Port(), Sends: sends})
}

// TestPeersAtOneAddress are told apart by their ports, and who has those of another
// is not put back. Who was first keeps them, whatever order WireGuard has.
func TestPeersAtOneAddress(t *testing.T) {
	r := newRig(t)
	table := newPeerTable(r.kernel, &accord.Local{Instance: 99, Port: ourPort, Sends: ourRange})
	list := peersAt(t, &table, "192.0.2.9:1001", "192.0.2.9:1002", "192.0.2.9:1003", "192.0.2.8:1001", "[2001:db8::9]:1001", "192.0.2.9:1004", "192.0.2.9:1005", "192.0.2.9:1006")
	low := accord.Range{Low: 20000, Count: 1000}
	for i, sends := range []accord.Range{{}, low, {Low: 20999, Count: 10}, low, low, {Low: 30000, Count: 1}, {Low: 40000, Count: 1}, {Low: 50000, Count: 1}} {
		says(table.all[i], uint64(i+1), sends)
	}
	second := table.all[1]
	check := func(shared ...bool) {
		t.Helper()
		if err := table.refresh(time.Unix(1002, 0), list, nil); err != nil {
			t.Fatal(err)
		}
		for i, want := range shared {
			p := table.all[i]
			if (p.Shared != "") != want || (p.applied.restores.Count != 0) != (!want && p.Theirs.Sends.Count != 0) {
				t.Errorf("peer %d of %d: shared with %q, want %v; puts back %+v", i+1, len(table.all), p.Shared, want, p.applied.restores)
			}
		}
	}
	check(false, false, true, false, false, false, false, true)
	if n := len(table.sources); n != 3 {
		t.Errorf("%d addresses have sources, want 3", n)
	}

	says(table.all[0], 8, low) // another process, whose ports are the second's
	check(true, false, true, false, false, false, false, false)

	list = append(list[:1], list[2:]...) // the second goes, and the first may have them
	check(false, true, false, false, false, false, false)
	if second.applied.endpoint.IsValid() {
		t.Error("of a peer that has gone the kernel part still knows")
	}
	list = nil
	check()
	if n := len(table.sources); n != 0 {
		t.Errorf("%d addresses still have sources", n)
	}
}
