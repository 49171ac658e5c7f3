package tunnels

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// TincInherit is [Tinc] with PriorityInheritance, which copies the type of service
// outwards, marks included. It does so for IPv4 alone.
type TincInherit struct{ Tinc }

var _ Daemon = TincInherit{}

// Up implements [Daemon].
func (t TincInherit) Up(ctx context.Context, mine, theirs *End, c *Config) error {
	return t.Tinc.up(ctx, mine, theirs, func(dir string) error {
		f, err := os.OpenFile(filepath.Join(dir, "tinc.conf"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("add to tinc's configuration: %w", err)
		}
		defer f.Close()
		_, err = f.WriteString("PriorityInheritance = yes\n")
		return err
	})
}
