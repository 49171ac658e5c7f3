package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func init() { register(newVerdict) }

// skipAllowed lists the tests that may be skipped, as package/Test: those that
// need what no machine can be expected to have. There are none so far.
var skipAllowed = map[string]bool{}

func newVerdict() *cobra.Command {
	return &cobra.Command{
		Use:   "verdict",
		Short: "Read `go test -json` and say what ran; a skipped test is a failure",
		Long: `Verdict reads what go test -json printed, of one run or of several one after
the other, shows the output of what failed, and says for every package what
ran. A test that was skipped in every run is a failure: where the kernel can do
it and the user is root, there is no reason to skip.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := newTestVerdict()
			if err := v.read(cmd.InOrStdin()); err != nil {
				return err
			}
			return v.print(cmd.OutOrStdout())
		},
	}
}

// A testEvent is one line of `go test -json` (go doc test2json).
type testEvent struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

// A testID names a test, or a package where the test is empty.
type testID struct{ pkg, test string }

func (id testID) String() string {
	if id.test == "" {
		return id.pkg
	}
	return id.pkg + "/" + id.test
}

// testVerdict is what is known of the tests so far.
type testVerdict struct {
	passed, failed, skipped map[testID]bool
	output                  map[testID][]string // of what has not passed yet
	reasons                 map[testID]string   // why something was skipped
	broken                  []string            // packages that could not be built
	packages                []string
	elapsed                 map[string]time.Duration
	runs                    map[string]int
}

func newTestVerdict() *testVerdict {
	return &testVerdict{
		passed: map[testID]bool{}, failed: map[testID]bool{}, skipped: map[testID]bool{},
		output: map[testID][]string{}, reasons: map[testID]string{},
		elapsed: map[string]time.Duration{}, runs: map[string]int{},
	}
}

func (v *testVerdict) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		line := lines.Bytes()
		if len(line) == 0 {
			continue
		}
		var e testEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("this is no output of go test -json: %.200q", line)
		}
		v.add(e)
	}
	return lines.Err()
}

// outputLines bounds what is shown of one failed test.
const outputLines = 200

func (v *testVerdict) add(e testEvent) {
	id := testID{e.Package, e.Test}
	switch e.Action {
	case "output":
		if out := v.output[id]; len(out) < outputLines {
			v.output[id] = append(out, e.Output)
		}
	case "build-output":
		v.output[testID{e.ImportPath, ""}] = append(v.output[testID{e.ImportPath, ""}], e.Output)
	case "build-fail":
		v.broken = append(v.broken, e.ImportPath)
	case "pass":
		v.passed[id] = true
		delete(v.output, id)
		v.finish(e)
	case "fail":
		v.failed[id] = true
		v.finish(e)
	case "skip":
		v.skipped[id] = true
		v.reasons[id] = reason(v.output[id])
		delete(v.output, id)
		v.finish(e)
	}
}

// finish counts a package when it has ended.
func (v *testVerdict) finish(e testEvent) {
	if e.Test != "" {
		return
	}
	if !slices.Contains(v.packages, e.Package) {
		v.packages = append(v.packages, e.Package)
	}
	v.runs[e.Package]++
	v.elapsed[e.Package] += time.Duration(e.Elapsed * float64(time.Second))
}

// reason picks why a test was skipped out of its output.
func reason(output []string) string {
	for _, line := range output {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			return line
		}
	}
	return "no reason given"
}

// print shows the verdict, and fails if it is not a good one.
func (v *testVerdict) print(w io.Writer) error {
	failed, skipped := v.faults()
	for _, id := range failed {
		fmt.Fprintf(w, "--- FAIL %s\n%s", id, strings.Join(v.output[id], ""))
	}
	for _, pkg := range v.broken {
		fmt.Fprintf(w, "--- FAIL %s cannot be built\n%s", pkg, strings.Join(v.output[testID{pkg, ""}], ""))
	}
	v.printPackages(w)
	for _, id := range skipped {
		fmt.Fprintf(w, "--- SKIP %s: %s\n", id, v.reasons[id])
	}
	tests, fuzz := 0, 0
	for id := range v.passed {
		switch {
		case strings.HasPrefix(id.test, "Fuzz"):
			fuzz++
		case id.test != "":
			tests++
		}
	}
	fmt.Fprintf(w, "%d packages, %d tests and %d fuzz seeds passed, %d failed, %d skipped\n", len(v.packages), tests, fuzz, len(failed)+len(v.broken), len(skipped))
	return v.judge(tests+fuzz, len(failed)+len(v.broken), skipped)
}

func (v *testVerdict) judge(passed, failed int, skipped []testID) error {
	switch {
	case failed > 0:
		return fmt.Errorf("%d tests or packages failed", failed)
	case len(skipped) > 0:
		return fmt.Errorf("%d tests were skipped, the first is %v: %s (are you root?)", len(skipped), skipped[0], v.reasons[skipped[0]])
	case passed == 0:
		return errors.New("not one test ran")
	}
	return nil
}

// faults lists what failed, the innermost tests first, and what no run has run.
func (v *testVerdict) faults() (failed, skipped []testID) {
	for id := range v.failed {
		failed = append(failed, id)
	}
	for id := range v.skipped {
		if id.test != "" && !v.passed[id] && !v.failed[id] && !skipAllowed[id.String()] {
			skipped = append(skipped, id)
		}
	}
	byName := func(a, b testID) int { return strings.Compare(a.String()+"\xff", b.String()+"\xff") }
	slices.SortFunc(failed, byName)
	slices.SortFunc(skipped, byName)
	return failed, skipped
}

func (v *testVerdict) printPackages(w io.Writer) {
	slices.Sort(v.packages)
	for _, pkg := range v.packages {
		tests := 0
		for id := range v.passed {
			if id.pkg == pkg && id.test != "" {
				tests++
			}
		}
		word := "ok  "
		switch {
		case v.failed[testID{pkg, ""}]:
			word = "FAIL"
		case v.skipped[testID{pkg, ""}] && !v.passed[testID{pkg, ""}]:
			word = "none"
		}
		fmt.Fprintf(w, "%s %-34s %4d passed in %d runs, %v\n", word, pkg, tests, v.runs[pkg], v.elapsed[pkg].Round(100*time.Millisecond))
	}
}
