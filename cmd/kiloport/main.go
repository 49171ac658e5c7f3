// Command kiloport is a WireGuard daemon that gives every inner flow an outer
// UDP flow of its own. As `kiloport NAME` it takes the place of wireguard-go; as
// `kiloport up CONFIG` that of wg-quick too.
//
// Start at run in run.go. options.go is the one table of options, for flags,
// configuration keys, man page and completion; device.go runs a device; up.go
// does what is around it, and background.go has that done behind the terminal.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// version is set by the linker.
var version = "unknown"

// init keeps the main goroutine on the main thread, and so all others off it. That
// thread is what /proc says of the process, its network namespace above all: what
// tries something out in a namespace of its own ends its thread with it, and the
// main thread cannot be ended.
func init() { runtime.LockOSThread() }

func main() {
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup(1) wants it
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// outliveReaders keeps a daemon from dying, with nothing undone, when it writes
// to a pipe that nobody reads any more. The signal is not ignored but handled, so
// that the commands it starts have it as usual.
func outliveReaders() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }
