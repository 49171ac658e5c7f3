package labkernel

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

// A reporter tells a person how far a build is: on a terminal by one line that
// is written anew each second, elsewhere by a line every 15 s and at each step.
type reporter struct {
	terminal bool
	stop     chan struct{}
	stopped  sync.WaitGroup

	mu    sync.Mutex
	to    io.Writer // fails in silence: it is no reason to give up a build
	start time.Time
	now   string // the step at hand, or empty
	done  int    // lines that make wrote
	all   int    // lines that it will write; 0 if the step does not count
	shown bool   // the terminal's line is not empty
}

func newReporter(to io.Writer) *reporter {
	if to == nil {
		to = io.Discard
	}
	r := &reporter{to: to, terminal: isTerminal(to), stop: make(chan struct{}), start: time.Now()}
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

// close ends the reports and clears the terminal's line.
func (r *reporter) close() {
	close(r.stop)
	r.stopped.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
}

// say writes a line that stays.
func (r *reporter) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
	fmt.Fprintf(r.to, format+"\n", args...)
}

// step names what is being done now; a name once more changes nothing.
func (r *reporter) step(name string) {
	r.mu.Lock()
	same := r.now == name
	r.now, r.done, r.all = name, 0, 0
	r.mu.Unlock()
	if !same {
		r.show(time.Now())
	}
}

// count returns a writer that counts lines as progress of the step.
func (r *reporter) count(all int) io.Writer {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = all
	return lineCounter{r}
}

type lineCounter struct{ r *reporter }

func (c lineCounter) Write(b []byte) (int, error) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.done += bytes.Count(b, []byte{'\n'})
	return len(b), nil
}

// show writes the line of the step at hand.
func (r *reporter) show(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now == "" {
		return
	}
	line := fmt.Sprintf("lab kernel: %s %s", now.Sub(r.start).Round(time.Second), r.now)
	if r.all > 0 {
		line += fmt.Sprintf(" %d%%", min(99, 100*r.done/r.all))
	}
	if !r.terminal {
		fmt.Fprintln(r.to, line)
		return
	}
	fmt.Fprintf(r.to, "\r%s\x1b[K", line)
	r.shown = true
}

func (r *reporter) clear() {
	if r.shown {
		fmt.Fprint(r.to, "\r\x1b[K")
		r.shown = false
	}
}
