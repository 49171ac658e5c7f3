package sites

import (
	"fmt"
	"net/netip"

	"kiloport/cmd/kiloport/quick"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/uapi"
)

// Named is a configuration with the file that it was read from.
type Named struct {
	File   string
	Config *quick.Config
}

// Compare finds what in the files of several sites does not go together. What
// only one of them says, and cannot be compared, is not a problem: a peer may be
// in none of the files.
func Compare(files []Named) (problems []quick.Problem) {
	c := comparison{files: files}
	for i := range files {
		c.keys = append(c.keys, publicKey(files[i].Config))
	}
	for i := range files {
		for j := range i {
			c.pair(j, i)
		}
	}
	return c.problems
}

func publicKey(config *quick.Config) uapi.PublicKey {
	key := noise.PrivateKey(*config.Interface.PrivateKey)
	key.Clamp()
	defer key.Clear()
	return uapi.PublicKey(key.Public())
}

type comparison struct {
	files    []Named
	keys     []uapi.PublicKey
	problems []quick.Problem
}

func (c *comparison) say(file, line int, format string, args ...any) {
	c.problems = append(c.problems, quick.Problem{File: c.files[file].File, Line: line, Text: fmt.Sprintf(format, args...)})
}

// peer is what file i says of the site of file j, nil if nothing.
func (c *comparison) peer(i, j int) *quick.Peer {
	peers := c.files[i].Config.Peers
	for k := range peers {
		if peers[k].PublicKey == c.keys[j] {
			return &peers[k]
		}
	}
	return nil
}

func (c *comparison) pair(i, j int) {
	if c.keys[i] == c.keys[j] {
		c.say(j, 0, "has the same private key as %s: each site has its own", c.files[i].File)
		return
	}
	c.sharedAddress(i, j)
	ij, ji := c.peer(i, j), c.peer(j, i)
	switch {
	case ij == nil && ji == nil:
		if len(c.files) == 2 {
			c.say(j, 0, "and %s do not know each other: in neither is the PublicKey of a [Peer] the other's, which is %v here and %v there", c.files[i].File, c.keys[j], c.keys[i])
		}
		return
	case ij == nil:
		c.say(i, 0, "has no [Peer] with the PublicKey %v, which is that of %s", c.keys[j], c.files[j].File)
		return
	case ji == nil:
		c.say(j, 0, "has no [Peer] with the PublicKey %v, which is that of %s", c.keys[i], c.files[i].File)
		return
	}
	if secret(ij.PresharedKey) != secret(ji.PresharedKey) {
		c.say(j, ji.Line, "PresharedKey is not that of %s, line %d: no handshake can succeed", c.files[i].File, ij.Line)
	}
	if ij.Endpoint.Host == "" && ji.Endpoint.Host == "" {
		c.say(j, ji.Line, "neither this nor %s, line %d, has an Endpoint: nobody can begin", c.files[i].File, ij.Line)
	}
	for _, way := range [][2]int{{i, j}, {j, i}} {
		c.endpoint(way[0], way[1])
		c.addresses(way[0], way[1])
	}
}

func secret(k *uapi.SecretKey) uapi.SecretKey {
	if k == nil {
		return uapi.SecretKey{}
	}
	return *k
}

// endpoint compares where file i looks for the site of file j with where that
// listens.
func (c *comparison) endpoint(i, j int) {
	p := c.peer(i, j)
	if p.Endpoint.Host == "" {
		return
	}
	listen := c.files[j].Config.Interface.ListenPort
	if listen == nil || *listen == 0 {
		c.say(j, 0, "has no ListenPort, though %s, line %d, expects it at %d", c.files[i].File, p.Endpoint.Line, p.Endpoint.Port)
	} else if *listen != p.Endpoint.Port {
		c.say(i, p.Endpoint.Line, "Endpoint has port %d, but %s listens on %d: is there a router that forwards one to the other?", p.Endpoint.Port, c.files[j].File, *listen)
	}
}

// addresses wants file i to take from the site of file j what that sends: its
// addresses. And what goes to oneself does not go into the tunnel.
func (c *comparison) addresses(i, j int) {
	p := c.peer(i, j)
	for _, theirs := range c.files[j].Config.Interface.Addresses {
		if !covered(p.AllowedIPs, theirs.Addr()) {
			c.say(i, p.Line, "AllowedIPs lacks %v, the address of %s: what comes from there is dropped", theirs.Addr(), c.files[j].File)
		}
	}
	for _, ours := range c.files[i].Config.Interface.Addresses {
		for _, allowed := range p.AllowedIPs {
			if allowed.IsSingleIP() && allowed.Addr() == ours.Addr() {
				c.say(i, p.Line, "AllowedIPs has %v, which is this site's own address", allowed)
			}
		}
	}
}

func covered(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func (c *comparison) sharedAddress(i, j int) {
	for _, a := range c.files[i].Config.Interface.Addresses {
		for _, b := range c.files[j].Config.Interface.Addresses {
			if a.Addr() == b.Addr() {
				c.say(j, 0, "has the Address %v, as %s has: each site has its own", b.Addr(), c.files[i].File)
			}
		}
	}
}
