package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kiloport/tunnel"
	"kiloport/tunnel/attach"
	"kiloport/tunnel/attach/accord"
	"kiloport/tunnel/ecn"
)

// attachFlags are the options that mean something where the kernel is the tunnel.
var attachFlags = []string{"ports", "port-range", "dscp", "metrics"}

// attachConfig is what the command line asks for.
type attachConfig struct {
	attach.Config
	options tunnel.Options
}

func (c *command) attach() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "attach NAME, or attach status [NAME]",
		Short: "Give a WireGuard interface of the kernel lanes",
		Long: `Give a WireGuard interface of the kernel lanes: two small eBPF programs on the
interfaces below it let each inner flow leave from a source port of its own, and
put the canonical port back on what arrives. Flows are spread towards peers that
are attached too, or are kiloport; both ends agree on it inside the tunnel. A peer
that is neither gets WireGuard as it is.

Of the options, --ports (12288 here), --port-range, --dscp (zero here) and --metrics
mean something. The ports must be outside of net.ipv4.ip_local_port_range, or
reserved (net.ipv4.ip_local_reserved_ports), and no socket may have one of them.

kiloport attach status [NAME], or kiloport show NAME, tells how it is, and kiloport
detach NAME ends it.`,
		Example: `  kiloport attach wg0
  kiloport attach wg0 --port-range 20480-32767 --dscp inherit
  kiloport attach status --json
  PostUp = kiloport attach %i         # in wg-quick's file
  PreDown = kiloport detach %i || true`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 || len(args) == 2 && args[0] == "status" {
				return nil
			}
			return usageError{fmt.Errorf("%s wants the name of an interface, or status: see %s --help", cmd.CommandPath(), cmd.CommandPath())}
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "status" {
				return c.attachStatus(args[1:], asJSON)
			}
			return c.runAttach(cmd.Context(), args[0])
		},
	}
	cmd.Flags().BoolVarP(&c.foreground, "foreground", "f", false, "stay in the foreground, as for systemd")
	cmd.Flags().BoolVar(&asJSON, "json", false, "with status, as JSON: one object for NAME, else a list")
	return cmd
}

func (c *command) detach() *cobra.Command {
	return &cobra.Command{
		Use: "detach NAME", Short: "End what attach began, without losing a packet",
		Args: oneArg("the name of an interface"),
		RunE: func(_ *cobra.Command, args []string) error { return attach.Detach(args[0]) },
	}
}

// attachConfig reads the options. Those that the kernel has no use for are refused,
// so that nobody waits for what they would do.
func (c *command) attachConfig(name string) (*attachConfig, error) {
	a := &attachConfig{Config: attach.Config{Device: name}, options: tunnel.DefaultOptions()}
	for _, o := range options {
		value, ok := c.chosen.values[o.flag]
		switch {
		case !ok:
		case !slices.Contains(attachFlags, o.flag):
			return nil, usageError{fmt.Errorf("--%s is for kiloport's own tunnel: with the kernel's, there are only --%s", o.flag, strings.Join(attachFlags, ", --"))}
		default:
			if err := o.set(&a.options, value); err != nil { // each by itself: the defaults are others here
				return nil, usageError{fmt.Errorf("--%s: %w", o.flag, err)}
			}
		}
	}
	if r := a.options.PortRange; r.High != 0 {
		a.Range = accord.Range{Low: r.Low, Count: r.High - r.Low + 1}
	}
	if _, ok := c.chosen.values["ports"]; ok {
		a.Ports = uint16(a.options.Ports)
		a.Range.Count = min(a.Range.Count, a.Ports)
	}
	if _, ok := c.chosen.values["dscp"]; ok && a.options.DSCP != ecn.FixedDSCP(0) {
		a.DSCP = &a.options.DSCP
	}
	log, err := c.logger(name)
	a.Log = log
	return a, err
}

// runAttach attaches, here or in the background.
func (c *command) runAttach(ctx context.Context, name string) error {
	config, err := c.attachConfig(name)
	if err != nil {
		return err
	}
	parent, err := waitingParent()
	if err != nil {
		return err
	}
	if !c.foreground && parent == nil {
		return c.inBackground(ctx)
	}
	outliveReaders()
	prometheus, err := listenMetrics(config.options)
	if err != nil {
		return err
	}
	defer prometheus.close()
	attachment, err := attach.New(config.Config)
	if err != nil {
		return err
	}
	stop := prometheus.serve(attachment, config.Log)
	defer stop()
	ready(config.Log)
	if err := c.letGo(parent); err != nil {
		return err
	}
	err = attachment.Run(ctx)
	if errors.Is(err, attach.ErrGone) {
		config.Log.Info("ending", "reason", err)
		return nil
	}
	return err
}

// attachStatus shows one attachment, or all.
func (c *command) attachStatus(args []string, asJSON bool) error {
	names := args
	if len(names) == 0 {
		names = attach.Names()
	}
	var all []*tunnel.Status
	for _, name := range names {
		s, err := attach.Show(name)
		switch {
		case err == nil:
			all = append(all, s)
		case len(args) > 0:
			return err
		}
	}
	if asJSON {
		return c.showJSON(all, len(args) == 1)
	}
	writeStatuses(c.stdout, all, time.Now())
	return nil
}
