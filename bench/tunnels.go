package main

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"crypto/rand"
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

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
)

// listenPort is where both ends of a tunnel listen: WireGuard's customary port.
const listenPort = 51820

// tunnelMTU leaves room for the outer headers of IPv6 and of WireGuard in 1500.
const tunnelMTU = 1420

// socketFolder is where userspace implementations of WireGuard are controlled.
const socketFolder = "/var/run/wireguard"

// startPatience bounds how long a daemon may take until it can be used.
const startPatience = 15 * time.Second

// An end is one site with the tunnel interface on it.
type end struct {
	site *netlab.Site
	dev  string
	// outer is the address that the other end sends to.
	outer netip.Addr
}

// A tunnel joins the two sites.
type tunnel struct {
	sites *netlab.Sites
	a, b  end
}

func newTunnel(s *netlab.Sites, ipv6 bool) *tunnel {
	t := &tunnel{
		sites: s,
		a:     end{site: s.A, dev: s.Unique("kpa"), outer: s.A.Addr4},
		b:     end{site: s.B, dev: s.Unique("kpb"), outer: s.B.Addr4},
	}
	if ipv6 {
		t.a.outer, t.b.outer = s.A.Addr6, s.B.Addr6
	}
	return t
}

// ipv6 tells whether the tunnel's outer packets are IPv6.
func (t *tunnel) ipv6() bool { return t.a.outer.Is6() }

// await returns when pings get through the tunnel, both families.
func (t *tunnel) await(ctx context.Context) error {
	r, err := traffic.Between(ctx, t.a.site.End(), t.b.site.End(), traffic.Plan{
		OpenTimeout: startPatience,
		Groups: []traffic.Group{
			{Kind: traffic.ICMPEcho, Count: 1, To: t.b.site.Inner4(1).Addr()},
			{Kind: traffic.ICMPEcho, Count: 1, To: t.b.site.Inner6(1).Addr()},
		},
	})
	if err != nil {
		return err
	}
	if err := r.Check(); err != nil {
		return fmt.Errorf("nothing gets through the tunnel: %w", err)
	}
	return nil
}

// startKiloport brings up kiloport on both sites the way a person would: with a
// configuration file for `kiloport up`. extra is added to [Interface].
func startKiloport(ctx context.Context, s *netlab.Sites, binary string, ipv6 bool, extra ...string) (*tunnel, error) {
	t := newTunnel(s, ipv6)
	folder, err := os.MkdirTemp("", "kiloport-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the configuration: %w", err)
	}
	s.OnClose(func() error { return os.RemoveAll(folder) })
	keyA, pubA, err := kiloportKeys(ctx, binary)
	if err != nil {
		return nil, err
	}
	keyB, pubB, err := kiloportKeys(ctx, binary)
	if err != nil {
		return nil, err
	}
	if err := t.up(ctx, binary, folder, &t.a, &t.b, keyA, pubB, extra); err != nil {
		return nil, err
	}
	if err := t.up(ctx, binary, folder, &t.b, &t.a, keyB, pubA, extra); err != nil {
		return nil, err
	}
	if err := t.await(ctx); err != nil {
		return nil, err
	}
	return t, t.awaitLanes(ctx, binary)
}

// kiloportKeys makes a key pair with the program itself.
func kiloportKeys(ctx context.Context, binary string) (private, public string, err error) {
	out, err := exec.CommandContext(ctx, binary, "genkey").Output()
	if err != nil {
		return "", "", fmt.Errorf("%s genkey: %w", binary, explainExit(err))
	}
	private = strings.TrimSpace(string(out))
	cmd := exec.CommandContext(ctx, binary, "pubkey")
	cmd.Stdin = strings.NewReader(private + "\n")
	if out, err = cmd.Output(); err != nil {
		return "", "", fmt.Errorf("%s pubkey: %w", binary, explainExit(err))
	}
	return private, strings.TrimSpace(string(out)), nil
}

