package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"kiloport/bench/guest"
	"kiloport/bench/labkernel"
	"kiloport/bench/stockkernel"
)

func init() { register(newKernel) }

// A kernel boots for one command.
type kernel interface {
	Run(ctx context.Context, g guest.Guest) error
}

// kernelChoice is the flag that chooses one.
type kernelChoice struct{ stock bool }

func (c *kernelChoice) flag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.stock, "stock", false, "Debian's kernel in QEMU, in real time, instead of the lab kernel")
}

// ensure makes the kernel that was chosen, if it is not there, and tells in a line
// which it is.
func (c *kernelChoice) ensure(ctx context.Context, progress io.Writer) (kernel, string, error) {
	if c.stock {
		k, err := stockkernel.Ensure(ctx, progress)
		if err != nil {
			return nil, "", err
		}
		return k, fmt.Sprintf("%s (Linux %s, %s %s)", k.Path, k.Manifest.Release, k.Manifest.Package, k.Manifest.PackageVersion), nil
	}
	k, err := labkernel.Ensure(ctx, progress)
	if err != nil {
		return nil, "", err
	}
	return k, fmt.Sprintf("%s (Linux %s, %s %s)", k.Path, k.Manifest.Release, k.Manifest.Package, k.Manifest.PackageVersion), nil
}

func newKernel() *cobra.Command {
	var choice kernelChoice
	cmd := &cobra.Command{
		Use: "kernel", Args: cobra.NoArgs,
		Short: "Build the lab kernel if it is not there, and say where it is",
		Long: `Kernel builds the lab kernel, User-Mode Linux with every queue that gateways
have, from the distribution's kernel source into the user's cache folder. This
takes about seven minutes on two cores, once. With --stock it fetches Debian's
kernel there instead, as users run it, in half a minute, and installs QEMU.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, which, err := choice.ensure(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), which)
			return nil
		},
	}
	choice.flag(cmd)
	cmd.AddCommand(newKernelRun())
	return cmd
}

func newKernelRun() *cobra.Command {
	var choice kernelChoice
	var share []string
	cmd := &cobra.Command{
		Use: "run -- COMMAND…", Args: cobra.MinimumNArgs(1),
		Short: "Run a command in the lab kernel, in virtual time",
		Long: `Run boots the lab kernel for one command. It sees the machine's files, and what
it writes is thrown away except in the folders of --share. With --stock it boots
Debian's kernel, in real time, where the processor is emulated unless KVM works.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			k, _, err := choice.ensure(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			g := guest.Guest{Command: args, Stdout: cmd.OutOrStdout(), Stderr: cmd.ErrOrStderr()}
			for _, path := range share {
				g.Share = append(g.Share, guest.Share{Path: path})
			}
			return k.Run(cmd.Context(), g)
		},
	}
	choice.flag(cmd)
	cmd.Flags().StringArrayVar(&share, "share", nil, "a folder in which the command may write")
	return cmd
}
