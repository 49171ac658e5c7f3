package uapi

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// WaitForEnd waits until the daemon cuts the connection off, which kiloport does
// when it has undone everything. Nothing may be asked afterwards.
func (c *Client) WaitForEnd(timeout time.Duration) error {
	c.conn.SetDeadline(time.Now().Add(timeout))
	_, err := c.r.ReadByte()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the daemon is still there after %v", timeout)
	}
	return nil
}
