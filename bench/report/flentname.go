package report

import (
	"fmt"
	"slices"
	"strings"
)

// A flentTest is the test of flent that a run is made to look like.
type flentTest struct {
	name string // "rrul" or "rrul_be_nflows"
	up   int    // flows
	down int
}

// flentTest picks rrul where each class has one flow either way and there is
// more than one class, else rrul_be_nflows, which takes any number of flows.
func (r *Run) flentTest() flentTest {
	up, _ := r.flows(Up)
	down, _ := r.flows(Down)
	test := flentTest{"rrul_be_nflows", len(up), len(down)}
	if classes := flentClassesOf(up); len(classes) > 1 && slices.Equal(classes, flentClassesOf(down)) {
		test.name = "rrul"
	}
	return test
}

// flentClassesOf are the classes of flows in order, nil where flent has no name
// for one of them or two are the same.
func flentClassesOf(flows []*Series) []string {
	var classes []string
	for _, s := range flows {
		class, known := flentClasses[s.DSCP]
		if !known || slices.Contains(classes, class) {
			return nil
		}
		classes = append(classes, class)
	}
	slices.Sort(classes)
	return classes
}

// series is flent's name of a series, empty if it has none.
func (t flentTest) series(s *Series) string {
	switch {
	case s.Kind == KindRTT && s.Name == PingName:
		return "Ping (ms) ICMP"
	case s.Kind == KindRTT && s.Name == ProbeName:
		return "Ping (ms) UDP " + class(s)
	case s.Kind != KindGoodput || s.Flow == 0:
		return ""
	case t.name == "rrul":
		return fmt.Sprintf("TCP %s %s", flentDirection(s.Direction), class(s))
	default:
		return fmt.Sprintf("TCP %s BE::%d", flentDirection(s.Direction), s.Flow)
	}
}

// class is what flent calls a series' class.
func class(s *Series) string {
	if class, known := flentClasses[s.DSCP]; known {
		return class
	}
	return s.DSCP
}

func flentDirection(direction string) string {
	if direction == Up {
		return "upload"
	}
	return "download"
}

func flentUnit(name string) string {
	if strings.HasPrefix(name, "Ping") {
		return "ms"
	}
	return "Mbits/s"
}

// sums are flent's combined series, each with those that it is made of.
func (t flentTest) sums(results map[string]Values) map[string][]string {
	sums := map[string][]string{}
	add := func(name string, to ...string) {
		for _, sum := range to {
			sums[sum] = append(sums[sum], name)
		}
	}
	for name := range results {
		switch {
		case strings.HasPrefix(name, "TCP upload"):
			add(name, "TCP upload sum", "TCP upload avg", "TCP totals")
		case strings.HasPrefix(name, "TCP download"):
			add(name, "TCP download sum", "TCP download avg", "TCP totals")
		case strings.HasPrefix(name, "Ping"):
			add(name, "Ping (ms) avg")
		}
	}
	for _, of := range sums {
		slices.Sort(of) // so that rounding is the same every time
	}
	return sums
}

// metadata is what flent has to know to open the file. It insists on a host,
// and on the numbers of flows for rrul_be_nflows.
func (t flentTest) metadata(run *Run, length float64) map[string]any {
	start := flentEpoch.Format("2006-01-02T15:04:05.000000Z")
	title := fmt.Sprintf("%s, %s", run.Tunnel, run.Path)
	name := slug(fmt.Sprintf("%s-%s-%s", run.Scenario, run.Path, run.Tunnel))
	return map[string]any{
		"NAME": t.name, "TITLE": title, "NOTE": run.Notes,
		"HOST": "site-b", "HOSTS": []string{"site-b"}, "LOCAL_HOST": "site-a", "IP_VERSION": 4,
		"TIME": start, "T0": start,
		"LENGTH": run.Duration, "TOTAL_LENGTH": length, "STEP_SIZE": flentStep,
		"FLENT_VERSION":   "2.0.0",
		"TEST_PARAMETERS": map[string]any{"upload_streams": fmt.Sprint(t.up), "download_streams": fmt.Sprint(t.down)},
		"DATA_FILENAME":   fmt.Sprintf("%s-%02d.flent.gz", name, run.Repetition),
		"BATCH_NAME":      nil, "BATCH_TIME": nil, "BATCH_TITLE": nil, "BATCH_UUID": nil,
	}
}
