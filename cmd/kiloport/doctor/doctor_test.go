package doctor

import (
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"kiloport/tunnel"
)

// well is a host on which everything is right.
func well() *View {
	options := tunnel.DefaultOptions()
	options.PortRange = tunnel.PortRange{Low: 40000, High: 41023}
	now := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	recent := now.Add(-time.Minute)
	return &View{
		Kernel: "6.12.9-amd64",
		Sysctl: map[string]string{
			"fs.nr_open": "1048576", "net.core.rmem_max": "8388608", "net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1",
			"net.ipv4.ip_local_port_range": "32768\t60999", "net.ipv4.ip_local_reserved_ports": "8080,40000-41023,51820",
			"net.netfilter.nf_conntrack_max": "65536", "net.netfilter.nf_conntrack_udp_timeout_stream": "120",
			"net.core.default_qdisc": "fq_codel",
		},
		Taken:       map[uint16]bool{53: true},
		Links:       []Link{{"wan", 1500, "fq_codel"}},
		Endpoints:   []Way{{To: netip.MustParseAddr("192.0.2.1"), Link: "wan", MTU: 1500}},
		Conntracked: 10, Clock: ClockSynchronized, Now: now,
		Ruleset: []byte(`{"nftables":[]}`),
		Config:  &Config{Name: "wg0", Options: options, ListenPort: 51820, Networks: true},
		Status: &tunnel.Status{
			Name: "wg0", Up: true, ListenPort: 51820, Pool: tunnel.PoolStatus{Ports: 1024, Limit: 1024},
			Peers: []tunnel.PeerStatus{{
				PublicKey: "HIgo9xNzJMWL", Mode: "direct", LastHandshake: &recent, Keepalive: 25,
				PathTo: &tunnel.PathStatus{NotECT: "passes", ECT0: "passes", ECT1: "passes", CE: "passes", DSCP: map[string]string{"EF": "passes"}},
			}},
		},
	}
}

func TestAllIsWell(t *testing.T) {
	found := Examine(well())
	if Ill(found) {
		t.Error("a host that is well is ill")
	}
	seen := make(map[string]bool)
	for _, f := range found {
		if f.Level != OK {
			t.Errorf("%+v", f)
		}
		seen[f.Check] = true
	}
	for _, c := range checks {
		if !seen[c.name] {
			t.Errorf("nothing is said about %s", c.name)
		}
	}
	// Of what is not known nothing is said, and nothing breaks.
	for _, f := range Examine(&View{Conntracked: -1}) {
		if f.Level != OK {
			t.Errorf("of an unknown host: %+v", f)
		}
	}
}

