package tunnels

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// attachSuffix is what the name of a kernel's tunnel with lanes ends in.
const attachSuffix = "+attach"

// Attached is WireGuard in the Linux kernel with kiloport attached to it.
type Attached struct {
	Kernel
	// Binary is the built kiloport.
	Binary string
	// Flags are for `kiloport attach`.
	Flags []string
}

var _ Daemon = Attached{}

// Up implements [Daemon].
func (a Attached) Up(ctx context.Context, mine, theirs *End, c *Config) error {
	if err := a.Kernel.Up(ctx, mine, theirs, c); err != nil {
		return err
	}
	return a.Attach(ctx, mine)
}

// Attach attaches to the kernel's WireGuard that is up.
func (a Attached) Attach(ctx context.Context, mine *End) (err error) {
	args := append([]string{"attach", "-f", mine.Dev}, a.Flags...)
	if mine.Attached, err = mine.Site.Start(exec.Command(a.Binary, args...)); err != nil {
		return err
	}
	return AwaitDaemon(ctx, mine.Attached, func() error {
		_, err := Show(ctx, mine.Site.Node, a.Binary, mine.Dev)
		return err
	})
}

// Version implements [Daemon].
func (a Attached) Version(ctx context.Context) (string, error) {
	kernel, err := a.Kernel.Version(ctx)
	if err != nil {
		return "", err
	}
	ours, err := version(ctx, a.Binary, "version")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %s", kernel, ours), nil
}

// isKernel tells whether a tunnel is the kernel's own WireGuard.
func isKernel(name string) bool { return strings.TrimSuffix(name, attachSuffix) == "kernel-wireguard" }