// explainExit adds what a program said on its standard error.
func explainExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w; it said: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return err
}

// up starts kiloport on one end and waits until its link is there.
func (t *tunnel) up(ctx context.Context, binary, folder string, mine, theirs *end, key, peer string, extra []string) error {
	path := filepath.Join(folder, mine.dev+".conf")
	if err := os.WriteFile(path, []byte(configuration(mine, theirs, key, peer, extra)), 0o600); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	t.removeSocket(mine.dev)
	p, err := mine.site.Start(exec.Command(binary, "up", path))
	if err != nil {
		return err
	}
	return awaitDaemon(ctx, p, func() error {
		if _, err := mine.site.Link(mine.dev); err != nil {
			return err
		}
		_, err := show(ctx, mine.site.Node, binary, mine.dev)
		return err
	})
}

// configuration is a file as wg-quick(8) reads it.
func configuration(mine, theirs *end, key, peer string, extra []string) string {
	lines := []string{
		"[Interface]",
		"PrivateKey = " + key,
		fmt.Sprintf("ListenPort = %d", listenPort),
		fmt.Sprintf("Address = %v, %v", mine.site.Inner4(1), mine.site.Inner6(1)),
		fmt.Sprintf("MTU = %d", tunnelMTU),
	}
	lines = append(lines, extra...)
	lines = append(lines,
		"",
		"[Peer]",
		"PublicKey = "+peer,
		fmt.Sprintf("AllowedIPs = %v, %v", theirs.site.Net4, theirs.site.Net6),
		fmt.Sprintf("Endpoint = %v", netip.AddrPortFrom(theirs.outer, listenPort)),
	)
	return strings.Join(lines, "\n") + "\n"
}

// awaitDaemon tries until the daemon is ready. That its process ends well is no
// failure: it may have gone to the background.
func awaitDaemon(ctx context.Context, p *netlab.Process, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		if failed := p.Err(); failed != nil {
			return failed
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the daemon was not ready in time: %w; it said: %q", err, p.Output())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// removeSocket removes a control socket when the lab closes; a daemon that was
// killed leaves it behind.
func (t *tunnel) removeSocket(dev string) {
	t.sites.OnClose(func() error {
		err := os.Remove(filepath.Join(socketFolder, dev+".sock"))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
}

// startWireguardGo brings up wireguard-go, given as a built binary, on both
// sites: a stock peer, and the measure for the harness itself.
func startWireguardGo(ctx context.Context, s *netlab.Sites, binary string, ipv6 bool) (*tunnel, error) {
	t := newTunnel(s, ipv6)
	keyA, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	keyB, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	if err := t.upStock(ctx, binary, &t.a, &t.b, keyA, keyB.PublicKey()); err != nil {
		return nil, err
	}
	if err := t.upStock(ctx, binary, &t.b, &t.a, keyB, keyA.PublicKey()); err != nil {
		return nil, err
	}
	return t, t.await(ctx)
}

func (t *tunnel) upStock(ctx context.Context, binary string, mine, theirs *end, key *ecdh.PrivateKey, peer *ecdh.PublicKey) error {
	t.removeSocket(mine.dev)
	p, err := mine.site.Start(exec.Command(binary, "-f", mine.dev))
	if err != nil {
		return err
	}
	request := fmt.Sprintf("set=1\nprivate_key=%s\nlisten_port=%d\npublic_key=%s\nendpoint=%v\nallowed_ip=%v\nallowed_ip=%v\n\n",
		hex.EncodeToString(key.Bytes()), listenPort, hex.EncodeToString(peer.Bytes()),
		netip.AddrPortFrom(theirs.outer, listenPort), theirs.site.Net4, theirs.site.Net6)
	if err := awaitDaemon(ctx, p, func() error { return configure(mine.dev, request) }); err != nil {
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

// configure makes one request of the WireGuard configuration protocol.
func configure(dev, request string) error {
	conn, err := net.Dial("unix", filepath.Join(socketFolder, dev+".sock"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
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
