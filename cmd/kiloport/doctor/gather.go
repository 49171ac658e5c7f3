package doctor

import (
	"bufio"
	"bytes"
	"context"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// sysctls are those that checks look at.
var sysctls = []string{
	"fs.nr_open", "net.core.rmem_max", "net.core.wmem_max", "net.core.default_qdisc",
	"net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_forward",
	"net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.src_valid_mark",
	"net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_udp_timeout_stream",
}

// Gather looks at this host. endpoints are the peers' outer addresses. What cannot
// be seen, as without root, is missing in the view.
func Gather(ctx context.Context, endpoints []netip.Addr) *View {
	v := &View{Sysctl: make(map[string]string), Taken: make(map[uint16]bool), Conntracked: -1, Now: time.Now()}
	v.Kernel = line("/proc/sys/kernel/osrelease")
	for _, name := range sysctls {
		if value := line("/proc/sys/" + strings.ReplaceAll(name, ".", "/")); value != "" {
			v.Sysctl[name] = value
		}
	}
	_, err := os.Stat("/dev/net/tun")
	v.NoTUN = os.IsNotExist(err)
	for _, file := range []string{"/proc/net/udp", "/proc/net/udp6"} {
		readPorts(file, v.Taken)
	}
	if n, err := strconv.Atoi(line("/proc/sys/net/netfilter/nf_conntrack_count")); err == nil {
		v.Conntracked = n
	}
	for _, file := range []string{"/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"} {
		text, _ := os.ReadFile(file)
		v.OldTables = v.OldTables || bytes.Contains(text, []byte("filter"))
	}
	if out, err := exec.CommandContext(ctx, "nft", "-j", "list", "ruleset").Output(); err == nil {
		v.Ruleset = out
	}
	v.Clock = clockState()
	v.ways(endpoints)
	return v
}

// line is what a file of one line holds, without its end.
func line(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// readPorts reads the local ports of a table of sockets (proc(5)).
func readPorts(path string, taken map[uint16]bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		_, hex, _ := strings.Cut(fields[1], ":")
		if port, err := strconv.ParseUint(hex, 16, 16); err == nil {
			taken[uint16(port)] = true
		}
	}
}

// clockState asks the kernel whether an NTP client keeps its clock (adjtimex(2)).
func clockState() Clock {
	const notSynchronized = 0x40 // STA_UNSYNC
	var t syscall.Timex
	if _, err := syscall.Adjtimex(&t); err != nil {
		return ClockUnknown
	}
	if t.Status&notSynchronized != 0 {
		return ClockAlone
	}
	return ClockSynchronized
}

// ways finds routes to the endpoints, and the interfaces on them.
func (v *View) ways(endpoints []netip.Addr) {
	seen := make(map[int]bool)
	for _, to := range endpoints {
		routes, err := netlink.RouteGet(to.WithZone("").AsSlice())
		if err != nil || len(routes) == 0 {
			v.Endpoints = append(v.Endpoints, Way{To: to, Err: err})
			continue
		}
		r := routes[0]
		way := Way{To: to, MTU: r.MTU}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			way.Link = link.Attrs().Name
			if way.MTU == 0 {
				way.MTU = link.Attrs().MTU
			}
			if !seen[r.LinkIndex] {
				seen[r.LinkIndex] = true
				v.Links = append(v.Links, Link{Name: way.Link, MTU: link.Attrs().MTU, Qdisc: rootQdisc(link)})
			}
		}
		v.Endpoints = append(v.Endpoints, way)
	}
}

func rootQdisc(link netlink.Link) string {
	all, err := netlink.QdiscList(link)
	if err != nil {
		return ""
	}
	for _, q := range all {
		if q.Attrs().Parent == netlink.HANDLE_ROOT {
			return q.Type()
		}
	}
	return ""
}
