package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"kiloport/bench/report"
)

func init() {
	register(newCompare)
	register(newFlent)
	register(newHeadline)
}

func newCompare() *cobra.Command {
	return &cobra.Command{
		Use: "compare A B", Args: cobra.ExactArgs(2),
		Short: "Set two reports side by side: folders of bench run, or their report.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := report.Read(args[0])
			if err != nil {
				return err
			}
			b, err := report.Read(args[1])
			if err != nil {
				return err
			}
			return report.Compare(a, b, cmd.OutOrStdout())
		},
	}
}

func newFlent() *cobra.Command {
	return &cobra.Command{
		Use: "flent REPORT FOLDER", Args: cobra.ExactArgs(2),
		Short: "Write every run of a report as a file that flent and flent-gui open",
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, err := report.Read(args[0])
			if err != nil {
				return err
			}
			if err := os.MkdirAll(args[1], 0o755); err != nil {
				return fmt.Errorf("make the folder for flent's files: %w", err)
			}
			for i := range doc.Runs {
				if err := exportFlent(&doc.Runs[i], args[1]); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// exportFlent writes one run; its name tells scenario, rate, tunnel and number.
func exportFlent(r *report.Run, dir string) (err error) {
	name := fmt.Sprintf("%s-%g-%s-%d.flent.gz", r.Scenario, r.Path.UpMbit, r.Tunnel, r.Repetition)
	name = strings.Map(func(c rune) rune {
		if strings.ContainsRune(" /=,", c) {
			return '-'
		}
		return c
	}, name)
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return fmt.Errorf("write for flent: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return report.ExportFlent(*r, f)
}

func newHeadline() *cobra.Command {
	var pick report.Selection
	cmd := &cobra.Command{
		Use: "headline REPORT FILE.svg|FILE.png", Args: cobra.ExactArgs(2),
		Short: "Draw the one plot that says it all",
		RunE: func(_ *cobra.Command, args []string) (err error) {
			doc, err := report.Read(args[0])
			if err != nil {
				return err
			}
			figure, err := report.Headline(doc, pick)
			if err != nil {
				return err
			}
			f, err := os.Create(args[1])
			if err != nil {
				return fmt.Errorf("write the plot: %w", err)
			}
			defer func() { err = errors.Join(err, f.Close()) }()
			if filepath.Ext(args[1]) == ".png" {
				return figure.WritePNG(f)
			}
			return figure.WriteSVG(f)
		},
	}
	cmd.Flags().StringVar(&pick.Scenario, "scenario", "rrul_be", "of which scenario")
	cmd.Flags().Float64Var(&pick.UpMbit, "rate", 20, "at which rate in Mbit/s")
	return cmd
}
