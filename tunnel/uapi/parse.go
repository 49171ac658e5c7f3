package uapi

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	maxLine    = 4 << 10  // bytes, with the line's end
	maxRequest = 64 << 20 // bytes
)

// What may stand before the first public_key, and after one.
var (
	deviceKeys = []string{"private_key", "listen_port", "fwmark", "replace_peers"}
	peerKeys   = []string{"remove", "update_only", "preshared_key", "endpoint", "persistent_keepalive_interval", "replace_allowed_ips", "allowed_ip", "protocol_version"}
)

var (
	errLongLine = fmt.Errorf("a line has at most %d bytes", maxLine-1)
	errLong     = fmt.Errorf("a request has at most %d bytes: split it", maxRequest)
)

// ParseSet reads the lines of a set request, without its first line set=1, up to
// and with the empty line that ends it. It reads on to there also when a line is
// wrong. Every error is an [*Error], for the first wrong line; its errno is
// EPROTO for a line without "=", EIO for a line too long or a request that breaks
// off, E2BIG for a request too long, and EINVAL for all else.
//
// What follows the empty line is lost, unless r is a bufio.Reader with a buffer
// of at least 4 KiB.
func ParseSet(r io.Reader) (*SetRequest, error) {
	request, _, err := parseSet(bufio.NewReaderSize(r, maxLine))
	return request, err
}

// parseSet is ParseSet; inStep says that r stands where the next request begins.
func parseSet(r *bufio.Reader) (request *SetRequest, inStep bool, err error) {
	p := parser{request: new(SetRequest)}
	for number, size := 1, 0; ; number++ {
		line, readErr := readLine(r)
		switch {
		case errors.Is(readErr, io.EOF):
			broken := fmt.Errorf("broke off before the empty line that ends it, nothing is changed: %w", io.ErrUnexpectedEOF)
			return nil, false, &Error{Errno: syscall.EIO, Line: number, Err: broken}
		case readErr != nil:
			return nil, false, &Error{Errno: syscall.EIO, Line: number, Err: readErr}
		}
		size += len(line) + 1
		line = strings.TrimSuffix(line, "\r") // as wireguard-go does
		switch {
		case size > maxRequest:
			return nil, false, &Error{Errno: syscall.E2BIG, Line: number, Err: errLong}
		case line == "" && err != nil:
			return nil, true, err
		case line == "":
			return p.request, true, nil
		case err == nil:
			err = p.take(number, line)
		}
	}
}

// readLine reads a line and gives it without its end. Without an end it is no
// line: a key or a prefix that is cut short must not count.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) || len(line) > maxLine {
		return "", errLongLine
	}
	if err != nil {
		return "", err
	}
	return string(line[:len(line)-1]), nil
}

type parser struct {
	request *SetRequest
	peer    *PeerChange // nil before the first public_key
}

func (p *parser) take(number int, line string) error {
	key, value, ok := strings.Cut(line, "=")
	if !ok {
		return &Error{syscall.EPROTO, number, shown(line), errors.New("not of the form key=value")}
	}
	var err error
	switch {
	case key == "public_key":
		p.request.Peers = append(p.request.Peers, PeerChange{})
		p.peer = &p.request.Peers[len(p.request.Peers)-1]
		err = parseKey(value, p.peer.PublicKey[:])
	case p.peer == nil:
		err = p.deviceLine(key, value)
	default:
		err = p.peerLine(key, value)
	}
	if err != nil {
		return &Error{syscall.EINVAL, number, shown(line), err}
	}
	return nil
}

func (p *parser) deviceLine(key, value string) (err error) {
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
		err = wrongKey(key, append(slices.Clone(deviceKeys), "public_key"))
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
		// It also replaces those that the request gave before.
		c.ReplaceAllowedIPs, c.AllowedIPs = true, nil
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
		err = wrongKey(key, append(slices.Clone(peerKeys), "public_key"))
	}
	return err
}

func wrongKey(key string, known []string) error {
	switch {
	case slices.Contains(deviceKeys, key):
		return errors.New("belongs before the first public_key")
	case slices.Contains(peerKeys, key):
		return errors.New("belongs after the public_key of its peer")
	}
	return fmt.Errorf("unknown key, use one of %s", strings.Join(known, ", "))
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
	if a.Port() == 0 {
		return nil, errors.New("nothing can be sent to port 0: give the port that the peer listens on")
	}
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
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
