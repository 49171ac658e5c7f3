// Package tunnels brings up tunnels between the two sites of a network lab: one
// small adapter for each program that people use, ours and others'.
//
// Start with [Start], which takes a [Daemon] for each end, or with [ByName],
// which knows them all by the names of the command line. [Show] reads what
// `kiloport show` says of its own.
//
// Limits: every adapter needs its program installed, and says which package has
// it if not. All run with the settings that their documentation begins with.
package tunnels

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
)

// ListenPort is where both ends of a tunnel listen: WireGuard's customary port.
const ListenPort = 51820

// tunnelMTU leaves room for the outer headers of IPv6 and of WireGuard in 1500.
const tunnelMTU = 1420

// socketFolder is where userspace implementations of WireGuard are controlled.
const socketFolder = "/var/run/wireguard"

// startPatience bounds how long a daemon may take until it can be used.
const startPatience = 15 * time.Second

// A Daemon is a program that can be one end of a tunnel.
type Daemon interface {
	// Up starts the daemon on the site of mine and returns when its link,
	// addresses and routes are there.
	Up(ctx context.Context, mine, theirs *End, c *Config) error
	// Version is what the program calls its version.
	Version(ctx context.Context) (string, error)
}

// A Config is what the two ends of a tunnel have to agree on.
type Config struct {
	// IPv6 makes the outer packets IPv6.
	IPv6 bool
	// Preshared is the preshared key, nil for none.
	Preshared []byte
	// Responder makes site B only answer: it does not know where site A is.
	Responder bool
	// Keepalive is how often both ends say something anyway, in seconds, 0 for
	// never: a firewall before either has to see it.
	Keepalive int
}

// An End is one site with the tunnel interface on it.
type End struct {
	Site *netlab.Site
	// Dev is the tunnel interface, of a name that no other lab uses.
	Dev string
	// Key is the end's private key.
	Key *ecdh.PrivateKey
	// Outer is the address that the other end sends to.
	Outer netip.Addr
	// Sources has the other addresses that the end sends from; the zero value is
	// none.
	Sources netip.Prefix
	// Hidden is whether the other end has to find out Outer by itself.
	Hidden bool
	// Process is the daemon, nil where the kernel is.
	Process *netlab.Process
	// Attached is `kiloport attach`, nil where nothing is attached to the kernel.
	Attached *netlab.Process

	rsa    *rsa.PrivateKey // where a daemon wants one
	shared string          // a folder that both ends' daemons read
}

// A Tunnel joins the two sites.
type Tunnel struct {
	Sites *netlab.Sites
	A, B  End
}

// Start brings up a daemon on each site and returns when pings get
// through.
func Start(ctx context.Context, s *netlab.Sites, atA, atB Daemon, c Config) (*Tunnel, error) {
	t := &Tunnel{
		Sites: s,
		A:     End{Site: s.A, Dev: s.Unique("kpa"), Outer: s.A.Addr4, Hidden: c.Responder},
		B:     End{Site: s.B, Dev: s.Unique("kpb"), Outer: s.B.Addr4},
	}
	if c.IPv6 {
		t.A.Outer, t.B.Outer = s.A.Addr6, s.B.Addr6
	}
	for _, e := range []*End{&t.A, &t.B} {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
		e.Key = key
		RemoveSocket(s.Lab, e.Dev)
	}
	if err := atB.Up(ctx, &t.B, &t.A, &c); err != nil {
		return nil, err
	}
	if err := atA.Up(ctx, &t.A, &t.B, &c); err != nil {
		return nil, err
	}
	_, only4 := atA.(Nebula)
	if err := t.await(ctx, only4); err != nil {
		return nil, err
	}
	return t, t.settle(ctx, atA, atB)
}

// A settler is a daemon that learns something of the path when the first packets
// have gone through, and treats what comes before in another way.
type settler interface {
	settle(ctx context.Context, mine, theirs *End) error
}

// settle returns when both daemons have learned what they need.
func (t *Tunnel) settle(ctx context.Context, atA, atB Daemon) error {
	var errs []error
	if s, ok := atA.(settler); ok {
		errs = append(errs, s.settle(ctx, &t.A, &t.B))
	}
	if s, ok := atB.(settler); ok {
		errs = append(errs, s.settle(ctx, &t.B, &t.A))
	}
	return errors.Join(errs...)
}

// Unread tells how many packets the kernel dropped because a daemon did not take
// them from its tunnel interface in time, as the tail of an error message.
func (t *Tunnel) Unread() string {
	total := uint64(0)
	for _, e := range []End{t.A, t.B} {
		link, err := e.Site.Link(e.Dev)
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

// RemoveSocket removes a control socket when the lab closes, and what kiloport has
// beside it; a daemon that was killed leaves both behind.
func RemoveSocket(lab *netlab.Lab, dev string) {
	lab.OnClose(func() error {
		var errs []error
		for _, kind := range []string{".sock", ".ended"} {
			if err := os.Remove(filepath.Join(socketFolder, dev+kind)); !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
}

// IPv6 tells whether the tunnel's outer packets are IPv6.
func (t *Tunnel) IPv6() bool { return t.A.Outer.Is6() }

// await returns when pings get through the tunnel, of both families unless it
// carries IPv4 alone.
func (t *Tunnel) await(ctx context.Context, only4 bool) error {
	groups := []traffic.Group{{Kind: traffic.ICMPEcho, Count: 1, To: t.B.Site.Inner4(1).Addr()}}
	if !only4 {
		groups = append(groups, traffic.Group{Kind: traffic.ICMPEcho, Count: 1, To: t.B.Site.Inner6(1).Addr()})
	}
	// The first may be lost: an IPv6 address is usable a moment after it was
	// added, and a handshake on a busy machine takes a while.
	for began := time.Now(); ; {
		r, err := traffic.Between(ctx, t.A.Site.End(), t.B.Site.End(), traffic.Plan{OpenTimeout: startPatience, Groups: groups})
		if err != nil {
			return err
		}
		err = r.Check()
		if err == nil {
			return nil
		}
		if time.Since(began) > startPatience {
			return fmt.Errorf("nothing gets through the tunnel: %w", err)
		}
	}
}

// AwaitDaemon tries until the daemon is ready. That its process ends well is no
// failure: it may have gone to the background.
func AwaitDaemon(ctx context.Context, p *netlab.Process, ready func() error) error {
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
			return fmt.Errorf("the daemon was not ready within %v: %w%s", startPatience, err, p.Said())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
