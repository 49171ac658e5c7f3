package sites

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"kiloport/tunnel"
	"kiloport/tunnel/noise"
)

// Plan is what the sites have in common.
type Plan struct {
	Sites []Site
	// Hub is the name of the site through which all others are joined; empty
	// for a full mesh, of which a pair is the smallest.
	Hub string
	// Interface is the name of it, at each site.
	Interface string
	// ListenPort is where each site without a port of its own listens.
	ListenPort uint16
	// Ports and PortRange are those of the pool, as in [tunnel.Options].
	Ports     int
	PortRange tunnel.PortRange
	// Inner are the tunnel's own networks. Each site has an address in each,
	// in their order.
	Inner []netip.Prefix
}

// Files are what one site needs.
type Files struct {
	Site string
	// Config is its configuration, with its private key.
	Config string
	// Firewall are its rules for nft(8).
	Firewall string
}

// DefaultInner gives 10.99.0.0/24 and a network of RFC 4193, drawn at random.
func DefaultInner(random io.Reader) ([]netip.Prefix, error) {
	ula := [16]byte{0xfd}
	if _, err := io.ReadFull(random, ula[1:6]); err != nil {
		return nil, fmt.Errorf("draw a network for the tunnel: %w", err)
	}
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99}), 24),
		netip.PrefixFrom(netip.AddrFrom16(ula), 64),
	}, nil
}

// Make draws keys and gives the files of each site, in their order. The error
// says what in the plan cannot work.
func (p *Plan) Make(random io.Reader) ([]Files, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	m := maker{Plan: p, shared: make(map[[2]int]noise.PresharedKey)}
	for range p.Sites {
		key, err := noise.NewPrivateKey(random)
		if err != nil {
			return nil, err
		}
		m.private = append(m.private, key)
	}
	for i := range p.Sites {
		for j := range i {
			if !p.joined(i, j) {
				continue
			}
			key, err := noise.NewPresharedKey(random)
			if err != nil {
				return nil, err
			}
			m.shared[[2]int{j, i}] = key
		}
	}
	var all []Files
	for i := range p.Sites {
		all = append(all, Files{Site: p.Sites[i].Name, Config: m.config(i), Firewall: p.firewall(i)})
	}
	return all, nil
}

// joined tells whether two sites have a tunnel between them.
func (p *Plan) joined(i, j int) bool {
	return i != j && (p.Hub == "" || p.Sites[i].Name == p.Hub || p.Sites[j].Name == p.Hub)
}

// address is the site's in an inner network: 1, 2, and so on.
func address(inner netip.Prefix, site int) netip.Addr {
	a := inner.Masked().Addr()
	for range site + 1 {
		a = a.Next()
	}
	return a
}

func (p *Plan) check() error {
	if len(p.Sites) < 2 {
		return errors.New("name at least two sites, as in berlin@192.0.2.1,10.1.0.0/16 paris@198.51.100.1,10.2.0.0/16")
	}
	if err := p.checkHub(); err != nil {
		return err
	}
	for i := range p.Sites {
		n, port := p.PortRange, p.Sites[i].port(p.ListenPort)
		if n != (tunnel.PortRange{}) && n.Low <= port && port <= n.High {
			return fmt.Errorf("listen port %d of %s lies in the port range %v: choose one outside", port, p.Sites[i].Name, n)
		}
		for j := range i {
			a, b := &p.Sites[i], &p.Sites[j]
			if a.Name == b.Name {
				return fmt.Errorf("two sites are called %s: give them names of their own", a.Name)
			}
			if p.joined(i, j) && a.Host == "" && b.Host == "" {
				return fmt.Errorf("neither %s nor %s has an address, so neither can begin: give one of them one (%s@ADDRESS), or join them through a third with --hub", b.Name, a.Name, b.Name)
			}
		}
	}
	return p.checkNetworks()
}

func (p *Plan) checkHub() error {
	at := slices.IndexFunc(p.Sites, func(s Site) bool { return s.Name == p.Hub })
	switch {
	case p.Hub == "":
		return nil
	case at < 0:
		return fmt.Errorf("the hub %s is none of the sites", p.Hub)
	case p.Sites[at].Host == "":
		return fmt.Errorf("the hub %s has no address at which the others reach it: write %s@ADDRESS", p.Hub, p.Hub)
	}
	return nil
}

// checkNetworks wants every prefix to belong to one site, or to the tunnel.
func (p *Plan) checkNetworks() error {
	type owned struct {
		prefix netip.Prefix
		owner  string
	}
	var all []owned
	add := func(prefix netip.Prefix, owner string) error {
		for _, o := range all {
			if o.prefix.Overlaps(prefix) {
				return fmt.Errorf("%v of %s and %v of %s overlap: one destination has one site", o.prefix, o.owner, prefix, owner)
			}
		}
		all = append(all, owned{prefix, owner})
		return nil
	}
	for _, inner := range p.Inner {
		if inner != inner.Masked() {
			return fmt.Errorf("the tunnel's network %v has bits of a host: write %v", inner, inner.Masked())
		}
		if room := inner.Addr().BitLen() - inner.Bits(); room < 24 && 1<<room < len(p.Sites)+2 {
			return fmt.Errorf("the tunnel's network %v is too small for %d sites", inner, len(p.Sites))
		}
		if err := add(inner, "the tunnel"); err != nil {
			return err
		}
	}
	if len(p.Inner) == 0 {
		return errors.New("the tunnel has no network of its own: name one with --inner")
	}
	for _, s := range p.Sites {
		for _, network := range s.Networks {
			if err := add(network, s.Name); err != nil {
				return err
			}
		}
	}
	return nil
}
