package netlab

import (
	"fmt"
	"strings"
	"testing"
)

// traceback is what a Go program with so many goroutines says when it dies.
func traceback(goroutines int) string {
	var b strings.Builder
	b.WriteString("panic: assignment to entry in nil map\n\ngoroutine 1 [running]:\nmain.culprit(0x1)\n\t/src/main.go:17 +0x1d\nmain.main()\n\t/src/main.go:5 +0x25\n")
	for i := range goroutines {
		fmt.Fprintf(&b, "\ngoroutine %d [select]:\nmain.bystander()\n\t/src/main.go:40 +0x1d\n", i+2)
	}
	return b.String()
}

func TestQuote(t *testing.T) {
	log := strings.Repeat("a line of the log that says nothing\n", 3000)
	for _, test := range []struct {
		name, said    string
		want, wantNot []string
	}{
		{"nothing", " \n\n", nil, []string{"it said"}},
		{"a little", "cannot open wg0\n\n  no such file\n", []string{"; it said: cannot open wg0 | no such file"}, []string{"…"}},
		{"much", "starting\n" + log + "bind: address already in use\n", []string{"it said: starting | ", " | … | ", "bind: address already in use"}, nil},
		{"a panic", "starting\n" + log + traceback(3), []string{"starting", "panic: assignment to entry in nil map", "main.culprit"}, []string{"goroutine 2 "}},
		{"a panic with a long traceback", "starting\n" + log + traceback(3000) + "exit status 2\n",
			[]string{"starting", "panic: assignment to entry in nil map", "main.culprit", "main.main()", "exit status 2"}, []string{"goroutine 2 "}},
		{"a fatal error", log + strings.Replace(traceback(3000), "panic: ", "fatal error: ", 1), []string{"fatal error: assignment", "main.culprit"}, nil},
		{"no panic", strings.Repeat("there is no panic: all is well\n", 40), []string{"all is well"}, []string{"| panic"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, piece := range []int{1, 7, 32 << 10, 1 << 20} {
				got := write(test.said, piece).quote()
				for _, want := range test.want {
					if !strings.Contains(got, want) {
						t.Errorf("in pieces of %d: %q is not in %q", piece, want, got)
					}
				}
				for _, not := range test.wantNot {
					if strings.Contains(got, not) {
						t.Errorf("in pieces of %d: %q is in %q", piece, not, got)
					}
				}
			}
		})
	}
}

// write gives a transcript of a text that came in pieces of n bytes.
func write(text string, n int) *transcript {
	t := &transcript{}
	for len(text) > 0 {
		piece := text[:min(n, len(text))]
		_, _ = t.Write([]byte(piece)) // it does not fail
		text = text[len(piece):]
	}
	return t
}

func TestTranscriptIsBounded(t *testing.T) {
	line := strings.Repeat("x", 1000) + "\n"
	got := write(traceback(10)+strings.Repeat(line, 1000), 4096)
	if n := len(got.head) + len(got.tail) + len(got.crash); n > headLimit+2*outputLimit+crashLimit {
		t.Errorf("%d bytes are kept", n)
	}
	if q := got.quote(); len(q) > (quoteHead+quoteCrash+quoteTail)*(quoteWidth+8) {
		t.Errorf("%d bytes are quoted", len(q))
	}
	if !strings.HasSuffix(got.String(), line) || len(got.String()) != outputLimit {
		t.Errorf("the output ends in %q", got.String()[max(0, len(got.String())-10):])
	}
}
