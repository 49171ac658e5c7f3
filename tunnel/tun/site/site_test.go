package site

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netns"
)

// inNamespace runs a test in a network namespace of its own, with a link wan
// that has a default route, and a link tunnel.
func inNamespace(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	own, err := netns.New()
	if err != nil {
		t.Fatalf("a network namespace needs root: %v", err)
	}
	defer func() {
		own.Close()
		if err := netns.Set(before); err == nil {
			runtime.UnlockOSThread()
		}
	}()
	start := time.Now()
	for _, line := range []string{
		"link set lo up", "link add wan type veth peer name isp", "link set wan mtu 1492", "link set wan up", "link set isp up",
		"addr add 192.0.2.2/24 dev wan", "-6 addr add 2001:db8::2/64 dev wan nodad",
		"route add default via 192.0.2.1", "-6 route add default via 2001:db8::1 dev wan",
		"link add tunnel type veth peer name other", "link set other up",
	} {
		ip(t, strings.Fields(line)...)
	}
	// The kernel adds the route to the link's own address a little later.
	for ip(t, "-6", "route", "show", "table", "local", "2001:db8::2") == "" {
		if time.Since(start) > 20*time.Second {
			t.Fatal("the address of link wan is not there")
		}
		time.Sleep(time.Millisecond)
	}
	test(t)
}

// ip runs ip(8). Whether a link has a carrier the kernel says up to a second
// late, so that is left out.
func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %v: %v %s", args, err, out)
	}
	return strings.NewReplacer("NO-CARRIER,", "", " linkdown", "", "state LOWERLAYERDOWN", "state UP").Replace(string(out))
}

// snapshot is everything that Apply may touch, but for what the kernel does by
// itself when links come and go: link-local addresses, and noop as qdisc before
// the first time up.
func snapshot(t *testing.T) string {
	t.Helper()
	var kept []string
	for _, args := range []string{
		"-o addr", "-o link show tunnel", "route show table all", "-6 route show table all", "rule", "-6 rule",
	} {
		for line := range strings.Lines(ip(t, strings.Fields(args)...)) {
			if !strings.Contains(line, "fe80") && !strings.Contains(line, "multicast ff00") && !strings.Contains(line, "anycast") {
				kept = append(kept, strings.Replace(line, "qdisc noop", "qdisc noqueue", 1))
			}
		}
	}
	mark, _ := os.ReadFile(srcValidMark)
	return strings.Join(kept, "") + string(mark) + ruleset(t)
}

// ruleset is the firewall as nft(8) prints it.
func ruleset(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v %s", err, out)
	}
	return string(out)
}

