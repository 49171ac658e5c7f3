package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// outside is anything in a page that would be fetched from elsewhere.
var outside = regexp.MustCompile(`(?i)https?:|//[a-z0-9-]+\.[a-z]|<script|<link|<img|<iframe|url\(|@import|\ssrc=`)

func TestWrite(t *testing.T) {
	doc := sampleDocument(1, 3)
	failed := Run{Scenario: "rrul", Tunnel: Tunnel{Name: "tinc"}, Repetition: 9, Path: doc.Runs[0].Path, Error: "tincd <gone>"}
	doc.Runs = append(doc.Runs, failed)
	dir := t.TempDir()
	if err := Write(doc, dir); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "index.html"))
	if err != nil {
		t.Fatal(err)
	}
	checkPage(t, string(data))
	names, err := filepath.Glob(filepath.Join(dir, "plots", "*"))
	if err != nil {
		t.Fatal(err)
	}
	// Of two sections: five plots, and one over time of each of five tunnels;
	// the headline; all of them as SVG and PNG.
	if want := 2 * (2*(5+5) + 1); len(names) != want {
		t.Errorf("%d plots, want %d: %q", len(names), want, names)
	}
	for _, name := range names {
		checkPlot(t, name)
	}
	if _, err := Read(dir); err != nil {
		t.Errorf("what was written cannot be read: %v", err)
	}
}

func checkPage(t *testing.T, page string) {
	t.Helper()
	if found := outside.FindAllString(page, 5); found != nil {
		t.Errorf("the page refers to something outside of it: %q", found)
	}
	for _, want := range []string{
		"bench lab --rate 20 --note &#39;it&#39;\\&#39;&#39;s a sample&#39;", // the command, for a shell
		"6.12.48, " + KernelLab, "virtual time", "Sample CPU, 2 cores",
		"kernel WireGuard", "20/20 Mbit/s, fq_codel, 20 ms", "100/100 Mbit/s",
		"tincd &lt;gone&gt;", "3 (1 failed)", "prefers-color-scheme: dark", "<svg viewBox",
		">processor, s<", "var(--ink)",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

// checkPlot finds a plot that is broken, or has nothing on it.
func checkPlot(t *testing.T, name string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	switch filepath.Ext(name) {
	case ".png":
		img, err := png.Decode(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		colours := map[[3]uint32]bool{}
		for y := 0; y < img.Bounds().Dy(); y += 4 {
			for x := 0; x < img.Bounds().Dx(); x += 4 {
				r, g, b, _ := img.At(x, y).RGBA()
				colours[[3]uint32{r, g, b}] = true
			}
		}
		if len(colours) < 20 || img.Bounds().Dx() != 1440 {
			t.Errorf("%s: %d colours, %d wide", name, len(colours), img.Bounds().Dx())
		}
	case ".svg":
		count := map[string]int{}
		for decoder := xml.NewDecoder(bytes.NewReader(data)); ; {
			token, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if start, ok := token.(xml.StartElement); ok {
				count[start.Name.Local]++
			}
		}
		if count["svg"] != 1 || count["path"] < 10 || count["text"] < 5 || bytes.Contains(data, []byte("NaN")) {
			t.Errorf("%s: elements %v, or NaN in it", name, count)
		}
	default:
		t.Errorf("%s is no plot", name)
	}
}

// Everything that may be missing is, one after the other.
func TestWriteOfLittle(t *testing.T) {
	path := Path{RTTMs: 20}
	name := Tunnel{Name: "kiloport"}
	for what, runs := range map[string][]Run{
		"no runs":         nil,
		"only a failure":  {{Scenario: "a", Tunnel: name, Repetition: 1, Error: "no"}},
		"only metrics":    {{Scenario: "a", Tunnel: name, Repetition: 1, Duration: 1, Metrics: map[string]float64{"x_ms": 1}}},
		"one probe":       {{Scenario: "a", Tunnel: name, Repetition: 1, Duration: 1, Path: path, Series: []Series{probeOf(0, 20)}}},
		"all probes lost": {{Scenario: "a", Tunnel: name, Repetition: 1, Duration: 1, Path: path, Series: []Series{probeOf(0, nan, nan)}}},
		"faster than the path": {{Scenario: "a", Tunnel: name, Repetition: 1, Duration: 1, Path: path,
			Series: []Series{probeOf(0, 19, 18)}}},
		"names that only signs tell apart": {
			{Scenario: "a", Tunnel: Tunnel{Name: "x", Flags: []string{"-y"}}, Repetition: 1, Duration: 1, Path: path, Series: []Series{probeOf(0, 21)}},
			{Scenario: "a", Tunnel: Tunnel{Name: "x", Flags: []string{"+y"}}, Repetition: 1, Duration: 1, Path: path, Series: []Series{probeOf(0, 22)}}},
	} {
		dir := t.TempDir()
		if err := Write(&Document{Created: sampleCreated, Runs: runs}, dir); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := Read(dir); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if plots, _ := filepath.Glob(filepath.Join(dir, "plots", "*-time-x-y*.svg")); strings.HasPrefix(what, "names") && len(plots) != 2 {
			t.Errorf("%s: %q", what, plots)
		}
	}
}

func TestHeadline(t *testing.T) {
	doc := sampleDocument(1, 2)
	doc.Runs = append(doc.Runs, Run{Scenario: "idle", Tunnel: Tunnel{Name: "lonely"}, Repetition: 1, Duration: 1, Path: Path{RTTMs: 20}, Series: []Series{probeOf(0, 21)}})
	for _, test := range []struct {
		pick     Selection
		has, not string
	}{
		{Selection{}, "20/20 Mbit/s", "lonely"},
		{Selection{UpMbit: 100}, "100/100 Mbit/s", "lonely"},
		{Selection{Scenario: "idle"}, "lonely", "wireguard-go"},
	} {
		f, err := Headline(doc, test.pick)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := f.WriteSVG(&b); err != nil {
			t.Fatal(err)
		}
		if svg := b.String(); !strings.Contains(svg, test.has) || strings.Contains(svg, test.not) {
			t.Errorf("%+v: want %q and not %q in the plot", test.pick, test.has, test.not)
		}
	}
	if _, err := Headline(doc, Selection{UpMbit: 7}); err == nil {
		t.Error("a headline without runs")
	}
}
