package tunnels

import (
	"bufio"
	"context"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Kiloport is brought up the way systemd does: with a configuration file for
// `kiloport up -f`, which stays, so that what it says and how it ends is known.
type Kiloport struct {
	// Binary is the built program.
	Binary string
	// Settings are lines for the [Interface] section.
	Settings []string
}

var _ Daemon = Kiloport{}

// Up implements [Daemon].
func (k Kiloport) Up(ctx context.Context, mine, theirs *End, c *Config) error {
	path, err := temporary(mine, mine.Dev+".conf", k.configuration(mine, theirs, c))
	if err != nil {
		return err
	}
	if mine.Process, err = mine.Site.Start(exec.Command(k.Binary, "up", "-f", path)); err != nil {
		return err
	}
	return AwaitDaemon(ctx, mine.Process, func() error {
		s, err := Show(ctx, mine.Site.Node, k.Binary, mine.Dev)
		if err != nil {
			return err
		}
		if _, err := s.Peer(); err != nil || !s.Up {
			return errors.Join(err, fmt.Errorf("%s is up: %v", mine.Dev, s.Up))
		}
		return mine.routed(theirs)
	})
}

// routed is nil when the routes to the other end's networks lead into the
// tunnel, which is the last thing that comes up.
func (e *End) routed(other *End) error {
	for _, to := range []netip.Prefix{other.Site.Inner4(1), other.Site.Inner6(1)} {
		dev, err := e.Site.RouteDev(to.Addr())
		if err != nil {
			return err
		}
		if dev != e.Dev {
			return fmt.Errorf("%v is reached by %s, not by %s", to.Addr(), dev, e.Dev)
		}
	}
	return nil
}

// configuration is a file as wg-quick(8) reads it.
func (k Kiloport) configuration(mine, theirs *End, c *Config) string {
	addrs := mine.addresses()
	lines := []string{fmt.Sprintf("Address = %v, %v", addrs[0], addrs[1]), fmt.Sprintf("MTU = %d", tunnelMTU)}
	return wgConfiguration(mine, theirs, c, append(lines, k.Settings...)...)
}

// Version implements [Daemon].
func (k Kiloport) Version(ctx context.Context) (string, error) {
	return version(ctx, k.Binary, "version")
}

// WireguardGo is the stock userspace implementation, as a built binary: a peer
// to work with, and the measure for the harness itself.
type WireguardGo struct {
	// Binary is the built program.
	Binary string
	// HostChecksums makes the host finish every checksum, for tests in which
	// nothing may be lost. Where wireguard-go has to finish a UDP checksum
	// itself, it leaves one that comes out as zero as it is; over IPv6 such a
	// datagram is dropped (RFC 8200, section 8.1): one in 65 536. Without
	// checksums the host hands over no super-packets either, so no throughput
	// may be measured like this.
	HostChecksums bool
}

var _ Daemon = WireguardGo{}

// Up implements [Daemon].
func (w WireguardGo) Up(ctx context.Context, mine, theirs *End, c *Config) (err error) {
	if mine.Process, err = mine.Site.Start(exec.Command(w.Binary, "-f", mine.Dev)); err != nil {
		return err
	}
	request := w.request(mine, theirs, c)
	if err := AwaitDaemon(ctx, mine.Process, func() error { return Configure(mine.Dev, request) }); err != nil {
		return err
	}
	if w.HostChecksums {
		if err := mine.Site.ChecksumOff(mine.Dev); err != nil {
			return err
		}
	}
	return mine.link(theirs, tunnelMTU)
}

// Version implements [Daemon]. The program knows no version of its own; the
// module that it was built from does.
func (w WireguardGo) Version(context.Context) (string, error) {
	info, err := buildinfo.ReadFile(w.Binary)
	if err != nil {
		return "", fmt.Errorf("read the version of %s: %w", w.Binary, err)
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return "wireguard-go " + v, nil
	}
	for _, d := range info.Deps {
		if d.Path == "golang.zx2c4.com/wireguard" {
			return "wireguard-go " + d.Version, nil
		}
	}
	return "wireguard-go", nil
}

// request is the same configuration in WireGuard's configuration protocol.
func (w WireguardGo) request(mine, theirs *End, c *Config) string {
	lines := []string{
		"set=1",
		"private_key=" + hex.EncodeToString(mine.Key.Bytes()),
		fmt.Sprintf("listen_port=%d", ListenPort),
		"public_key=" + hex.EncodeToString(theirs.Key.PublicKey().Bytes()),
		fmt.Sprintf("allowed_ip=%v", theirs.Site.Net4),
		fmt.Sprintf("allowed_ip=%v", theirs.Site.Net6),
	}
	if c.Preshared != nil {
		lines = append(lines, "preshared_key="+hex.EncodeToString(c.Preshared))
	}
	if !theirs.Hidden {
		lines = append(lines, fmt.Sprintf("endpoint=%v", netip.AddrPortFrom(theirs.Outer, ListenPort)))
	}
	return strings.Join(lines, "\n") + "\n\n"
}

// Configure makes one request of the configuration protocol.
func Configure(dev, request string) error {
	conn, err := net.Dial("unix", filepath.Join(socketFolder, dev+".sock"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte(request)); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	if answer != "errno=0\n" {
		return fmt.Errorf("configure %s: %s", dev, strings.TrimSpace(answer))
	}
	return nil
}
