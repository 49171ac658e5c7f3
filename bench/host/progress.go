package host

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	terminalInterval = time.Second
	logInterval      = 15 * time.Second
)

// A Reporter tells a person how far something is that takes long: on a terminal
// by one line that is written anew each second, elsewhere by a line every 15 s and
// at each step. Its methods may be called from several goroutines.
type Reporter struct {
	what     string
	terminal bool
	stop     chan struct{}
	stopped  sync.WaitGroup

	mu    sync.Mutex
	to    io.Writer // fails in silence: it is no reason to give up a build
	start time.Time
	now   string        // the step at hand, or empty
	state func() string // gives the step at hand, where it is not nil
	done  int           // lines that make wrote
	all   int           // lines that it will write; 0 if the step does not count
	shown bool          // the terminal's line is not empty
}

// NewReporter reports to a writer (nil discards it) on what is named by a word or
// two, with which every line begins. The caller calls Close.
func NewReporter(to io.Writer, what string) *Reporter {
	if to == nil {
		to = io.Discard
	}
	r := &Reporter{what: what, to: to, terminal: isTerminal(to), stop: make(chan struct{}), start: time.Now()}
	interval := logInterval
	if r.terminal {
		interval = terminalInterval
	}
	r.stopped.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-r.stop:
				return
			case now := <-ticker.C:
				r.show(now)
			}
		}
	})
	return r
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// columns is how wide the terminal is.
func columns(w io.Writer) int {
	const usual = 80
	f, ok := w.(*os.File)
	if !ok {
		return usual
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 {
		return usual
	}
	return int(size.Col)
}

// cut leaves at most n characters of a line.
func cut(line string, n int) string {
	if letters := []rune(line); len(letters) > n {
		return string(letters[:max(n, 0)])
	}
	return line
}

// Close ends the reports and clears the terminal's line.
func (r *Reporter) Close() {
	close(r.stop)
	r.stopped.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
}

// Say writes a line that stays.
func (r *Reporter) Say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
	fmt.Fprintf(r.to, r.what+": "+format+"\n", args...)
}

// Step names what is being done now; a name once more changes nothing, an empty
// one says that it is over.
func (r *Reporter) Step(name string) {
	r.mu.Lock()
	same := r.now == name
	r.now, r.done, r.all = name, 0, 0
	if name == "" {
		r.clear()
	}
	r.mu.Unlock()
	if !same {
		r.show(time.Now())
	}
}

// Follow makes what a function gives the step at hand, whenever it is shown. It is
// called by other goroutines, and must not call the reporter.
func (r *Reporter) Follow(state func() string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = state
}

// Count returns a writer that counts lines as progress of the step, of which
// there will be so many.
func (r *Reporter) Count(all int) io.Writer {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = all
	return lineCounter{r}
}

type lineCounter struct{ r *Reporter }

func (c lineCounter) Write(b []byte) (int, error) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.done += bytes.Count(b, []byte{'\n'})
	return len(b), nil
}

// show writes the line of the step at hand.
func (r *Reporter) show(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != nil {
		r.now = r.state()
	}
	if r.now == "" {
		return
	}
	line := fmt.Sprintf("%s: %s %s", r.what, now.Sub(r.start).Round(time.Second), r.now)
	if r.all > 0 {
		line += fmt.Sprintf(" %d%%", min(99, 100*r.done/r.all))
	}
	if !r.terminal {
		fmt.Fprintln(r.to, line)
		return
	}
	// A line that wraps could not be written anew.
	fmt.Fprintf(r.to, "\r%s\x1b[K", cut(line, columns(r.to)-1))
	r.shown = true
}

func (r *Reporter) clear() {
	if r.shown {
		fmt.Fprint(r.to, "\r\x1b[K")
		r.shown = false
	}
}
