package host

import (
	"bytes"
	"strings"
	"sync"
)

const (
	tailLimit = 16 << 10 // bytes kept
	tailLines = 20       // lines in an error
)

// A Tail keeps the end of what is written to it: the last 16 KiB. The zero value
// is empty. Its methods may be called from several goroutines.
type Tail struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer; it does not fail.
func (t *Tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if n := len(t.text) - tailLimit; n > 0 {
		t.text = bytes.Clone(t.text[n:])
	}
	return len(b), nil
}

// Lines are the lines that are not empty, without their ends.
func (t *Tail) Lines() (lines []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for line := range strings.Lines(string(t.text)) {
		if line = strings.TrimRight(line, "\r\n\t "); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}
