package netlab

import (
	"bytes"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// What is kept of a process's output, in bytes.
const (
	outputLimit = 64 << 10 // of its end
	headLimit   = 4 << 10  // of its beginning
	crashLimit  = 8 << 10  // of a traceback's beginning
)

// What is quoted of it in an error, in lines, each cut at quoteWidth bytes.
const (
	quoteHead  = 4
	quoteTail  = 8
	quoteCrash = 24
	quoteWidth = 240
)

// A transcript keeps of a process's output what may tell why it ended: the
// beginning, the end, and, because a traceback of many goroutines pushes its own
// cause out of both, the beginning of that.
type transcript struct {
	mu    sync.Mutex
	total int
	head  []byte
	tail  []byte
	crash []byte // from the line on with which the Go runtime gives up
}

var _ io.Writer = (*transcript)(nil)

// Write implements io.Writer; it does not fail.
func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total += len(b)
	t.head = append(t.head, b[:min(len(b), headLimit-len(t.head))]...)
	seen := len(t.tail)
	t.tail = append(t.tail, b...)
	if t.crash == nil {
		t.crash = crashIn(t.tail, seen)
	} else {
		t.crash = append(t.crash, b...)
	}
	t.crash = t.crash[:min(len(t.crash), crashLimit)]
	if len(t.tail) > 2*outputLimit { // not for every write
		t.tail = append(t.tail[:0], t.end()...)
	}
	return len(b), nil
}

// crashMark begins the line with which a Go program dies, and those with which
// its runtime says why.
var crashMark = regexp.MustCompile(`(?m)^(panic: |fatal error: |unexpected fault address |runtime: |SIG[A-Z]+: |WARNING: DATA RACE)`)

// longestMark is more than what crashMark needs, so that a mark that comes in two
// pieces is found.
const longestMark = 64

// crashIn finds the beginning of a traceback in the text that is new, nil if
// there is none.
func crashIn(text []byte, seen int) []byte {
	from := max(0, seen-longestMark)
	// A mark counts at the start of a line only, so begin at one.
	if from > 0 {
		line := bytes.IndexByte(text[from:], '\n')
		if line < 0 {
			return nil
		}
		from += line
	}
	at := crashMark.FindIndex(text[from:])
	if at == nil {
		return nil
	}
	return slices.Clone(text[from+at[0]:])
}

// String is the end of the output.
func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.end())
}

func (t *transcript) end() []byte { return t.tail[max(0, len(t.tail)-outputLimit):] }

// quote is the output as the tail of an error message: all of it if it is short,
// else its first and its last lines and, between these, how a traceback begins.
func (t *transcript) quote() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var quoted []string
	lines := linesOf(t.end())
	switch {
	case len(lines) == 0:
		return ""
	case t.total <= outputLimit && len(lines) <= quoteHead+quoteTail:
		quoted = lines
	case t.crash != nil:
		quoted = slices.Concat(firstOf(linesOf(t.head), quoteHead), []string{"…"}, firstGoroutine(t.crash), []string{"…"}, lastOf(lines, quoteTail/2))
	default:
		quoted = slices.Concat(firstOf(linesOf(t.head), quoteHead), []string{"…"}, lastOf(lines, quoteTail))
	}
	for i, line := range quoted {
		if len(line) > quoteWidth {
			quoted[i] = strings.ToValidUTF8(line[:quoteWidth], "") + "…"
		}
	}
	return "; it said: " + strings.Join(quoted, " | ")
}

// firstGoroutine is a traceback up to the end of its first goroutine, the one
// that is to blame.
func firstGoroutine(crash []byte) []string {
	if at := bytes.Index(crash, []byte("\ngoroutine ")); at >= 0 {
		if end := bytes.Index(crash[at+1:], []byte("\n\n")); end >= 0 {
			crash = crash[:at+1+end]
		}
	}
	return firstOf(linesOf(crash), quoteCrash)
}

// linesOf are the lines of a text that are not blank.
func linesOf(text []byte) (lines []string) {
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

func firstOf(lines []string, n int) []string { return lines[:min(n, len(lines))] }

func lastOf(lines []string, n int) []string { return lines[max(0, len(lines)-n):] }
