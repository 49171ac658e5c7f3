package metrics

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"kiloport/tunnel"
)

var update = flag.Bool("update", false, "write testdata anew")

// fixed is a source that always says the same.
type fixed tunnel.Status

func (f *fixed) Status() tunnel.Status { return tunnel.Status(*f) }

// sample is what a daemon says that has everything, as `show --json` gives it.
func sample(t testing.TB) *fixed {
	t.Helper()
	text, err := os.ReadFile("testdata/status.json")
	if err != nil {
		t.Fatal(err)
	}
	s := new(fixed)
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(s); err != nil {
		t.Fatal(err)
	}
	return s
}

// scrape gives the series of a source as Prometheus reads them.
func scrape(t testing.TB, s Source) string {
	t.Helper()
	w := httptest.NewRecorder()
	NewHandler(s, "v1.2.3").ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// own leaves out what is of the runtime and of the process, and the reasons for
// which nothing was dropped.
func own(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		name := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE ")
		none := strings.HasPrefix(name, "kiloport_drops_total{") && strings.HasSuffix(name, " 0\n")
		if strings.HasPrefix(name, "kiloport_") && !strings.HasPrefix(name, "kiloport_build_info{") && !none {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestSeries(t *testing.T) {
	got := own(scrape(t, sample(t)))
	const name = "testdata/series.txt"
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

// TestEverySeriesIsInTheSample wants the golden file to show all that there is.
func TestEverySeriesIsInTheSample(t *testing.T) {
	text := scrape(t, sample(t))
	for _, d := range all {
		name := nameOf(d)
		if !strings.Contains(text, "# TYPE "+name+" ") {
			t.Errorf("%s is not in the sample", name)
		}
	}
	for _, name := range []string{"kiloport_build_info{goversion=", "go_goroutines ", "process_resident_memory_bytes "} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("%s is missing", name)
		}
	}
}

// nameOf is the name in a description, which does not give it otherwise.
func nameOf(d *prometheus.Desc) string {
	_, rest, _ := strings.Cut(d.String(), `fqName: "`)
	name, _, _ := strings.Cut(rest, `"`)
	return name
}

func TestSeriesAreAsPrometheusWantsThem(t *testing.T) {
	problems, err := testutil.GatherAndLint(newRegistry(sample(t), "v1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// An idle device shows no peer, but everything that may be summed up.
func TestIdleDevice(t *testing.T) {
	text := scrape(t, &fixed{Name: "wg0", Peers: []tunnel.PeerStatus{{PublicKey: "k", Mode: "stock"}}})
	for _, want := range []string{
		`kiloport_link_up{interface="wg0"} 0`,
		`kiloport_peers{interface="wg0"} 1`,
		`kiloport_drops_total{interface="wg0",reason="codel"} 0`,
		`kiloport_queue_sojourn_seconds_count{interface="wg0"} 0`,
		`kiloport_path_one_way_delay_seconds_bucket{direction="from",interface="wg0",le="+Inf"} 0`,
		`kiloport_peers_left_out{interface="wg0"} 0`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, `peer="k"`) {
		t.Error("a peer without traffic has series")
	}
}

// TestTenThousandPeers wants a scrape to be bounded, and to say so.
func TestTenThousandPeers(t *testing.T) {
	s := sample(t)
	one := s.Peers[0]
	s.Peers = nil
	for n := range 10_000 {
		p := one
		p.PublicKey = fmt.Sprintf("peer%05d", n)
		if n%2 == 1 {
			p.Sent, p.Received = tunnel.TrafficStatus{}, tunnel.TrafficStatus{}
		}
		s.Peers = append(s.Peers, p)
	}
	text := scrape(t, s)
	if n := strings.Count(text, "kiloport_peer_sent_bytes_total{"); n != MaxPeers {
		t.Errorf("%d peers have series, want %d", n, MaxPeers)
	}
	for _, want := range []string{
		`kiloport_peers{interface="wg0"} 10000`, `kiloport_peers_left_out{interface="wg0"} 4500`, `peer="peer00998"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(text, `peer="peer01000"`) || strings.Contains(text, `peer="peer00001"`) {
		t.Error("others than the first with traffic have series")
	}
}

func BenchmarkScrape(b *testing.B) {
	s := sample(b)
	one := s.Peers[0]
	for n := range MaxPeers {
		one.PublicKey = fmt.Sprintf("peer%05d", n)
		s.Peers = append(s.Peers, one)
	}
	h := NewHandler(s, "v1")
	b.ReportAllocs()
	for b.Loop() {
		w := &discard{header: http.Header{}}
		h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		b.ReportMetric(float64(w.n), "B/scrape")
	}
}

type discard struct {
	header http.Header
	n      int
}

func (d *discard) Header() http.Header { return d.header }
func (d *discard) WriteHeader(int)     {}
func (d *discard) Write(b []byte) (int, error) {
	d.n += len(b)
	return io.Discard.Write(b)
}

// A scrape in the middle of another is refused rather than added to the load.
func TestScrapesAtOnce(t *testing.T) {
	slow := &slowSource{Source: sample(t), asked: make(chan struct{}, 8), answer: make(chan struct{})}
	h := NewHandler(slow, "v1")
	slow.slow = true
	codes := make(chan int, 8)
	for range scrapesAtOnce {
		go func() {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
			codes <- w.Code
		}()
		select {
		case <-slow.asked:
		case <-time.After(20 * time.Second):
			t.Fatal("not asked")
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("status %d with %d under way", w.Code, scrapesAtOnce)
	}
	close(slow.answer)
	for range scrapesAtOnce {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("status %d", code)
		}
	}
}

type slowSource struct {
	Source
	slow   bool
	asked  chan struct{}
	answer chan struct{}
}

func (s *slowSource) Status() tunnel.Status {
	if s.slow {
		s.asked <- struct{}{}
		<-s.answer
	}
	return s.Source.Status()
}
