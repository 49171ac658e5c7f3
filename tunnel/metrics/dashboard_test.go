package metrics

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
)

// dashboard is what is looked at of a Grafana dashboard.
type dashboard struct {
	Title, UID string
	Panels     []panel
	Templating struct {
		List []struct {
			Name, Type, Definition string
		}
	}
}

type panel struct {
	ID          int
	Title, Type string
	GridPos     struct{ H, W, X, Y int }
	Targets     []struct{ RefID, Expr, LegendFormat string }
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	text, err := os.ReadFile("../../deploy/grafana/kiloport.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if d.Title == "" || d.UID == "" || len(d.Panels) < 20 {
		t.Fatalf("%+v", d)
	}
	return d
}

// labelsOf are the series of the sample, each with the names of its labels.
func labelsOf(t *testing.T) map[string]map[string]bool {
	t.Helper()
	series := make(map[string]map[string]bool)
	for line := range strings.Lines(scrape(t, sample(t))) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), "{")
		if strings.HasPrefix(line, "#") || name == "" {
			continue
		}
		name, _, _ = strings.Cut(name, " ")
		if series[name] == nil {
			series[name] = map[string]bool{"job": true, "instance": true} // by Prometheus
		}
		for _, label := range labelName.FindAllStringSubmatch(rest, -1) {
			series[name][label[1]] = true
		}
	}
	return series
}

var (
	labelName  = regexp.MustCompile(`([a-z_]+)=~?!?"`)
	seriesName = regexp.MustCompile(`\b(?:kiloport|go|process)_[a-z0-9_]+`)
	selector   = regexp.MustCompile(`([a-z_][a-z0-9_]*)\{([^}]*)\}`)
	grouping   = regexp.MustCompile(`(?:by|on|ignoring) \(([a-z, ]+)\)`)
	legend     = regexp.MustCompile(`\{\{([a-z_]+)\}\}`)
	variable   = regexp.MustCompile(`\$(?:\{([a-zA-Z_]+)\}|([a-zA-Z_]+))`)
)

// TestDashboardAsksForWhatThereIs looks at every query: the series exist, and have
// the labels that are asked for.
func TestDashboardAsksForWhatThereIs(t *testing.T) {
	d, series := readDashboard(t), labelsOf(t)
	for _, p := range d.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			checkQuery(t, series, p.Title, target.Expr, target.LegendFormat)
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			checkQuery(t, series, v.Name, v.Definition, "")
		}
	}
}

func checkQuery(t *testing.T, series map[string]map[string]bool, where, query, legendFormat string) {
	t.Helper()
	names := seriesName.FindAllString(query, -1)
	if len(names) == 0 {
		t.Errorf("%s: %s asks for no series", where, query)
	}
	labels := make(map[string]bool)
	for _, name := range names {
		if series[name] == nil {
			t.Errorf("%s: there is no %s", where, name)
		}
		for label := range series[name] {
			labels[label] = true
		}
	}
	for _, s := range selector.FindAllStringSubmatch(query, -1) {
		for _, label := range labelName.FindAllStringSubmatch(s[2], -1) {
			if !series[s[1]][label[1]] {
				t.Errorf("%s: %s has no label %s", where, s[1], label[1])
			}
		}
	}
	wanted := legend.FindAllStringSubmatch(legendFormat, -1)
	for _, group := range grouping.FindAllStringSubmatch(query, -1) {
		for label := range strings.SplitSeq(group[1], ", ") {
			wanted = append(wanted, []string{"", label})
		}
	}
	for _, label := range wanted {
		if !labels[label[1]] {
			t.Errorf("%s: %s has no label %s", where, query, label[1])
		}
	}
	if strings.Count(query, "(") != strings.Count(query, ")") || strings.Count(query, "{") != strings.Count(query, "}") {
		t.Errorf("%s: brackets of %s", where, query)
	}
}

// TestDashboardShowsEverything wants each series of ours on the dashboard.
func TestDashboardShowsEverything(t *testing.T) {
	var queries strings.Builder
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			queries.WriteString(target.Expr + "\n")
		}
	}
	left := map[string]bool{ // what others on it tell as well
		"kiloport_queue_packets": true, "kiloport_cookies_sent_total": true,
		"kiloport_peers": true, "kiloport_peers_left_out": true,
		"kiloport_peer_sent_packets_total": true, "kiloport_peer_sent_codepoint_packets_total": true,
	}
	for _, desc := range all {
		if name := nameOf(desc); !strings.Contains(queries.String(), name) && !left[name] {
			t.Errorf("%s is not on the dashboard", name)
		}
	}
}

func TestDashboardIsLaidOut(t *testing.T) {
	d := readDashboard(t)
	known := map[string]bool{"__rate_interval": true}
	for _, v := range d.Templating.List {
		known[v.Name] = true
	}
	ids := make(map[int]bool)
	taken := make(map[[2]int]string)
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d, %q", p.ID, p.Title)
		}
		ids[p.ID] = true
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X+g.W > 24 {
			t.Errorf("%s is at %+v", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies on %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		for _, target := range p.Targets {
			for _, v := range variable.FindAllStringSubmatch(target.Expr, -1) {
				if name := v[1] + v[2]; !known[name] {
					t.Errorf("%s: there is no variable %s", p.Title, name)
				}
			}
		}
	}
}
