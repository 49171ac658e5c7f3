package tunnels

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"kiloport/bench/netlab"
)

// Binaries are the programs that are built from source rather than installed.
type Binaries struct {
	// Kiloport and WireguardGo are paths.
	Kiloport, WireguardGo string
}

// Names are the tunnels that [ByName] knows, in the order in which reports list
// them.
var Names = []string{"none", "kiloport", "kiloport-1port", "kernel-wireguard", "kernel-wireguard+attach", "wireguard-go", "tinc", "tinc-inherit", "nebula"}

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
	case "kernel-wireguard" + attachSuffix:
		return Attached{Binary: b.Kiloport}, nil
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

// between stands in the name of a tunnel with two different ends, such as
// "kiloport>wireguard-go": site A has the first.
const between = ">"

// Ends gives the adapters of both ends of a tunnel, nil for "none".
func Ends(name string, b Binaries, settings []string) (atA, atB Daemon, err error) {
	first, second, two := strings.Cut(name, between)
	if !two {
		second = first
	}
	if atA, err = ByName(first, b, settings); err != nil {
		return nil, nil, err
	}
	if atB, err = ByName(second, b, settings); err != nil {
		return nil, nil, err
	}
	if two && (atA == nil || atB == nil) {
		return nil, nil, fmt.Errorf("tunnel %q: a tunnel has two ends, and one of these is none", name)
	}
	return atA, atB, nil
}

// Lanes tells whether both ends of a tunnel are kiloport, or have it attached, so
// that there will be lanes.
func Lanes(name string) bool {
	first, second, two := strings.Cut(name, between)
	return hasLanes(first) && (!two || hasLanes(second))
}

func hasLanes(name string) bool { return isKiloport(name) || strings.HasSuffix(name, attachSuffix) }

func isKiloport(name string) bool { return strings.HasPrefix(name, "kiloport") }

// Installed is nil if the programs of a tunnel are on this machine, else it says
// what to install or build.
func Installed(name string, b Binaries) error {
	if first, second, two := strings.Cut(name, between); two {
		return errors.Join(Installed(first, b), Installed(second, b))
	}
	switch {
	case isKiloport(name):
		return built(b.Kiloport, "kiloport", "make build")
	case name == "wireguard-go":
		return built(b.WireguardGo, "wireguard-go", "make bin/wireguard-go")
	case name == "kernel-wireguard":
		return installed("wg", "wireguard-tools")
	case isKernel(name):
		return errors.Join(installed("wg", "wireguard-tools"), built(b.Kiloport, "kiloport", "make build"))
	case strings.HasPrefix(name, "tinc"):
		return installed("tincd", "tinc")
	case name == "nebula":
		return errors.Join(installed("nebula", "nebula"), installed("nebula-cert", "nebula"))
	}
	return nil
}

// Supported is nil if the kernel that it is called in can carry a tunnel. It
// needs root, and leaves nothing behind.
func Supported(ctx context.Context, name string) error {
	if name == "none" {
		return nil
	}
	if !isKernel(name) {
		_, err := os.Stat(tunDevice)
		if err != nil {
			err = fmt.Errorf("%w: load the module (modprobe tun), or in a container, give it the device", err)
		}
		return err
	}
	lab, err := netlab.New(ctx)
	if err != nil {
		return err
	}
	defer lab.Close()
	node, err := lab.Node("try")
	if err != nil {
		return err
	}
	if _, err := node.Run(ctx, "ip", "link", "add", "try", "type", "wireguard"); err != nil {
		return fmt.Errorf("this kernel has no WireGuard (modprobe wireguard), measure it in the lab kernel: %w", err)
	}
	return nil
}

const tunDevice = "/dev/net/tun"

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
		return fmt.Errorf("%w: install the package %s", err, pkg)
	}
	return nil
}

// built finds a program that is made from source.
func built(path, name, recipe string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("find %s: %w; run %s, or name it with --%s", name, err, recipe, name)
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("find %s: %s is no program; run %s, or name another with --%s", name, path, recipe, name)
	}
	return nil
}
