package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kiloport/cmd/kiloport/top"
	"kiloport/tunnel/uapi"
)

func (c *command) top() *cobra.Command {
	config := top.Config{Ask: askStatus, Clock: time.Now}
	cmd := &cobra.Command{
		Use: "top [NAME]", Short: "Watch peers, lanes and flows with their rates",
		Long: `Watch the peers, lanes and flows of an interface: rates, waiting times, marks
and drops, each second. Keys: q quit, tab or 1 2 3 the view, s the column to sort
by, r reverse, / filter, enter the lanes of a peer, space pause, ? help. The
same numbers are in kiloport show --json.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{fmt.Errorf("%s wants one interface at most, got %q", cmd.CommandPath(), args)}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err := config.Validate(); err != nil {
				return usageError{err}
			}
			if config.Names, err = namesToWatch(args); err != nil {
				return err
			}
			err = top.Run(cmd.Context(), config, c.stdin, c.stdout)
			if errors.Is(err, top.ErrNoTerminal) {
				return fmt.Errorf("%w: for a file or another program use kiloport show --json", err)
			}
			return err
		},
	}
	cmd.Flags().DurationVar(&config.Every, "interval", time.Second, "time between two looks")
	cmd.Flags().StringVar(&config.View, "view", top.Views[0], strings.Join(top.Views, ", ")+": what to begin with")
	return cmd
}

// namesToWatch gives the interface that was asked for, or all that answer.
func namesToWatch(args []string) (names []string, err error) {
	if len(args) == 1 {
		_, err := askStatus(args[0])
		return args, err
	}
	all, err := uapi.Names()
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	slices.Sort(all)
	for _, name := range all {
		if _, err := askStatus(name); err == nil {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("no interface is run by kiloport: bring one up with kiloport up")
	}
	return names, nil
}
