// Package sites makes the configuration files of several sites that are to be
// joined by a tunnel, with keys, addresses and firewall rules, and checks such
// files against each other.
//
// Start at [Parse] for one site as a person describes it, then [Plan.Make];
// [Compare] finds what does not fit together in files that were made here or by
// hand.
//
// Limits: each site has one interface, named the same everywhere; each inner
// network gives a site one address.
package sites

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// Site is one end of the tunnel, or of several.
type Site struct {
	Name string
	// Host is the address or name at which the others reach it, empty if they
	// do not, as behind a NAT. Port is there for a port other than the plan's.
	Host string
	Port uint16
	// Networks are behind the site, beside its own address in the tunnel.
	Networks []netip.Prefix
}

var (
	siteName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,31}$`)
	hostName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?$`)
)

// Parse reads NAME[@HOST[:PORT]][,NETWORK...], such as
// berlin@192.0.2.1,10.1.0.0/16 or home,192.168.7.0/24. An IPv6 address with a
// port stands in brackets.
func Parse(text string) (Site, error) {
	head, networks, _ := strings.Cut(text, ",")
	name, host, reachable := strings.Cut(head, "@")
	if !siteName.MatchString(name) {
		return Site{}, fmt.Errorf("site %q: %q is no name: use letters, digits, - and _, as in berlin@192.0.2.1,10.1.0.0/16", text, name)
	}
	s := Site{Name: name}
	if reachable {
		if err := s.setHost(host); err != nil {
			return Site{}, fmt.Errorf("site %s: %w", name, err)
		}
	}
	for network := range strings.SplitSeq(networks, ",") {
		if networks == "" {
			break
		}
		prefix, err := netip.ParsePrefix(strings.TrimSpace(network))
		if err != nil {
			return Site{}, fmt.Errorf("site %s: %q is no network, such as 10.1.0.0/16 or 2001:db8:1::/48", name, network)
		}
		if prefix != prefix.Masked() {
			return Site{}, fmt.Errorf("site %s: network %v has bits of a host: write %v", name, prefix, prefix.Masked())
		}
		s.Networks = append(s.Networks, prefix)
	}
	return s, nil
}

func (s *Site) setHost(text string) error {
	wrong := fmt.Errorf("%q is no address or name, with or without a port, such as 192.0.2.1, [2001:db8::1]:51820 or vpn.example.com", text)
	if at, err := netip.ParseAddrPort(text); err == nil && at.Port() != 0 {
		s.Host, s.Port = at.Addr().String(), at.Port()
		return nil
	}
	if addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")); err == nil {
		s.Host = addr.String()
		return nil
	}
	host, port, given := strings.Cut(text, ":")
	if !hostName.MatchString(host) {
		return wrong
	}
	s.Host = host
	if given {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return wrong
		}
		s.Port = uint16(n)
	}
	return nil
}

// endpoint is where the others find the site.
func (s *Site) endpoint(listenPort uint16) string {
	host, port := s.Host, s.port(listenPort)
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(int(port))
}

func (s *Site) port(listenPort uint16) uint16 {
	if s.Port != 0 {
		return s.Port
	}
	return listenPort
}