func prefixes(list ...string) (all []netip.Prefix) {
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

var quiet = slog.New(slog.DiscardHandler)

func TestApplyAndUndo(t *testing.T) {
	for _, c := range []struct {
		name string
		plan Plan
		says []string // lines of ip(8) that must be there: command: part
		mark uint32
	}{
		{"addresses and routes", Plan{Addresses: prefixes("10.0.0.1/24", "fd00::1/64"), Routes: prefixes("10.0.0.2/32", "10.0.0.0/24", "10.9.0.0/16", "fd00::/64", "fd09::/48"), MTU: 1300},
			[]string{"route: 10.9.0.0/16 dev tunnel scope link", "route: 10.0.0.2 dev tunnel scope link", "-6 route: fd09::/48 dev tunnel", "-o addr: 10.0.0.1/24", "-o link: tunnel@other: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1300"}, 0},
		{"a mark of the plan's", Plan{Routes: prefixes("10.9.0.0/16"), FwMark: 7}, nil, 7},
		{"no table", Plan{Table: "off", Addresses: prefixes("10.0.0.1/24"), Routes: prefixes("10.9.0.0/16", "0.0.0.0/0")}, []string{"-o addr: 10.0.0.1/24"}, 0},
		{"a table of its own", Plan{Table: "0x77", Addresses: prefixes("fd00::1/64"), Routes: prefixes("fd00::/64", "::/0")},
			[]string{"-6 route show table 119: default dev tunnel", "-6 route show table 119: fd00::/64 dev tunnel"}, 0},
		{"default routes", Plan{Addresses: prefixes("10.0.0.1/24", "fd00::1/64"), Routes: prefixes("::/0", "0.0.0.0/0", "10.9.0.0/16")},
			[]string{
				"route show table 51820: default dev tunnel", "-6 route show table 51820: default dev tunnel", "route: 10.9.0.0/16 dev tunnel",
				"rule: not from all fwmark 0xca6c lookup 51820", "-6 rule: not from all fwmark 0xca6c lookup 51820",
				"rule: not from all fwmark 0xca6c lookup main suppress_prefixlength 0", "-6 rule: not from all fwmark 0xca6c lookup main suppress_prefixlength 0",
				"route get 8.8.8.8: dev tunnel", "route get 8.8.8.8 mark 0xca6c: dev wan", "-6 route get 2001:db8:1::1 mark 0xca6c: dev wan", "-6 route get 2001:db8:1::1: dev tunnel",
			}, 51820},
		{"automatic mtu", Plan{Endpoints: []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:5::1")}}, []string{"-o link: tunnel@other: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1412"}, 0},
		{"mtu of the default route", Plan{}, []string{"-o link: mtu 1412"}, 0},
		{"nothing", Plan{MTU: 1500}, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inNamespace(t, func(t *testing.T) {
				before := snapshot(t)
				c.plan.Link = "tunnel"
				a, err := Apply(t.Context(), c.plan, quiet)
				if err != nil {
					t.Fatal(err)
				}
				if a.FwMark != c.mark {
					t.Errorf("mark %#x, want %#x", a.FwMark, c.mark)
				}
				for _, want := range c.says {
					command, part, _ := strings.Cut(want, ": ")
					if out := ip(t, strings.Fields(command)...); !strings.Contains(out, part) {
						t.Errorf("ip %s lacks %q:\n%s", command, part, out)
					}
				}
				for range 2 {
					if err := a.Undo(); err != nil {
						t.Error(err)
					}
				}
				if d := cmp.Diff(before, snapshot(t)); d != "" {
					t.Errorf("not undone:\n%s", d)
				}
			})
		})
	}
}

// Each failure comes after steps that worked, which must be undone.
func TestAFailureLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		plan Plan
		says string
	}{
		{"no such link", Plan{Link: "nosuch"}, "find interface nosuch"},
		{"mtu", Plan{MTU: 10}, "mtu of interface tunnel to 10"},
		{"an address twice", Plan{MTU: 1400, Addresses: prefixes("10.0.0.1/24", "10.0.0.1/24")}, "address 10.0.0.1/24"},
		{"a route that is there", Plan{MTU: 1400, Addresses: prefixes("10.0.0.1/24"), Routes: prefixes("10.8.0.0/16", "192.0.2.0/24", "0.0.0.0/0"), Table: "254"}, "there is one already"},
		{"a table that is none", Plan{MTU: 1400, Addresses: prefixes("10.0.0.1/24"), Table: "main"}, `routing table "main"`},
		{"the second default route", Plan{MTU: 1400, Routes: prefixes("10.7.0.0/16", "::/0", "0.0.0.0/0"), FwMark: 51820}, "route 0.0.0.0/0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inNamespace(t, func(t *testing.T) {
				if c.plan.FwMark != 0 {
					ip(t, "route", "add", "default", "via", "192.0.2.1", "table", "51820")
				}
				before := snapshot(t)
				if c.plan.Link == "" {
					c.plan.Link = "tunnel"
				}
				a, err := Apply(t.Context(), c.plan, quiet)
				if err == nil {
					a.Undo()
					t.Fatal("applied")
				}
				if !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, want it to say %q", err, c.says)
				}
				if d := cmp.Diff(before, snapshot(t)); d != "" {
					t.Errorf("left behind:\n%s", d)
				}
			})
		})
	}
}

func TestCancelled(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		before := snapshot(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Apply(ctx, Plan{Link: "tunnel", MTU: 1400, Addresses: prefixes("10.0.0.1/24")}, quiet); err == nil {
			t.Error("applied")
		}
		if d := cmp.Diff(before, snapshot(t)); d != "" {
			t.Error(d)
		}
	})
}

// What has gone by itself, or was taken by others, is no error.
func TestUndoAfterTheLinkHasGone(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		a, err := Apply(t.Context(), Plan{Link: "tunnel", Addresses: prefixes("10.0.0.1/24"), Routes: prefixes("10.9.0.0/16", "0.0.0.0/0", "::/0")}, quiet)
		if err != nil {
			t.Fatal(err)
		}
		ip(t, "link", "del", "tunnel")
		if err := a.Undo(); err != nil {
			t.Error(err)
		}
		if rules := ip(t, "rule") + ip(t, "-6", "rule"); strings.Contains(rules, "51820") {
			t.Errorf("rules are left:\n%s", rules)
		}
	})
}

