package labkernel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// outputInterval is how often the host looks for new output of the guest.
const outputInterval = 50 * time.Millisecond

// copyOutput copies what the guest writes to its files to the guest's writers,
// until the returned function is called, which waits for the rest.
func (m *machine) copyOutput(g *Guest) (finish func() error, err error) {
	var lock sync.Mutex // both may be the same writer
	done := make(chan struct{})
	var copying sync.WaitGroup
	var errs [2]error
	for i, stream := range []struct {
		name string
		to   io.Writer
	}{{stdoutName, g.Stdout}, {stderrName, g.Stderr}} {
		if stream.to == nil {
			continue
		}
		from, err := os.Open(filepath.Join(m.folder, stream.name))
		if err != nil {
			close(done)
			return nil, fmt.Errorf("copy the guest's output: %w", err)
		}
		copying.Go(func() {
			defer from.Close()
			if err := follow(&lockedWriter{&lock, stream.to}, from, done); err != nil {
				errs[i] = fmt.Errorf("copy the guest's %s: %w", stream.name, err)
			}
		})
	}
	return func() error {
		close(done)
		copying.Wait()
		return errors.Join(errs[:]...)
	}, nil
}

// follow copies a growing file until done, and then to its end.
func follow(to io.Writer, from io.Reader, done <-chan struct{}) error {
	ticker := time.NewTicker(outputInterval)
	defer ticker.Stop()
	for last := false; ; {
		if _, err := io.Copy(to, from); err != nil || last {
			return err
		}
		select {
		case <-done:
			last = true
		case <-ticker.C:
		}
	}
}

type lockedWriter struct {
	lock *sync.Mutex
	to   io.Writer
}

func (w *lockedWriter) Write(b []byte) (int, error) {
	w.lock.Lock()
	defer w.lock.Unlock()
	return w.to.Write(b)
}

const (
	consoleLimit = 16 << 10 // bytes kept
	consoleLines = 20       // lines shown
	panicMark    = "Kernel panic"
	bootedMark   = "as init process"
)

// A console keeps the end of what a kernel says.
type console struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer; it does not fail.
func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, b...)
	if n := len(c.text) - consoleLimit; n > 0 {
		c.text = bytes.Clone(c.text[n:])
	}
	return len(b), nil
}

// last returns the last lines that are not empty, and not of a boot that went
// well; after a panic they begin with it, because its stack alone is no use.
func (c *console) last() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lines []string
	for line := range strings.Lines(string(c.text)) {
		if line = strings.TrimRight(line, "\r\n\t "); line != "" {
			lines = append(lines, line)
		}
	}
	with := func(mark string) int {
		return slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, mark) })
	}
	if at := with(panicMark); at >= 0 {
		return lines[at:min(len(lines), at+consoleLines)]
	}
	lines = lines[with(bootedMark)+1:]
	return lines[max(0, len(lines)-consoleLines):]
}
