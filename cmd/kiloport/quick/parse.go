package quick

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"kiloport/tunnel/uapi"
)

const (
	maxFile     = 16 << 20
	maxLine     = 64 << 10
	maxProblems = 100
)

// Parse reads a file. own is told each key of [Interface], in lower case, that
// is not wg-quick's; it gives [ErrUnknownKey], or another error for a value that
// is wrong. Config is nil if there are problems. No problem's text holds a key,
// nor anything that could be one.
func Parse(r io.Reader, file string, own func(key, value string) error) (*Config, []Problem) {
	p := parser{config: &Config{file: file, Interface: Interface{Table: "auto"}}, own: own, seen: make(map[string]int)}
	lines := bufio.NewScanner(io.LimitReader(r, maxFile+1))
	lines.Buffer(make([]byte, 4096), maxLine)
	size := 0
	for lines.Scan() && len(p.problems) < maxProblems {
		p.line++
		if size += len(lines.Bytes()) + 1; size > maxFile {
			p.problem("the file is longer than %d MiB", maxFile>>20)
			break
		}
		p.take(lines.Text())
	}
	if err := lines.Err(); err != nil {
		p.line++
		if errors.Is(err, bufio.ErrTooLong) {
			err = fmt.Errorf("a line is longer than %d KiB", maxLine>>10)
		}
		p.problem("%v", err)
	}
	p.finish()
	if len(p.problems) > 0 {
		return nil, p.problems
	}
	return p.config, nil
}

type section uint8

const (
	noSection section = iota
	interfaceSection
	peerSection
	unknownSection
)

type parser struct {
	config   *Config
	own      func(key, value string) error
	problems []Problem
	section  section
	line     int
	begin    int            // line of the interface section, 0 = none
	seen     map[string]int // single-valued keys of this section, by line
}

func (p *parser) problem(format string, args ...any) {
	p.problemAt(p.line, format, args...)
}

func (p *parser) problemAt(line int, format string, args ...any) {
	p.problems = append(p.problems, Problem{p.config.file, line, fmt.Sprintf(format, args...)})
}

func (p *parser) note(format string, args ...any) {
	p.config.Notes = append(p.config.Notes, Problem{p.config.file, p.line, fmt.Sprintf(format, args...)})
}

func (p *parser) peer() *Peer { return &p.config.Peers[len(p.config.Peers)-1] }

func (p *parser) take(line string) {
	if p.line == 1 {
		line = strings.TrimPrefix(line, "\ufeff")
	}
	line, _, _ = strings.Cut(line, "#")
	line = strings.TrimSpace(line)
	switch {
	case line == "":
	case strings.HasPrefix(line, "["):
		p.enter(line)
	default:
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch {
		case !ok:
			p.problem("%s is not of the form Key = Value", quoted(line))
		case value == "":
			p.problem("%s has no value", quoted(key))
		default:
			p.set(key, value)
		}
	}
}

func (p *parser) enter(line string) {
	p.seen = make(map[string]int)
	switch strings.ToLower(line) {
	case "[interface]":
		if p.begin != 0 {
			p.problem("a second [Interface] section, the first is at line %d", p.begin)
		}
		p.begin, p.section = p.line, interfaceSection
	case "[peer]":
		p.section = peerSection
		p.config.Peers = append(p.config.Peers, Peer{Line: p.line})
	default:
		p.section = unknownSection
		p.problem("%s is no section, use [Interface] or [Peer]", quoted(line))
	}
}

// field reads one key.
type field struct {
	name string
	many bool // may be given again
	set  func(p *parser, value string) error
}

var interfaceFields = []field{
	{"PrivateKey", false, func(p *parser, v string) error { return readSecret(v, &p.config.Interface.PrivateKey) }},
	{"ListenPort", false, func(p *parser, v string) error { return readPort(v, &p.config.Interface.ListenPort) }},
	{"FwMark", false, func(p *parser, v string) error { return readMark(v, &p.config.Interface.FwMark) }},
	{"Address", true, (*parser).address},
	{"DNS", true, (*parser).dns},
	{"MTU", false, (*parser).mtu},
	{"Table", false, (*parser).table},
	{"PreUp", true, func(p *parser, v string) error { return appendTo(&p.config.Interface.PreUp, v) }},
	{"PostUp", true, func(p *parser, v string) error { return appendTo(&p.config.Interface.PostUp, v) }},
	{"PreDown", true, func(p *parser, v string) error { return appendTo(&p.config.Interface.PreDown, v) }},
	{"PostDown", true, func(p *parser, v string) error { return appendTo(&p.config.Interface.PostDown, v) }},
	{"SaveConfig", false, func(p *parser, v string) error {
		p.note("SaveConfig is left alone: kiloport does not write configuration files, see wg showconf")
		return nil
	}},
}

