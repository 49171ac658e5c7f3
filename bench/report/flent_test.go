package report

import (
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// runFlent runs the real flent, and returns what it printed.
func runFlent(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("flent"); err != nil {
		t.Fatal("flent is missing: run 'make deps-test' (packages flent and python3-matplotlib)")
	}
	home := t.TempDir()
	var errors bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "flent", args...)
	cmd.Env = append(os.Environ(), "HOME="+home, "MPLCONFIGDIR="+home, "MPLBACKEND=Agg", "LC_ALL=C.UTF-8")
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("flent %q: %v\n%s", args, err, errors.String())
	}
	return string(out)
}

func export(t *testing.T, run Run) string {
	t.Helper()
	var b bytes.Buffer
	if err := ExportFlent(run, &b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "run.flent.gz")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// classRun is a run with one flow of each class, a probe and a ping.
func classRun() Run {
	run := sampleDocument(3, 1).Runs[2]
	classes := []string{"", "CS1", "CS5", "EF"}
	for i := range run.Series {
		if s := &run.Series[i]; s.Kind == KindGoodput {
			s.DSCP = classes[s.Flow-1]
		}
	}
	run.Series[0].DSCP = "EF"
	ping := probeOf(0, 20, 21, nan, 22, 60, 24, 25, 26)
	ping.Name = PingName
	run.Series = append(run.Series, ping)
	return run
}

func TestFlentNames(t *testing.T) {
	noFlows := sampleDocument(1, 1).Runs[0]
	noFlows.Series = noFlows.Series[:1]
	for _, test := range []struct {
		run   Run
		name  string
		names []string
	}{
		{sampleDocument(1, 1).Runs[0], "rrul_be_nflows", []string{"Ping (ms) UDP BE", "Ping (ms) avg",
			"TCP download BE::1", "TCP download BE::2", "TCP download BE::3", "TCP download BE::4", "TCP download avg", "TCP download sum", "TCP totals",
			"TCP upload BE::1", "TCP upload BE::2", "TCP upload BE::3", "TCP upload BE::4", "TCP upload avg", "TCP upload sum"}},
		{classRun(), "rrul", []string{"Ping (ms) ICMP", "Ping (ms) UDP EF", "Ping (ms) avg",
			"TCP download BE", "TCP download BK", "TCP download CS5", "TCP download EF", "TCP download avg", "TCP download sum", "TCP totals",
			"TCP upload BE", "TCP upload BK", "TCP upload CS5", "TCP upload EF", "TCP upload avg", "TCP upload sum"}},
		{noFlows, "rrul_be_nflows", []string{"Ping (ms) UDP BE", "Ping (ms) avg"}},
	} {
		zipped, err := os.Open(export(t, test.run))
		if err != nil {
			t.Fatal(err)
		}
		defer zipped.Close()
		plain, err := gzip.NewReader(zipped)
		if err != nil {
			t.Fatal(err)
		}
		var file flentFile
		if err := json.NewDecoder(plain).Decode(&file); err != nil {
			t.Fatal(err)
		}
		var names []string
		for name, values := range file.Results {
			names = append(names, name)
			if len(values) != len(file.X) {
				t.Errorf("%s has %d values for %d times", name, len(values), len(file.X))
			}
		}
		slices.Sort(names)
		if file.Metadata["NAME"] != test.name || !slices.Equal(names, test.names) {
			t.Errorf("test %v with %q,\nwant %v with %q", file.Metadata["NAME"], names, test.name, test.names)
		}
	}
}

// flent has to come to the same figures of every series.
func TestFlentAgrees(t *testing.T) {
	for _, run := range []Run{sampleDocument(1, 1).Runs[2], classRun()} {
		path := export(t, run)
		test := run.flentTest()
		figures := flentStatistics(t, path)
		compared := 0
		for i := range run.Series {
			s := &run.Series[i]
			name := test.series(s)
			if name == "" {
				continue
			}
			compared++
			d := NewDistribution(s.V)
			want := map[string]float64{"datapoints": float64(d.Count()), "mean": d.Mean(), "median": d.Quantile(0.5),
				"pct99": d.Quantile(0.99), "min": d.Quantile(0), "max": d.Quantile(1)}
			for column, x := range want {
				if got := figures[name][column]; !near(got, x) {
					t.Errorf("%s: %s is %v to flent, %v here", name, column, got, x)
				}
			}
		}
		if compared < 9 {
			t.Errorf("only %d series were compared", compared)
		}
		if summary := runFlent(t, "-i", path, "-f", "summary"); !strings.Contains(summary, run.Tunnel.String()) {
			t.Errorf("the summary does not name the tunnel:\n%s", summary)
		}
	}
}

// flentStatistics are flent's figures, by series and by name of the figure.
func flentStatistics(t *testing.T, path string) map[string]map[string]float64 {
	t.Helper()
	table := filepath.Join(t.TempDir(), "stats.csv")
	runFlent(t, "-i", path, "-f", "stats_csv", "-o", table)
	f, err := os.Open(table)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	series := slices.Index(rows[0], "series")
	figures := map[string]map[string]float64{}
	for _, row := range rows[1:] {
		figures[row[series]] = map[string]float64{}
		for i, cell := range row {
			if x, err := strconv.ParseFloat(cell, 64); err == nil {
				figures[row[series]][rows[0][i]] = x
			}
		}
	}
	return figures
}

func TestFlentPlots(t *testing.T) {
	path := export(t, sampleDocument(1, 1).Runs[2])
	for _, plot := range []string{"all_scaled", "ping_cdf"} {
		picture := filepath.Join(t.TempDir(), "plot.png")
		runFlent(t, "-i", path, "-p", plot, "-o", picture)
		data, err := os.ReadFile(picture)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := png.Decode(bytes.NewReader(data)); err != nil {
			t.Errorf("%s: %v", plot, err)
		}
	}
}

func TestExportFlentRefuses(t *testing.T) {
	histogram, err := HistogramSeries(Series{Name: ProbeName, Kind: KindRTT, Unit: UnitMs}, []float64{20, 21})
	if err != nil {
		t.Fatal(err)
	}
	for want, run := range map[string]Run{
		"the run failed: no":        {Error: "no", Series: []Series{probeOf(0, 20, 21)}},
		"no samples that flent has": {Duration: 1},
		"or only as histograms":     {Duration: 1, Series: []Series{histogram}},
	} {
		var b bytes.Buffer
		if err := ExportFlent(run, &b); err == nil || !strings.Contains(err.Error(), want) || b.Len() > 0 {
			t.Errorf("error is %v after %d bytes, want %q", err, b.Len(), want)
		}
	}
}
