package attach

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"kiloport/tunnel/attach/accord"
)

// A host is what is asked of the machine before anything is changed on it.
type host struct {
	proc string // "/proc"
}

// thisHost is the machine, in the network namespace of this process.
var thisHost = host{proc: "/proc"}

// checkDevice says why a device cannot be attached to.
func checkDevice(client *wgctrl.Client, name string) (*wgtypes.Device, error) {
	d, err := client.Device(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no WireGuard interface %s here: bring it up first", name)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("attach to %s: %w: be root", name, err)
	case err != nil:
		return nil, fmt.Errorf("ask for %s: %w", name, err)
	case d.Type != wgtypes.LinuxKernel:
		return nil, fmt.Errorf("%s is run by a daemon, not by the kernel: kiloport up gives it lanes", name)
	case d.ListenPort == 0:
		return nil, fmt.Errorf("%s has no listen port: bring it up first", name)
	}
	return d, nil
}

// checkSocket says whether the device's socket is in this network namespace, for
// there its packets go.
func (h host) checkSocket(name string, port uint16) error {
	owned, err := h.ownedPorts()
	if err != nil {
		return err
	}
	if !slices.Contains(owned, port) {
		return fmt.Errorf("the socket of %s, port %d, is not in this network namespace: attach where the interface was made", name, port)
	}
	return nil
}

// checkRange says why data cannot leave from these ports.
func (h host) checkRange(r accord.Range, listen uint16, others []attached) error {
	if r.Count == 0 || r.Low == 0 {
		return fmt.Errorf("port range %d-%d: it has no ports", r.Low, r.High())
	}
	words := fmt.Sprintf("port range %d-%d", r.Low, r.High())
	if r.Contains(listen) {
		return fmt.Errorf("%s: WireGuard itself listens on %d: choose another with --port-range", words, listen)
	}
	for _, o := range others {
		if overlap(r, o.ports) {
			return fmt.Errorf("%s: %s is spread over %d-%d: choose another with --port-range", words, o.name, o.ports.Low, o.ports.High())
		}
	}
	if port, err := h.givenOut(r); err != nil {
		return err
	} else if port != 0 {
		return fmt.Errorf("%s: the kernel gives %d to others (net.ipv4.ip_local_port_range): choose another with --port-range, or reserve it: sysctl net.ipv4.ip_local_reserved_ports=%d-%d", words, port, r.Low, r.High())
	}
	owned, err := h.ownedPorts()
	if err != nil {
		return err
	}
	for _, port := range owned {
		if r.Contains(port) {
			return fmt.Errorf("%s: a UDP socket has port %d (ss -uanp sport = %d says whose): choose another with --port-range", words, port, port)
		}
	}
	return nil
}

func overlap(a, b accord.Range) bool {
	return a.Count != 0 && b.Count != 0 && a.Low <= b.High() && b.Low <= a.High()
}

// chooseRange finds ports that checkRange has nothing against: as many as want, or
// half as many again and again where there are no more.
func (h host) chooseRange(want, listen uint16, others []attached) (accord.Range, error) {
	const first, step, fewest = 20480, 1024, 256
	var last error
	for n := want; n >= min(want, fewest); n /= 2 {
		for low := first; low+int(n) <= 1<<16; low += step {
			r := accord.Range{Low: uint16(low), Count: n}
			if last = h.checkRange(r, listen, others); last == nil {
				return r, nil
			}
		}
		for low := step; low < first; low += step {
			r := accord.Range{Low: uint16(low), Count: n}
			if last = h.checkRange(r, listen, others); last == nil {
				return r, nil
			}
		}
		if n == 1 {
			break
		}
	}
	return accord.Range{}, fmt.Errorf("no %d free ports side by side: %w", want, last)
}

// givenOut gives a port of a range that the kernel may give to a socket, 0 if
// there is none.
func (h host) givenOut(r accord.Range) (uint16, error) {
	low, high, err := h.localPorts()
	if err != nil {
		return 0, err
	}
	reserved, err := h.reservedPorts()
	if err != nil {
		return 0, err
	}
	from, to := max(int(r.Low), low), min(int(r.High()), high)
	for port := from; port <= to; port++ {
		if !slices.ContainsFunc(reserved, func(s accord.Range) bool { return s.Contains(uint16(port)) }) {
			return uint16(port), nil
		}
	}
	return 0, nil
}

func (h host) sysctl(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(h.proc, "sys", name))
	if err != nil {
		return "", fmt.Errorf("read a setting of the kernel: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (h host) localPorts() (low, high int, err error) {
	text, err := h.sysctl("net/ipv4/ip_local_port_range")
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscan(text, &low, &high); err != nil {
		return 0, 0, fmt.Errorf("net.ipv4.ip_local_port_range is %q: %w", text, err)
	}
	return low, high, nil
}

func (h host) reservedPorts() (reserved []accord.Range, err error) {
	text, err := h.sysctl("net/ipv4/ip_local_reserved_ports")
	if err != nil || text == "" {
		return nil, err
	}
	for _, part := range strings.Split(text, ",") {
		first, last, two := strings.Cut(part, "-")
		if !two {
			last = first
		}
		low, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("net.ipv4.ip_local_reserved_ports is %q: %w", text, err)
		}
		high, err := strconv.ParseUint(last, 10, 16)
		if err != nil || high < low {
			return nil, fmt.Errorf("net.ipv4.ip_local_reserved_ports is %q", text)
		}
		reserved = append(reserved, accord.Range{Low: uint16(low), Count: uint16(high - low + 1)})
	}
	return reserved, nil
}

// ownedPorts are those of all UDP sockets of this network namespace, the kernel's
// included.
func (h host) ownedPorts() (ports []uint16, err error) {
	for _, file := range []string{"udp", "udp6"} {
		f, err := os.Open(filepath.Join(h.proc, "self/net", file))
		if errors.Is(err, fs.ErrNotExist) { // no IPv6
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list the UDP sockets: %w", err)
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if port, ok := localPort(lines.Text()); ok {
				ports = append(ports, port)
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports), nil
}

// localPort reads a line of /proc/net/udp, such as "12: 00000000:CA6C 00000000:0000 …".
func localPort(line string) (uint16, bool) {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return 0, false
	}
	_, hex, ok := strings.Cut(fields[1], ":")
	port, err := strconv.ParseUint(hex, 16, 16)
	return uint16(port), ok && err == nil
}

// uptime is how long the host has been up, as CLOCK_BOOTTIME has it.
func (h host) uptime() (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(h.proc, "uptime"))
	if err != nil {
		return 0, fmt.Errorf("ask how long the host has been up: %w", err)
	}
	seconds, _, _ := strings.Cut(string(text), " ")
	up, err := time.ParseDuration(seconds + "s")
	if err != nil {
		return 0, fmt.Errorf("ask how long the host has been up: %w", err)
	}
	return up, nil
}
