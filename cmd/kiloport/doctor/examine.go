package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"kiloport/tunnel"
)

// examination is one check of a view.
type examination struct {
	*View
	check string
	found []Finding
}

func (e *examination) say(level Level, fix, format string, args ...any) {
	e.found = append(e.found, Finding{e.check, level, fmt.Sprintf(format, args...), fix})
}

// sysctl gives a number of /proc/sys; false if it is not known.
func (e *examination) sysctl(name string) (int, bool) {
	n, err := strconv.Atoi(e.Sysctl[name])
	return n, err == nil
}

var checks = []struct {
	name string
	do   func(*examination)
}{
	{"kernel", (*examination).kernel},
	{"tun", (*examination).tun},
	{"configuration", (*examination).configuration},
	{"open files", (*examination).files},
	{"ports", (*examination).ports},
	{"socket buffers", (*examination).buffers},
	{"queue", (*examination).queues},
	{"mtu", (*examination).mtus},
	{"firewall", (*examination).firewall},
	{"connection tracking", (*examination).conntrack},
	{"forwarding", (*examination).forwarding},
	{"clock", (*examination).clock},
	{"daemon", (*examination).daemon},
	{"path", (*examination).path},
}

func (e *examination) kernel() {
	var major, minor, patch int
	if n, _ := fmt.Sscanf(e.Kernel, "%d.%d.%d", &major, &minor, &patch); n < 2 {
		return
	}
	at := func(a, b, c int) bool { return major*1e6+minor*1e3+patch >= a*1e6+b*1e3+c }
	switch {
	case !at(4, 18, 0):
		e.say(Warning, "update the kernel: 6.2 or later has everything", "Linux %s sends and receives every datagram by itself (UDP_SEGMENT came with 4.18, UDP_GRO with 5.0)", e.Kernel)
	case !at(6, 2, 0):
		e.say(Note, "for UDP inside the tunnel a kernel from 6.2 on is faster", "Linux %s takes no UDP super-packets from the host", e.Kernel)
	case at(7, 0, 0) && !at(7, 1, 5):
		e.say(Warning, "update to 7.1.5 or later; until then kiloport does without", "Linux %s corrupts datagrams that are sent as one (UDP_SEGMENT) with some drivers", e.Kernel)
	default:
		e.say(OK, "", "Linux %s", e.Kernel)
	}
}

func (e *examination) tun() {
	if e.NoTUN {
		e.say(Failure, "modprobe tun; in a container: --device /dev/net/tun", "/dev/net/tun is missing")
		return
	}
	e.say(OK, "", "/dev/net/tun is there")
}

func (e *examination) configuration() {
	if e.Config == nil {
		return
	}
	if e.Config.LooseMode {
		e.say(Warning, "chmod 600 it", "the file of %s, with its private key, can be read by others than its owner", e.Config.Name)
		return
	}
	e.say(OK, "", "interface %s", e.Config.Name)
}

// otherFiles is how many descriptors a daemon has beside those of its pool.
const otherFiles = 128

func (e *examination) files() {
	most, ok := e.sysctl("fs.nr_open")
	if !ok || e.Config == nil {
		return
	}
	if need := e.Config.Options.Ports + otherFiles; most < need {
		e.say(Failure, fmt.Sprintf("sysctl fs.nr_open=%d", need), "a process may have %d open files at most, %d ports need %d", most, e.Config.Options.Ports, need)
		return
	}
	e.say(OK, "", "a process may have up to %d", most)
}

func (e *examination) ports() {
	if e.Config == nil {
		return
	}
	before := len(e.found)
	e.listenPort()
	e.portRange()
	if len(e.found) == before {
		e.say(OK, "", "nobody else has, or will get, a port of the tunnel's")
	}
}

