package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"kiloport/bench/netlab/traffic"
	"kiloport/bench/report"
	"kiloport/bench/tunnels"
)

func TestMain(m *testing.M) {
	traffic.RunIfHelper()
	os.Exit(m.Run())
}

func TestTally(t *testing.T) {
	r := &traffic.Result{SocketDrops: 3, Flows: []traffic.Flow{
		{Group: 0, Kind: traffic.TCPBulk, Up: traffic.Direction{Bytes: 1000}, TCP: &traffic.TCPInfo{Delivered: 5, SegmentsOut: 6, SegmentsIn: 3}},
		{Group: 1, Kind: traffic.TCPBulk, Down: traffic.Direction{Bytes: 200}, TCP: &traffic.TCPInfo{Delivered: 7, SegmentsOut: 8, SegmentsIn: 4}},
		{Group: 2, Kind: traffic.UDPStream, Up: traffic.Direction{Bytes: 30, Received: 8, Sent: 10}},
		{Group: 0, Kind: traffic.TCPBulk, Error: "connection reset by peer"},
	}}
	groups := []traffic.Group{{}, {Down: true}, {}}
	for _, test := range []struct {
		down     bool
		up, back uint64
	}{
		{false, 1030, 200},
		{true, 200, 1030}, // the client is at site B
	} {
		f := tally(r, &loadCase{groups: groups, down: test.down}, 2*time.Second)
		if f.bytes != [2]uint64{test.up, test.back} || f.packets != 20 || f.carried != 29 || f.sent != 10 || f.dropped != 3 || f.starved != 1 {
			t.Errorf("down %v: %+v", test.down, f)
		}
		if got := f.total(); got != 1230*8/2/1e6 {
			t.Errorf("down %v: %v Mbit/s", test.down, got)
		}
	}
}

func TestCheckCase(t *testing.T) {
	for _, test := range []struct {
		scenario, choice string
		ok               bool
	}{
		{"throughput", "tcp 8 up", true},
		{"throughput", "udp up", false},
		{"throughput", "", false},
		{"overload", "udp up", true},
		{"rrul_be", "", true},
		{"rrul_be", "tcp 8 up", false},
	} {
		s, ok := find(test.scenario)
		if !ok {
			t.Fatal(test.scenario)
		}
		if err := s.check(&Experiment{Case: test.choice}); (err == nil) != test.ok {
			t.Errorf("%s %q: %v", test.scenario, test.choice, err)
		}
	}
}

// TestThroughput looks only whether there are figures that can be true.
func TestThroughput(t *testing.T) {
	run := experiment(t, Experiment{
		Scenario: "throughput", Case: "tcp 64 both", Tunnel: "wireguard-go", Load: time.Second,
		Binaries: tunnels.Binaries{WireguardGo: build(t, "wireguard-go", "golang.zx2c4.com/wireguard")},
	})
	if run.Scenario != "throughput tcp 64 both" || run.Path.String() != "no bottleneck" {
		t.Errorf("%s, %s", run.Scenario, run.Path)
	}
	positive(t, run, report.MetricGoodputUp, report.MetricGoodputDown, MetricPackets, MetricCPUPerGB, MetricCPUPerPacket, MetricMemoryA, MetricMemoryB)
}

// TestOverload does the same with kiloport, which goes to the background.
func TestOverload(t *testing.T) {
	run := experiment(t, Experiment{
		Scenario: "overload", Case: "udp down", Tunnel: "kiloport", Load: time.Second,
		Binaries: tunnels.Binaries{Kiloport: build(t, "kiloport", "kiloport/cmd/kiloport")},
	})
	positive(t, run, report.MetricGoodputDown, MetricAlone, MetricPackets, MetricCPUPerGB, MetricCPUPerPacket, MetricMemoryA, MetricMemoryB)
	figures := report.Figures(*run)
	lost, ok := figures[report.MetricLost]
	if !ok || lost < 0 || lost > 100 {
		t.Errorf("%v %% of the probes lost (%v)", lost, ok)
	}
	if lost < 100 {
		positive(t, run, report.MetricBaseRTT, MetricProbeMedian, MetricProbeP99)
	}
}

// experiment runs one experiment that must not fail, and whose report can be
// written.
func experiment(t *testing.T, e Experiment) *report.Run {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root; run the tests as root")
	}
	e.Repetition = 1
	run, err := e.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if run.Error != "" {
		t.Fatal(run.Error)
	}
	t.Logf("%v", report.Figures(*run))
	doc := &report.Document{Created: time.Now(), Environment: Environment(report.KernelHere), Runs: []report.Run{*run}}
	if err := report.Write(doc, filepath.Join(t.TempDir(), "report")); err != nil {
		t.Error(err)
	}
	return run
}

func positive(t *testing.T, run *report.Run, metrics ...string) {
	t.Helper()
	for _, name := range metrics {
		if v := report.Figures(*run)[name]; !(v > 0) {
			t.Errorf("%s is %v", name, v)
		}
	}
}

func build(t *testing.T, name, pkg string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	cmd := exec.Command("go", "build", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return path
}
