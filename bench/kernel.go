package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"kiloport/bench/labkernel"
)

func init() { register(newKernel) }

func newKernel() *cobra.Command {
	cmd := &cobra.Command{
		Use: "kernel", Args: cobra.NoArgs,
		Short: "Build the lab kernel if it is not there, and say where it is",
		Long: `Kernel builds the lab kernel, User-Mode Linux with every queue that gateways
have, from the distribution's kernel source into the user's cache folder. This
takes about seven minutes on two cores, once.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			k, err := labkernel.Ensure(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s (Linux %s, %s %s)\n", k.Path, k.Manifest.Release, k.Manifest.Package, k.Manifest.PackageVersion)
			return nil
		},
	}
	cmd.AddCommand(newKernelRun())
	return cmd
}

func newKernelRun() *cobra.Command {
	var share []string
	cmd := &cobra.Command{
		Use: "run -- COMMAND…", Args: cobra.MinimumNArgs(1),
		Short: "Run a command in the lab kernel, in virtual time",
		Long: `Run boots the lab kernel for one command. It sees the machine's files, and what
it writes is thrown away except in the folders of --share.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := labkernel.Ensure(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			guest := labkernel.Guest{Command: args, Stdout: cmd.OutOrStdout(), Stderr: cmd.ErrOrStderr()}
			for _, path := range share {
				guest.Share = append(guest.Share, labkernel.Share{Path: path})
			}
			return k.Run(cmd.Context(), guest)
		},
	}
	cmd.Flags().StringArrayVar(&share, "share", nil, "a folder in which the command may write")
	return cmd
}
