package tunnels

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// Binaries are the programs that are built from source rather than installed.
type Binaries struct {
	// Kiloport and WireguardGo are paths.
	Kiloport, WireguardGo string
}

// Names are the tunnels that [ByName] knows, in the order in which reports list
// them.
var Names = []string{"none", "kiloport", "kiloport-1port", "kernel-wireguard", "wireguard-go", "tinc", "tinc-inherit", "nebula"}

// ByName gives the adapter of a tunnel, nil for "none". Settings are lines for
// the [Interface] section of kiloport's configuration file.
func ByName(name string, b Binaries, settings []string) (Daemon, error) {
	switch name {
	case "none":
		return nil, nil
	case "kiloport":
		return Kiloport{Binary: b.Kiloport, Settings: settings}, nil
	case "kiloport-1port":
		// What the pool adds is the difference.
		return Kiloport{Binary: b.Kiloport, Settings: append([]string{"Ports = 1"}, settings...)}, nil
	case "kernel-wireguard":
		return Kernel{}, nil
	case "wireguard-go":
		return WireguardGo{Binary: b.WireguardGo}, nil
	case "tinc":
		return Tinc{}, nil
	case "tinc-inherit":
		return TincInherit{}, nil
	case "nebula":
		return Nebula{}, nil
	}
	return nil, fmt.Errorf("there is no tunnel %q: choose among %s", name, strings.Join(Names, ", "))
}

// OnlyIPv4 tells whether a tunnel carries no IPv6, or does not do with it what is
// measured.
func OnlyIPv4(name string) bool { return name == "nebula" || name == "tinc-inherit" }

// version runs a program that prints its version and gives the first line.
func version(ctx context.Context, program string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", program, err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return first, nil
}

// installed finds a program, or names the package that has it.
func installed(program, pkg string) error {
	if _, err := exec.LookPath(program); err != nil {
		return errors.Join(err, fmt.Errorf("install the package %s", pkg))
	}
	return nil
}
