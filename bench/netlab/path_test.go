package netlab_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"kiloport/bench/netlab"
)

var typical = netlab.Path{
	RateUp: 20e6, RateDown: 100e6, RTT: 20 * time.Millisecond,
	Qdisc: netlab.Qdisc{Kind: netlab.KindFQCodel, Limit: 10240, ECN: true, Target: 5 * time.Millisecond},
	Loss:  0.0005, Jitter: time.Millisecond, Reorder: 0.01, Burst: 2 * time.Millisecond, Seed: 7,
}

func TestPathInOneLine(t *testing.T) {
	for _, test := range []struct {
		path netlab.Path
		want string
	}{
		{netlab.Path{}, "unlimited up, unlimited down, RTT 0s, pfifo, MTU 1500"},
		{typical, "20 Mbit/s up, 100 Mbit/s down, RTT 20ms, fq_codel (limit 10240, ecn, target 5ms), MTU 1500, burst 2ms, jitter 1ms, loss 0.05 %, reorder 1 %, seed 7"},
		{netlab.Path{RateUp: 512e3, RateDown: 25e8, MTU: 9000, Qdisc: netlab.Qdisc{Kind: netlab.KindCake, FlowMode: "flows", DiffServ: "besteffort"}},
			"512 kbit/s up, 2.5 Gbit/s down, RTT 0s, cake (flows, besteffort), MTU 9000"},
	} {
		if got := test.path.String(); got != test.want {
			t.Errorf("%#v is written\n%s\nwant\n%s", test.path, got, test.want)
		}
	}
}

func TestPathSurvivesJSON(t *testing.T) {
	text, err := json.Marshal(typical)
	if err != nil {
		t.Fatal(err)
	}
	var back netlab.Path
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if back != typical {
		t.Errorf("%s is read as %v, want %v", text, back, typical)
	}
}

func TestPathValidate(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*netlab.Path)
		want   string // part of the error, empty for none
	}{
		{"as it is", func(*netlab.Path) {}, ""},
		{"zero", func(p *netlab.Path) { *p = netlab.Path{} }, ""},
		{"cake", func(p *netlab.Path) { p.Qdisc = netlab.Qdisc{Kind: "cake", ECN: true, Memory: 4e6, FlowMode: "hosts"} }, ""},
		{"slow", func(p *netlab.Path) { p.RateUp = 7999 }, "upward rate 7999 is not within 8000 to 1000000000000 bit/s"},
		{"negative", func(p *netlab.Path) { p.RateDown = -1 }, "downward rate -1"},
		{"past", func(p *netlab.Path) { p.RTT = -time.Second }, "RTT -1s"},
		{"jittery", func(p *netlab.Path) { p.Jitter = 11 * time.Millisecond }, "jitter 11ms is not within 0s to 10ms, half the RTT"},
		{"narrow", func(p *netlab.Path) { p.MTU = 1279 }, "MTU 1279"},
		{"saving", func(p *netlab.Path) { p.Burst = -time.Second }, "burst -1s"},
		{"lossy", func(p *netlab.Path) { p.Loss = 1.1 }, "loss 1.1 is not a probability, 0 to 1"},
		{"order of nothing", func(p *netlab.Path) { p.RTT, p.Jitter = 0, 0 }, "reorder needs an RTT"},
		{"unknown", func(p *netlab.Path) { p.Qdisc.Kind = "red" }, `unknown qdisc "red"; have one of cake, codel, fq, fq_codel, fq_pie, pfifo, pie, sfq`},
		{"marking pfifo", func(p *netlab.Path) { p.Qdisc = netlab.Qdisc{Kind: "pfifo", ECN: true} }, "pfifo has no ECN"},
		{"counting cake", func(p *netlab.Path) { p.Qdisc = netlab.Qdisc{Kind: "cake", Limit: 1} }, "cake has no packet limit"},
		{"modes elsewhere", func(p *netlab.Path) { p.Qdisc.FlowMode = "flows" }, "fq_codel has no flow mode"},
		{"strange mode", func(p *netlab.Path) { p.Qdisc = netlab.Qdisc{Kind: "cake", FlowMode: "fair"} }, `unknown flow mode "fair"`},
		{"negative limit", func(p *netlab.Path) { p.Qdisc.Limit = -5 }, "limit -5"},
		{"fine target", func(p *netlab.Path) { p.Qdisc.Target = 10 }, "target 10ns"},
	} {
		p := typical
		test.change(&p)
		err := p.Validate()
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got error %v, want %q", test.name, err, test.want)
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root; run the tests as root")
	}
}

// newPath builds a path that goes when the test ends. A path is passed over only
// where the kernel cannot do it.
func newPath(t *testing.T, p netlab.Path) *netlab.Sites {
	t.Helper()
	needRoot(t)
	var lacks *netlab.MissingError
	missing := netlab.Missing(p)
	if errors.As(missing, &lacks) {
		if _, err := netlab.NewPath(context.Background(), p); !errors.As(err, &lacks) {
			t.Errorf("NewPath says %v on a kernel where Missing says %v", err, missing)
		}
		t.Skip(missing)
	}
	if missing != nil {
		t.Fatal(missing)
	}
	s, err := netlab.NewPath(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the path: %v", err)
		}
	})
	return s
}

