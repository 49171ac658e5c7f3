// Command kiloport is a WireGuard daemon that gives every inner flow an outer
// UDP flow of its own. As `kiloport NAME` it takes the place of wireguard-go; as
// `kiloport up CONFIG` that of wg-quick too.
//
// Start at run in run.go. options.go is the one table of options, for flags,
// configuration keys, man page and completion; device.go runs a device; up.go
// does what is around it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
