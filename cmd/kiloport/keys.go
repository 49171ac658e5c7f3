package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"kiloport/tunnel/noise"
)

func (c *command) genkey() *cobra.Command {
	return &cobra.Command{
		Use: "genkey", Short: "Print a new private key", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			key, err := noise.NewPrivateKey(rand.Reader)
			if err != nil {
				return fmt.Errorf("draw a key: %w", err)
			}
			_, err = fmt.Fprintln(c.stdout, key.Base64())
			return err
		},
	}
}

func (c *command) genpsk() *cobra.Command {
	return &cobra.Command{
		Use: "genpsk", Short: "Print a new preshared key", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			key, err := noise.NewPresharedKey(rand.Reader)
			if err != nil {
				return fmt.Errorf("draw a key: %w", err)
			}
			_, err = fmt.Fprintln(c.stdout, key.Base64())
			return err
		},
	}
}

func (c *command) pubkey() *cobra.Command {
	return &cobra.Command{
		Use: "pubkey", Short: "Read a private key and print its public key", Args: noArgs,
		Example: "  kiloport genkey | tee private.key | kiloport pubkey",
		RunE: func(*cobra.Command, []string) error {
			text, err := io.ReadAll(io.LimitReader(c.stdin, 1024))
			if err != nil {
				return fmt.Errorf("read a private key from standard input: %w", err)
			}
			key, err := noise.ParsePrivateKey(strings.TrimSpace(string(text)))
			if err != nil {
				return fmt.Errorf("read a private key from standard input: %w", err)
			}
			_, err = fmt.Fprintln(c.stdout, key.Public())
			return err
		},
	}
}