func TestPathWithEveryQdisc(t *testing.T) {
	for _, q := range []netlab.Qdisc{
		{Kind: netlab.KindPfifo, Limit: 100},
		{Kind: netlab.KindSFQ, Limit: 120, Quantum: 1514},
		{Kind: netlab.KindFQ, Limit: 1000},
		{Kind: netlab.KindPie, ECN: true, Target: 15 * time.Millisecond},
		{Kind: netlab.KindFQPie, Flows: 1024, Limit: 10240},
		{Kind: netlab.KindCodel, CEThreshold: time.Millisecond, Interval: 50 * time.Millisecond},
		{Kind: netlab.KindFQCodel, Flows: 1024, Quantum: 1514, Memory: 4 << 20, ECN: true},
		{Kind: netlab.KindCake, Memory: 4 << 20, Interval: 50 * time.Millisecond, FlowMode: "flows", DiffServ: "besteffort"},
	} {
		t.Run(q.Kind, func(t *testing.T) {
			s := newPath(t, netlab.Path{RateUp: 1e9, RateDown: 5e8, Qdisc: q, Burst: time.Millisecond})
			if err := s.RouteNative(); err != nil {
				t.Fatal(err)
			}
			exchange(t, s.A.Host, s.B.Host, s.B.Inner4(2).Addr())
			exchange(t, s.B.Host, s.A.Host, s.A.Inner6(2).Addr())
			up, down, err := s.Bottlenecks()
			if err != nil {
				t.Fatal(err)
			}
			for _, got := range []netlab.QdiscStats{up, down} {
				if got.Kind != q.Kind || got.Handle != "10:" || got.Packets < 8 || got.Bytes < 8*66 || got.Drops != 0 {
					t.Errorf("after two exchanges the queue reads %+v", got)
				}
			}
		})
	}
}

func TestPathDelays(t *testing.T) {
	s := newPath(t, netlab.Path{RTT: 20 * time.Millisecond, Seed: 1})
	if err := s.RouteNative(); err != nil {
		t.Fatal(err)
	}
	exchange(t, s.A.Host, s.B.Host, s.B.Inner4(2).Addr())
	for _, dev := range []string{s.A.RouterDev, s.B.RouterDev} {
		qdiscs, err := s.Router.QdiscStats(dev)
		if err != nil || len(qdiscs) != 1 || qdiscs[0].Kind != "netem" || qdiscs[0].Packets == 0 {
			t.Errorf("after an exchange %s has %+v, error %v, want one netem", dev, qdiscs, err)
		}
	}
}

func TestPathStructure(t *testing.T) {
	s := newPath(t, netlab.Path{RateUp: 1e9, Qdisc: netlab.Qdisc{Kind: netlab.KindPfifo, Limit: 100}, MTU: 1400, Burst: time.Millisecond})
	exchange(t, s.A.Node, s.B.Node, s.B.Addr4)
	exchange(t, s.A.Node, s.B.Node, s.B.Addr6)
	for _, end := range []struct {
		node    *netlab.Node
		dev     string
		mtu     int
		offload bool
	}{
		{s.A.Host, "lan", 1500, true}, {s.A.Node, "lan", 1500, true}, {s.A.Node, s.A.Wan, 1400, false},
		{s.GatewayA, netlab.GatewayLan, 1400, false}, {s.GatewayA, netlab.GatewayWan, 1400, false},
		{s.Router, s.A.RouterDev, 1400, false}, {s.Router, s.B.RouterDev, 1400, false}, {s.GatewayB, netlab.GatewayWan, 1400, false},
	} {
		link, err := end.node.Link(end.dev)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := link.Attrs().MTU; got != end.mtu {
			t.Errorf("%s of %s has the MTU %d, want %d", end.dev, end.node.Name, got, end.mtu)
		}
		if on, err := end.node.Offloads(end.dev); err != nil || len(on) > 0 != end.offload {
			t.Errorf("%s of %s has offloads %v, error %v; want some: %v", end.dev, end.node.Name, on, err, end.offload)
		}
	}
	qdiscs, err := s.GatewayA.QdiscStats(netlab.GatewayWan)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, q := range qdiscs {
		got = append(got, q.Kind+" "+q.Handle+" below "+q.Parent)
	}
	if want := []string{"htb 1: below root", "pfifo 10: below 1:1"}; !slices.Equal(got, want) {
		t.Errorf("gateway A has %v, want %v", got, want)
	}
}

func TestRouteNativeWithoutGateways(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{Hosts: true})
	if err := s.RouteNative(); err != nil {
		t.Fatal(err)
	}
	exchange(t, s.A.Host, s.B.Host, s.B.Inner4(2).Addr())
	exchange(t, s.A.Host, s.B.Host, s.B.Inner6(2).Addr())
	if _, _, err := s.Bottlenecks(); err == nil {
		t.Error("sites without gateways have bottlenecks")
	}
}

func TestMissingNamesTheWayOut(t *testing.T) {
	err := &netlab.MissingError{Kinds: []string{"fq_codel", "netem"}}
	want := "this kernel has no fq_codel, no netem: run in the lab kernel (`bench kernel`), or on a kernel that has it"
	if err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}