// Each thing that is wrong is found, with a level, and with something to do.
func TestFindings(t *testing.T) {
	old := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	stopped := func(v *View) { v.Status = nil }
	for _, c := range []struct {
		name  string
		spoil func(*View)
		check string
		level Level
		says  string
		fix   string
	}{
		{"an old kernel", func(v *View) { v.Kernel = "4.9.0" }, "kernel", Warning, "every datagram by itself", "update"},
		{"no USO", func(v *View) { v.Kernel = "5.10.0-30" }, "kernel", Note, "no UDP super-packets", "6.2"},
		{"a kernel that corrupts", func(v *View) { v.Kernel = "7.1.4" }, "kernel", Warning, "corrupts", "7.1.5"},
		{"no device", func(v *View) { v.NoTUN = true }, "tun", Failure, "missing", "modprobe tun"},
		{"a readable key", func(v *View) { v.Config.LooseMode = true }, "configuration", Warning, "can be read", "chmod 600"},
		{"few files", func(v *View) { v.Sysctl["fs.nr_open"] = "1024" }, "open files", Failure, "need 1152", "fs.nr_open=1152"},
		{"a taken port", func(v *View) { stopped(v); v.Taken[51820] = true }, "ports", Failure, "51820 is taken", "another ListenPort"},
		{"no listen port", func(v *View) { v.Config.ListenPort = 0 }, "ports", Note, "peers cannot know", "ListenPort"},
		{"a port that is given away", func(v *View) { v.Sysctl["net.ipv4.ip_local_reserved_ports"] = "40000-41023" }, "ports", Warning, "51820 lies in", "51820,40000-41023"},
		{"a range that is given away", func(v *View) { v.Sysctl["net.ipv4.ip_local_reserved_ports"] = "51820" }, "ports", Note, "1024 ports of 40000-41023", "reserved_ports"},
		{"a range in use", func(v *View) { stopped(v); v.Taken[40001] = true }, "ports", Warning, "1 ports of 40000-41023 are taken", "wider"},
		{"few ports", func(v *View) {
			v.Config.Options.PortRange, v.Sysctl["net.ipv4.ip_local_port_range"] = tunnel.PortRange{}, "50000 51000"
		}, "ports", Warning, "1001 ports to give", "ip_local_port_range"},
		{"small buffers", func(v *View) { v.Sysctl["net.core.rmem_max"] = "212992" }, "socket buffers", Note, "212992", "rmem_max=4194304"},
		{"a FIFO", func(v *View) { v.Links[0].Qdisc = "pfifo_fast" }, "queue", Warning, "wait for each other", "tc qdisc replace dev wan root fq_codel"},
		{"FIFOs", func(v *View) { v.Links[0].Qdisc = "mq"; v.Sysctl["net.core.default_qdisc"] = "pfifo_fast" }, "queue", Warning, "each queue of wan", "default_qdisc=fq_codel"},
		{"no way", func(v *View) { v.Endpoints[0].Err = errors.New("unreachable") }, "mtu", Failure, "no way to 192.0.2.1", "ip route get"},
		{"a large MTU", func(v *View) { v.Config.MTU = 1421 }, "mtu", Failure, "of which 1420 are left", "MTU = 1420"},
		{"a small MTU", func(v *View) { v.Endpoints[0].MTU = 1300 }, "mtu", Warning, "packets of 1220", "IPv6"},
		{"tracking full", func(v *View) { v.Conntracked = 65000 }, "connection tracking", Failure, "dropped soon", "nf_conntrack_max=131072"},
		{"tracking small", func(v *View) { v.Sysctl["net.netfilter.nf_conntrack_max"] = "2048" }, "connection tracking", Warning, "each of 1024 lanes", "nf_conntrack_max=4096"},
		{"tracking short", func(v *View) { v.Sysctl["net.netfilter.nf_conntrack_udp_timeout_stream"] = "30" }, "connection tracking", Note, "after 30 s", "=120"},
		{"no forwarding", func(v *View) { v.Sysctl["net.ipv4.ip_forward"] = "0" }, "forwarding", Note, "passes nothing on", "net.ipv4.ip_forward=1"},
		{"no mark", func(v *View) {
			stopped(v)
			v.Config.Default, v.Sysctl["net.ipv4.conf.all.src_valid_mark"] = true, "0"
		}, "forwarding", Note, "src_valid_mark", "deploy/sysctl"},
		{"1970", func(v *View) { v.Now = time.Unix(0, 0) }, "clock", Failure, "it is 1970-01-01", "NTP"},
		{"a lonely clock", func(v *View) { v.Clock = ClockAlone }, "clock", Warning, "drift", "chrony"},
		{"no daemon", stopped, "daemon", Note, "none runs for wg0", "kiloport up wg0"},
		{"a daemon that ended", func(v *View) { stopped(v); v.LastWords = "no buffer space" }, "daemon", Failure, "wg0 ended by itself: no buffer space", "kiloport up wg0"},
		{"link down", func(v *View) { v.Status.Up = false }, "daemon", Failure, "wg0 is down", "ip link set wg0 up"},
		{"few lanes", func(v *View) { v.Status.Pool.Limit = 7 }, "daemon", Warning, "7 lanes where 1024", "ports"},
		{"offloads", func(v *View) { v.Status.Offloads.Missing = []string{"gro: no"} }, "daemon", Note, "not used: gro: no", ""},
		{"send errors", func(v *View) { v.Status.SendErrors = map[string]uint64{"no buffer space": 3} }, "daemon", Note, "3 datagrams", ""},
		{"no handshake", func(v *View) { v.Status.Peers[0].LastHandshake = nil }, "path", Warning, "no handshake", "firewall"},
		{"an old handshake", func(v *View) { v.Status.Peers[0].LastHandshake = &old }, "path", Warning, "or an old one", "endpoint"},
		{"fallback", func(v *View) { v.Status.Peers[0].Mode, v.Status.Peers[0].Reason = "fallback", "x" }, "path", Warning, "one lane only, because x", "any source port"},
		{"a stock peer", func(v *View) { v.Status.Peers[0].Mode = "stock" }, "path", Note, "stock WireGuard", ""},
		{"bleached", func(v *View) { v.Status.Peers[0].PathTo.ECT0 = "bleached" }, "path", Note, "ECT(0) bleached", "TOS"},
		{"EF dropped", func(v *View) { v.Status.Peers[0].PathTo.DSCP["EF"] = "dropped" }, "path", Warning, "drops packets with DSCP EF", "map EF"},
		{"EF rewritten", func(v *View) { v.Status.Peers[0].PathTo.DSCP["EF"] = "rewritten as 0" }, "path", Note, "EF is rewritten as 0", ""},
		{"old tables", func(v *View) { v.OldTables = true }, "firewall", Note, "iptables has rules", "iptables -L"},
		{"no JSON", func(v *View) { v.Ruleset = []byte("x") }, "firewall", Note, "cannot be read", "nft list"},
	} {
		v := well()
		c.spoil(v)
		hit := false
		all := Examine(v)
		for _, f := range all {
			hit = hit || f.Check == c.check && f.Level == c.level && strings.Contains(f.Text, c.says) && strings.Contains(f.Fix, c.fix) && (f.Fix == "") == (c.fix == "")
		}
		if !hit {
			t.Errorf("%s: want a %s of %s that says %q and to do %q: %+v", c.name, c.level, c.check, c.says, c.fix, all)
		}
		if Ill(all) != (c.level == Warning || c.level == Failure) {
			t.Errorf("%s: ill: %v", c.name, Ill(all))
		}
	}
}