func (e *examination) listenPort() {
	port := e.Config.ListenPort
	switch {
	case port == 0:
		e.say(Note, "set ListenPort if the peers are to begin", "the kernel chooses the listen port, so that peers cannot know it")
		return
	case e.Status == nil && e.Taken[port]:
		e.say(Failure, "choose another ListenPort, or end who has it: ss -lunp", "UDP port %d is taken", port)
	}
	if e.given(port) && !e.reserved(port) {
		e.say(Warning, fmt.Sprintf("sysctl net.ipv4.ip_local_reserved_ports=%s, as deploy/sysctl does", e.allPorts()),
			"the listen port %d lies in net.ipv4.ip_local_port_range: while the tunnel is down, another program may be given it", port)
	}
}

func (e *examination) portRange() {
	r := e.Config.Options.PortRange
	if r == (tunnel.PortRange{}) {
		low, high := e.localRange()
		if size := high - low + 1; high > 0 && size < 2*e.Config.Options.Ports {
			e.say(Warning, "sysctl net.ipv4.ip_local_port_range='10240 65535', or set PortRange", "the kernel has %d ports to give, the pool may take %d of them", size, e.Config.Options.Ports)
		}
		return
	}
	taken, free := 0, 0
	for port := int(r.Low); port <= int(r.High); port++ {
		if e.Status == nil && e.Taken[uint16(port)] {
			taken++
		}
		if e.given(uint16(port)) && !e.reserved(uint16(port)) {
			free++
		}
	}
	if size := int(r.High) - int(r.Low) + 1; size-taken < e.Config.Options.Ports {
		e.say(Warning, "choose a wider or another PortRange", "%d ports of %v are taken, so that there are fewer than %d", taken, r, e.Config.Options.Ports)
	}
	if free > 0 {
		e.say(Note, fmt.Sprintf("sysctl net.ipv4.ip_local_reserved_ports=%s", e.allPorts()),
			"%d ports of %v are also given to other programs, which then take lanes away", free, r)
	}
}

func (e *examination) allPorts() string {
	s := strconv.Itoa(int(e.Config.ListenPort))
	if r := e.Config.Options.PortRange; r != (tunnel.PortRange{}) {
		s += "," + r.String()
	}
	return s
}

func (e *examination) localRange() (low, high int) {
	fmt.Sscan(e.Sysctl["net.ipv4.ip_local_port_range"], &low, &high)
	return low, high
}

// given tells whether the kernel gives the port to who asks for any.
func (e *examination) given(port uint16) bool {
	low, high := e.localRange()
	return low <= int(port) && int(port) <= high
}

func (e *examination) reserved(port uint16) bool {
	for part := range strings.SplitSeq(e.Sysctl["net.ipv4.ip_local_reserved_ports"], ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		a, err := strconv.Atoi(low)
		b := a
		if isRange {
			b, _ = strconv.Atoi(high)
		}
		if err == nil && a <= int(port) && int(port) <= b {
			return true
		}
	}
	return false
}

// wantBuffer is what a listen socket asks for, in bytes.
const wantBuffer = 4 << 20

func (e *examination) buffers() {
	most, ok := e.sysctl("net.core.rmem_max")
	if !ok {
		return
	}
	if most < wantBuffer {
		e.say(Note, fmt.Sprintf("sysctl net.core.rmem_max=%d net.core.wmem_max=%d, if the daemon is to run without CAP_NET_ADMIN", wantBuffer, wantBuffer),
			"net.core.rmem_max is %d bytes; with CAP_NET_ADMIN, which the unit has, a socket may have more", most)
		return
	}
	e.say(OK, "", "up to %d bytes to receive", most)
}

// queues wants a fair queue with AQM where packets leave: without, what waits in
// this host's own interface waits in one line.
func (e *examination) queues() {
	for _, l := range e.Links {
		root, _, _ := strings.Cut(l.Qdisc, " ")
		switch root {
		case "fq_codel", "cake", "fq", "fq_pie":
			e.say(OK, "", "%s has %s", l.Name, root)
		case "mq":
			if d := e.Sysctl["net.core.default_qdisc"]; d == "pfifo_fast" || d == "pfifo" {
				e.say(Warning, "sysctl net.core.default_qdisc=fq_codel, then tc qdisc replace dev "+l.Name+" root mq", "each queue of %s is a %s, in which flows wait for each other", l.Name, d)
			} else {
				e.say(OK, "", "%s has a queue of its own, %s, for each of the card's", l.Name, d)
			}
		case "":
		case "noqueue":
			e.say(Note, "", "%s has no queue, as virtual interfaces have", l.Name)
		default:
			e.say(Warning, "tc qdisc replace dev "+l.Name+" root fq_codel, or cake with the bandwidth of the line", "%s has %s, in which flows wait for each other", l.Name, root)
		}
	}
}

