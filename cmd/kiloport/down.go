package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"kiloport/cmd/kiloport/quick"
	"kiloport/tunnel/uapi"
)

func (c *command) down() *cobra.Command {
	return &cobra.Command{
		Use: "down NAME", Short: "End the daemon of an interface and undo what up did",
		Args: oneArg("the name of an interface, or its configuration file"),
		RunE: func(_ *cobra.Command, args []string) error {
			name, err := quick.InterfaceName(args[0])
			if err != nil {
				return err
			}
			return endDaemon(name)
		},
	}
}

// endDaemon removes the socket, which tells any WireGuard daemon to end, and
// waits for it: kiloport cuts off its clients when everything is undone.
func endDaemon(name string) error {
	client, err := uapi.Dial(name)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := os.Remove(uapi.SocketPath(name)); err != nil {
		return fmt.Errorf("end interface %s: %w", name, err)
	}
	if err := client.WaitForEnd(downTimeout); err != nil {
		return fmt.Errorf("end interface %s: %w", name, err)
	}
	return nil
}
