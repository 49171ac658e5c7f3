// Package quick reads configuration files in the form of wg-quick(8): the keys
// of wg(8) with those that wg-quick adds, and whatever further keys its caller
// knows.
//
// Start at [Parse], which reports everything that is wrong with a file and not
// only the first thing. [Config.Request] turns the result into a request of
// WireGuard's configuration protocol.
//
// Limits: a file has at most 16 MiB, a line at most 64 KiB.
package quick

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"

	"kiloport/tunnel/uapi"
)

// ErrUnknownKey is what the caller's function gives [Parse] for a key that it
// does not know.
var ErrUnknownKey = errors.New("unknown key")

// Config is a file that has no errors.
type Config struct {
	Interface Interface
	Peers     []Peer
	// Notes are what is allowed but worth knowing.
	Notes []Problem

	file string
}

// Interface is the [Interface] section. Commands may contain %i for the name of
// the interface.
type Interface struct {
	PrivateKey *uapi.SecretKey
	ListenPort *uint16 // nil: the kernel chooses
	FwMark     *uint32
	Addresses  []netip.Prefix // as written, host bits kept
	MTU        int            // 0: automatic
	Table      string         // "auto", "off", or a number
	DNS        []string

	PreUp, PostUp, PreDown, PostDown []string
}

// Peer is a [Peer] section.
type Peer struct {
	PublicKey           uapi.PublicKey
	PresharedKey        *uapi.SecretKey
	AllowedIPs          []netip.Prefix // masked
	Endpoint            Endpoint
	PersistentKeepalive *uint16 // seconds
	Line                int     // of its section
}

// Endpoint is where a peer is, as written.
type Endpoint struct {
	Host string // empty: none given
	Port uint16
	Addr netip.AddrPort // valid if Host is an address
	Line int
}

// Problem is something wrong, or worth knowing, at a line of a file.
type Problem struct {
	File string
	Line int // 0: of the whole file
	Text string
}

// Error gives "file:line: text".
func (p Problem) Error() string {
	if p.Line == 0 {
		return p.File + ": " + p.Text
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Text)
}

var interfaceName = regexp.MustCompile(`^[a-zA-Z0-9_=+.-]{1,15}$`)

// InterfaceName gives the interface that a file is for: its name without
// directory and ".conf".
func InterfaceName(path string) (string, error) {
	name := strings.TrimSuffix(filepath.Base(path), ".conf")
	if !interfaceName.MatchString(name) || name == "." || name == ".." {
		return "", fmt.Errorf("%q is no name of an interface: use 1 to 15 of letters, digits and _ = + . -, and name the file after it", name)
	}
	return name, nil
}

// Request gives the request that makes an interface be what the file says.
// resolve is asked for endpoints that are names.
func (c *Config) Request(resolve func(Endpoint) (netip.AddrPort, error)) (*uapi.SetRequest, error) {
	mark, port := uint32(0), uint16(0)
	r := &uapi.SetRequest{PrivateKey: c.Interface.PrivateKey, FwMark: &mark, ListenPort: &port, ReplacePeers: true}
	if c.Interface.ListenPort != nil {
		r.ListenPort = c.Interface.ListenPort
	}
	if c.Interface.FwMark != nil {
		r.FwMark = c.Interface.FwMark
	}
	for i := range c.Peers {
		change, err := c.Peers[i].change(resolve)
		if err != nil {
			return nil, Problem{c.file, c.Peers[i].Endpoint.Line, err.Error()}
		}
		r.Peers = append(r.Peers, change)
	}
	return r, nil
}

func (p *Peer) change(resolve func(Endpoint) (netip.AddrPort, error)) (uapi.PeerChange, error) {
	c := uapi.PeerChange{
		PublicKey: p.PublicKey, PresharedKey: p.PresharedKey,
		PersistentKeepalive: p.PersistentKeepalive, ReplaceAllowedIPs: true,
	}
	for _, prefix := range p.AllowedIPs {
		c.AllowedIPs = append(c.AllowedIPs, uapi.AllowedIPChange{Prefix: prefix})
	}
	if p.Endpoint.Host == "" {
		return c, nil
	}
	at := p.Endpoint.Addr
	if !at.IsValid() {
		var err error
		if at, err = resolve(p.Endpoint); err != nil {
			return c, fmt.Errorf("endpoint %s: %w: check the name, or write an address", p.Endpoint.Host, err)
		}
	}
	c.Endpoint = &at
	return c, nil
}