// Each of two tunnels has its own mark, rules and firewall table, and is as good
// as before when the other goes, whichever goes first.
func TestTwoTunnelsDoNotDisturbEachOther(t *testing.T) {
	names := []string{"tunnel", "second"}
	for _, order := range [][]int{{0, 1}, {1, 0}} {
		inNamespace(t, func(t *testing.T) {
			ip(t, "link", "add", "second", "type", "veth", "peer", "name", "another")
			ip(t, "link", "set", "another", "up")
			before := snapshot(t)
			var tunnels []*Applied
			for i, name := range names {
				a, err := Apply(t.Context(), Plan{Link: name, MTU: 1500, Routes: prefixes("0.0.0.0/0", "::/0")}, quiet)
				if err != nil {
					t.Fatal(err)
				}
				if a.FwMark != firstMark+uint32(i) {
					t.Errorf("mark %d of tunnel %s", a.FwMark, name)
				}
				tunnels = append(tunnels, a)
			}
			if err := tunnels[order[0]].Undo(); err != nil {
				t.Error(err)
			}
			left := names[order[1]]
			for _, c := range [][2]string{
				{"route get 8.8.8.8", "dev " + left}, {"-6 route get 2001:db8:1::1", "dev " + left},
				{"route get 192.0.2.9", "dev wan"}, {"-6 route get 2001:db8::9", "dev wan"}, // by suppress_prefixlength
			} {
				if out := ip(t, strings.Fields(c[0])...); !strings.Contains(out, c[1]) {
					t.Errorf("ip %s: %s, want %s", c[0], out, c[1])
				}
			}
			if mark, _ := os.ReadFile(srcValidMark); string(mark) != "1\n" {
				t.Errorf("src_valid_mark is %q under the tunnel that is left", mark)
			}
			if r := ruleset(t); strings.Count(r, "table inet") != 1 || !strings.Contains(r, "kiloport-"+left) {
				t.Errorf("the firewall under the tunnel that is left:\n%s", r)
			}
			if err := tunnels[order[1]].Undo(); err != nil {
				t.Error(err)
			}
			os.WriteFile(srcValidMark, []byte("0"), 0) // it stays if the one that set it went first
			if d := cmp.Diff(before, snapshot(t)); d != "" {
				t.Errorf("not undone:\n%s", d)
			}
		})
	}
}

func TestRoutesTwiceCountOnce(t *testing.T) {
	routes := prefixes("10.9.0.0/16", "0.0.0.0/0", "10.8.0.0/16", "::/0", "fd09::/48", "10.9.7.7/16", "0.0.0.0/0", "10.9.0.0/16", "::/0", "fd09::/48")
	for _, table := range []string{"auto", "77", "254"} {
		inNamespace(t, func(t *testing.T) {
			if table == "254" {
				ip(t, "route", "del", "default")
				ip(t, "-6", "route", "del", "default")
			}
			before := snapshot(t)
			a, err := Apply(t.Context(), Plan{Link: "tunnel", MTU: 1400, Table: table, Routes: routes}, quiet)
			if err != nil {
				t.Fatalf("table %s: %v", table, err)
			}
			if err := a.Undo(); err != nil {
				t.Error(err)
			}
			if d := cmp.Diff(before, snapshot(t)); d != "" {
				t.Errorf("table %s: not undone:\n%s", table, d)
			}
		})
	}
}

// The rules as nft(8) reads them.
func TestFirewall(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		// What an end by force left is replaced.
		nft := exec.Command("nft", "add table inet kiloport-tunnel; add chain inet kiloport-tunnel old")
		if out, err := nft.CombinedOutput(); err != nil {
			t.Fatalf("nft: %v %s", err, out)
		}
		a, err := Apply(t.Context(), Plan{Link: "tunnel", MTU: 1400, Addresses: prefixes("10.0.0.1/24", "fd00::1/64"), Routes: prefixes("0.0.0.0/0", "::/0")}, quiet)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(strings.Fields(ruleset(t)), " ")
		want := strings.Join(strings.Fields(`table inet kiloport-tunnel {
			chain guard {
				type filter hook prerouting priority raw; policy accept;
				iifname != "tunnel" ip daddr 10.0.0.1 fib saddr type != local drop
				iifname != "tunnel" ip6 daddr fd00::1 fib saddr type != local drop
			}
			chain mark {
				type filter hook prerouting priority mangle; policy accept;
				meta l4proto udp fib daddr type local socket mark 0x0000ca6c meta mark set socket mark
			}
		}`), " ")
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if err := a.Undo(); err != nil {
			t.Error(err)
		}
		if r := ruleset(t); r != "" {
			t.Errorf("left:\n%s", r)
		}
	})
}
