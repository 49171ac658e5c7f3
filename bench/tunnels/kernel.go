package tunnels

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Kernel is WireGuard in the Linux kernel, set up with ip and wg.
type Kernel struct{}

var _ Daemon = Kernel{}

// Up implements [Daemon].
func (Kernel) Up(ctx context.Context, mine, theirs *End, c *Config) error {
	if err := installed("wg", "wireguard-tools"); err != nil {
		return err
	}
	if _, err := mine.Site.Run(ctx, "ip", "link", "add", mine.Dev, "type", "wireguard"); err != nil {
		return fmt.Errorf("make a wireguard link (this kernel may have none: use the lab kernel): %w", err)
	}
	path, err := temporary(mine, mine.Dev+".conf", wgConfiguration(mine, theirs, c))
	if err != nil {
		return err
	}
	if out, err := mine.Site.Run(ctx, "wg", "setconf", mine.Dev, path); err != nil {
		return fmt.Errorf("configure %s: %w: %s", mine.Dev, err, out)
	}
	return mine.link(theirs, tunnelMTU)
}

// Version implements [Daemon].
func (Kernel) Version(context.Context) (string, error) {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "", fmt.Errorf("read the kernel's version: %w", err)
	}
	return "Linux " + strings.TrimSpace(string(release)), nil
}

// wgConfiguration is a file as wg(8) reads it, with more lines for [Interface].
func wgConfiguration(mine, theirs *End, c *Config, more ...string) string {
	lines := []string{
		"[Interface]",
		"PrivateKey = " + base64.StdEncoding.EncodeToString(mine.Key.Bytes()),
		fmt.Sprintf("ListenPort = %d", ListenPort),
	}
	lines = append(lines, more...)
	lines = append(lines,
		"",
		"[Peer]",
		"PublicKey = "+base64.StdEncoding.EncodeToString(theirs.Key.PublicKey().Bytes()),
		fmt.Sprintf("AllowedIPs = %v, %v", theirs.Site.Net4, theirs.Site.Net6))
	if c.Preshared != nil {
		lines = append(lines, "PresharedKey = "+base64.StdEncoding.EncodeToString(c.Preshared))
	}
	if c.Keepalive > 0 {
		lines = append(lines, fmt.Sprintf("PersistentKeepalive = %d", c.Keepalive))
	}
	if !theirs.Hidden {
		lines = append(lines, fmt.Sprintf("Endpoint = %v", netip.AddrPortFrom(theirs.Outer, ListenPort)))
	}
	return strings.Join(lines, "\n") + "\n"
}

// folder makes a folder for an end's files, which goes when the lab closes.
func folder(e *End) (string, error) {
	dir, err := os.MkdirTemp("", "kiloport-bench-")
	if err != nil {
		return "", fmt.Errorf("make a folder for the configuration: %w", err)
	}
	e.Site.Lab().OnClose(func() error { return os.RemoveAll(dir) })
	return dir, nil
}

// temporary writes one configuration file, which goes when the lab closes.
func temporary(e *End, name, text string) (string, error) {
	dir, err := folder(e)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("write the configuration: %w", err)
	}
	return path, nil
}

// addresses are those of the tunnel interface. A site with a host has the first
// of its inner network on the link towards that, so the tunnel gets another.
func (e *End) addresses() [2]netip.Prefix {
	if e.Site.Host == nil {
		return [2]netip.Prefix{e.Site.Inner4(1), e.Site.Inner6(1)}
	}
	const transit = 250
	a4, a6 := e.Site.Inner4(transit).Addr(), e.Site.Inner6(transit).Addr()
	return [2]netip.Prefix{netip.PrefixFrom(a4, 32), netip.PrefixFrom(a6, 128)}
}

// link gives the tunnel interface its addresses, brings it up with an MTU in
// bytes (0 leaves it) and leads the routes to the other site's networks into it.
func (e *End) link(theirs *End, mtu int) error {
	for _, addr := range e.addresses() {
		if err := e.Site.AddAddr(e.Dev, addr); err != nil {
			return err
		}
	}
	if err := e.Site.Up(e.Dev, mtu); err != nil {
		return err
	}
	return errors.Join(e.Site.RouteLink(theirs.Site.Net4, e.Dev), e.Site.RouteLink(theirs.Site.Net6, e.Dev))
}