// outerOverhead is what the tunnel adds to a packet at most: IPv6, UDP, header, tag.
const outerOverhead = 40 + 8 + 32

func (e *examination) mtus() {
	for _, w := range e.Endpoints {
		if w.Err != nil {
			e.say(Failure, "ip route get "+w.To.String(), "there is no way to %v: %v", w.To, w.Err)
			continue
		}
		room := w.MTU - outerOverhead
		switch {
		case w.MTU == 0:
		case e.Config != nil && e.Config.MTU > room:
			e.say(Failure, fmt.Sprintf("set MTU = %d, or leave it out", room), "the MTU of the tunnel is %d, but the way to %v by %s takes packets of %d, of which %d are left", e.Config.MTU, w.To, w.Link, w.MTU, room)
		case room < 1280:
			e.say(Warning, "IPv6 does not work in the tunnel; find out what made the MTU so small", "the way to %v by %s leaves packets of %d", w.To, w.Link, room)
		default:
			e.say(OK, "", "the way to %v by %s takes packets of %d", w.To, w.Link, w.MTU)
		}
	}
}

func (e *examination) conntrack() {
	most, ok := e.sysctl("net.netfilter.nf_conntrack_max")
	if !ok || e.Config == nil {
		return
	}
	need := 4 * e.Config.Options.Ports
	switch {
	case e.Conntracked > most*9/10:
		e.say(Failure, fmt.Sprintf("sysctl net.netfilter.nf_conntrack_max=%d, see deploy/sysctl", 2*most), "%d of %d connections are tracked: new ones are dropped soon", e.Conntracked, most)
	case most < need:
		e.say(Warning, fmt.Sprintf("sysctl net.netfilter.nf_conntrack_max=%d, or fewer Ports", max(need, 2*most)), "the host tracks %d connections at most, and each of %d lanes can be two", most, e.Config.Options.Ports)
	default:
		e.say(OK, "", "room for %d", most)
	}
	if timeout, ok := e.sysctl("net.netfilter.nf_conntrack_udp_timeout_stream"); ok && timeout < 60 {
		e.say(Note, "sysctl net.netfilter.nf_conntrack_udp_timeout_stream=120", "a lane is forgotten by the firewall after %d s", timeout)
	}
}

func (e *examination) forwarding() {
	if e.Config == nil || !e.Config.Networks {
		return
	}
	off := []string{}
	for _, name := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if e.Sysctl[name] == "0" {
			off = append(off, name)
		}
	}
	if len(off) > 0 {
		e.say(Note, "if there are networks behind this host: sysctl "+strings.Join(off, "=1 ")+"=1", "this host passes nothing on (%s)", strings.Join(off, ", "))
	} else {
		e.say(OK, "", "packets are passed on")
	}
	if e.Config.Default && e.Sysctl["net.ipv4.conf.all.src_valid_mark"] == "0" && e.Status == nil {
		e.say(Note, "sysctl net.ipv4.conf.all.src_valid_mark=1, as deploy/sysctl does", "a default route into the tunnel needs src_valid_mark, which the systemd unit may not set")
	}
}

func (e *examination) clock() {
	const written = 2026
	switch {
	case e.Now.IsZero():
	case e.Now.Year() < written:
		e.say(Failure, "set the clock, or wait for NTP: a peer that has seen a later time refuses handshakes", "it is %s here", e.Now.Format(time.DateOnly))
	case e.Clock == ClockAlone:
		e.say(Warning, "run an NTP client, such as systemd-timesyncd or chrony", "nothing keeps the clock right: one-way delays drift, and after a reboot without a battery handshakes may be refused")
	case e.Clock == ClockSynchronized:
		e.say(OK, "", "is kept right")
	}
}

