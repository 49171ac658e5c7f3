package sites

import (
	"fmt"
	"net/netip"
	"strings"

	"kiloport/tunnel"
	"kiloport/tunnel/noise"
)

// keepalive is what a site sends, in seconds, that the others cannot reach before
// it has sent something: less than any NAT's 30 s for UDP.
const keepalive = 25

// maker is a plan with its keys.
type maker struct {
	*Plan
	private []noise.PrivateKey
	shared  map[[2]int]noise.PresharedKey // by the numbers of both sites, the lower first
}

func (m *maker) config(site int) string {
	s := &m.Sites[site]
	var b strings.Builder
	fmt.Fprintf(&b, "# Site %s, made by kiloport setup. Its place there: /etc/kiloport/%s.conf, mode 600.\n", s.Name, m.Interface)
	b.WriteString("[Interface]\n")
	fmt.Fprintf(&b, "PrivateKey = %s\n", m.private[site].Base64())
	fmt.Fprintf(&b, "ListenPort = %d\n", s.port(m.ListenPort))
	fmt.Fprintf(&b, "Address = %s\n", list(m.addresses(site)))
	fmt.Fprintf(&b, "Ports = %d\n", m.Ports)
	if m.PortRange != (tunnel.PortRange{}) {
		fmt.Fprintf(&b, "PortRange = %v\n", m.PortRange)
	}
	for peer := range m.Sites {
		if m.joined(site, peer) {
			m.peer(&b, site, peer)
		}
	}
	return b.String()
}

func (m *maker) peer(b *strings.Builder, site, peer int) {
	s, p := &m.Sites[site], &m.Sites[peer]
	key := m.shared[[2]int{min(site, peer), max(site, peer)}]
	fmt.Fprintf(b, "\n[Peer]\n# Site %s\n", p.Name)
	fmt.Fprintf(b, "PublicKey = %s\n", m.private[peer].Public())
	fmt.Fprintf(b, "PresharedKey = %s\n", key.Base64())
	if p.Host != "" {
		fmt.Fprintf(b, "Endpoint = %s\n", p.endpoint(m.ListenPort))
	}
	fmt.Fprintf(b, "AllowedIPs = %s\n", list(m.allowed(site, peer)))
	if s.Host == "" {
		fmt.Fprintf(b, "PersistentKeepalive = %d\n", keepalive)
	}
}

// addresses are the site's own in the tunnel, with the length of its networks.
func (m *maker) addresses(site int) (all []netip.Prefix) {
	for _, inner := range m.Inner {
		all = append(all, netip.PrefixFrom(address(inner, site), inner.Bits()))
	}
	return all
}

// allowed is what lies behind a peer: to a spoke, everything lies behind the hub.
func (m *maker) allowed(site, peer int) (all []netip.Prefix) {
	if m.Hub != m.Sites[peer].Name {
		for _, inner := range m.Inner {
			a := address(inner, peer)
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
		}
		return append(all, m.Sites[peer].Networks...)
	}
	all = append(all, m.Inner...)
	for other := range m.Sites {
		if other != site {
			all = append(all, m.Sites[other].Networks...)
		}
	}
	return all
}

func list(prefixes []netip.Prefix) string {
	var b strings.Builder
	for i, p := range prefixes {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p.String())
	}
	return b.String()
}

// firewall lets in what the peers send, and through what comes out of the tunnel
// and goes into it. The chains are those of Debian's /etc/nftables.conf; where
// they are not there, they are made, without a hook, and do nothing.
func (p *Plan) firewall(site int) string {
	s := &p.Sites[site]
	var b strings.Builder
	fmt.Fprintf(&b, "# Site %s: what interface %s needs of a firewall. Load with: nft -f %s.nft\n", s.Name, p.Interface, p.Interface)
	b.WriteString("# A lane of the peer's is a source port of the peer's: only the destination is fixed.\n")
	b.WriteString("add table inet filter\nadd chain inet filter input\nadd chain inet filter forward\n")
	fmt.Fprintf(&b, "insert rule inet filter input udp dport %d counter accept comment \"kiloport %s\"\n", s.port(p.ListenPort), p.Interface)
	fmt.Fprintf(&b, "insert rule inet filter input iifname %q icmpv6 type { echo-request, packet-too-big, destination-unreachable, time-exceeded, parameter-problem } accept comment \"kiloport %s\"\n", p.Interface, p.Interface)
	fmt.Fprintf(&b, "insert rule inet filter input iifname %q icmp type { echo-request, destination-unreachable, time-exceeded, parameter-problem } accept comment \"kiloport %s\"\n", p.Interface, p.Interface)
	if len(s.Networks) > 0 || p.Hub == s.Name {
		fmt.Fprintf(&b, "insert rule inet filter forward iifname %q counter accept comment \"kiloport %s: from the other sites\"\n", p.Interface, p.Interface)
		fmt.Fprintf(&b, "insert rule inet filter forward oifname %q counter accept comment \"kiloport %s: to the other sites\"\n", p.Interface, p.Interface)
	}
	return b.String()
}
