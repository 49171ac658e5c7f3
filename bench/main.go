// Command bench drives the built kiloport binary from outside: it lays out
// networks, sends traffic through the tunnel, watches the wire, and reports.
//
// Start with `bench demo`, which shows in a minute what kiloport does, with `bench
// run`, which measures it and other tunnels behind gateways with real queues, or
// with `bench help` for the list. `bench help measuring` says what to know before
// one believes a figure: of virtual time, and of the traps in between.
//
// Everything happens in network namespaces that bench makes and removes, most of it
// in a kernel of its own. In this machine's kernel it needs root; it changes nothing
// in the namespace that it was started in.
//
// A new subcommand is a file of its own here: write a function that returns its
// *cobra.Command and hand it to register from an init function. A new scenario is
// an entry in [lab.Scenarios].
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"kiloport/bench/guest"
	"kiloport/bench/labkernel"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/stockkernel"
)

// Exit statuses of the command.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// commands are the constructors of all subcommands, in the order in which the
// files of this package registered them.
var commands []func() *cobra.Command

// register adds a subcommand. Call it from init; the constructor runs once for
// every invocation, so that a command keeps no state between tests.
func register(command func() *cobra.Command) { commands = append(commands, command) }

func main() {
	labkernel.RunIfInit()
	stockkernel.RunIfInit()
	traffic.RunIfHelper()
	ctx, stop := interruptible()
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// interruptible gives a context that ends when somebody or something asks the
// program to. Who asks a second time means it, and does not wait for what it cleans
// up. A reader of the output that has gone away is no reason to leave namespaces
// behind either, nor is what is written after that.
func interruptible() (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	go func() {
		<-broken
		cancel()
	}()
	ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// run is the whole command with its surroundings as arguments. It returns the
// exit status: 0, 1 after a failure, 2 after a mistake on the command line, and
// that of a command that failed in a kernel. A subcommand reports a failure by
// returning an error; it is printed here, once. Cancelling ctx ends every
// subcommand, which then cleans up before it returns.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	started := false
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case !started:
		fmt.Fprintf(stderr, "bench: %v\nTry 'bench help'.\n", err)
		return exitUsage
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "bench: interrupted")
	case ctx.Err() != nil:
		fmt.Fprintf(stderr, "bench: %v\nbench: interrupted\n", err)
	default:
		fmt.Fprintf(stderr, "bench: %v\n", err)
	}
	if inside := new(guest.ExitError); errors.As(err, &inside) {
		return inside.Status
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "bench",
		Short:         "Show, measure and compare kiloport from outside",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	for _, command := range commands {
		root.AddCommand(command())
	}
	return root
}
