package uapi

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
)

const (
	maxLine    = 4 << 10
	maxRequest = 64 << 20
)

// Error is why a request was refused.
type Error struct {
	// Errno is what the client gets.
	Errno syscall.Errno
	// Line is the line of the request, from 1; 0 if it is none in particular.
	Line int
	// Text is that line, with secrets hidden.
	Text string
	// Err says what is wrong, and the way out.
	Err error
}

// Error names the line and the way out.
func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("configuration request: %v", e.Err)
	}
	return fmt.Sprintf("configuration request, line %d, %q: %v", e.Line, e.Text, e.Err)
}

// Unwrap gives what is wrong.
func (e *Error) Unwrap() error { return e.Err }

// errno gives what a client is told for an error.
func errno(err error) syscall.Errno {
	var refused *Error
	var number syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &refused):
		return refused.Errno
	case errors.As(err, &number):
		return number
	}
	return syscall.EIO
}

// ParseSet reads the lines of a set request, without its first line set=1, up to
// and with the empty line that ends it; the end of r ends it too. It reads on to
// there also when a line is wrong, so that the next request can be read. The
// error is an [*Error] for the first wrong line, or io.ErrUnexpectedEOF and such
// from r.
func ParseSet(r *bufio.Reader) (*SetRequest, error) {
	p := parser{request: new(SetRequest)}
	var first error
	for size := 0; ; {
		line, err := readLine(r)
		if err == io.EOF && line == "" || err == nil && line == "" {
			break
		}
		if err != nil && err != io.EOF {
			return nil, err
		}
		p.line++
		if size += len(line); size > maxRequest {
			return nil, &Error{Errno: syscall.E2BIG, Err: fmt.Errorf("longer than %d bytes: split it", maxRequest)}
		}
		if first == nil {
			first = p.take(line)
		}
		if err == io.EOF {
			break
		}
	}
	if first != nil {
		return nil, first
	}
	return p.request, nil
}

// readLine reads a line without its end.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadSlice('\n')
	if err == bufio.ErrBufferFull || len(line) > maxLine {
		return "", &Error{Errno: syscall.EPROTO, Err: fmt.Errorf("a line is longer than %d bytes", maxLine)}
	}
	return strings.TrimSuffix(string(line), "\n"), err
}

type parser struct {
	request *SetRequest
	peer    *PeerChange // nil before the first public_key
	line    int
}

func (p *parser) take(line string) error {
	key, value, ok := strings.Cut(line, "=")
	if !ok {
		return &Error{syscall.EPROTO, p.line, shown("", line), errors.New("not of the form key=value")}
	}
	var err error
	switch {
	case key == "public_key":
		p.request.Peers = append(p.request.Peers, PeerChange{})
		p.peer = &p.request.Peers[len(p.request.Peers)-1]
		err = parseKey(value, p.peer.PublicKey[:])
	case p.peer == nil:
		err = p.device(key, value)
	default:
		err = p.peerLine(key, value)
	}
	if err != nil {
		return &Error{syscall.EINVAL, p.line, shown(key, value), err}
	}
	return nil
}

// shown is a line as it may be shown: anything that could be a key is not.
func shown(key, value string) string {
	if key == "" {
		return hidden
	}
	if key == "private_key" || key == "preshared_key" || len(value) >= 40 && key != "public_key" {
		value = hidden
	}
	if len(key) > 40 {
		key = key[:40] + "..."
	}
	return key + "=" + value
}

func (p *parser) device(key, value string) (err error) {
	r := p.request
	switch key {
	case "private_key":
		r.PrivateKey = new(SecretKey)
		return parseKey(value, r.PrivateKey[:])
	case "listen_port":
		r.ListenPort, err = parseUint[uint16](value, 16, "a port, 0 to 65535")
	case "fwmark":
		r.FwMark, err = parseUint[uint32](value, 32, "a mark in decimal, 0 to 4294967295")
	case "replace_peers":
		r.ReplacePeers = true
		err = parseTrue(value)
	default:
		err = unknownKey(key, "private_key, listen_port, fwmark, replace_peers or public_key")
	}
	return err
}

func (p *parser) peerLine(key, value string) (err error) {
	c := p.peer
	switch key {
	case "remove":
		c.Remove = true
		err = parseTrue(value)
	case "update_only":
		c.UpdateOnly = true
		err = parseTrue(value)
	case "preshared_key":
		c.PresharedKey = new(SecretKey)
		err = parseKey(value, c.PresharedKey[:])
	case "endpoint":
		c.Endpoint, err = parseEndpoint(value)
	case "persistent_keepalive_interval":
		c.PersistentKeepalive, err = parseUint[uint16](value, 16, "seconds, 0 to 65535")
	case "replace_allowed_ips":
		c.ReplaceAllowedIPs = true
		err = parseTrue(value)
	case "allowed_ip":
		var a AllowedIPChange
		a, err = parseAllowedIP(value)
		c.AllowedIPs = append(c.AllowedIPs, a)
	case "protocol_version":
		if value != "1" {
			err = errors.New("only version 1 is known")
		}
	default:
		err = unknownKey(key, "preshared_key, endpoint, persistent_keepalive_interval, allowed_ip, replace_allowed_ips, remove, update_only or protocol_version")
	}
	return err
}

func unknownKey(key, known string) error {
	for _, deviceKey := range []string{"private_key", "listen_port", "fwmark", "replace_peers"} {
		if key == deviceKey {
			return errors.New("belongs before the first public_key")
		}
	}
	return fmt.Errorf("unknown key, use %s", known)
}

// parseKey reads 64 hexadecimal digits. The error never holds the value.
func parseKey(value string, key []byte) error {
	if len(value) != 2*len(key) {
		return fmt.Errorf("a key has %d hexadecimal digits, this value has %d characters", 2*len(key), len(value))
	}
	if _, err := hex.Decode(key, []byte(value)); err != nil {
		return errors.New("a key has hexadecimal digits only")
	}
	return nil
}

func parseUint[T uint16 | uint32](value string, bits int, want string) (*T, error) {
	n, err := strconv.ParseUint(value, 10, bits)
	if err != nil {
		return nil, fmt.Errorf("not %s", want)
	}
	t := T(n)
	return &t, nil
}

func parseTrue(value string) error {
	if value != "true" {
		return errors.New("the only value is true; leave the line out otherwise")
	}
	return nil
}

func parseEndpoint(value string) (*netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(value)
	if err != nil {
		return nil, errors.New("not an address and port, such as 192.0.2.1:51820 or [2001:db8::1]:51820")
	}
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	if a.Port() == 0 {
		return nil, errors.New("port 0 cannot be sent to")
	}
	return &a, nil
}

func parseAllowedIP(value string) (a AllowedIPChange, err error) {
	value, a.Remove = strings.CutPrefix(value, "-")
	prefix, err := netip.ParsePrefix(value)
	if err != nil {
		return a, errors.New("not a prefix, such as 10.0.0.0/8 or 2001:db8::/32")
	}
	if prefix.Addr().Is4In6() {
		if prefix.Bits() < 96 {
			return a, errors.New("an IPv4 prefix written as IPv6 has at least /96: write it as IPv4")
		}
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	a.Prefix = prefix.Masked()
	return a, nil
}
