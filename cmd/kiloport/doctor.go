package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"kiloport/cmd/kiloport/doctor"
	"kiloport/cmd/kiloport/quick"
	"kiloport/tunnel"
	"kiloport/tunnel/uapi"
)

func (c *command) doctor() *cobra.Command {
	var asJSON, all bool
	cmd := &cobra.Command{
		Use: "doctor [CONFIG]", Short: "Look for what keeps a tunnel from working well, and say what to do",
		Long: `Look at this host for what keeps a tunnel from working well: kernel, limits,
ports, firewall, connection tracking, queues, MTU, clock, and, if the daemon runs,
what it has found out about the path: lanes, ECN, DSCP. Nothing is changed. The exit
status is 1 if there is a warning or a failure.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{fmt.Errorf("%s wants one configuration file at most, got %q", cmd.CommandPath(), args)}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			view, err := c.view(cmd.Context(), args)
			if err != nil {
				return err
			}
			found := doctor.Examine(view)
			if asJSON {
				e := json.NewEncoder(c.stdout)
				e.SetIndent("", "  ")
				err = e.Encode(found)
			} else {
				c.tell(found, all)
			}
			if err == nil && doctor.Ill(found) {
				err = errSilent
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON, a list of everything that was looked at")
	cmd.Flags().BoolVar(&all, "all", false, "say also what is well")
	return cmd
}

// view looks at the host, with a configuration or without.
func (c *command) view(ctx context.Context, args []string) (*doctor.View, error) {
	if len(args) == 0 {
		return doctor.Gather(ctx, nil), nil
	}
	l, err := c.load(args[0], c.stderr)
	if err != nil {
		return nil, err
	}
	request, err := l.request(ctx, nil)
	if err != nil {
		fmt.Fprintf(c.stderr, "kiloport: note: %s\n", quick.Hide(err.Error()))
	}
	var endpoints []netip.Addr
	if request != nil {
		for _, p := range request.Peers {
			if p.Endpoint != nil {
				endpoints = append(endpoints, p.Endpoint.Addr())
			}
		}
	}
	v := doctor.Gather(ctx, endpoints)
	v.Config = l.forDoctor()
	if s, err := askStatus(l.name); err == nil {
		v.Status = s
	} else {
		v.LastWords, _, _ = strings.Cut(uapi.LastWords(l.name), "\n") // the rest is a traceback
	}
	return v, nil
}

func (l *loaded) forDoctor() *doctor.Config {
	in := l.config.Interface
	d := &doctor.Config{Name: l.name, Options: l.options, MTU: in.MTU}
	if in.ListenPort != nil {
		d.ListenPort = *in.ListenPort
	}
	if info, err := os.Stat(l.path); err == nil {
		d.LooseMode = info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0
	}
	for _, p := range l.config.Peers {
		for _, prefix := range p.AllowedIPs {
			d.Networks = d.Networks || !prefix.IsSingleIP()
			d.Default = d.Default || prefix.Bits() == 0
		}
	}
	if d.Options.Spread == tunnel.SpreadOff {
		d.Options.Ports, d.Options.PortRange = 1, tunnel.PortRange{}
	}
	return d
}

// tell prints findings, what to do below each.
func (c *command) tell(found []doctor.Finding, all bool) {
	well := 0
	for _, f := range found {
		if f.Level == doctor.OK && !all {
			well++
			continue
		}
		fmt.Fprintf(c.stdout, "%-8s%s: %s\n", f.Level, f.Check, f.Text)
		if f.Fix != "" {
			fmt.Fprintf(c.stdout, "        → %s\n", f.Fix)
		}
	}
	if well > 0 {
		fmt.Fprintf(c.stdout, "%d other things are well; --all lists them\n", well)
	}
}
