// Package metrics tells Prometheus what a device does.
//
// Start at [NewHandler], which answers scrapes, and [Serve], which does so on a
// socket until it is told to end. Everything but the series of the Go runtime and
// of the process comes from one [tunnel.Device.Status] per scrape: nothing is
// counted here, and where nobody scrapes it costs nothing.
//
// Series whose names begin with kiloport_peer_ are of one peer, known by the label
// peer, its public key; the others are of the whole interface, peers that were
// removed included. Limits: peers with traffic have series of their own, and of
// these the first [MaxPeers] in the order of the configuration; how many more there
// are is kiloport_peers_left_out.
package metrics

import (
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"kiloport/tunnel"
)

// MaxPeers is how many peers have series of their own, up to 110 each: a scrape is
// 5 MB at most.
const MaxPeers = 500

// Source is what is told of: a [tunnel.Device].
type Source interface{ Status() tunnel.Status }

const (
	scrapesAtOnce = 2
	scrapeTimeout = 30 * time.Second
)

// NewHandler answers scrapes of what a source does, of the Go runtime and of this
// process. version is the program's.
func NewHandler(s Source, version string) http.Handler {
	return promhttp.HandlerFor(newRegistry(s, version), promhttp.HandlerOpts{
		MaxRequestsInFlight: scrapesAtOnce, Timeout: scrapeTimeout,
	})
}

func newRegistry(s Source, version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kiloport_build_info", Help: "Always 1; the labels say which kiloport this is.",
			ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
		}, func() float64 { return 1 }),
	)
	name := prometheus.Labels{"interface": s.Status().Name}
	prometheus.WrapRegistererWith(name, r).MustRegister(collector{s})
	return r
}

// collector makes series of a status.
type collector struct{ source Source }

// Describe is part of [prometheus.Collector].
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range all {
		to <- d
	}
}

// Collect is part of [prometheus.Collector].
func (c collector) Collect(to chan<- prometheus.Metric) {
	s := c.source.Status()
	e := emitter{to}
	e.device(&s)
	e.totals(&s.Totals)
	e.peers(s.Peers)
}

// all are the series of the collector.
var all []*prometheus.Desc

func describe(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("kiloport_"+name, help, labels, nil)
	all = append(all, d)
	return d
}

// emitter makes the series of one scrape.
type emitter struct{ to chan<- prometheus.Metric }

func (e emitter) gauge(d *prometheus.Desc, value float64, labels ...string) {
	e.to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func (e emitter) counter(d *prometheus.Desc, value uint64, labels ...string) {
	e.to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
}

// peerHistogram makes a histogram if it has times.
func (e emitter) peerHistogram(d *prometheus.Desc, h *tunnel.HistogramStatus, labels ...string) {
	if h != nil {
		e.histogram(d, h, labels...)
	}
}

// histogram makes one series for each bucket; nil is a histogram without times.
func (e emitter) histogram(d *prometheus.Desc, h *tunnel.HistogramStatus, labels ...string) {
	if h == nil {
		h = new(tunnel.HistogramStatus)
	}
	e.to <- prometheus.MustNewConstHistogram(d, h.Count, h.SumMs/1000, h.Cumulative(), labels...)
}

func truth(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
