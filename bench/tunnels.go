package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
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

// A daemon is a program that can be one end of a tunnel.
type daemon interface {
	// up starts the daemon on the site of mine and returns when its link,
	// addresses and routes are there.
	up(ctx context.Context, mine, theirs *end, c *tunnelConfig) error
}

// A tunnelConfig is what the two ends of a tunnel have to agree on.
type tunnelConfig struct {
	// ipv6 makes the outer packets IPv6.
	ipv6 bool
	// preshared is the preshared key, nil for none.
	preshared []byte
	// responder makes site B only answer: it does not know where site A is.
	responder bool
}

// An end is one site with the tunnel interface on it.
type end struct {
	site *netlab.Site
	dev  string
	key  *ecdh.PrivateKey
	// outer is the address that the other end sends to.
	outer netip.Addr
	// hidden is whether the other end has to find out outer by itself.
	hidden  bool
	process *netlab.Process
}

// A tunnel joins the two sites.
type tunnel struct {
	sites *netlab.Sites
	a, b  end
}

// startTunnel brings up a daemon on each site and returns when pings get
// through.
func startTunnel(ctx context.Context, s *netlab.Sites, atA, atB daemon, c tunnelConfig) (*tunnel, error) {
	t := &tunnel{
		sites: s,
		a:     end{site: s.A, dev: s.Unique("kpa"), outer: s.A.Addr4, hidden: c.responder},
		b:     end{site: s.B, dev: s.Unique("kpb"), outer: s.B.Addr4},
	}
	if c.ipv6 {
		t.a.outer, t.b.outer = s.A.Addr6, s.B.Addr6
	}
	for _, e := range []*end{&t.a, &t.b} {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
		e.key = key
		removeSocket(s.Lab, e.dev)
	}
	if err := atB.up(ctx, &t.b, &t.a, &c); err != nil {
		return nil, err
	}
	if err := atA.up(ctx, &t.a, &t.b, &c); err != nil {
		return nil, err
	}
	return t, t.await(ctx)
}

// unread tells how many packets the kernel dropped because a daemon did not take
// them from its tunnel interface in time, as the tail of an error message.
func (t *tunnel) unread() string {
	total := uint64(0)
	for _, e := range []end{t.a, t.b} {
		link, err := e.site.Link(e.dev)
		if err != nil {
			return "; " + err.Error()
		}
		if s := link.Attrs().Statistics; s != nil {
			total += s.TxDropped
		}
	}
	if total == 0 {
		return ""
	}
	return fmt.Sprintf("; %d packets never reached a daemon, because the queue of its tunnel interface was full: is this machine busy with something else?", total)
}

// removeSocket removes a control socket when the lab closes; a daemon that was
// killed leaves it behind.
func removeSocket(lab *netlab.Lab, dev string) {
	lab.OnClose(func() error {
		err := os.Remove(filepath.Join(socketFolder, dev+".sock"))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
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
