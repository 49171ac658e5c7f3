package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestVerdict(t *testing.T) {
	const pass = `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"chatter\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}
{"Action":"pass","Package":"p","Test":"FuzzA/seed#0","Elapsed":0.1}
{"Action":"pass","Package":"p","Elapsed":0.5}
`
	const skip = `{"Action":"output","Package":"p","Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:7: not root\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestB","Elapsed":0}
`
	const laterPass = `{"Action":"pass","Package":"p","Test":"TestB","Elapsed":0}
{"Action":"pass","Package":"p","Elapsed":1}
`
	const fail = `{"Action":"output","Package":"q","Test":"TestC","Output":"c_test.go:9: wrong\n"}
{"Action":"fail","Package":"q","Test":"TestC","Elapsed":0}
{"Action":"fail","Package":"q","Elapsed":0}
`
	const broken = `{"ImportPath":"r","Action":"build-output","Output":"r.go:1: syntax error\n"}
{"ImportPath":"r","Action":"build-fail"}
{"Action":"fail","Package":"r","Elapsed":0,"FailedBuild":"r"}
`
	const noTests = `{"Action":"skip","Package":"s","Elapsed":0}
`
	for _, test := range []struct {
		name, events, want, err string
	}{
		{"pass", pass, "1 packages, 1 tests and 1 fuzz seeds passed, 0 failed, 0 skipped", ""},
		{"a package without tests", pass + noTests, "2 packages, 1 tests", ""},
		{"skip", pass + skip, "--- SKIP p/TestB: b_test.go:7: not root", "1 tests were skipped"},
		{"skip, but ran in another run", pass + skip + laterPass, "0 skipped", ""},
		{"fail", pass + fail, "c_test.go:9: wrong", "2 tests or packages failed"},
		{"broken", pass + broken, "r.go:1: syntax error", "failed"},
		{"nothing", "", "0 packages", "not one test ran"},
		{"no JSON", "ok p 0.1s\n", "", "no output of go test -json"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			status := run(t.Context(), []string{"verdict"}, strings.NewReader(test.events), &out, &errs)
			if (status == exitOK) != (test.err == "") || !strings.Contains(errs.String(), test.err) {
				t.Errorf("status %d, %q; want %q", status, errs.String(), test.err)
			}
			if !strings.Contains(out.String(), test.want) {
				t.Errorf("%q is not in:\n%s", test.want, out.String())
			}
			if strings.Contains(out.String(), "chatter") {
				t.Errorf("the output of a test that passed is shown:\n%s", out.String())
			}
		})
	}
}
