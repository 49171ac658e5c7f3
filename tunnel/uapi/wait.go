package uapi

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// WaitForEnd waits until the daemon cuts the connection off, which kiloport does
// when it has undone everything. Nothing may be asked afterwards. An error that
// wraps os.ErrDeadlineExceeded says that the daemon is still there.
func (c *Client) WaitForEnd(timeout time.Duration) error {
	return c.waitForEnd(timeout, idleTimeout/3)
}

// waitForEnd asks something at each interval, or the server would cut it off for
// being idle, which would look like the end.
func (c *Client) waitForEnd(timeout, interval time.Duration) error {
	end := time.Now().Add(timeout)
	for {
		next := time.Now().Add(interval)
		if next.After(end) {
			next = end
		}
		if err := c.conn.SetDeadline(next); err != nil {
			return fmt.Errorf("interface %s: wait for its daemon to end: %w", c.name, err)
		}
		// Only a deadline says that the daemon lives; other errors are how its
		// end can look.
		_, err := io.Copy(io.Discard, c.r)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if !next.Before(end) {
			pid, _ := c.Pid()
			return fmt.Errorf("interface %s: its daemon, process %d, is still there after %v, see its log: %w", c.name, pid, timeout, err)
		}
		if err := c.conn.SetDeadline(end); err != nil {
			return fmt.Errorf("interface %s: wait for its daemon to end: %w", c.name, err)
		}
		// If this fails, the next read says why.
		io.WriteString(c.conn, "get=1\n\n")
	}
}
