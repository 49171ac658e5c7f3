package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// man writes the man page, which is made of the commands' own help and of the
// table of options.
func (c *command) man() *cobra.Command {
	return &cobra.Command{
		Use: "man", Short: "Print the man page", Args: noArgs,
		Example: "  kiloport man | man -l -",
		RunE: func(cmd *cobra.Command, _ []string) error {
			header := &doc.GenManHeader{Title: "KILOPORT", Section: "8", Source: "kiloport " + version, Date: new(time.Time)}
			root := cmd.Root()
			root.Long += "\n\n" + commandHelp(root) + "\n\n" + configHelp()
			return doc.GenMan(root, header, c.stdout)
		},
	}
}

func commandHelp(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("## Commands\n\n")
	for _, sub := range root.Commands() {
		if sub.IsAvailableCommand() {
			fmt.Fprintf(&b, "**kiloport %s**: %s.\n\n", sub.Use, sub.Short)
		}
	}
	return b.String()
}

// configHelp tells of the keys that kiloport adds to wg-quick's.
func configHelp() string {
	var b strings.Builder
	b.WriteString("## Configuration\n\nIn the [Interface] section of a wg-quick(8) file:\n\n")
	for _, o := range options {
		fmt.Fprintf(&b, "**%s** = %s: %s.\n\n", o.key, o.value, o.help)
	}
	return b.String()
}
