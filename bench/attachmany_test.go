package main

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/capture"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/tunnels"
)

// wgDevice is a WireGuard interface of a site.
type wgDevice struct {
	site *netlab.Site
	name string
	port uint16
	key  *ecdh.PrivateKey
	// endpoints that its peers may have
	endpoints map[string]bool
}

// wgPeer is a peer of a wgDevice, and the inner addresses of both.
type wgPeer struct {
	*wgDevice
	at           netip.Addr
	ours, theirs string
}

// attachedMany has three WireGuard interfaces at site B on one underlay, and two at
// site A: one of these has two peers, at one address, over IPv4, the other one, over
// IPv6. All flows are spread at the same time, each peer's from its interface's ports
// to its own, and no endpoint moves.
func attachedMany(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	device := func(site *netlab.Site, name string, port uint16) *wgDevice {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return &wgDevice{site: site, name: s.Unique(name), port: port, key: key}
	}
	a0, a1 := device(s.A, "kpm", 51820), device(s.A, "kpn", 51830)
	b0, b1, b2 := device(s.B, "kpo", 51820), device(s.B, "kpp", 51821), device(s.B, "kpq", 51830)
	a0.up(t, wgPeer{b0, s.B.Addr4, "10.9.0.1", "10.9.0.2"}, wgPeer{b1, s.B.Addr4, "10.9.1.1", "10.9.1.2"})
	a1.up(t, wgPeer{b2, s.B.Addr6, "10.9.2.1", "10.9.2.2"})
	b0.up(t, wgPeer{a0, s.A.Addr4, "10.9.0.2", "10.9.0.1"})
	b1.up(t, wgPeer{a0, s.A.Addr4, "10.9.1.2", "10.9.1.1"})
	b2.up(t, wgPeer{a1, s.A.Addr6, "10.9.2.2", "10.9.2.1"})
	const flows, fewest = 20, 18
	talk := func(d time.Duration) error {
		var plan traffic.Plan
		plan.Duration = d
		for _, to := range []string{"10.9.0.2", "10.9.1.2", "10.9.2.2"} {
			plan.Groups = append(plan.Groups, traffic.Group{Kind: traffic.UDPEcho, Count: flows, To: netip.MustParseAddr(to), Interval: 200 * time.Millisecond})
		}
		r, err := traffic.Between(t.Context(), s.A.End(), s.B.End(), plan)
		if err != nil {
			return err
		}
		return r.Check()
	}
	if err := talk(4 * time.Second); err != nil { // they agree meanwhile
		t.Error(err)
	}
	c, err := capture.Start(s.Router, s.A.RouterDev, capture.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := talk(time.Second); err != nil {
		t.Error(err)
	}
	wire, err := c.Stop()
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range []struct {
		from netip.Addr
		to   *wgDevice
		want int
	}{{s.A.Addr4, b0, fewest}, {s.A.Addr4, b1, fewest}, {s.A.Addr6, b2, fewest}, {s.B.Addr4, a0, 2 * fewest}, {s.B.Addr6, a1, fewest}} {
		n := 0
		for _, f := range outerFlows(wire, way.from) {
			if f.Dst.Port() == way.to.port {
				n++
			}
		}
		if n < way.want {
			t.Errorf("%d outer flows from %v to port %d, want %d", n, way.from, way.to.port, way.want)
		}
	}
	for _, d := range []*wgDevice{a0, a1, b0, b1, b2} {
		out, err := d.site.Run(t.Context(), "wg", "show", d.name, "endpoints")
		for line := range strings.Lines(out) {
			if _, at, _ := strings.Cut(strings.TrimSpace(line), "\t"); !d.endpoints[at] {
				t.Errorf("%s has an endpoint %s", d.name, at)
			}
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// up makes the interface, with peers at these addresses, and attaches to it.
func (d *wgDevice) up(t *testing.T, peers ...wgPeer) {
	t.Helper()
	private := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(private, []byte(base64.StdEncoding.EncodeToString(d.key.Bytes())), 0o600); err != nil {
		t.Fatal(err)
	}
	lines := []string{
		fmt.Sprintf("ip link add %s type wireguard", d.name),
		fmt.Sprintf("wg set %s private-key %s listen-port %d", d.name, private, d.port),
		fmt.Sprintf("ip link set %s up mtu 1420", d.name),
	}
	d.endpoints = map[string]bool{}
	for _, p := range peers {
		endpoint := netip.AddrPortFrom(p.at, p.port).String()
		d.endpoints[endpoint] = true
		lines = append(lines,
			fmt.Sprintf("wg set %s peer %s allowed-ips %s/32 endpoint %s", d.name, base64.StdEncoding.EncodeToString(p.key.PublicKey().Bytes()), p.theirs, endpoint),
			fmt.Sprintf("ip addr add %s/32 dev %s", p.ours, d.name),
			fmt.Sprintf("ip route add %s/32 dev %s src %s", p.theirs, d.name, p.ours))
	}
	for _, line := range lines {
		words := strings.Fields(line)
		if out, err := d.site.Run(t.Context(), words[0], words[1:]...); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	if err := attached(t).Attach(t.Context(), &tunnels.End{Site: d.site, Dev: d.name}); err != nil {
		t.Fatal(err)
	}
}

// attachedByQuick lets wg-quick bring an interface up and down by the file of deploy,
// whose hooks attach and detach.
func attachedByQuick(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	kiloport := binary(t, kiloportBinary)
	_, here, _, _ := runtime.Caller(0) // the working folder is another in the guest
	sample, err := os.ReadFile(filepath.Join(filepath.Dir(here), "../deploy/attach/wg0.conf"))
	if err != nil {
		t.Fatal(err)
	}
	key := base64.StdEncoding.EncodeToString(append([]byte{8}, make([]byte, 31)...))
	text := strings.NewReplacer("(what kiloport genkey printed here)", key, "(what kiloport pubkey made of it there)", key).Replace(string(sample))
	name := s.Unique("kpq")
	path := filepath.Join(t.TempDir(), name+".conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	quick := func(verb string) {
		t.Helper()
		cmd := exec.Command("wg-quick", verb, path)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(kiloport)+":"+os.Getenv("PATH"))
		p, err := s.A.Start(cmd)
		if err == nil {
			err = p.Wait(t.Context())
		}
		if err != nil {
			t.Fatalf("wg-quick %s: %v", verb, err)
		}
	}
	for _, gone := range []bool{false, true} {
		quick("up")
		status, err := tunnels.Show(t.Context(), s.A.Node, kiloport, name)
		if err != nil || len(status.Attached) == 0 {
			t.Errorf("after wg-quick up: %+v, error %v", status, err)
		}
		if gone { // which is no reason not to go down
			if out, err := s.A.Run(t.Context(), kiloport, "detach", name); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
		quick("down")
		if _, err := s.A.Link(name); err == nil {
			t.Errorf("after wg-quick down there is %s", name)
		}
	}
}
