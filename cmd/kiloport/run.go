package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"kiloport/cmd/kiloport/quick"
)

// command is what all subcommands share.
type command struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	chosen         *chosen
	foreground     bool
	logLevel       string
	logTo          *logOutlet // nil before there is a log, or if it says nothing
}

// errSilent ends a command that has already said why.
var errSilent = errors.New("")

// run is the whole program but for the process around it. It gives the exit
// status: 0 for success, 1 for failure, 2 for a wrong command line.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &command{stdin: stdin, stdout: stdout, stderr: stderr}
	root := c.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if err != errSilent {
		fmt.Fprintf(stderr, "kiloport: %s\n", quick.Hide(err.Error())) // a key may have come in place of anything
	}
	var usage usageError
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}

// usageError is a wrong command line.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func (c *command) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kiloport [-f] NAME",
		Short: "A WireGuard daemon that gives every flow a source port of its own",
		Long: `kiloport joins sites through a WireGuard tunnel in which every inner flow
travels in an outer UDP flow of its own, so that fq_codel and cake gateways
between the sites see the real flows. Stock WireGuard peers work too.

  kiloport NAME       makes the interface NAME and goes to the background, in
                      place of wireguard-go; configure it with wg(8)
  kiloport up CONFIG  does what wg-quick(8) does, with the same files

The environment is that of wireguard-go: WG_TUN_FD and WG_UAPI_FD are inherited
descriptors, WG_PROCESS_FOREGROUND=1 is -f, LOG_LEVEL is verbose, info, error or
silent. What has gone to the background logs to syslog, as kiloport-NAME, but if it
is verbose, to the terminal.`,
		Example: `  kiloport up wg0                     # /etc/kiloport/wg0.conf or /etc/wireguard/wg0.conf
  kiloport -f --port-range 40000-41023 wg0
  kiloport show wg0`,
		Version:       version,
		SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				return nil
			}
			return usageError{fmt.Errorf("name one interface, such as kiloport wg0, or a command: see kiloport --help")}
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.runDevice(cmd.Context(), args[0]) },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())}
	})
	root.PersistentFlags().StringVar(&c.logLevel, "log-level", logLevelDefault(), "verbose, info, error or silent")
	root.Flags().BoolVarP(&c.foreground, "foreground", "f", false, "stay in the foreground")
	c.chosen = addFlags(root.PersistentFlags())
	root.AddCommand(c.up(), c.down(), c.check(), c.reload(), c.restart(), c.setup(), c.doctor(), c.show(), c.top(), c.attach(), c.detach(), c.genkey(), c.genpsk(), c.pubkey(), c.man(), c.versionCommand())
	root.SetIn(c.stdin)
	root.SetOut(c.stdout) // before the next lines: completion takes it from here
	root.SetErr(c.stderr)
	root.SetVersionTemplate("kiloport {{.Version}}\n")
	root.InitDefaultCompletionCmd()
	return root
}

func (c *command) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(c.stdout, "kiloport %s\n", version)
			return err
		},
	}
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no arguments, got %q", cmd.CommandPath(), args)}
	}
	return nil
}

func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{fmt.Errorf("%s wants %s: see %s --help", cmd.CommandPath(), what, cmd.CommandPath())}
		}
		return nil
	}
}

func logLevelDefault() string {
	if level := os.Getenv("LOG_LEVEL"); level != "" {
		return level
	}
	return "info"
}
