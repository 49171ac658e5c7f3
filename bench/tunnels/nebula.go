package tunnels

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
)

// Nebula is nebula of the distribution. The sites' networks are its unsafe
// routes; its own network is a small one beside them. It carries IPv4 alone.
type Nebula struct{}

var _ Daemon = Nebula{}

// nebulaPort is nebula's customary port, nebulaMTU its default.
const (
	nebulaPort = 4242
	nebulaMTU  = 1300
)

// Up implements [Daemon].
func (n Nebula) Up(ctx context.Context, mine, theirs *End, c *Config) error {
	for _, program := range []string{"nebula", "nebula-cert"} {
		if err := installed(program, "nebula"); err != nil {
			return err
		}
	}
	dir, err := n.certify(ctx, mine, theirs)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, mine.Dev+".yml")
	if err := os.WriteFile(path, []byte(n.configuration(dir, mine, theirs)), 0o600); err != nil {
		return fmt.Errorf("write nebula's configuration: %w", err)
	}
	if mine.Process, err = mine.Site.Start(exec.Command("nebula", "-config", path)); err != nil {
		return err
	}
	return AwaitDaemon(ctx, mine.Process, func() error {
		dev, err := mine.Site.RouteDev(theirs.Site.Inner4(2).Addr())
		if err == nil && dev != mine.Dev {
			err = fmt.Errorf("%v is not routed to %s", theirs.Site.Net4, mine.Dev)
		}
		return err
	})
}

// Version implements [Daemon].
func (Nebula) Version(ctx context.Context) (string, error) {
	return version(ctx, "nebula", "-version")
}

// certify makes an authority and both ends' certificates, once for a tunnel.
func (n Nebula) certify(ctx context.Context, mine, theirs *End) (string, error) {
	if mine.shared != "" {
		return mine.shared, nil
	}
	dir, err := folder(mine)
	if err != nil {
		return "", err
	}
	run := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "nebula-cert", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nebula-cert %s: %w: %s", args[0], err, out)
		}
		return nil
	}
	if err := run("ca", "-name", "lab"); err != nil {
		return "", err
	}
	for _, e := range []*End{mine, theirs} {
		if err := run("sign", "-name", e.Dev, "-ip", nebulaAddr(e).String(), "-subnets", e.Site.Net4.String()); err != nil {
			return "", err
		}
	}
	mine.shared, theirs.shared = dir, dir
	return dir, nil
}

// nebulaAddr is an end's address in nebula's own network.
func nebulaAddr(e *End) netip.Prefix {
	last := e.Site.Net4.Addr().As4()[1] // 1 or 2: the number of the site
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 255, 0, last}), 24)
}

func (n Nebula) configuration(dir string, mine, theirs *End) string {
	file := func(name string) string { return filepath.Join(dir, name) }
	return fmt.Sprintf(`pki:
  ca: %s
  cert: %s
  key: %s
static_host_map:
  "%v": ["%v"]
lighthouse:
  am_lighthouse: false
listen:
  host: "::"
  port: %d
tun:
  dev: %s
  mtu: %d
  unsafe_routes:
    - route: %v
      via: %v
firewall:
  outbound:
    - {port: any, proto: any, host: any}
  inbound:
    - {port: any, proto: any, host: any}
`, file("ca.crt"), file(mine.Dev+".crt"), file(mine.Dev+".key"),
		nebulaAddr(theirs).Addr(), netip.AddrPortFrom(theirs.Outer, nebulaPort),
		nebulaPort, mine.Dev, nebulaMTU, theirs.Site.Net4, nebulaAddr(theirs).Addr())
}
