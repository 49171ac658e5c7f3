// Package report is what a run of the lab leaves behind: figures in a file
// that can be read again, a page and plots for people, a comparison of two
// runs, and files for flent.
//
// Start with [Document], which bench fills, and [Write], which makes a folder
// out of it: report.json, index.html and plots/. [Read] takes report.json back,
// [Compare] sets two of them side by side, [ExportFlent] hands one run to
// flent, and [Induced] is the figure that all of this is about: what the load
// added to the round trip of a sparse probe.
//
// The format is versioned by [Schema]. A reader refuses what it does not know,
// because a figure that is read wrongly is worse than none. Units are in the
// names: round trips in milliseconds, rates in Mbit/s, times in seconds since
// the load started.
//
// Limits: everything is held in memory; a series of more than some 100 000
// samples belongs in a histogram ([HistogramSeries]). Times inside a run are
// those of the run's kernel, which may be virtual (see [Environment]).
package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Schema is the name and version of the format. The number goes up whenever an
// older reader would misread or refuse what is written: 2 has the seeds of runs and
// when flows began. Documents of version 1 are read, too.
const Schema = "kiloport-bench/2"

// oldestVersion is that of the oldest documents that are read.
const oldestVersion = 1

// What Environment.KernelOf says.
const (
	KernelLab      = "lab kernel (User-Mode Linux, virtual time)"
	KernelHere     = "this machine"
	KernelStock    = "stock kernel (QEMU with KVM, real time)"
	KernelEmulated = "stock kernel (QEMU with an emulated processor: its clock is uneven, and rates and delays are the emulation's)"
)

// A Document is everything that one invocation of bench measured.
type Document struct {
	// Schema is the constant Schema; Write fills it in where it is empty.
	Schema string `json:"schema"`
	// Created is when the measurement ended, in real time.
	Created time.Time `json:"created"`
	// Command reproduces the document: the program and its arguments.
	Command     []string    `json:"command"`
	Environment Environment `json:"environment"`
	Runs        []Run       `json:"runs"`
}

// An Environment is what the runs of a document had in common.
type Environment struct {
	// Kernel is the release of the kernel that carried the packets.
	Kernel string `json:"kernel"`
	// KernelOf is one of the constants KernelLab to KernelEmulated.
	KernelOf string `json:"kernel_of"`
	// Virtual is true where the clock moves only when everything sleeps: the
	// processor then costs nothing, and throughput says nothing about it.
	Virtual bool `json:"virtual"`
	// CPU is the processor's name, Cores how many of them the kernel had.
	CPU   string `json:"cpu"`
	Cores int    `json:"cores"`
	// Go is the version of the Go toolchain, Kiloport that of the daemon.
	Go       string `json:"go"`
	Kiloport string `json:"kiloport"`
}

// A Run is one repetition of one scenario over one tunnel.
type Run struct {
	// Scenario is the short name by which runs are put together; Title says
	// in a few words what it does.
	Scenario string `json:"scenario"`
	Title    string `json:"title,omitempty"`
	Tunnel   Tunnel `json:"tunnel"`
	// Repetition counts from 1 within scenario, path and tunnel.
	Repetition int `json:"repetition"`
	// Seed is what everything random was drawn with. Runs with the same seed in
	// virtual time are copies of each other, as long as the programs are the same.
	Seed uint64 `json:"seed,omitempty"`
	Path Path   `json:"path"`
	// Duration is how long the load lasted, in seconds.
	Duration float64 `json:"duration_s"`
	// WarmUp is how many seconds at the start of the load the figures leave
	// out. Plots over time show them.
	WarmUp float64  `json:"warm_up_s,omitempty"`
	Series []Series `json:"series,omitempty"`
	// Metrics are figures of the whole run. The names end in their unit; see
	// the Metric constants for those that have a meaning here. Those that
	// can be worked out of the series need not be given.
	Metrics map[string]float64 `json:"metrics,omitempty"`
	Notes   string             `json:"notes,omitempty"`
	// Error says why the run failed. Its figures then count nowhere.
	Error string `json:"error,omitempty"`
}