var peerFields = []field{
	{"PublicKey", false, func(p *parser, v string) error { return readKey(v, (*[32]byte)(&p.peer().PublicKey)) }},
	{"PresharedKey", false, func(p *parser, v string) error { return readSecret(v, &p.peer().PresharedKey) }},
	{"AllowedIPs", true, (*parser).allowedIPs},
	{"Endpoint", false, func(p *parser, v string) (err error) {
		p.peer().Endpoint, err = readEndpoint(v)
		p.peer().Endpoint.Line = p.line
		return err
	}},
	{"PersistentKeepalive", false, func(p *parser, v string) error { return readKeepalive(v, &p.peer().PersistentKeepalive) }},
}

func find(fields []field, key string) *field {
	for i := range fields {
		if strings.EqualFold(fields[i].name, key) {
			return &fields[i]
		}
	}
	return nil
}

func (p *parser) set(key, value string) {
	mine, others, other := interfaceFields, peerFields, "[Peer]"
	switch p.section {
	case noSection:
		p.problem("%s stands before any section: begin with [Interface]", quoted(key))
		return
	case unknownSection:
		return
	case peerSection:
		mine, others, other = peerFields, interfaceFields, "[Interface]"
	}
	f := find(mine, key)
	if f == nil {
		p.setOwn(key, value, mine, others, other)
		return
	}
	if !f.many && p.again(f.name) {
		return
	}
	if err := f.set(p, value); err != nil {
		p.problem("%s: %v", f.name, err)
	}
}

// again reports, as a problem, a single-valued key that was given before.
func (p *parser) again(key string) bool {
	if line := p.seen[key]; line != 0 {
		p.problem("%s again, it is at line %d already: leave one out", key, line)
		return true
	}
	p.seen[key] = p.line
	return false
}

// setOwn tries a key that is not wg-quick's.
func (p *parser) setOwn(key, value string, mine, others []field, other string) {
	if p.section == interfaceSection {
		lower := strings.ToLower(key)
		err := p.own(lower, value)
		if err == nil {
			p.again(lower)
			return
		}
		if !errors.Is(err, ErrUnknownKey) {
			p.problem("%s: %s", quoted(key), hide(err.Error()))
			return
		}
	}
	if f := find(others, key); f != nil {
		p.problem("%s belongs in %s", f.name, other)
		return
	}
	p.problem("unknown key %s%s", quoted(key), suggest(key, mine))
}

// suggest names the known key that is nearest, if it is near.
func suggest(key string, fields []field) string {
	best, distance := "", len(key)/2+1
	for _, f := range fields {
		if d := editDistance(strings.ToLower(key), strings.ToLower(f.name)); d < distance {
			best, distance = f.name, d
		}
	}
	if best == "" {
		return ""
	}
	return ", did you mean " + best + "?"
}

