package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// kiloport is brought up the way a person would: with a configuration file for
// `kiloport up`.
type kiloport struct {
	binary string
	// settings are lines for the [Interface] section.
	settings []string
}

var _ daemon = kiloport{}

func (k kiloport) up(ctx context.Context, mine, theirs *end, c *tunnelConfig) error {
	folder, err := os.MkdirTemp("", "kiloport-bench-")
	if err != nil {
		return fmt.Errorf("make a folder for the configuration: %w", err)
	}
	mine.site.Lab().OnClose(func() error { return os.RemoveAll(folder) })
	path := filepath.Join(folder, mine.dev+".conf")
	if err := os.WriteFile(path, []byte(k.configuration(mine, theirs, c)), 0o600); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	if mine.process, err = mine.site.Start(exec.Command(k.binary, "up", path)); err != nil {
		return err
	}
	return awaitDaemon(ctx, mine.process, func() error {
		s, err := show(ctx, mine.site.Node, k.binary, mine.dev)
		if err != nil {
			return err
		}
		if _, err := s.peer(); err != nil || !s.Up {
			return errors.Join(err, fmt.Errorf("%s is up: %v", mine.dev, s.Up))
		}
		return mine.routed(theirs)
	})
}

// routed is nil when the routes to the other end's networks lead into the
// tunnel, which is the last thing that comes up.
func (e *end) routed(other *end) error {
	for _, to := range []netip.Prefix{other.site.Inner4(1), other.site.Inner6(1)} {
		dev, err := e.site.RouteDev(to.Addr())
		if err != nil {
			return err
		}
		if dev != e.dev {
			return fmt.Errorf("%v is reached by %s, not by %s", to.Addr(), dev, e.dev)
		}
	}
	return nil
}

// configuration is a file as wg-quick(8) reads it.
func (k kiloport) configuration(mine, theirs *end, c *tunnelConfig) string {
	lines := []string{
		"[Interface]",
		"PrivateKey = " + base64.StdEncoding.EncodeToString(mine.key.Bytes()),
		fmt.Sprintf("ListenPort = %d", listenPort),
		fmt.Sprintf("Address = %v, %v", mine.site.Inner4(1), mine.site.Inner6(1)),
		fmt.Sprintf("MTU = %d", tunnelMTU),
	}
	lines = append(lines, k.settings...)
	lines = append(lines,
		"",
		"[Peer]",
		"PublicKey = "+base64.StdEncoding.EncodeToString(theirs.key.PublicKey().Bytes()),
		fmt.Sprintf("AllowedIPs = %v, %v", theirs.site.Net4, theirs.site.Net6))
	if c.preshared != nil {
		lines = append(lines, "PresharedKey = "+base64.StdEncoding.EncodeToString(c.preshared))
	}
	if !theirs.hidden {
		lines = append(lines, fmt.Sprintf("Endpoint = %v", netip.AddrPortFrom(theirs.outer, listenPort)))
	}
	return strings.Join(lines, "\n") + "\n"
}

// wireguardGo is the stock userspace implementation, as a built binary: a peer
// to work with, and the measure for the harness itself.
type wireguardGo struct{ binary string }

var _ daemon = wireguardGo{}

func (w wireguardGo) up(ctx context.Context, mine, theirs *end, c *tunnelConfig) (err error) {
	if mine.process, err = mine.site.Start(exec.Command(w.binary, "-f", mine.dev)); err != nil {
		return err
	}
	request := w.request(mine, theirs, c)
	if err := awaitDaemon(ctx, mine.process, func() error { return configure(mine.dev, request) }); err != nil {
		return err
	}
	// Where wireguard-go has to finish a UDP checksum itself, it leaves one that
	// comes out as zero as it is. Over IPv6 such a datagram is dropped (RFC 8200,
	// section 8.1): one in 65 536, which would be counted as the tunnel's loss.
	if err := mine.site.ChecksumOff(mine.dev); err != nil {
		return err
	}
	for _, addr := range []netip.Prefix{mine.site.Inner4(1), mine.site.Inner6(1)} {
		if err := mine.site.AddAddr(mine.dev, addr); err != nil {
			return err
		}
	}
	if err := mine.site.Up(mine.dev, tunnelMTU); err != nil {
		return err
	}
	return errors.Join(mine.site.RouteLink(theirs.site.Net4, mine.dev), mine.site.RouteLink(theirs.site.Net6, mine.dev))
}

// request is the same configuration in WireGuard's configuration protocol.
func (w wireguardGo) request(mine, theirs *end, c *tunnelConfig) string {
	lines := []string{
		"set=1",
		"private_key=" + hex.EncodeToString(mine.key.Bytes()),
		fmt.Sprintf("listen_port=%d", listenPort),
		"public_key=" + hex.EncodeToString(theirs.key.PublicKey().Bytes()),
		fmt.Sprintf("allowed_ip=%v", theirs.site.Net4),
		fmt.Sprintf("allowed_ip=%v", theirs.site.Net6),
	}
	if c.preshared != nil {
		lines = append(lines, "preshared_key="+hex.EncodeToString(c.preshared))
	}
	if !theirs.hidden {
		lines = append(lines, fmt.Sprintf("endpoint=%v", netip.AddrPortFrom(theirs.outer, listenPort)))
	}
	return strings.Join(lines, "\n") + "\n\n"
}

// configure makes one request of the configuration protocol.
func configure(dev, request string) error {
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