func (e *examination) daemon() {
	s := e.Status
	if s == nil {
		switch {
		case e.Config == nil:
		case e.LastWords != "":
			e.say(Failure, "kiloport up "+e.Config.Name+"; what its log says of the time before may tell more", "the one for %s ended by itself: %s", e.Config.Name, e.LastWords)
		default:
			e.say(Note, "kiloport up "+e.Config.Name, "none runs for %s, so that nothing is known of the path", e.Config.Name)
		}
		return
	}
	if !s.Up {
		e.say(Failure, "ip link set "+s.Name+" up; if that does not help, its log says why", "the link %s is down, or has no sockets", s.Name)
		return
	}
	e.say(OK, "", "runs %s on port %d, %d of %d ports open", s.Name, s.ListenPort, s.Pool.Open, s.Pool.Limit)
	for _, missing := range s.Offloads.Missing {
		e.say(Note, "", "not used: %s", missing)
	}
	if s.Pool.Limit < s.Pool.Ports {
		e.say(Warning, "see the check of ports", "there are %d lanes where %d were asked for", s.Pool.Limit, s.Pool.Ports)
	}
	for _, name := range slices.Sorted(maps.Keys(s.SendErrors)) {
		e.say(Note, "", "%d datagrams were not sent: %s", s.SendErrors[name], name)
	}
}

// handshakeOld is after how long an active peer has made a new handshake.
const handshakeOld = 3 * time.Minute

func (e *examination) path() {
	if e.Status == nil {
		return
	}
	for i := range e.Status.Peers {
		e.peer(&e.Status.Peers[i])
	}
}

func (e *examination) peer(p *tunnel.PeerStatus) {
	name := p.PublicKey[:min(len(p.PublicKey), 8)]
	if p.LastHandshake == nil || p.Keepalive > 0 && e.Now.Sub(*p.LastHandshake) > handshakeOld {
		e.say(Warning, "is the endpoint right, does its firewall let UDP to it in, and does it know our public key?", "peer %s: no handshake, or an old one", name)
		return
	}
	switch p.Mode {
	case "fallback":
		e.say(Warning, "let UDP from any source port in at the peer's firewall, see deploy/firewall", "peer %s: one lane only, because %s", name, p.Reason)
	case "stock":
		e.say(Note, "", "peer %s is a stock WireGuard: one lane only", name)
	default:
		e.say(OK, "", "peer %s: mode %s, %d lanes in use", name, p.Mode, p.Lanes.InUse)
	}
	e.ecn(name, p)
}

func (e *examination) ecn(name string, p *tunnel.PeerStatus) {
	if p.PathTo == nil {
		return
	}
	broken := []string{}
	for _, c := range []struct{ codepoint, verdict string }{{"ECT(0)", p.PathTo.ECT0}, {"ECT(1)", p.PathTo.ECT1}, {"CE", p.PathTo.CE}} {
		if c.verdict != "passes" && c.verdict != "unknown" {
			broken = append(broken, c.codepoint+" "+c.verdict)
		}
	}
	if len(broken) > 0 {
		e.say(Note, "look for who on the way writes TOS bytes (old policers, DSCP rules with the wrong mask); until then marks are not used", "peer %s: the path does not leave ECN alone: %s", name, strings.Join(broken, ", "))
	}
	for _, dscp := range slices.Sorted(maps.Keys(p.PathTo.DSCP)) {
		if verdict := p.PathTo.DSCP[dscp]; verdict == "dropped" {
			e.say(Warning, "set DSCP = zero, or map "+dscp+" to one that passes", "peer %s: the path drops packets with DSCP %s", name, dscp)
		} else if verdict != "passes" && verdict != "unknown" {
			e.say(Note, "", "peer %s: DSCP %s is %s on the way", name, dscp, verdict)
		}
	}
}