// Firewalls as people write them, through the real nft.
func TestFirewalls(t *testing.T) {
	const input = "table inet filter { chain input { type filter hook input priority 0; "
	for _, c := range []struct {
		rules string
		shut  bool
	}{
		{"", false},
		{input + "}\n}", false},
		{input + "policy drop; }\n}", true},
		{input + "policy drop; udp dport 51820 accept; }\n}", false},
		{input + "policy drop; ip saddr 192.0.2.1 udp dport { 53, 51000-52000 } counter accept; }\n}", false},
		{input + "policy drop; tcp dport 51820 accept\n udp sport 51820 accept\n udp dport != 51820 accept; }\n}", true},
		{input + "policy drop; meta l4proto { tcp, udp } th dport 51820 accept; }\n}", false},
		{input + "ct state established accept\n counter reject; }\n}", true},
		{input + "ct state established accept\n counter accept; }\n}", false},
		{"table inet filter { chain in { udp dport 51820 accept; }\n chain input { type filter hook input priority 0; policy drop; jump in; }\n}", false},
		{"table inet filter { chain in { udp dport 51821 accept; }\n chain input { type filter hook input priority 0; policy drop; jump in; }\n}", true},
		{input + "policy drop; udp dport 51820 accept; }\n}\n table ip late { chain input { type filter hook input priority 10; policy drop; }\n}", true},
		{"table inet filter { chain output { type filter hook output priority 0; policy drop; }\n}", false},
		{"table inet filter { set ports { type inet_service; elements = { 51820 }\n}\n chain input { type filter hook input priority 0; policy drop; udp dport @ports accept; }\n}", false},
	} {
		cmd := exec.Command("unshare", "-n", "sh", "-c", "nft -f /dev/stdin && nft -j list ruleset")
		cmd.Stdin = strings.NewReader(c.rules)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v %s", c.rules, err, out)
		}
		v := well()
		v.Ruleset = out
		if got := Ill(Examine(v)); got != c.shut {
			t.Errorf("%s: shut %v", c.rules, got)
		}
	}
}

// The machine that the test runs on is looked at without an error, and its kernel
// and routes are seen.
func TestThisMachine(t *testing.T) {
	v := Gather(t.Context(), []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")})
	if v.Kernel == "" || len(v.Sysctl) < 5 || v.Clock == ClockUnknown || len(v.Endpoints) != 2 || len(v.Links) != 1 || v.Links[0].Qdisc == "" {
		t.Errorf("%+v", v)
	}
	if len(Examine(v)) < 3 {
		t.Errorf("%+v", Examine(v))
	}
}