// editDistance is Levenshtein's, on short strings.
func editDistance(a, b string) int {
	if len(a) > 40 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := before
			if a[i] != b[j] {
				change++
			}
			before = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// finish checks what only the whole file shows.
func (p *parser) finish() {
	in := &p.config.Interface
	switch {
	case p.begin == 0:
		p.problemAt(0, "no [Interface] section")
	case in.PrivateKey == nil:
		p.problemAt(p.begin, "[Interface] has no usable PrivateKey: make one with kiloport genkey")
	}
	first := make(map[uapi.PublicKey]int)
	owner := make(map[netip.Prefix]int)
	for i := range p.config.Peers {
		peer := &p.config.Peers[i]
		if peer.PublicKey == (uapi.PublicKey{}) {
			p.problemAt(peer.Line, "[Peer] has no usable PublicKey")
			continue
		}
		if line := first[peer.PublicKey]; line != 0 {
			p.problemAt(peer.Line, "the same peer is at line %d already: make one of them", line)
		}
		first[peer.PublicKey] = peer.Line
		for _, prefix := range peer.AllowedIPs {
			if line := owner[prefix]; line != 0 && line != peer.Line {
				p.line = peer.Line
				p.note("AllowedIPs %v is taken from the peer at line %d: one prefix has one peer", prefix, line)
			}
			owner[prefix] = peer.Line
		}
	}
}

func (p *parser) address(value string) error {
	return each(value, func(v string) error {
		prefix, err := readPrefix(v)
		if err == nil {
			p.config.Interface.Addresses = append(p.config.Interface.Addresses, prefix)
		}
		return err
	})
}

func (p *parser) allowedIPs(value string) error {
	return each(value, func(v string) error {
		prefix, err := readPrefix(v)
		if err != nil {
			return err
		}
		if masked := prefix.Masked(); masked != prefix {
			p.note("AllowedIPs %v means %v", prefix, masked)
			prefix = masked
		}
		p.peer().AllowedIPs = append(p.peer().AllowedIPs, prefix)
		return nil
	})
}

func (p *parser) dns(value string) error {
	if len(p.config.Interface.DNS) == 0 {
		p.note("DNS is left alone: set it up in resolvectl or resolv.conf, for instance by PostUp")
	}
	return each(value, func(v string) error { return appendTo(&p.config.Interface.DNS, v) })
}

func (p *parser) mtu(value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < 576 || n > 65535 {
		return fmt.Errorf("%s is no MTU, use 576 to 65535, or 1280 and more for IPv6", quoted(value))
	}
	p.config.Interface.MTU = n
	return nil
}

func (p *parser) table(value string) error {
	lower := strings.ToLower(value)
	n, err := strconv.ParseUint(lower, 0, 32)
	if lower != "auto" && lower != "off" && (err != nil || n == 0) {
		return fmt.Errorf("%s is no routing table, use auto, off, or a number above 0", quoted(value))
	}
	p.config.Interface.Table = lower
	if err == nil {
		p.config.Interface.Table = strconv.FormatUint(n, 10)
	}
	return nil
}

// each splits a list at commas.
func each(list string, do func(string) error) error {
	for v := range strings.SplitSeq(list, ",") {
		if v = strings.TrimSpace(v); v == "" {
			return errors.New("an empty place in the list")
		}
		if err := do(v); err != nil {
			return err
		}
	}
	return nil
}

func appendTo(list *[]string, value string) error {
	*list = append(*list, value)
	return nil
}

func readPrefix(v string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(v); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(v)
	if err != nil || prefix.Addr().Is4In6() {
		return prefix, fmt.Errorf("%s is no address or prefix, such as 10.0.0.1/24 or fd00::/64", quoted(v))
	}
	return prefix, nil
}

// readKey never shows what it reads: it may be a private key in the wrong place.
func readKey(v string, key *[32]byte) error {
	b, err := base64.StdEncoding.Strict().DecodeString(v)
	if err != nil || len(b) != len(key) {
		return errors.New("(hidden) is no key: a key is 44 characters of base64, the last of them =")
	}
	copy(key[:], b)
	return nil
}

func readSecret(v string, secret **uapi.SecretKey) error {
	key := new(uapi.SecretKey)
	if err := readKey(v, (*[32]byte)(key)); err != nil {
		return err
	}
	*secret = key
	return nil
}

func readPort(v string, port **uint16) error {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil {
		return fmt.Errorf("%s is no port, use 0 to 65535", quoted(v))
	}
	p := uint16(n)
	*port = &p
	return nil
}

func readMark(v string, mark **uint32) error {
	n, err := strconv.ParseUint(v, 0, 32)
	if strings.EqualFold(v, "off") {
		n, err = 0, nil
	}
	if err != nil {
		return fmt.Errorf("%s is no mark, use off or a number, such as 0xca6c", quoted(v))
	}
	m := uint32(n)
	*mark = &m
	return nil
}

func readKeepalive(v string, seconds **uint16) error {
	n, err := strconv.ParseUint(v, 10, 16)
	if strings.EqualFold(v, "off") {
		n, err = 0, nil
	}
	if err != nil {
		return fmt.Errorf("%s is no interval, use off or seconds, 1 to 65535", quoted(v))
	}
	s := uint16(n)
	*seconds = &s
	return nil
}

var hostName = regexp.MustCompile(`^([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.)*[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.?$`)

func readEndpoint(v string) (Endpoint, error) {
	wrong := fmt.Errorf("%s is no endpoint, such as 192.0.2.1:51820, [2001:db8::1]:51820 or example.com:51820", quoted(v))
	if a, err := netip.ParseAddrPort(v); err == nil {
		a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		if a.Port() == 0 {
			return Endpoint{}, wrong
		}
		return Endpoint{Host: a.Addr().String(), Port: a.Port(), Addr: a}, nil
	}
	host, port, ok := strings.Cut(v, ":")
	n, err := strconv.ParseUint(port, 10, 16)
	if !ok || err != nil || n == 0 || len(host) > 253 || !hostName.MatchString(host) {
		return Endpoint{}, wrong
	}
	return Endpoint{Host: host, Port: uint16(n)}, nil
}
