package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