// Metrics with a meaning here. The first four can be worked out of a probe's
// series, the goodput out of the flows' series, the lanes out of theirs.
const (
	MetricInducedMedian = "probe_induced_rtt_median_ms"
	MetricInducedP99    = "probe_induced_rtt_p99_ms"
	MetricInducedWorst  = "probe_induced_rtt_worst_ms"
	MetricLost          = "probe_lost_percent"
	MetricGoodputUp     = "goodput_up_mbit_s"
	MetricGoodputDown   = "goodput_down_mbit_s"
	MetricLanesPeak     = "lanes_peak_count"
	// MetricBaseRTT is the round trip of the idle path, where it was measured.
	MetricBaseRTT = "base_rtt_ms"
	// MetricJainUp and MetricJainDown are the fairness index of Jain, Chiu and
	// Hawe (1984) of the bulk flows' goodput: 1 if all have the same, 1/n if one
	// of n has all.
	MetricJainUp   = "jain_index_up"
	MetricJainDown = "jain_index_down"
	// MetricFlows is how many flows there were inside the tunnel. Sections that
	// have it, and names that differ only after the first blank, are plotted
	// over it.
	MetricFlows = "flows_count"
	// MetricFlowsAlone is how many of 100 flows were in a queue of the gateway
	// that none of the others was in.
	MetricFlowsAlone = "flows_alone_percent"
	// MetricOuterFlows is how many flows the gateway saw; MetricGatewayQueues is
	// how many queues it has, MetricQueuesUsed how many of them had a flow.
	MetricOuterFlows    = "outer_flows_count"
	MetricGatewayQueues = "gateway_queues_count"
	MetricQueuesUsed    = "gateway_queues_used_count"
	// MetricPageMedian, MetricPageP99 and MetricPageWorst are how long it took
	// from opening a connection to the last byte of a page; MetricPagesLost is
	// how many of 100 did not come, or not in time.
	MetricPageMedian = "page_load_median_ms"
	MetricPageP99    = "page_load_p99_ms"
	MetricPageWorst  = "page_load_worst_ms"
	MetricPagesLost  = "pages_lost_percent"
)

// A Tunnel is what carried the traffic.
type Tunnel struct {
	Name    string   `json:"name"`
	Version string   `json:"version,omitempty"`
	Flags   []string `json:"flags,omitempty"`
}

// String is the tunnel's label: its name and flags. The version is not part of
// it, so that two versions can be compared.
func (t Tunnel) String() string {
	return strings.Join(append([]string{t.Name}, t.Flags...), " ")
}

// A Path is the network between the two sites, as it was set up.
type Path struct {
	// UpMbit and DownMbit are the bottleneck's rates in Mbit/s, 0 for none.
	UpMbit   float64 `json:"up_mbit_s,omitempty"`
	DownMbit float64 `json:"down_mbit_s,omitempty"`
	// Qdisc is the bottleneck's queueing discipline with its options.
	Qdisc string `json:"qdisc,omitempty"`
	// RTTMs is the round-trip time of the idle path in ms.
	RTTMs float64 `json:"rtt_ms,omitempty"`
	// BurstMs is how much of its rate the bottleneck saves up while it has nothing
	// to send, in ms; 0 where nothing is saved, and in documents of version 1.
	BurstMs float64 `json:"burst_ms,omitempty"`
	// ECN is whether the bottleneck marks and the senders ask for it.
	ECN bool `json:"ecn,omitempty"`
	// MTU is the path's in bytes, 0 for 1500.
	MTU int `json:"mtu,omitempty"`
	// LossPercent is how many of 100 packets the path loses at random.
	LossPercent float64 `json:"loss_percent,omitempty"`
}

// String is the path's label, such as "20/20 Mbit/s, fq_codel, 20 ms".
func (p Path) String() string {
	var parts []string
	if p.UpMbit > 0 || p.DownMbit > 0 {
		parts = append(parts, fmt.Sprintf("%s/%s Mbit/s", number(p.UpMbit), number(p.DownMbit)))
	}
	if p.Qdisc != "" {
		parts = append(parts, p.Qdisc)
	}
	if p.RTTMs > 0 {
		parts = append(parts, number(p.RTTMs)+" ms")
	}
	if p.BurstMs > 0 {
		parts = append(parts, "burst "+number(p.BurstMs)+" ms")
	}
	if p.ECN {
		parts = append(parts, "ECN")
	}
	if p.MTU > 0 && p.MTU != 1500 {
		parts = append(parts, fmt.Sprintf("MTU %d", p.MTU))
	}
	if p.LossPercent > 0 {
		parts = append(parts, number(p.LossPercent)+" % loss")
	}
	if len(parts) == 0 {
		return "no bottleneck"
	}
	return strings.Join(parts, ", ")
}

// number prints a figure with as many digits as it needs.
func number(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }
