package report

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldenDocument is small, and has everything that the format has.
func goldenDocument() *Document {
	return &Document{
		Schema: Schema, Created: sampleCreated, Command: []string{"bench", "lab", "--rate", "20"},
		Environment: Environment{Kernel: "6.12.48", KernelOf: KernelLab, Virtual: true, CPU: "Sample <CPU>", Cores: 2, Go: "go1.26.8", Kiloport: "v0.1.0"},
		Runs: []Run{
			{
				Scenario: "rrul", Title: "4 up, 4 down", Tunnel: Tunnel{"kiloport", "v0.1.0", []string{"--lanes=64"}}, Repetition: 1, Seed: 8290,
				Path:     Path{UpMbit: 20, DownMbit: 20, Qdisc: "fq_codel", RTTMs: 20, BurstMs: 10, ECN: true, MTU: 1492, LossPercent: 0.5},
				Duration: 4, WarmUp: 1, Notes: "a note",
				Series: []Series{
					probeOf(-1, 20, 20.5, 20.606, nan, 21.4),
					{Name: "tcp", Kind: KindGoodput, Unit: UnitMbit, Direction: Up, DSCP: "EF", Flow: 1, Begins: 0.25, T: []float64{1, 2}, V: Values{9, 9.5}},
				},
				Metrics: map[string]float64{"processor_seconds": 1.5},
			},
			{Scenario: "rrul", Tunnel: Tunnel{Name: "tinc"}, Repetition: 1, Path: Path{UpMbit: 20}, Error: "tincd: no such file"},
		},
	}
}

func TestGolden(t *testing.T) {
	const golden = "testdata/report.json"
	data, err := encode(goldenDocument())
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(golden, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(data)); diff != "" {
		t.Errorf("the format has changed (-want +got); if that is meant, raise Schema and run with -update:\n%s", diff)
	}
	doc, err := Read(golden)
	if err != nil {
		t.Fatal(err)
	}
	full := goldenDocument()
	full.Runs[0].Metrics = Figures(full.Runs[0])
	if diff := cmp.Diff(full, doc, cmpopts.EquateNaNs(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("reading gives something else than was written (-written +read):\n%s", diff)
	}
}

// TestReadsVersion1 wants documents to stay readable that were written before runs
// had a seed.
func TestReadsVersion1(t *testing.T) {
	data, err := os.ReadFile("testdata/report-1.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(doc.Runs) != 2 || doc.Runs[0].Seed != 0 {
		t.Errorf("read %+v", doc.Runs)
	}
}

func TestReadRefuses(t *testing.T) {
	data, err := os.ReadFile("testdata/report.json")
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	for name, test := range map[string]struct{ old, new, want string }{
		"not JSON":              {good, "flent", "no JSON document"},
		"two documents":         {good, good + good, "no JSON document"},
		"something else":        {Schema, "flent/4", `no report of bench: schema is "flent/4"`},
		"no version":            {Schema, "kiloport-bench", "has no version"},
		"a newer version":       {Schema, "kiloport-bench/3", "newer than this program"},
		"version 0":             {Schema, "kiloport-bench/0", "no longer read"},
		"an unknown field":      {`"cores"`, `"sockets"`, `unknown field "sockets"`},
		"no time":               {"2026-03-01T12:00:00Z", "0001-01-01T00:00:00Z", "created is missing"},
		"no scenario":           {`"scenario": "rrul"`, `"scenario": ""`, "runs[0] ( over kiloport --lanes=64"},
		"no tunnel":             {`"name": "kiloport"`, `"name": ""`, "tunnel.name is missing"},
		"repetition 0":          {`"repetition": 1`, `"repetition": 0`, "count from 1"},
		"no duration":           {`"duration_s": 4`, `"duration_s": 0`, "duration_s is 0"},
		"warm-up too long":      {`"warm_up_s": 1`, `"warm_up_s": 5`, "warm_up_s is 5"},
		"bad metric":            {`"processor_seconds"`, `"Processor seconds"`, "lower-case"},
		"unknown kind":          {`"kind": "rtt"`, `"kind": "owd"`, `kind "owd" is not known`},
		"wrong unit":            {`"unit": "ms"`, `"unit": "s"`, `kind "rtt" has ["ms"]`},
		"wrong direction":       {`"direction": "up"`, `"direction": "left"`, `direction "left"`},
		"a value too few":       {"[20,20.5,", "[20.5,", "5 times for 4 values"},
		"times out of order":    {"[-1,0,1,2,3]", "[-1,0,1,3,2]", "sort them"},
		"samples and more":      {`"v": [9,9.5]`, `"v": [9,9.5], "histogram": "x"`, "want one of them"},
		"a bad histogram":       {`"t": [1,2],` + "\n     " + `"v": [9,9.5]`, `"histogram": "x"`, "V2 compressed encoding"},
		"a text for a number":   {`"cores": 2`, `"cores": "2"`, "does not follow " + Schema},
		"a series without name": {`"name": "probe"`, `"name": ""`, "name is missing"},
	} {
		if !strings.Contains(good, test.old) {
			t.Fatalf("%s: the golden file lacks %q", name, test.old)
		}
		path := filepath.Join(t.TempDir(), FileName)
		if err := os.WriteFile(path, []byte(strings.Replace(good, test.old, test.new, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Read(path)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error is %v, want one that says %q and the path", name, err, test.want)
		}
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none.json")); !os.IsNotExist(unwrapAll(err)) {
		t.Errorf("no file: error is %v", err)
	}
}

func unwrapAll(err error) error {
	for {
		inner, ok := err.(interface{ Unwrap() error })
		if !ok || os.IsNotExist(err) {
			return err
		}
		err = inner.Unwrap()
	}
}

func TestWriteRefuses(t *testing.T) {
	twice := goldenDocument()
	twice.Runs = append(twice.Runs, twice.Runs[0])
	newer := goldenDocument()
	newer.Schema = "kiloport-bench/3"
	unmeasured := goldenDocument()
	unmeasured.Runs[0].Metrics["rtt_ms"] = nan
	sameSeries := goldenDocument()
	sameSeries.Runs[0].Series = append(sameSeries.Runs[0].Series, sameSeries.Runs[0].Series[0])
	for want, doc := range map[string]*Document{
		"the same run is there twice":       twice,
		`the document says schema`:          newer,
		"leave out what was not measured":   unmeasured,
		"same name, kind, direction, class": sameSeries,
		"write report: created is missing":  {},
	} {
		dir := filepath.Join(t.TempDir(), "out")
		if err := Write(doc, dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %q", err, want)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: a refused document left a folder", want)
		}
	}
}

func TestHistogramSeries(t *testing.T) {
	samples := []float64{0, 0.5, 1.234, 99.9, 3000, nan}
	s, err := HistogramSeries(Series{Name: "probe", Kind: KindRTT, Unit: UnitMs}, samples)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.check(); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var read Series
	if err := json.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	d, lost, err := read.distribution(0, 1)
	if err != nil || lost != 1 || d.Count() != 5 {
		t.Fatalf("%d values, %d lost, error %v; want 5 and 1", d.Count(), lost, err)
	}
	for i, want := range samples[:5] {
		if got := d.at(int64(i)); got < want*0.999-0.001 || got > want*1.001+0.001 {
			t.Errorf("value %d is %v, want %v", i, got, want)
		}
	}
	for _, bad := range []float64{-1, 4e6} {
		if _, err := HistogramSeries(Series{Name: "probe"}, []float64{bad}); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}
